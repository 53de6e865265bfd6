from collections import Counter

import pytest
from tests.conftest import ROOT

from attnround.errors import InputError
from attnround.study.tables.published import beside, read_published

PATH = ROOT / "results/published.csv"


@pytest.fixture(scope="module")
def published():
    return read_published(PATH)


def test_every_number_is_there_once_with_its_source(published):
    assert Counter(line.kind for line in published) == {"fp32": 16, "ptq": 75, "mixed": 20, "qat": 15}
    assert all(line.source and line.method and 10 < line.top1 < 80 for line in published)
    places = {(each.method, each.model, each.weight_bits, each.activation_bits, each.size_mb) for each in published}
    assert len(places) == len(published) == 126


@pytest.mark.parametrize(
    ("method", "model", "weight_bits", "activation_bits", "top1", "fp32"),
    [
        ("nearest, min-max per channel", "MobileNetV2", 4, 8, 27.61, 72.68),
        ("nearest, MSE per channel", "ResNet-18", 4, 8, 54.96, 71.06),
        ("AdaRound", "ResNet-18", 4, 8, 70.35, 71.06),
        ("AdaRound", "ResNet-50", 4, 4, 73.79, 76.63),
        ("AdaRound", "MobileNetV2", 3, 3, 33.61, 72.68),
        ("BRECQ", "RegNetX-600MF", 2, 4, 62.36, 73.60),
        ("BRECQ", "MobileNetV2", 2, 32, 59.49, None),
        ("QDrop", "MNasNet-2.0", 3, 3, 64.05, 76.68),
        ("QDrop", "ResNet-50", 4, 4, 75.12, 77.00),
        ("PD-Quant", "RegNetX-3.2GF", 2, 4, 72.43, 78.46),
        ("MRECG + QDrop", "MobileNetV2", 2, 4, 57.85, None),
        ("LSQ, reproduced", "ResNet-18", 4, 4, 70.36, None),
        ("LSQ, reproduced", "MobileNetV2", 3, 3, 64.41, None),
        ("APoT", "ResNet-50", 3, 3, 75.92, None),
        ("HAWQ-V3", "ResNet-50", 4, 4, 74.24, None),
        ("BRECQ's released files, as others evaluate them", "ResNet-50", 32, 32, 76.63, 76.63),
    ],
)
def test_numbers_are_those_of_the_sources(published, method, model, weight_bits, activation_bits, top1, fp32):
    place = (method, model, weight_bits, activation_bits)
    (line,) = [each for each in published if (each.method, each.model, each.weight_bits, each.activation_bits) == place]
    assert (line.top1, line.fp32) == (top1, fp32)


@pytest.mark.parametrize(
    ("method", "size_mb", "top1"),
    [("OMPQ", 3.0, 65.91), ("OMPQ", 1.5, 71.27), ("BRECQ mixed", 5.5, 70.53), ("BRECQ mixed", 0.9, 63.73)],
)
def test_mixed_precision_has_a_size(published, method, size_mb, top1):
    (line,) = [each for each in published if (each.method, each.size_mb) == (method, size_mb)]
    assert (line.top1, line.weight_bits, line.activation_bits) == (top1, None, 8)


@pytest.mark.parametrize(
    ("labels", "methods"),
    [
        (("resnet18", "W2"), ["BRECQ"]),
        (("resnet18.a1_in1k", "W2"), ["BRECQ"]),
        (("resnet50", "W2"), []),
        (("resnet50", "W2A2"), ["LSQ, reproduced"]),
        (("mobilenetv2_100", "W3A3"), ["AdaRound", "BRECQ", "QDrop", "LSQ, reproduced"]),
        (("mobilenetv2_100", "1.1 MB"), ["OMPQ", "BRECQ mixed"]),
        (("resnet18_slim", "W2A2"), []),
        (("resnet18", "Attention Round"), []),
    ],
)
def test_beside_a_place_stand_its_model_and_bits(published, labels, methods):
    place = {"model": labels[0], "weights": labels[1], "method": "Attention Round"}
    assert [line.method for line in beside(place, published)] == methods


@pytest.mark.parametrize(
    "text",
    [
        "",
        "method,kind\nAdaRound,ptq\n",
        "AdaRound,ptq,four,4,,ResNet-18,68.67,71.06,MQBench\n",
        "AdaRound,ptq,4,4,,ResNet-18,68.67,71.06,\n",
        "AdaRound,magic,4,4,,ResNet-18,68.67,71.06,MQBench\n",
        "AdaRound,ptq,4,4,,ResNet-18\n",
    ],
)
def test_a_file_that_is_none_is_one_clear_line(tmp_path, text):
    path = tmp_path / "published.csv"
    header = PATH.read_text().splitlines()[0]
    path.write_text(f"{header}\n{text}" if text.startswith("AdaRound") else text)
    if not text:
        path = tmp_path / "absent.csv"
    with pytest.raises(InputError, match=r"absent\.csv|published\.csv") as caught:
        read_published(path)
    assert "\n" not in str(caught.value)
