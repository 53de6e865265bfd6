"""`python src/train.py qat=lsq ...` as a user meets it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from tests import processes
from tests.conftest import ROOT


@pytest.fixture
def own(tmp_path):
    """One's own labelled images, ten of each of two classes to train on, and a small model."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 3)):
        for name in ("0", "7"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return (
        "model=timm", "model.name=test_resnet", "model.num_classes=10", "model.random_init=true",
        "data=image_folder", f"data.root={tmp_path / 'images'}", "data.num_calibration=6", "data.num_workers=0",
        "reconstruction.num_positions=4", "quantizer.num_steps=20", "activation=mse", "qat=lsq", "qat.batch_size=4",
    )  # fmt: skip


def curve(folder) -> list[dict[str, str]]:
    with (folder / "qat.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("start", ["ptq", pytest.param("fp32", marks=pytest.mark.slow)])
def test_a_run_records_what_it_took_and_keeps_the_result_without_labels(train, own, start, tmp_path):
    done = train(*own, f"qat.start={start}", "qat.num_epochs=2", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run/record.json").read_text())["metrics"]
    assert {"ptq/top1", "ptq/agreement", "ptq/sqnr_db", "quantized/top1", "time/qat_s"} <= set(metrics)
    assert (metrics["qat/epochs"], metrics["qat/images"], metrics["qat/labels"]) == (2, 32, 20)
    assert metrics["ptq/sqnr_db"] > metrics["nearest/sqnr_db"]
    assert len(curve(tmp_path / "run")) == 2

    table = [
        line.split()[0] for line in done.stdout.splitlines() if line.startswith(("fp32", "nearest", "atten", "lsq"))
    ]
    assert table == ["fp32", "nearest", "attention_round", "lsq"]


def test_data_without_labels_to_train_on_is_refused_in_one_line(train, own, image_folder):
    done = train(*own, f"data.root={image_folder}", f"data.calibration={image_folder / 'calibration'}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "train has no class folders" in done.stderr
    assert "reconstruct" not in done.stdout  # before any work


@pytest.mark.slow
def test_killed_while_it_trains_it_ends_with_the_same_curve(own, tmp_path):
    def command(*more: str) -> list[str]:
        return [str(ROOT / "src/train.py"), *own, "qat.num_epochs=6", *more]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert processes.run(command(f"hydra.run.dir={whole}"), tmp_path).returncode == 0
    step = "attnround.qat.module.QatModule.training_step"
    processes.killed(step, 14, command(f"hydra.run.dir={broken}"), tmp_path)  # in the fourth epoch
    assert (broken / "qat/last.ckpt").exists()
    assert not (broken / "record.json").exists()
    assert processes.run(command(f"resume={broken}"), tmp_path).returncode == 0
    assert curve(broken) == curve(whole)
    one, two = (json.loads((folder / "record.json").read_text())["metrics"] for folder in (whole, broken))
    assert one["quantized/sqnr_db"] == two["quantized/sqnr_db"]


@pytest.mark.slow
def test_two_devices_share_the_training_alone(train, own, tmp_path):
    more = "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "qat.num_epochs=2", "hydra.run.dir=run"
    done = train(*own, *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("reconstruct  ") == 1
    assert len(curve(tmp_path / "run")) == 2


@pytest.mark.slow
def test_held_out_images_count_once_each_on_any_number_of_devices(train, own, tmp_path):
    """Nothing is learned, so that one device and two judge the same weights; the images are no even number."""
    still = "qat.lr=1e-12", "qat.batch_norm=folded", "qat.num_epochs=1", "qat.held_out=0.25"
    for name, more in (("one", ()), ("two", ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"))):
        done = train(*own, *still, *more, f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
    (one,), (two,) = (curve(tmp_path / name) for name in ("one", "two"))
    for name in ("held_out_top1", "held_out_loss"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-5)
