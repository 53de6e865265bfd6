"""The model card says what the record says."""

import json

import pytest

from attnround.experiment.card import card, write_card

RECORD = {
    "choices": {
        "model": "resnet18_slim", "data": "fashion_mnist", "quantizer": "attention_round", "bits": "mixed",
        "reconstruction": "layer", "activation": "mse",
    },
    "date": "2026-01-01T00:00:00+00:00",
    "git_revision": "abc",
    "versions": {"torch": "2.15", "timm": "1.0"},
    "processor": "some, 2 cores",
    "device": "cpu",
    "metrics": {
        "fp32/top1": 93.95, "nearest/top1": 93.0, "quantized/top1": 94.04, "nearest/agreement": 99.0,
        "quantized/agreement": 99.76, "bits/mean": 3.99, "bits/size_mib": 900 / 2**20, "fp32/size_mib": 8000 / 2**20,
    },
    "calibration": {"source": "images", "indices": [1, 2, 3]},
    "allocation": {"bit_width": {"conv1": 8, "fc": 3}},
    "activation_bits": {"conv1": 8},
    "left_float": ["LayerNorm at norm"],
    "config": {"model": {"name": "resnet18"}},
    "evaluation": {"images": 10000},
    "licence": {"weights": None, "data": "MIT"},
    "deployed": {
        "file": "quantized.safetensors", "bytes": 1000, "sha256": "f" * 64, "fingerprint": "e" * 64,
        "parts": {"weights": 800, "scales": 40, "zero_points": 0, "biases": 40, "activations": 5, "float": 15},
    },
}  # fmt: skip
PROOF = {
    "sha256": "f" * 64, "date": "2026-01-02", "data": "fashion_mnist", "verdict": "all is proven.",
    "findings": ["weights: 0 differ"], "network": {"images": 500},
}  # fmt: skip


def test_it_says_what_a_user_has_to_know():
    text = card(RECORD)
    for words in (
        "timm's `resnet18`", "attention_round", "3 images without labels",
        "| this model | 94.04 | 93.56 to 94.49 | 99.76 |",
        "| weights | 800 |", "| header and metadata | 100 |", "8.0 times as much", "| `conv1` | 8 | 8 |",
        "| `fc` | 3 | float |", "`LayerNorm at norm`", "Not yet verified", "weights (resnet18): unknown",
        "data (fashion_mnist): MIT", "attnround.load",
    ):  # fmt: skip
        assert words in text, words
    assert "zero points" not in text  # what takes no bytes is not listed


@pytest.mark.parametrize(("sha256", "verified"), [("f" * 64, True), ("0" * 64, False)])
def test_it_shows_the_verification_of_this_file_alone(tmp_path, sha256, verified):
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    (tmp_path / "verify.json").write_text(json.dumps(PROOF | {"sha256": sha256}))
    write_card(tmp_path)
    text = (tmp_path / "model_card.md").read_text()
    assert ("all is proven." in text) == ("- weights: 0 differ" in text) == verified
    assert ("Not yet verified" in text) != verified
