"""Folders of images: a labelled one to evaluate on, another to train on, any other to calibrate with."""

import dataclasses
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from timm.data import create_transform

from attnround.data.base import Calibration, draw
from attnround.data.classes import Indices, class_places, mapped, read_class_map
from attnround.data.files import LabelledFiles, list_folders, list_images
from attnround.data.image_files import EXTENSIONS, ImageFiles
from attnround.errors import InputError

log = logging.getLogger(__name__)


class ImageFolder(ImageFiles):
    """root: a folder with val/<class>/<images>; calibration: any folder of images, at any depth, labels unknown;
    validation: what the folder is called where it is not val, a name below root or another path.

    Class folders are WordNet ids or class indices of the model's outputs, so that a subset of ImageNet evaluates
    rightly on a model of 1,000 classes; other names stand for the classes in their order, if there are as many.
    class_order: torchvision's or timm's, asked for where these differ; class_map: a CSV or JSON file of folder ->
    index, or of file -> the indices that are right for it. Without `calibration` it is root/train. Images pass through
    timm's evaluation transform for the model; those of root/train/<class>, which training with labels takes, through
    its training transform.
    """

    def __init__(
        self,
        root: str,
        calibration: str | None = None,
        num_calibration: int | None = None,
        batch_size: int = 64,
        num_workers: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        licence: str | None = None,
        class_order: str | None = None,
        class_map: str | None = None,
        validation: str = "val",
    ):
        super().__init__(num_calibration, batch_size, seed, limit, num_workers, licence)
        self.root = Path(root)
        self.calibration_root = Path(calibration) if calibration else self.root / "train"
        if class_order is not None and class_map is not None:
            raise InputError(f"data.class_order={class_order} and data.class_map={class_map}: give one of them")
        self.class_order, self.class_map = class_order, class_map
        self.validation = self.root / validation

    def match(self, preprocessing: dict, num_classes: int) -> None:
        """Read the folders' lists now, so that what is wrong with them is said before the work begins."""
        super().match(preprocessing, num_classes)
        self.map = read_class_map(self.class_map, num_classes) if self.class_map else None
        self.evaluated = self._evaluation_set()
        self.evaluation = self.limited(self.evaluated)
        self.evaluation[0]  # a set of a kind that is refused is refused before the work begins

    def calibration(self) -> Calibration:
        """Files in seeded order until there are enough; unreadable ones are named, skipped and counted."""
        num_files = len(self.calibration_files)
        source = f"{self.calibration_root} ({num_files} files)"
        if shared := self._num_evaluated():
            text = "%s: %d of its %d images are below %s, whose images are evaluated on: its numbers are too good"
            log.warning(text, self.calibration_root, shared, num_files, self.validation)
        wanted = self.num_wanted(num_files)
        draw(num_files, wanted, self.seed, source)
        order = draw(num_files, num_files, self.seed, source)
        return self.first_readable(self.calibration_root, self.calibration_files, order, wanted)

    def _num_evaluated(self) -> int:
        """How many of the files to calibrate with are in the folder that is evaluated on."""
        place, evaluated = self.calibration_root.resolve(), self.validation.resolve()
        if place.is_relative_to(evaluated):
            return len(self.calibration_files)
        if not evaluated.is_relative_to(place):  # as of root/train, which may hold a million
            return 0
        below = f"{evaluated.relative_to(place).as_posix()}/"
        return sum(file.startswith(below) for file in self.calibration_files)

    def training_sets(self) -> tuple[LabelledFiles, LabelledFiles]:
        """The images of root/train, whose class folders mean what those of root/val do."""
        folder = self.root / "train"
        if not folder.is_dir() or not list_folders(folder):
            raise InputError(f"{folder} has no class folders: training takes its images from data.root/train/<class>")
        plain = self.trained = self._labelled(folder, self.transform)
        if not all(isinstance(label, int) for label in plain.labels or ()):
            raise InputError(f"data.class_map={self.class_map} has several classes for an image: training takes one")
        augment = create_transform(**self.preprocessing, is_training=True)
        return dataclasses.replace(plain, transform=augment), plain

    def _evaluation_set(self) -> LabelledFiles:
        folder = self.validation
        if not folder.is_dir():
            what = f"has no folder {folder.name}" if self.root.is_dir() else "is not there"
            raise InputError(
                f"data.root={self.root} {what}: give a folder with val/<class>/<images>, or data.validation=<its name>"
            )
        if self.map is None and not list_folders(folder) and (flat := list_images(folder)[0]):
            raise InputError(
                f"{folder} has {len(flat)} images and no class folders: sort them into one folder a class, or give "
                "data.class_map=<a CSV or JSON file: image -> index of its class>; for ImageNet run valprep.sh of "
                "github.com/soumith/imagenetloader.torch inside it"
            )
        found = self._labelled(folder, self.transform)
        shown = {label for each in found.labels or () for label in ([each] if isinstance(each, int) else each)} - {-1}
        if len(shown) < self.num_classes:
            text = "%s has images of %d of the model's %d classes; accuracies are over these"
            log.warning(text, folder, len(shown), self.num_classes)
        return found

    def _labelled(self, folder: Path, transform: Callable) -> LabelledFiles:
        """The images of val or train with their labels. Raises InputError where there is none."""
        labels: Indices
        if self.map is None:
            names = list_folders(folder)
            places = self._places(names)
            files = self.listed(folder, names)
            labels = [places[file.split("/")[0]] for file in files]
        else:
            files = self.listed(folder)
            labels = mapped(files, self.map, f"data.class_map={self.class_map}", folder)
        if not files:
            raise InputError(f"{folder}: its class folders hold no image ({EXTENSIONS})")
        return LabelledFiles(folder, files, labels, self.mode, transform, self.noted(files))

    def _places(self, names: list[str]) -> dict[str, int]:
        """Class folder -> output. Where val lacks some of the classes, the folders of train tell which there are."""
        known = {*names, *list_folders(self.validation)}
        train = self.root / "train"
        both = known | set(list_folders(train)) if train.is_dir() else known
        known = both if len(both) == self.num_classes else known
        return class_places(sorted(known), self.num_classes, self.validation, self.class_order)

    @cached_property
    def calibration_files(self) -> list[str]:
        """Listed where something calibrates: what only evaluates needs no such folder."""
        folder = self.calibration_root
        if not folder.is_dir():
            raise InputError(f"data.calibration={folder} is not there: give any folder of images, no labels needed")
        files = self.listed(folder)
        if not files:
            raise InputError(f"data.calibration={folder} holds no image ({EXTENSIONS})")
        return files
