"""A folder of pictures without labels, from the quantization to the card, and what asks for labels in vain."""

import csv
import json
import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from tests import processes
from tests.conftest import ROOT
from tests.parts import parts_of

from attnround.cli.rows import compose
from attnround.cli.summary import summarise
from attnround.data import Photos
from attnround.errors import InputError
from attnround.evaluation.interval import wilson
from attnround.experiment import task_of
from attnround.experiment.card import card
from attnround.experiment.checks import evaluate_file, verify
from attnround.experiment.exporting import export
from attnround.experiment.record import Run
from attnround.study.row import row_of
from attnround.trainer import TrainerSettings
from attnround.zoo import TimmModel

NUM_PICTURES = 13


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Scenes in two folders, one of them twice."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "deep").mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_PICTURES - 1):
        shapes = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        image = shapes.resize((160, 120), Image.Resampling.BICUBIC)
        image.save(root / ("deep" if number % 2 else ".") / f"{number}.png")
    image.save(root / "again.jpg")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """Weights for the smallest of timm's models, drawn so that its logits differ."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    state["fc.weight"] = torch.randn_like(state["fc.weight"])
    save_file(state, path)
    return str(path)


def words(pictures: Path, checkpoint: str) -> list[str]:
    return [
        "model=timm", "model.name=test_resnet", f"model.checkpoint={checkpoint}", "model.num_classes=10", "logger=[]",
        "data=photos", f"data.root={pictures}", "data.num_workers=0", "quantizer=nearest", "bits=uniform",
    ]  # fmt: skip


def run_of(folder: Path, given: list[str]) -> tuple[Run, dict]:
    config, choices = compose(given)
    source = OmegaConf.to_container(config, resolve=False)
    OmegaConf.resolve(config)
    run = Run.of(OmegaConf.to_container(config), source, choices, folder)
    return run, parts_of(config)


@pytest.fixture(scope="module")
def finished(pictures, checkpoint, tmp_path_factory) -> tuple[Path, str, Run]:
    """The folder of a run, what it said, and what it was of."""
    folder = tmp_path_factory.mktemp("run")
    run, parts = run_of(folder, [*words(pictures, checkpoint), "bits.bit_width=3"])
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("attnround")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        task_of("quantize")(**parts, logger={}, seed=0, run=run)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return folder, "\n".join(heard), run


def record_of(folder: Path) -> dict:
    record = json.loads((folder / "record.json").read_text())
    del record["digest"]  # of the record as it was written, which tests change
    return record


def test_a_run_records_how_closely_the_float_model_is_followed(finished):
    folder, _, _ = finished
    record = record_of(folder)
    metrics = record["metrics"]
    assert not [name for name in metrics if name.endswith("top1")]
    for name in ("nearest", "quantized"):
        assert 0 <= metrics[f"{name}/agreement"] <= 100
        assert metrics[f"{name}/kl"] > 0
        assert {f"{name}/sqnr_db", f"{name}/confidence_change"} <= metrics.keys()
    assert record["evaluation"]["correct"] == {}
    assert record["evaluation"]["images"] + len(record["calibration"]["indices"]) == NUM_PICTURES
    assert any("1 of 13 images are near copies of others" in each for each in record["calibration"]["remarks"])


def test_its_last_table_has_the_interval_in_place_of_top1(finished):
    folder, said, _ = finished
    metrics, images = record_of(folder)["metrics"], record_of(folder)["evaluation"]["images"]
    header, fp32, nearest, own = said[said.index("\n         agreement %") :].splitlines()[1:5]
    assert header.split("  ")[0] == ""
    assert header.split()[-3:] == ["bits", "MiB", "seconds"]
    assert "top-1" not in said
    assert fp32.split()[:2] == ["fp32", "-"]
    low, high = wilson(metrics["quantized/agreement"], images)
    assert f"{metrics['quantized/agreement']:.2f}  {low:.2f} to {high:.2f}" in own
    assert f"{metrics['quantized/kl']:.3g}" in own
    assert nearest.startswith("nearest ")


def test_its_card_says_the_same(finished):
    folder, _, _ = finished
    record = record_of(folder)
    text, metrics = card(record), record["metrics"]
    assert "## Fidelity" in text
    assert "top-1" not in text.lower()
    assert f"| this model | {metrics['quantized/agreement']:.2f} |" in text
    assert f"| {metrics['quantized/kl']:.3g} |" in text
    assert "type: agreement" in text
    assert "- accuracy" not in text


def test_it_is_verified_and_exported(finished, pictures):
    folder, _, run = finished
    data = Photos(str(pictures), num_workers=0)
    assert verify(folder=str(folder), data=data, batch_size=4, run=run)["agreement"] == 100
    report = json.loads((folder / "verify.json").read_text())
    assert report["network"]["integer_right"] is None
    assert report["network"]["images"] == record_of(folder)["evaluation"]["images"]
    assert not [line for line in report["findings"] if "top-1" in line]
    assert "the weights are proven" in (folder / "model_card.md").read_text()
    data = Photos(str(pictures), num_workers=0)
    assert export(folder=str(folder), format="torch", opset=None, data=data, run=run)["agreement"] == 100
    assert json.loads((folder / "export_torch.json").read_text())["top1"] is None


def test_its_file_is_evaluated_against_the_float_model(finished, pictures, checkpoint):
    folder, _, run = finished
    given = {"checkpoint": str(folder / "quantized.safetensors"), "trainer": TrainerSettings(), "run": run}
    with pytest.raises(
        InputError, match=r"data=photos has no labels: give data\.labels=.*, or model=<the float model>"
    ):
        evaluate_file(data=Photos(str(pictures), num_workers=0), **given)
    model = TimmModel("test_resnet", checkpoint)
    found = evaluate_file(data=Photos(str(pictures), num_workers=0), model=model, **given)
    recorded = record_of(folder)["metrics"]
    assert found == {name: pytest.approx(recorded[name], rel=1e-6) for name in found}
    assert set(found) == {f"quantized/{key}" for key in ("agreement", "sqnr_db", "kl", "confidence_change")}


def test_with_labels_a_file_has_top1_and_with_the_float_model_both(finished, pictures, checkpoint, tmp_path):
    folder, _, run = finished
    (tmp_path / "labels.csv").write_text(".,1,2,3\n")
    given = {"checkpoint": str(folder / "quantized.safetensors"), "trainer": TrainerSettings(), "run": run}
    labels = {"labels": str(tmp_path / "labels.csv"), "num_workers": 0}
    alone = evaluate_file(data=Photos(str(pictures), **labels), **given)
    assert list(alone) == ["quantized/top1"]
    both = evaluate_file(data=Photos(str(pictures), **labels), model=TimmModel("test_resnet", checkpoint), **given)
    assert both["quantized/top1"] == alone["quantized/top1"]
    assert "quantized/kl" in both
    other = TimmModel("test_resnet", random_init=True)
    with pytest.raises(InputError, match=r"model gives 1000 classes, .* 10: give its own"):
        evaluate_file(data=Photos(str(pictures), **labels), model=other, **given)


def test_a_row_and_a_summary_of_it_have_no_top1(finished, tmp_path, capsys):
    folder, _, _ = finished
    record = record_of(folder)
    row = row_of(record, record["config"], "python src/train.py")
    assert row.correct == {}
    for number in "01":
        (tmp_path / number).mkdir()
        (tmp_path / number / "record.json").write_text(json.dumps(record))
    summarise(tmp_path, 0)
    header, line = capsys.readouterr().out.splitlines()[1:3]
    titles = ["runs", "agreement %", "SQNR dB", "KL nats", "confidence", "bits", "MiB", "seconds"]
    assert [each.strip() for each in header.split("  ") if each.strip()] == titles
    assert line.split()[:2] == ["all", "2"]
    with (tmp_path / "summary.csv").open() as file:
        (first, _) = csv.DictReader(file)
    assert first["quantized/top1"] == ""
    assert float(first["quantized/kl"]) == pytest.approx(record["metrics"]["quantized/kl"], rel=1e-5)


def test_runs_with_and_without_labels_are_side_by_side_in_a_summary(finished, tmp_path, capsys):
    record = record_of(finished[0])
    for number, more in (("0", {}), ("1", {"quantized/top1": 50.0})):
        (tmp_path / number).mkdir()
        text = json.dumps(record | {"metrics": record["metrics"] | more, "seed": int(number)})
        (tmp_path / number / "record.json").write_text(text)
    summarise(tmp_path, 0)
    header, line = capsys.readouterr().out.splitlines()[1:3]
    assert header.split()[:3] == ["runs", "top-1", "%"]
    assert "KL nats" in header
    assert line.split()[1:3] == ["2", "50.00"]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (
            ["metric=quantized/top1"],
            r"^metric=quantized/top1: data=photos has no labels, .*give data\.labels=.* or metric=quantized/agreement$",
        ),
        (["qat=lsq"], r"^data\.root=\S+: training takes images sorted by their class"),
    ],
)
def test_what_asks_for_labels_is_a_line_before_the_work_begins(pictures, checkpoint, tmp_path, given, fault):
    run, parts = run_of(tmp_path, [*words(pictures, checkpoint), *given])
    with pytest.raises(InputError, match=fault) as caught:
        task_of("quantize")(**parts, logger={}, seed=0, run=run)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def entry(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return processes.run([str(ROOT / "src" / f"{name}.py"), *arguments], cwd)


def test_the_entry_returns_the_agreement_and_asks_for_no_labels(pictures, checkpoint, tmp_path):
    given = words(pictures, checkpoint)
    done = entry("train", *given, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout
    done = entry("verify", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = ["model=timm", "model.name=test_resnet", f"model.checkpoint={checkpoint}"]
    data = ["data=photos", f"data.root={pictures}", "data.num_workers=0"]
    done = entry("evaluate", "checkpoint=run/quantized.safetensors", *data, *model, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "agreement with FP32" in done.stdout


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["metric=quantized/top1"], "error: metric=quantized/top1: data=photos has no labels"),
        (["experiment=pretrain", "training.num_epochs=1", "metric=null"], "error: data.root="),
        (["data.num_calibration=13"], "error: data.num_calibration=13: "),
    ],
)
def test_the_entry_says_what_is_wrong_in_a_line(pictures, checkpoint, tmp_path, given, word):
    own = words(pictures, checkpoint)
    if "experiment=pretrain" in given:  # which takes none of these
        own = [each for each in own if not each.startswith(("quantizer=", "bits=", "model.checkpoint="))]
    done = entry("train", *own, *given, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(word), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "run/record.json").exists()
