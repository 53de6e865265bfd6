"""Any folder of photographs: a part of them calibrates, the others show how well the quantized model does."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from attnround.data.base import Calibration
from attnround.data.classes import Indices, mapped, plain, read_class_map
from attnround.data.files import LabelledFiles, list_images, said_of
from attnround.data.image_files import EXTENSIONS, ImageFiles
from attnround.data.near_copies import DECODED, groups_of, in_seeded_order, said_of_copies, thumbnail
from attnround.data.pixels import Remark
from attnround.errors import InputError, listed
from attnround.progress import bar

log = logging.getLogger(__name__)
LABELS = "labels.csv"  # what the file of labels is called as a rule


@dataclass(frozen=True)
class Contents:
    """All image files of a folder, relative to it, and the thumbnails [N, side, side, 3] of those that can be read.

    readable: their N places among the files; remarks: what there is to say of the others.
    """

    folder: Path
    files: list[str]
    readable: list[int]
    thumbnails: Tensor
    remarks: list[str]

    @property
    def names(self) -> list[str]:
        """Of those that can be read."""
        return [self.files[place] for place in self.readable]

    @property
    def skipped(self) -> list[str]:
        """Paths of the others."""
        readable = set(self.readable)
        return [str(self.folder / file) for place, file in enumerate(self.files) if place not in readable]


class Photos(ImageFiles):
    """root: a folder of images, at any depth, of which a seeded draw calibrates and what that leaves is evaluated on;
    num_calibration: None for at most 1,024, and at most half of them.

    evaluation: another folder to evaluate on, so that all of root may calibrate. labels: a CSV or JSON file, image or
    folder -> the indices that are right for it, by its name in the evaluated folder or by its path. Where the usual one
    is not there, and for None, the quantized model is compared with the float one alone.
    Near copies never are on both sides: groups of them are drawn, not images.
    """

    is_shown = True

    def __init__(
        self,
        root: str,
        evaluation: str | None = None,
        labels: str | None = LABELS,
        num_calibration: int | None = None,
        batch_size: int = 64,
        num_workers: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        licence: str | None = None,
    ):
        super().__init__(num_calibration, batch_size, seed, limit, num_workers, licence)
        self.root, self.labels = Path(root), labels
        self.evaluation_root = Path(evaluation) if evaluation else None

    def match(self, preprocessing: dict, num_classes: int) -> None:
        """Look at all files now, and draw those that calibrate."""
        super().match(preprocessing, num_classes)
        self.own = self._look("data.root", self.root)
        other = self._look("data.evaluation", self.evaluation_root) if self.evaluation_root else None
        files = self._draw_beside(other) if other else self._draw()
        folder = other.folder if other else self.root
        labels = self._read_labels(folder, files)
        self.has_labels = labels is not None
        self.evaluated = LabelledFiles(folder, files, labels, self.mode, self.transform, self.noted(files))
        self.evaluation = self.limited(self.evaluated)
        self.left_out = (other or self.own).remarks
        lines = dict.fromkeys([*self.own.remarks, *self.left_out, *self.copies])
        for line in lines:
            log.warning("%s", line)
        self._said.update(lines)
        evaluated = f"{self.limit or len(files)} {f'of {folder}' if other else 'others'}"
        known = "with" if self.has_labels else "without"
        spare = 0 if other else len(self.own.readable) - len(self.drawn) - len(files)
        neither = f"; {spare} near copies of the former do neither" if spare else ""
        text = "%d images of %s calibrate, %s are evaluated on, %s labels%s"
        log.info(text, len(self.drawn), self.root, evaluated, known, neither)

    def remarks(self) -> list[str]:
        return [*self.left_out, *super().remarks()]

    def calibration(self) -> Calibration:
        """The images drawn."""
        found = self.first_readable(self.root, self.own.files, self.drawn, len(self.drawn))
        remarks = [*self.copies, *found.remarks]
        return dataclasses.replace(found, skipped=self.own.skipped, remarks=remarks)

    def training_sets(self) -> tuple[LabelledFiles, LabelledFiles]:
        raise InputError(
            f"data.root={self.root}: training takes images sorted by their class, and photos has none: give "
            "data=image_folder with data.root/train/<class>/<images>, or data=module"
        )

    def _look(self, option: str, folder: Path) -> Contents:
        """Decode all files of a folder, once and small. Raises InputError where none is an image."""
        if not folder.is_dir():
            raise InputError(f"{option}={folder} is not there: give any folder of images, no labels needed")
        files = self.listed(folder)
        if not files:
            raise InputError(f"{option}={folder} holds no image ({EXTENSIONS})")
        remarks = self.noted(files)
        loader = self.loader(LabelledFiles(folder, files, None, "RGB", thumbnail, remarks, DECODED), self.batch_size)
        progress = bar(len(loader), "look", "batch")
        found = []
        for batch in loader:
            found += [] if batch is None else [batch[0]]
            progress.update()
        progress.close()
        if not found:
            raise InputError(f"{option}={folder}: none of its {len(files)} images can be read ({listed(files)})")
        unreadable = (remarks & Remark.UNREADABLE).bool()
        said = said_of(files, (remarks & Remark.UNREADABLE).tolist(), folder)
        return Contents(folder, files, (~unreadable).nonzero().flatten().tolist(), torch.cat(found), said)

    def _draw(self) -> list[str]:
        """Draw what calibrates; the files that are left to evaluate on."""
        names, groups = self.own.names, groups_of(self.own.thumbnails)
        self.copies = said_of_copies(names, groups)
        ordered = in_seeded_order(groups, self.seed)
        if len(ordered) == 1:
            what = "is one image" if len(names) == 1 else f"has {len(names)} images that all show the same"
            raise InputError(f"data.root={self.root} {what}: give others too, or data.evaluation=<another folder>")
        most = len(names) - len(ordered[-1])
        if self.is_asked_for and self.num_calibration > most:
            raise InputError(
                f"data.num_calibration={self.num_calibration}: {self.root} has {len(names)} images, near copies "
                f"counted, and some must be left to evaluate on: give 1 to {most}, or data.evaluation=<another folder>"
            )
        wanted = self.num_wanted(min(len(names) // 2, most))
        return [names[each] for each in self._take(ordered, wanted)]

    def _draw_beside(self, other: Contents) -> list[str]:
        """Draw what calibrates of all that is no near copy of what is evaluated, which is the other folder."""
        names = [*self.own.names, *(str(other.folder / name) for name in other.names)]
        groups = groups_of(torch.cat([self.own.thumbnails, other.thumbnails]))
        self.copies = said_of_copies(names, groups)
        evaluated = set(groups[len(self.own.names) :])
        free = [place for place, group in enumerate(groups[: len(self.own.names)]) if group not in evaluated]
        if not free:
            raise InputError(
                f"data.evaluation={other.folder} has near copies of all images of {self.root}: give other images"
            )
        if self.is_asked_for and self.num_calibration > len(free):
            raise InputError(
                f"data.num_calibration={self.num_calibration}: {self.root} has {len(free)} images that are no near "
                f"copies of those of {other.folder}: give 1 to {len(free)}"
            )
        ordered = [
            [free[each] for each in group] for group in in_seeded_order([groups[each] for each in free], self.seed)
        ]
        self._take(ordered, self.num_wanted(len(free)))
        return other.names

    def _take(self, ordered: Sequence[list[int]], num_wanted: int) -> list[int]:
        """Let the first images of the groups in this order calibrate; the images of the groups that are not begun.

        Large groups come first among those that calibrate: reconstruction holds out the last images, which so are no
        near copies of those that it learns from.
        """
        begun: list[list[int]] = []
        missing = num_wanted
        while missing > 0:
            begun.append(ordered[len(begun)][:missing])
            missing -= len(begun[-1])
        left = ordered[len(begun) :]
        begun.sort(key=len, reverse=True)  # stable: single images stay in the order drawn
        self.drawn = [self.own.readable[each] for group in begun for each in group]
        return sorted(each for group in left for each in group)

    def _read_labels(self, folder: Path, files: Sequence[str]) -> Indices | None:
        """The labels of these files of a folder; None where there are none.

        Raises InputError where a line is of no image there, or an image has no line.
        """
        if self.labels is None:
            return None
        elsewhere = [] if self.labels == LABELS else [Path(self.labels)]
        path = next((each for each in (folder / self.labels, *elsewhere) if each.is_file()), None)
        if path is None:
            if self.labels == LABELS:
                return None
            raise InputError(
                f"data.labels={self.labels} is not there: give a CSV or JSON file, image -> index of its class, or null"
            )
        given = read_class_map(str(path), self.num_classes, "data.labels")
        there = [plain(file) for some in list_images(folder) for file in some]
        known = {*there, *(str(parent) for file in there for parent in PurePosixPath(file).parents)}
        lost = [name for name in given if name not in known]
        if lost:
            raise InputError(f"data.labels={path} has lines of what is not in {folder}: {listed(lost)}")
        return mapped(files, given, f"data.labels={path}", folder)
