"""What data modules share whose images are files in folders."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset, Subset

from attnround.data.base import Calibration, ImageData
from attnround.data.files import LabelledFiles, list_images, said_of
from attnround.data.pixels import READ_HERE, UnreadableError, open_image
from attnround.errors import InputError, listed
from attnround.ranks import gathered

log = logging.getLogger(__name__)
EXTENSIONS = ", ".join(READ_HERE)


class ImageFiles(ImageData):
    """Images pass through timm's evaluation transform for the model. A subclass sets `evaluated` in `match`: the files
    of which `evaluation` is all or a part. Files that cannot be read are left out, of those for training too.
    """

    evaluated: LabelledFiles
    trained: LabelledFiles | None = None  # once training images were asked for
    are_resized = True

    def match(self, preprocessing: dict, num_classes: int) -> None:
        super().match(preprocessing, num_classes)
        mode = {1: "L", 3: "RGB"}.get(preprocessing["input_size"][0])
        if mode is None:
            raise InputError(f"the model takes {preprocessing['input_size'][0]} channels; images have 1 or 3")
        self.mode = mode
        self.transform = create_transform(**preprocessing, is_training=False)

    def remarks(self) -> list[str]:
        """What there is to say of the images for evaluation and training that were opened so far."""
        return [
            line
            for files in (self.evaluated, self.trained)
            if files is not None and files.remarks is not None
            for line in said_of(files.files, files.remarks.tolist(), files.root)
        ]

    def share_remarks(self) -> None:
        for files in (self.evaluated, self.trained):
            if files is not None and files.remarks is not None:
                files.remarks.copy_(torch.stack(gathered(files.remarks)).amax(0))

    def limited(self, files: LabelledFiles) -> Dataset:
        """The part of an evaluation set that `limit` asks for, class-balanced where there are labels."""
        labels = [0] * len(files) if files.labels is None else files.labels
        return self._limited(files, [label if isinstance(label, int) else label[0] for label in labels])

    def pixels(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each evaluation image as the model takes it, [1, C, H, W], and as it is decoded, uint8 [1, height, width, C].

        One at a time, since their sizes differ; those that cannot be read are left out.
        """
        chosen = self.evaluation.indices if isinstance(self.evaluation, Subset) else range(len(self.evaluated))
        for index in chosen:
            try:
                image, _ = open_image(self.evaluated.root / self.evaluated.files[index], self.mode)
            except UnreadableError:
                continue
            decoded = torch.from_numpy(np.array(image))
            yield self.transform(image)[None], decoded.reshape(1, image.height, image.width, -1)

    def first_readable(self, root: Path, files: Sequence[str], order: Sequence[int], num_wanted: int) -> Calibration:
        """As many images as are wanted, of the files in this order; unreadable ones are named, skipped and counted.

        Raises InputError where there are fewer and the number was asked for.
        """
        images = torch.empty(num_wanted, *self.preprocessing["input_size"])
        indices: list[int] = []
        remarks: list[int] = []
        skipped: list[str] = []
        for index in order:
            if len(indices) == num_wanted:
                break
            try:
                image, remark = open_image(root / files[index], self.mode)
                images[len(indices)] = self.transform(image)
                indices.append(index)
                remarks.append(remark)
            except UnreadableError as error:
                log.warning("skipped: %s", error)
                skipped.append(str(root / files[index]))
        if not indices or (len(indices) < num_wanted and self.is_asked_for):
            raise InputError(
                f"data.num_calibration={num_wanted}: {root} has only {len(indices)} readable images, {len(skipped)} "
                "files are not; ask for fewer or mend them"
            )
        said = said_of([files[index] for index in indices], remarks, root)
        for line in said:
            log.warning("%s", line)
        return Calibration(images[: len(indices)], indices, f"{root} ({len(files)} files)", skipped, said)

    def noted(self, files: Sequence[str]) -> Tensor:
        """Room for a `Remark` a file, shared by the processes that open them, where there are any."""
        room = torch.zeros(len(files), dtype=torch.uint8)
        return room.share_memory_() if self.num_workers else room

    @staticmethod
    def listed(folder: Path, parts: Sequence[str] = ("",)) -> list[str]:
        """The images below these folders in a folder, one part after another."""
        files, unread = [], []
        for part in parts:
            found, others = list_images(folder / part)
            files += [f"{part}/{name}" if part else name for name in found]
            unread += [f"{part}/{name}" if part else name for name in others]
        if unread:
            why = "this Pillow does not read them; convert them, or for HEIC install pillow-heif"
            log.warning("%s: %d images are left out (%s): %s", folder, len(unread), listed(unread), why)
        return files
