"""Folders of images: a labelled one to evaluate on, any other to calibrate with."""

import logging
import re
from pathlib import Path

import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from attnround.data.base import Calibration, ImageData, draw
from attnround.errors import InputError, check_number, listed, reason

log = logging.getLogger(__name__)
WORDNET_ID = re.compile(r"n\d{8}")


class ImageFolder(ImageData):
    """root: a folder with val/<class>/<images>; calibration: any folder of images, at any depth, labels unknown.

    Class folders are WordNet ids or class indices of the model's outputs, so that a subset of ImageNet evaluates
    rightly on a model of 1,000 classes; other names stand for the classes in alphabetical order, if there are as many.
    Without `calibration` it is root/train. Images pass through timm's evaluation transform for the model.
    """

    def __init__(
        self,
        root: str,
        calibration: str | None = None,
        num_calibration: int = 1024,
        batch_size: int = 64,
        num_workers: int = 2,
        seed: int = 0,
    ):
        super().__init__(num_calibration, batch_size, seed)
        self.root = Path(root)
        self.calibration_root = Path(calibration) if calibration else self.root / "train"
        check_number("data.num_workers", num_workers, least=0, whole=True)
        self.num_workers = num_workers

    def match(self, preprocessing: dict, num_classes: int) -> None:
        """Read the folders' lists now, so that what is wrong with them is said before the work begins."""
        super().match(preprocessing, num_classes)
        self.mode = {1: "L", 3: "RGB"}.get(preprocessing["input_size"][0])
        if self.mode is None:
            raise InputError(f"the model takes {preprocessing['input_size'][0]} channels; images have 1 or 3")
        self.transform = create_transform(**preprocessing, is_training=False)
        self.evaluation = self._evaluation_set()
        self.calibration_files = self._calibration_files()

    def calibration(self) -> Calibration:
        """Files in seeded order until there are enough; unreadable ones are named, skipped and counted."""
        source = f"{self.calibration_root} ({len(self.calibration_files)} files)"
        draw(len(self.calibration_files), self.num_calibration, self.seed, source)
        images, indices, skipped = [], [], []
        for index in draw(len(self.calibration_files), len(self.calibration_files), self.seed, source):
            if len(images) == self.num_calibration:
                break
            try:
                images.append(self._load(self.calibration_files[index]))
                indices.append(index)
            except InputError as error:
                log.warning("skipped: %s", error)
                skipped.append(str(self.calibration_files[index]))
        if len(images) < self.num_calibration:
            raise InputError(
                f"data.num_calibration={self.num_calibration}: {self.calibration_root} has only {len(images)} readable "
                f"images, {len(skipped)} files are not; ask for fewer or mend them"
            )
        return Calibration(torch.stack(images), indices, source, skipped)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.evaluation, batch_size=self.batch_size, num_workers=self.num_workers)

    def _load(self, path: Path | str) -> Tensor:
        return self.transform(self._open(path))

    def _open(self, path: Path | str) -> Image.Image:
        try:
            with Image.open(path) as image:
                return image.convert(self.mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{path} is not a readable image ({reason(error)})") from error

    def _evaluation_set(self) -> datasets.ImageFolder:
        folder = self.root / "val"
        if not folder.is_dir():
            what = "has no folder val" if self.root.is_dir() else "is not there"
            raise InputError(f"data.root={self.root} {what}: give a folder with val/<class>/<images>")
        names = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
        places = class_places(names, self.num_classes, folder)

        class Mapped(datasets.ImageFolder):
            def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
                return list(places), places

        found = Mapped(str(folder), transform=self.transform, loader=self._open, allow_empty=True)
        if not found.samples:
            raise InputError(f"{folder}: its class folders hold no image ({', '.join(IMG_EXTENSIONS)})")
        return found

    def _calibration_files(self) -> list[Path]:
        folder = self.calibration_root
        if not folder.is_dir():
            raise InputError(f"data.calibration={folder} is not there: give any folder of images, no labels needed")
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        if not files:
            raise InputError(f"data.calibration={folder} holds no image ({', '.join(IMG_EXTENSIONS)})")
        return files


def class_places(names: list[str], num_classes: int, folder: Path) -> dict[str, int]:
    """Class folder name -> index of the model's output. Raises InputError naming folders that map to nothing."""
    subset = infer_imagenet_subset({"num_classes": num_classes})
    synsets = {name: i for i, name in enumerate(ImageNetInfo(subset).label_names())} if subset else {}
    if any(WORDNET_ID.fullmatch(name) for name in names):
        places = {name: synsets[name] for name in names if name in synsets}
    elif any(name.isdecimal() for name in names):
        places = {name: int(name) for name in names if name.isdecimal() and int(name) < num_classes}
    else:
        places = {name: i for i, name in enumerate(names)} if len(names) == num_classes else {}
    lost = [name for name in names if name not in places]
    if lost or not names:
        given = f"{listed(lost)} map to none" if lost else "there is no folder"
        raise InputError(
            f"{folder}: of the model's {num_classes} classes, {given}: name class folders by WordNet id (n01440764) "
            f"for an ImageNet model, by class index (0 to {num_classes - 1}), or give exactly {num_classes} folders"
        )
    return places
