"""Image files on disk: listed in a fixed order, fast enough for ImageNet's 1.28 million, and opened one by one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from attnround.errors import InputError, reason

EXTENSIONS = ", ".join(IMG_EXTENSIONS)


def list_images(root: Path) -> list[str]:
    """The image files below a folder, relative to it and sorted, at any depth, links followed, hidden ones left out.

    Strings rather than paths: a million are some 100 MB, and a listing takes no look at the files themselves.
    """
    found, folders, visited = [], [""], set()
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
                elif entry.name.lower().endswith(IMG_EXTENSIONS):
                    found.append(f"{folder}{entry.name}")
    return sorted(found)


def list_folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def open_image(path: Path, mode: str) -> Image.Image:
    """The decoded image in Pillow's mode L or RGB. Raises InputError that names an unreadable file."""
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable image ({reason(error)})") from error


@dataclass(frozen=True)
class LabelledFiles(Dataset):
    """Images (a transform of the file, label). files: relative to root; labels: indices of the model's outputs."""

    root: Path
    files: list[str]
    labels: list[int]
    mode: str
    transform: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(open_image(self.root / self.files[index], self.mode)), self.labels[index]
