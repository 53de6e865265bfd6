"""The model card says what the record says, in the form of the Hugging Face Hub."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from tests import processes

from attnround.experiment.card import card, write_card
from attnround.experiment.schema import read_provided

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
    "config": {"model": {"name": "resnet18", "pretrained": False}, "data": {}, "paths": {"root": "/home/me/project"}},
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


def test_it_says_that_labels_were_learned_from():
    assert "labels:" not in card(RECORD)
    assert "then lsq" not in card(RECORD)
    trained = {"choices": RECORD["choices"] | {"qat": "lsq"}, "config": RECORD["config"] | {"qat": {"start": "ptq"}}}
    trained["metrics"] = RECORD["metrics"] | {"qat/epochs": 2.0, "qat/labels": 10000.0}
    text = card(RECORD | trained)
    assert "- then trained with labels: lsq from where the rounding ends, 2 epochs, 10000 labels\n" in text
    assert "resnet18_slim, attention_round, then lsq, 3.99 bits a weight" in text


def test_it_says_what_equalization_did():
    assert "equalization" not in card(RECORD | {"equalized": None})
    assert "- equalization of channels before that: 8 pairs of layers" in card(
        RECORD | {"equalized": "8 pairs of layers"}
    )


@pytest.mark.parametrize(("sha256", "verified"), [("f" * 64, True), ("0" * 64, False)])
def test_it_shows_the_verification_of_this_file_alone(tmp_path, sha256, verified):
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    (tmp_path / "verify.json").write_text(json.dumps(PROOF | {"sha256": sha256}))
    write_card(tmp_path)
    text = (tmp_path / "model_card.md").read_text()
    assert ("all is proven." in text) == ("- weights: 0 differ" in text) == verified
    assert ("Not yet verified" in text) != verified


def changed(**more) -> dict:
    """The record with other choices, config and licence."""
    return RECORD | {key: RECORD[key] | value for key, value in more.items()}


def test_the_hub_reads_what_it_is_for_and_how_good():
    data = ModelCard(card(RECORD)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("attnround", "image-classification", "unknown")
    assert data.datasets == ["zalando-datasets/fashion_mnist"]
    assert data.metrics == ["accuracy"]
    assert {"post-training-quantization", "attention_round", "timm"} <= set(data.tags)
    assert data.base_model is None
    (result,) = data.eval_results
    assert data.model_name == "resnet18_slim, attention_round, 3.99 bits a weight"
    assert (result.task_type, result.metric_type, result.metric_value) == ("image-classification", "accuracy", 94.04)
    assert (result.dataset_type, result.dataset_name) == ("zalando-datasets/fashion_mnist", "Fashion-MNIST")


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        ("Apache-2.0", ("apache-2.0", None)),
        ("terms of my own", ("other", "terms of my own")),
        (None, ("unknown", None)),
    ],
)
def test_the_licence_in_the_hubs_words(stated, known):
    data = ModelCard(card(changed(licence={"weights": stated}))).data
    assert (data.license, data.get("license_name")) == known


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ({"name": "tf_efficientnet_lite0", "pretrained": True}, "timm/tf_efficientnet_lite0.in1k"),
        ({"name": "hf_hub:some/net", "pretrained": True}, "some/net"),
        ({"name": "tf_efficientnet_lite0", "checkpoint": "mine.pth"}, None),
    ],
)
def test_where_the_float_weights_are_known_they_are_named(model, base):
    data = ModelCard(card(changed(choices={"model": "timm", "qat": "lsq"}, config={"model": model}))).data
    assert data.base_model == base
    assert data.get("base_model_relation") == (base and "quantized")
    assert "quantization-aware-training" in data.tags


def test_it_names_the_network_and_images_of_ones_own():
    own = {"model": "timm", "data": "image_folder"}
    text = card(changed(choices=own, config={"model": {"name": "tf_efficientnet_lite0"}}))
    assert "\n# tf_efficientnet_lite0, attention_round, 3.99 bits a weight\n" in text
    data = ModelCard(text).data
    assert data.datasets is None
    assert data.eval_results[0].dataset_name == "image_folder"


def test_it_holds_no_path_of_this_machine():
    source = "/home/me/my photos/some of them (7 files)"
    own = {"root": "/home/me/my photos", "calibration": "/home/me/my photos/some of them"}
    text = card(changed(calibration={"source": source}, config={"data": own}))
    assert "/home" not in text
    assert "(some of them (7 files))" in text


def test_a_short_path_leaves_other_words_alone():
    data = {"root": "/data", "factory": "lib/data/sets.py:labelled", "arguments": {"root": "/data"}}
    text = card(changed(choices={"data": "module"}, config={"data": data}, calibration={"source": "/data (7 files)"}))
    assert "data.factory=lib/data/sets.py:labelled" in text
    assert "(data (7 files))" in text


def test_a_file_of_another_kind_is_no_report(tmp_path):
    (tmp_path / "verify_notes.json").write_text("{}")
    assert read_provided(tmp_path / "verify_notes.json") is None


def test_its_code_runs_beside_the_file_of_a_run(train, tmp_path):
    done = train(
        "quantizer=nearest", "bits=uniform", "activation=minmax", "data.limit=100", "data.num_calibration=16",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run/model_card.md").read_text()
    assert str(tmp_path) not in text
    assert ModelCard(text).data.license == "apache-2.0"
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "code.py").write_text(code)
    ran = processes.run([str(tmp_path / "code.py")], tmp_path / "run")
    assert re.fullmatch(r"tensor\(\[\d\]\)\n", ran.stdout), ran.stderr
