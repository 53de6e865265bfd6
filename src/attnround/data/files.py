"""Image files on disk: listed in a fixed order, fast enough for ImageNet's 1.28 million, and opened one by one."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from attnround.data.pixels import EXTENSIONS, READ_HERE, SAID, SHORT_SIDE, Remark, UnreadableError, open_image
from attnround.errors import listed

Item = tuple[Tensor, int | Tensor | None]  # an image and its label


def list_images(root: Path) -> tuple[list[str], list[str]]:
    """The image files below a folder, and those of kinds that this Pillow does not read (HEIC, as a rule).

    Relative to it and sorted, at any depth, links followed, hidden ones left out. Strings rather than paths: a million
    are some 100 MB, and a listing takes no look at the files themselves.
    """
    found: list[str] = []
    unread: list[str] = []
    folders, visited = [""], set()
    while folders:
        folder = folders.pop()
        status = os.stat(root / folder)
        if (status.st_dev, status.st_ino) in visited:  # a link back up would never end
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # ._photo.jpg is what macOS packs beside photo.jpg
                    continue
                if entry.is_dir():
                    folders.append(f"{folder}{entry.name}/")
                elif entry.name.lower().endswith(EXTENSIONS):
                    here = entry.name.lower().endswith(READ_HERE)
                    (found if here else unread).append(f"{folder}{entry.name}")
    return sorted(found), sorted(unread)


def list_folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


@dataclass(frozen=True)
class LabelledFiles(Dataset):
    """Images (a transform of the file, label). files: relative to root; labels: indices of the model's outputs.

    Where several outputs are right for an image its label is a tuple of them, filled with -1, and the item's a tensor;
    where labels are None the item's is None. remarks: uint8 [N], a `Remark` a file that was opened, shared by all
    processes that do; then a file that cannot be read is None, which `collate` leaves out. None: such a file raises
    UnreadableError. least: as `open_image` has it.
    """

    root: Path
    files: list[str]
    labels: list[int] | list[tuple[int, ...]] | None
    mode: str
    transform: Callable[[Image.Image], Tensor]
    remarks: Tensor | None = None
    least: int = SHORT_SIDE

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process: its workers, if it has some, share the remarks with it."""
        self.__dict__.update(state)
        if self.remarks is not None and not self.remarks.is_shared():
            self.__dict__["remarks"] = self.remarks.clone().share_memory_()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item | None:
        try:
            image, remark = open_image(self.root / self.files[index], self.mode, self.least)
        except UnreadableError:
            if self.remarks is None:
                raise
            self.remarks[index] = Remark.UNREADABLE
            return None
        if self.remarks is not None:
            self.remarks[index] = int(remark)
        return self.transform(image), self._label(index)

    def _label(self, index: int) -> int | Tensor | None:
        label = None if self.labels is None else self.labels[index]
        return torch.tensor(label) if isinstance(label, tuple) else label


def collate(items: Sequence[Item | None]) -> list[Tensor | None] | None:
    """The batch of the items that could be read, its labels None where an item's is; None where there is no item."""
    there = [each for each in items if each is not None]
    if there and there[0][1] is None:
        return [default_collate([image for image, _ in there]), None]
    return default_collate(there) if there else None


def said_of(files: Sequence[str], remarks: Sequence[int], where: object) -> list[str]:
    """What there is to say of the images of a folder: a line a kind of remark, with how many and the first names."""
    counts = Counter(remarks)
    lines = []
    for kind, text in SAID.items():
        if any(each & kind for each in counts):
            names = [name for name, remark in zip(files, remarks, strict=True) if remark & kind]
            lines.append(f"{len(names)} of {len(files)} images of {where} {text}: {listed(names)}")
    return lines
