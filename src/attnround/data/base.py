"""What every data module offers: labelled evaluation batches and an unlabelled calibration set."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Tensor

from attnround.errors import InputError, check_number


@dataclass(frozen=True)
class Calibration:
    """The images a quantizer may look at. There are no labels here.

    images: float, normalised [N, C, H, W]; indices: their places in `source`, in the order drawn;
    skipped: files of the source that could not be read.
    """

    images: Tensor
    indices: list[int]
    source: str
    skipped: list[str]

    def provenance(self) -> dict[str, object]:
        """What a record says of it."""
        return {"source": self.source, "indices": self.indices, "skipped": self.skipped}


class ImageData(pl.LightningDataModule, ABC):
    """Base of the data modules. `match` tells it which model will look at the images, before anything is read."""

    def __init__(self, num_calibration: int, batch_size: int, seed: int):
        super().__init__()
        check_number("data.num_calibration", num_calibration, least=1, whole=True)
        check_number("data.batch_size", batch_size, least=1, whole=True)
        check_number("seed", seed, least=0, whole=True)
        self.num_calibration, self.batch_size, self.seed = num_calibration, batch_size, seed

    def match(self, preprocessing: dict, num_classes: int) -> None:
        """Fit the images to a model: timm's data config (input_size, mean, std, crop_pct, ...) and its output size."""
        self.preprocessing = preprocessing
        self.num_classes = num_classes

    @abstractmethod
    def calibration(self) -> Calibration:
        """The seeded calibration images."""


def draw(num_available: int, num_wanted: int, seed: int, source: str) -> list[int]:
    """Indices of `num_wanted` of `num_available` items, without replacement, in the order drawn.

    Raises InputError where there are too few.

    >>> draw(10, 3, seed=0, source="ten images")
    [4, 1, 7]
    """
    if not 1 <= num_wanted <= num_available:
        raise InputError(
            f"data.num_calibration={num_wanted}: {source} offers {num_available} images; ask for 1 to {num_available}"
        )
    return torch.randperm(num_available, generator=torch.Generator().manual_seed(seed))[:num_wanted].tolist()
