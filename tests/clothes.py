"""Fashion-MNIST, cut off after a few images."""

import gzip
from pathlib import Path

import numpy as np

from attnround.data.fashion_mnist import read_idx
from attnround.files import SHIPPED

FILES = ("t10k-images-idx3", "t10k-labels-idx1", "train10k-images-idx3", "train10k-labels-idx1")


def few_clothes(folder: Path, count: int) -> Path:
    """Make the folder, with the first images of each of the files that travel along."""
    folder.mkdir()
    for name in FILES:
        some = read_idx(SHIPPED / f"assets/fashion_mnist/{name}-ubyte.gz")[:count].numpy()
        head = bytes([0, 0, 8, some.ndim]) + np.array(some.shape, ">i4").tobytes()
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(head + some.tobytes()))
    return folder
