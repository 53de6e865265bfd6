"""Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747; MIT licence): 28x28 grey images of ten kinds of clothing.

The 10,000 test images and the first 10,000 training images travel with the project. Pre-training asks for all 60,000
with `full_train`; they come from `train_root` (where Debian's package dataset-fashion-mnist puts them) or a download.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from attnround.data.base import Calibration, ImageData, draw
from attnround.errors import InputError, reason

MOST_BYTES = 2**30  # of a file's pixels; the 60,000 training images have 47 million
PAD = 2  # pixels of the random shift in training, a fourteenth of the width as is usual for small images


class FashionMNIST(ImageData):
    """Images [N, 1, 28, 28], normalised by the model's mean and standard deviation."""

    are_resized = False

    def __init__(
        self,
        root: str,
        num_calibration: int = 1024,
        batch_size: int = 500,
        limit: int | None = None,
        seed: int = 0,
        full_train: bool = False,
        train_root: str | None = None,
        download_root: str | None = None,
        licence: str | None = None,
    ):
        super().__init__(num_calibration, batch_size, seed, limit, licence=licence)
        self.root = Path(root)
        self.full_train = full_train
        self.train_root = train_root
        self.download_root = download_root

    def match(self, preprocessing: dict, num_classes: int) -> None:
        super().match(preprocessing, num_classes)
        test = self._labelled(self.root, "t10k")
        self.evaluation = self._limited(test, test.tensors[1].tolist())

    def calibration(self) -> Calibration:
        images = self._normalise(read_idx(self.root / "train10k-images-idx3-ubyte.gz"))
        indices = draw(len(images), self.num_calibration, self.seed, "the shipped part of Fashion-MNIST")
        return Calibration(images[indices], indices, "Fashion-MNIST, first 10,000 training images", [])

    def training_sets(self) -> tuple[TensorDataset, TensorDataset]:
        """One for both: images are augmented a batch at a time."""
        place = (self._find_full_train(), "train") if self.full_train else (self.root, "train10k")
        data = self._labelled(*place)
        return data, data

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        """In training every image is shifted by up to two pixels and mirrored with probability a half."""
        images, labels = batch
        if not self.trainer.training:
            return batch
        n, _, height, width = images.shape
        shift_y, shift_x = torch.randint(0, 2 * PAD + 1, (2, n, 1), device=images.device)
        columns = torch.arange(width, device=images.device).expand(n, width)
        mirrored = torch.rand(n, 1, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns) + shift_x
        rows = torch.arange(height, device=images.device) + shift_y
        padded = torch.nn.functional.pad(images, (PAD,) * 4, value=float(images.min()))
        image = torch.arange(n, device=images.device)[:, None, None]
        return [padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2), labels]

    def _labelled(self, root: Path, part: str) -> TensorDataset:
        images = self._normalise(read_idx(root / f"{part}-images-idx3-ubyte.gz"))
        return TensorDataset(images, read_idx(root / f"{part}-labels-idx1-ubyte.gz").long())

    def _normalise(self, images: Tensor) -> Tensor:
        channels = self.preprocessing["input_size"][0]
        if channels != 1:
            raise InputError(
                f"the model takes {channels} channels and Fashion-MNIST has one: "
                "choose model=resnet18_slim or model=mobilenetv2_050, or data=image_folder for this model"
            )
        (mean,), (std,) = self.preprocessing["mean"], self.preprocessing["std"]
        return images[:, None].float().div_(255).sub_(mean).div_(std)

    def _find_full_train(self) -> Path:
        if self.train_root and (Path(self.train_root) / "train-images-idx3-ubyte.gz").exists():
            return Path(self.train_root)
        from torchvision.datasets import FashionMNIST as Download

        try:
            return Path(Download(self.download_root, train=True, download=True).raw_folder)
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"the 60,000 training images are not in data.train_root={self.train_root} and the download failed "
                f"({reason(error)}): run `apt-get install dataset-fashion-mnist`, or put "
                "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz into a folder and give data.train_root=<it>"
            ) from error


def read_idx(path: Path) -> Tensor:
    """The uint8 array of a gzipped IDX file, as published with MNIST: magic 0 0 8 ndim, then big-endian sizes.

    Raises InputError where the file is missing or not of that form.
    """
    try:
        with gzip.open(path) as file:
            shape = np.frombuffer(file.read(4 * file.read(4)[3]), ">i4").tolist()
            size = math.prod(shape)
            if not 0 <= size <= MOST_BYTES:
                raise ValueError(f"its header claims {size} bytes, {MOST_BYTES} are allowed")
            raw = file.read(size + 1)  # no more is unpacked, whatever follows
        return torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(shape).copy())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: data.root must be a folder with the Fashion-MNIST files") from error
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"{path} is not a gzipped IDX file ({error}): put the published file in its place") from error
