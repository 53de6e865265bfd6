"""The sheet of photographs of a run: which are shown, with what names, as what pixels."""

import matplotlib.pyplot as plt
import pytest
import torch

from attnround.data import ImageData
from attnround.evaluation import Outputs
from attnround.experiment.photographs import chosen, photographs
from attnround.experiment.pictures import Answer, Photograph, draw_photographs

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


class Few(ImageData):
    """Ten flat images, each of a brightness of its own, in two batches with one between them that cannot be read."""

    def __init__(self):
        super().__init__(num_calibration=1, batch_size=4, seed=0)
        self.preprocessing = {"mean": MEAN, "std": STD}

    def calibration(self):
        raise NotImplementedError

    def training_sets(self):
        raise NotImplementedError

    def val_dataloader(self):
        pixels = torch.arange(10).view(-1, 1, 1, 1).expand(-1, 3, 4, 5) / 10
        images = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        yield [images[:4], torch.zeros(4)]
        yield None
        yield [images[4:], torch.zeros(6)]


def logits(*classes: tuple[int, float]) -> torch.Tensor:
    """A line an image: its class and how far above the others that is."""
    found = torch.zeros(len(classes), 1000)
    for line, (index, height) in zip(found, classes, strict=True):
        line[index] = height
    return found


REFERENCE = logits(*[(49, 12.0)] * 5, *[(50, 9.0)] * 5)
QUANTIZED = logits(
    *[(49, 12.0), (49, 11.0), (49, 8.0), (48, 3.0), (49, 12.0)],
    *[(50, 9.0), (1, 9.0), (50, 8.0), (50, 9.0), (50, 9.0)],
)


def test_disagreements_come_first_then_what_lost_most_confidence():
    assert chosen(REFERENCE, QUANTIZED, most=5)[:2] == [3, 6]  # the surest first
    assert chosen(REFERENCE, QUANTIZED, most=5)[2:] == [2, 7, 1]
    assert len(chosen(REFERENCE, QUANTIZED, most=99)) == 10


def test_the_pixels_and_the_words_are_of_the_same_image():
    labels = torch.tensor([49] * 9 + [-1])
    found = photographs(Few(), Outputs(REFERENCE, labels), Outputs(QUANTIZED, labels))
    places = chosen(REFERENCE, QUANTIZED)
    assert [each.image.mean() for each in found] == pytest.approx([place / 10 for place in places], abs=1e-6)
    assert found[0].image.shape == (4, 5, 3)
    first, second = found[0], found[1]
    assert (first.reference.name, first.quantized.name) == ("African crocodile", "Komodo dragon")
    assert (first.reference.right, first.quantized.right) == (True, False)
    assert second.reference[:2] == (50, "American alligator")
    assert second.reference.confidence == pytest.approx(100 * REFERENCE[6].double().softmax(0).max().item())


@pytest.mark.parametrize(("number", "channels"), [(1, 1), (7, 3), (24, 3)])
def test_a_sheet_of_any_number_is_drawn(tmp_path, number, channels):
    answer = Answer(0, "tench", 99.5, None)
    sheet = [Photograph(torch.rand(8, 8, channels).numpy(), answer, answer._replace(index=1, right=True))] * number
    draw_photographs(sheet, tmp_path / "photos.png", "a $title$ with signs")
    height, width, _ = plt.imread(tmp_path / "photos.png").shape
    assert width > 300
    assert height > 150 * -(-number // 6)
