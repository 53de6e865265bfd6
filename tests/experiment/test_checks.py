"""evaluate.py and verify.py on the folder that a run leaves: in this process, and once as a user calls them."""

import copy
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tests import processes
from tests.conftest import ROOT
from tests.deploy.conftest import exported
from tests.experiment.conftest import data, run_with

from attnround.deploy import save
from attnround.deploy.preprocessing import pixels_of
from attnround.errors import InputError
from attnround.experiment import exporting
from attnround.experiment.checks import evaluate_file, verify
from attnround.experiment.exporting import export
from attnround.quantization.layers import quantized_layers
from attnround.trainer import TrainerSettings


def test_a_file_is_evaluated_to_the_number_of_its_record(folder):
    metrics = evaluate_file(
        checkpoint=str(folder / "quantized.safetensors"), data=data(), trainer=TrainerSettings(), run=run_with(folder)
    )
    assert metrics["quantized/top1"] == json.loads((folder / "record.json").read_text())["metrics"]["quantized/top1"]


def test_a_run_is_verified(folder):
    metrics = verify(folder=str(folder), data=data(), batch_size=16, run=run_with(folder))
    report = json.loads((folder / "verify.json").read_text())
    assert metrics["agreement"] == 100 * report["network"]["agreeing"] / 40
    assert report["faults"] == []
    assert report["network"]["images"] == 40
    assert {"simulation_right", "integer_right", "disagreeing"} <= report["network"].keys()
    assert len(report["layers"]) + 1 == len((folder / "verify.csv").read_text().splitlines())
    assert "every quantized layer is proven" in (folder / "model_card.md").read_text()
    top1 = json.loads((folder / "record.json").read_text())["metrics"]["quantized/top1"]
    assert any(f"recorded {top1:.2f} %" in line for line in report["findings"])


def test_another_model_than_the_measured_one_is_no_proof(folder):
    model, about = exported("resnet")
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.fc.layer.bias[0] += 1
    save(changed, folder / "quantized.safetensors", about)
    with pytest.raises(InputError, match=r"not the file that the record is of.*not, bit for bit"):
        verify(folder=str(folder), data=data(), batch_size=40, run=run_with(folder))
    assert json.loads((folder / "verify.json").read_text())["faults"]
    assert "Not yet verified" in (folder / "model_card.md").read_text()


def test_a_folder_without_a_record(tmp_path):
    with pytest.raises(InputError, match="no record that can be read"):
        verify(folder=str(tmp_path), data=data(), batch_size=40, run=run_with(tmp_path))


def exported_from(folder, kind: str, opset: int | None = None, **options: str) -> dict[str, float]:
    return export(folder=str(folder), format=kind, opset=opset, data=data(), run=run_with(folder), **options)


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", "onnx"), ("torch", "pt2")])
def test_an_export_is_evaluated_to_the_number_of_the_record(folder, kind, suffix):
    assert exported_from(folder, kind)["agreement"] == 100
    path = folder / f"quantized.{suffix}"
    report = json.loads((folder / f"export_{kind}.json").read_text())
    assert report["bytes"] == path.stat().st_size
    metrics = evaluate_file(checkpoint=str(path), data=data(), trainer=TrainerSettings(), run=run_with(folder))
    assert metrics["quantized/top1"] == report["top1"]
    assert metrics["quantized/top1"] == json.loads((folder / "record.json").read_text())["metrics"]["quantized/top1"]


@pytest.mark.parametrize("weights", ["runtime", "literal"])
def test_an_export_says_how_its_weights_run(folder, weights, caplog):
    caplog.set_level("INFO", "attnround")
    exported_from(folder, "onnx", weights=weights)
    report, layers = json.loads((folder / "export_onnx.json").read_text()), quantized_layers(exported("resnet")[0])
    assert report["weights"] == weights
    if weights == "runtime":
        assert report["stored_unsigned"] == [name for name, each in layers.items() if each.grid.bit_width == 8]
        assert "8 bits as UINT8 with zero point 128 (2 layers)" in caplog.text
        assert report["layers_with_quantized_inputs"] == len(layers)
        assert "fc" in report["layers_in_integers"]
        assert f"{len(report['layers_in_integers'])} of {len(layers)} layers" in caplog.text
        assert report["latency"].keys() >= {"float_ms", "as_written_ms", "default_ms"}
    else:
        assert report["stored_unsigned"] == report["with_default_options"] == []
        assert "default_ms" not in report["latency"]


@pytest.mark.parametrize(
    ("kind", "opset", "word"),
    [
        ("onnx", 12, "opset=12: give a whole number"),
        ("onnx", 99, "opset=99"),
        ("torch", 17, "opset is of format=onnx"),
        ("tflite", None, "none of"),
    ],
)
def test_what_cannot_be_exported_is_a_line(folder, kind, opset, word):
    with pytest.raises(InputError, match=word):
        exported_from(folder, kind, opset)
    assert not list(folder.glob("quantized.[!s]*"))


def test_what_an_image_goes_through_is_written_beside(folder):
    exported_from(folder, "torch")
    found = json.loads((folder / "preprocessing.json").read_text())
    assert found["image"] == {"type": "uint8", "layout": "HWC", "channels": "grey"}
    assert found["steps"] == [
        {"step": "divide", "by": 255},
        {"step": "normalise", "mean": [0.3], "std": [0.3]},
        {"step": "channels_first"},
    ]
    assert found["input"] == {"name": "images", "type": "float32", "shape": ["batch", 1, 28, 28]}


