"""What every data module offers: evaluation batches, labelled as a rule, and an unlabelled calibration set."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from attnround.data.files import collate
from attnround.errors import LARGEST_SEED, InputError, check_number
from attnround.machine import num_cores
from attnround.ranks import own_items

log = logging.getLogger(__name__)
NUM_CALIBRATION = 1024  # at most, where no number is asked for
MOST_WORKERS = 8  # each holds batches ready, and the memory for them


@dataclass(frozen=True)
class Calibration:
    """The images a quantizer may look at. There are no labels here.

    images: float, normalised [N, C, H, W]; indices: their places in `source`, in the order drawn;
    skipped: files of the source that could not be read; remarks: lines on what was done to images of which kind.
    """

    images: Tensor
    indices: list[int]
    source: str
    skipped: list[str]
    remarks: list[str] = field(default_factory=list)

    def provenance(self) -> dict[str, object]:
        """What a record says of it."""
        about: dict[str, object] = {"source": self.source, "indices": self.indices, "skipped": self.skipped}
        return about | ({"remarks": self.remarks} if self.remarks else {})


class ImageData(pl.LightningDataModule, ABC):
    """Base of the data modules. `match` tells it which model will look at the images, before the work begins.

    num_calibration: how many images calibrate, null for all up to 1,024; limit: how many evaluation images, a
    class-balanced draw, null for all; num_workers: processes that prepare images, null for one a usable core and at
    most 8; licence: of the images, for the model card, null where it is not known.
    A subclass sets `self.evaluation` in `match`, and `self.has_labels` to False where its labels are None.
    are_resized: whether images are resized and cropped, as timm's evaluation transform does it, before they are
    normalised; None where that is the user's own affair.
    """

    evaluation: Dataset
    are_resized: bool | None = None
    has_labels = True
    is_shown = False  # whether a run draws some of the evaluation images

    def __init__(
        self,
        num_calibration: int | None,
        batch_size: int,
        seed: int,
        limit: int | None = None,
        num_workers: int | None = 0,
        licence: str | None = None,
    ):
        super().__init__()
        if num_calibration is not None:
            check_number("data.num_calibration", num_calibration, least=1, whole=True)
        check_number("data.batch_size", batch_size, least=1, whole=True)
        check_number("seed", seed, least=0, most=LARGEST_SEED, whole=True)
        if limit is not None:
            check_number("data.limit", limit, least=1, whole=True)
        if num_workers is not None:
            check_number("data.num_workers", num_workers, least=0, whole=True)
        self.num_calibration = NUM_CALIBRATION if num_calibration is None else num_calibration
        self.is_asked_for = num_calibration is not None
        self.batch_size, self.seed, self.limit = batch_size, seed, limit
        self.licence = licence
        self._said: set[str] = set()
        self.num_workers = min(MOST_WORKERS, num_cores()) if num_workers is None else num_workers

    def match(self, preprocessing: dict, num_classes: int) -> None:
        """Fit the images to a model: timm's data config (input_size, mean, std, crop_pct, ...) and its output size."""
        self.preprocessing = preprocessing
        self.num_classes = num_classes

    @abstractmethod
    def calibration(self) -> Calibration:
        """The seeded calibration images."""

    def num_wanted(self, num_available: int) -> int:
        """How many of so many images calibrate: the number asked for, or where none is, all up to 1,024."""
        return self.num_calibration if self.is_asked_for else min(self.num_calibration, max(1, num_available))

    def val_dataloader(self) -> Iterable:
        """The evaluation images with labels, or with None in place of these, in a fixed order.

        Of several processes that share the work each gets its own batches.
        """
        return self.loader(own_items(self.evaluation, self.batch_size), self.batch_size)

    @abstractmethod
    def training_sets(self) -> tuple[Dataset, Dataset]:
        """The labelled training images, prepared for training and as for evaluation, in the same order.

        Raises InputError where there are none.
        """

    def remarks(self) -> list[str]:
        """What there is to say of the evaluation images that were looked at, such as how many could not be read."""
        return []

    def share_remarks(self) -> None:
        """Know what each of the processes that share the work has to say of its images."""

    def say_remarks(self) -> None:
        """Say what has not been said."""
        for line in self.remarks():
            if line not in self._said:
                log.warning("%s", line)
                self._said.add(line)

    def train_dataloader(self) -> DataLoader:
        """Whole batches in seeded order; one smaller batch where there are no more images than that."""
        dataset, _ = self.training_sets()
        generator = torch.Generator().manual_seed(self.seed)
        whole = len(dataset) >= self.batch_size
        return self.loader(dataset, self.batch_size, shuffle=True, drop_last=whole, generator=generator)

    def _limited(self, dataset: Dataset, labels: Sequence[int]) -> Dataset:
        """The part of an evaluation set that `limit` asks for."""
        return dataset if self.limit is None else Subset(dataset, draw_balanced(labels, self.limit, self.seed))

    def loader(self, dataset: Dataset, batch_size: int, **more: Any) -> DataLoader:
        """Batches of any of the sets; None is one of which no image could be read."""
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset, batch_size, num_workers=self.num_workers, pin_memory=on_cuda, collate_fn=collate, **more
        )


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


def draw_balanced(labels: Sequence[int], num_wanted: int, seed: int) -> list[int]:
    """Indices, ascending, of `num_wanted` items with as equal a number of every label as there are items for.

    The items are shuffled and taken in rounds, one of every label that has one left, so that a seed's larger draw holds
    its smaller ones. Raises InputError where there are too few.

    >>> draw_balanced([5, 5, 5, 5, 5, 5, 7, 7, 9, 9], 6, seed=0)
    [1, 4, 6, 7, 8, 9]
    """
    if not 1 <= num_wanted <= len(labels):
        raise InputError(
            f"data.limit={num_wanted}: there are {len(labels)} evaluation images; give 1 to {len(labels)}, null for all"
        )
    seen: Counter[int] = Counter()
    rounds = []
    for index in torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist():
        rounds.append((seen[labels[index]], index))
        seen[labels[index]] += 1
    rounds.sort(key=lambda each: each[0])  # stable: the shuffled order holds within a round
    return sorted(index for _, index in rounds[:num_wanted])
