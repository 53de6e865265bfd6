"""Folders of images: a labelled one to evaluate on, another to train on, any other to calibrate with."""

import dataclasses
import logging
import re
from pathlib import Path

import torch
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset

from attnround.data.base import Calibration, ImageData, draw
from attnround.data.files import EXTENSIONS, LabelledFiles, list_folders, list_images, open_image
from attnround.errors import InputError, listed

log = logging.getLogger(__name__)
WORDNET_ID = re.compile(r"n\d{8}")


class ImageFolder(ImageData):
    """root: a folder with val/<class>/<images>; calibration: any folder of images, at any depth, labels unknown.

    Class folders are WordNet ids or class indices of the model's outputs, so that a subset of ImageNet evaluates
    rightly on a model of 1,000 classes; other names stand for the classes in alphabetical order, if there are as many.
    Without `calibration` it is root/train. Images pass through timm's evaluation transform for the model; those of
    root/train/<class>, which training with labels takes, through its training transform.
    """

    def __init__(
        self,
        root: str,
        calibration: str | None = None,
        num_calibration: int = 1024,
        batch_size: int = 64,
        num_workers: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        licence: str | None = None,
    ):
        super().__init__(num_calibration, batch_size, seed, limit, num_workers, licence)
        self.root = Path(root)
        self.calibration_root = Path(calibration) if calibration else self.root / "train"

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
        images = torch.empty(self.num_calibration, *self.preprocessing["input_size"])
        indices, skipped = [], []
        for index in draw(len(self.calibration_files), len(self.calibration_files), self.seed, source):
            if len(indices) == self.num_calibration:
                break
            path = self.calibration_root / self.calibration_files[index]
            try:
                images[len(indices)] = self.transform(open_image(path, self.mode))
                indices.append(index)
            except InputError as error:
                log.warning("skipped: %s", error)
                skipped.append(str(path))
        if len(indices) < self.num_calibration:
            raise InputError(
                f"data.num_calibration={self.num_calibration}: {self.calibration_root} has only {len(indices)} "
                f"readable images, {len(skipped)} files are not; ask for fewer or mend them"
            )
        return Calibration(images, indices, source, skipped)

    def training_sets(self) -> tuple[LabelledFiles, LabelledFiles]:
        """The images of root/train, whose class folders mean what those of root/val do."""
        folder = self.root / "train"
        names = list_folders(folder) if folder.is_dir() else []
        if not names:
            raise InputError(f"{folder} has no class folders: training takes its images from data.root/train/<class>")
        together = sorted({*names, *list_folders(self.root / "val")})
        places = class_places(together, self.num_classes, folder)
        plain = labelled(folder, {name: places[name] for name in names}, self.mode, self.transform)
        augment = create_transform(**self.preprocessing, is_training=True)
        return dataclasses.replace(plain, transform=augment), plain

    def _evaluation_set(self) -> LabelledFiles:
        folder = self.root / "val"
        if not folder.is_dir():
            what = "has no folder val" if self.root.is_dir() else "is not there"
            raise InputError(f"data.root={self.root} {what}: give a folder with val/<class>/<images>")
        names = list_folders(folder)
        if not names and (flat := list_images(folder)):
            raise InputError(
                f"{folder} has {len(flat)} images and no class folders: sort them into one folder a class; for "
                "ImageNet run valprep.sh of github.com/soumith/imagenetloader.torch inside it"
            )
        found = labelled(folder, class_places(names, self.num_classes, folder), self.mode, self.transform)
        if (num_found := len(set(found.labels))) < self.num_classes:
            text = "%s has images of %d of the model's %d classes; accuracies are over these"
            log.warning(text, folder, num_found, self.num_classes)
        return self._limited(found, found.labels)

    def _calibration_files(self) -> list[str]:
        folder = self.calibration_root
        if not folder.is_dir():
            raise InputError(f"data.calibration={folder} is not there: give any folder of images, no labels needed")
        files = list_images(folder)
        if not files:
            raise InputError(f"data.calibration={folder} holds no image ({EXTENSIONS})")
        return files


def labelled(folder: Path, places: dict[str, int], mode: str, transform: object) -> LabelledFiles:
    """The images of these class folders, in the order of the names. Raises InputError where there is none."""
    files, labels = [], []
    for name, place in places.items():
        images = list_images(folder / name)
        files += [f"{name}/{image}" for image in images]
        labels += [place] * len(images)
    if not files:
        raise InputError(f"{folder}: its class folders hold no image ({EXTENSIONS})")
    return LabelledFiles(folder, files, labels, mode, transform)


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