def test_a_file_that_takes_pixels_needs_no_torch(folder, tmp_path):
    """The reader of the examples, in a process in which torch cannot be imported, has as many right as the record."""
    found = exported_from(folder, "onnx", preprocessing="graph")
    assert found["agreement"] == 100
    evaluated = data()
    evaluated.match(exported("resnet")[0].preprocessing, 10)
    images, labels = map(torch.cat, zip(*evaluated.val_dataloader(), strict=True))
    np.save(tmp_path / "images.npy", pixels_of(images, evaluated.preprocessing).numpy())
    np.save(tmp_path / "labels.npy", labels.numpy())
    (tmp_path / "torch.py").write_text("raise ImportError('there is no torch')")
    words = [
        sys.executable,
        str(ROOT / "examples/run_onnx.py"),
        str(folder / "quantized.onnx"),
        "images.npy",
        "labels.npy",
    ]
    done = subprocess.run(
        words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "record.json").read_text())
    assert done.stdout.splitlines()[-1] == f"top-1 {record['metrics']['quantized/top1']:.2f} %"
    assert (
        evaluate_file(
            checkpoint=str(folder / "quantized.onnx"), data=data(), trainer=TrainerSettings(), run=run_with(folder)
        )["quantized/top1"]
        == record["metrics"]["quantized/top1"]
    )


@pytest.mark.parametrize(("kind", "preprocessing"), [("torch", "graph"), ("onnx", "inside")])
def test_preprocessing_that_is_not_on_offer_is_refused(folder, kind, preprocessing):
    with pytest.raises(InputError, match="give beside, or with format=onnx graph"):
        exported_from(folder, kind, preprocessing=preprocessing)


def test_a_full_disk_leaves_no_part_of_an_export(folder, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        exported_from(folder, "torch")
    assert not list(folder.glob("quantized.[!s]*"))


def test_an_export_that_computes_otherwise_is_not_kept(folder, monkeypatch):
    reopened = exporting.open_program
    monkeypatch.setattr(exporting, "open_program", lambda *given: lambda images: -reopened(*given)(images))
    with pytest.raises(InputError, match=r"quantized.pt2 is not written: it agrees.*float rounding leaves"):
        exported_from(folder, "torch")
    assert not list(folder.glob("quantized.[!s]*"))


@pytest.mark.parametrize(
    ("name", "needs"), [("evaluate", "checkpoint=x"), ("verify", "folder=x"), ("export", "folder=x")]
)
def test_the_configs_compose_with_every_data(name, needs):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for option in sorted(each.stem for each in (ROOT / "conf/data").glob("*.yaml")):
            root = {"module": ["data.factory=sets:val"]}.get(option, [])
            root = ["data.root=/images"] if option in ("image_folder", "imagenet", "photos") else root
            config = compose(name, [needs, f"data={option}", *root])
            assert instantiate(config.data, _convert_="all") is not None
    assert config.task == name


def entry(name: str, *arguments: str, cwd) -> subprocess.CompletedProcess:
    return processes.run([str(ROOT / "src" / f"{name}.py"), *arguments], cwd)


def test_bad_input_is_one_line(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pth")
    for done, word in (
        (entry("evaluate", "checkpoint=model.pth", cwd=tmp_path), "pickle"),
        (entry("verify", "nowhere", cwd=tmp_path), "give the folder of a finished run"),
        (entry("verify", "one", "two", cwd=tmp_path), "one run"),
        (entry("export", "nowhere", cwd=tmp_path), "give the folder of a finished run"),
    ):
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert word in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model.pth"]


def calls(record: dict) -> None:
    path = {"_target_": "pathlib.Path", "_args_": ["ran"]}
    record["config"]["data"]["num_calibration"] = {"_target_": "pathlib.Path.touch", "_args_": [path]}


def reads_the_environment(record: dict) -> None:
    record["config"]["data"]["licence"] = "${oc.env:HOME}"


def names_another_group(record: dict) -> None:
    record["choices"]["data"] = "../model/timm"


def has_a_foreign_option(record: dict) -> None:
    record["config"]["data"]["transform"] = "os.system"


def names_a_file_elsewhere(record: dict) -> None:
    record["deployed"]["file"] = "../quantized.safetensors"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (calls, "config.data.num_calibration is"),
        (reads_the_environment, "config.data.licence is"),
        (names_another_group, "choices.data is ../model/timm, not one of cifar10"),
        (has_a_foreign_option, "config.data.transform is no option"),
        (names_a_file_elsewhere, 'deployed.file is "../quantized.safetensors"'),
    ],
)
def test_a_foreign_record_is_data_and_calls_nothing(folder, tmp_path, change, word):
    record = json.loads((folder / "record.json").read_text())
    change(record)
    (folder / "record.json").write_text(json.dumps(record))
    before = {each: each.read_bytes() for each in folder.iterdir()}
    shutil.copy(folder / "quantized.safetensors", tmp_path)
    done = entry("export", "run", "format=torch", cwd=tmp_path)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
    assert word in done.stderr
    assert before == {each: each.read_bytes() for each in folder.iterdir()}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["quantized.safetensors", "run"]


def test_the_record_of_a_project_that_moved_finds_its_data(folder, tmp_path):
    record = json.loads((folder / "record.json").read_text())
    moved = json.dumps(record).replace(str(ROOT), "/somewhere/else")
    assert "/somewhere/else" in moved
    (folder / "record.json").write_text(moved)
    done = entry("verify", "run", "data.limit=10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_verify_takes_the_runs_own_data(folder, tmp_path):
    done = entry("verify", str(folder), "data.limit=10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "every quantized layer is proven" in done.stdout
    assert json.loads((folder / "verify.json").read_text())["network"]["images"] == 10
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
