"""The entry as a user meets it: `python src/train.py ...` in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from attnround.experiment import METRICS
from attnround.files import alone_in
from attnround.zoo import TimmModel
from tests.clothes import few_clothes
from tests.conftest import ROOT
from tests.wandb_file import WandbFile, run_files

SMALL = (
    "model=timm", "model.name=test_resnet", "model.num_classes=10", "model.preprocessing={input_size: [3, 64, 64]}",
    "reconstruction.num_positions=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    torch.manual_seed(0)
    save_file(TimmModel("test_resnet", random_init=True, num_classes=10).build().state_dict(), path)
    return path


@pytest.fixture
def own(checkpoint, image_folder):
    """One's own model and data, from the command line alone."""
    return [
        *SMALL, f"model.checkpoint={checkpoint}", "data=image_folder", f"data.root={image_folder}",
        f"data.calibration={image_folder / 'calibration'}", "data.num_calibration=6", "data.num_workers=0",
        "quantizer.num_steps=5", "hydra.run.dir=run",
    ]  # fmt: skip


def test_a_run_with_ones_own_model_and_data(train, own, tmp_path):
    done = train(*own, "logger=[csv,wandb]", "logger.wandb.artifact=true", WANDB_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    out = done.stdout
    for word in (
        "fold",
        "calibration",
        "bits",
        "scales",
        "reconstruct",
        "fp32",
        "nearest",
        "attention_round",
        "top-1 %",
    ):
        assert word in out
    assert "\r" not in out + done.stderr
    assert "broken.png" in out
    assert "1 unreadable files skipped" in out
    run = tmp_path / "run"
    record = json.loads((run / "record.json").read_text())
    metrics = record["metrics"]
    assert {
        "fp32/top1", "nearest/top1", "quantized/top1", "quantized/agreement", "quantized/sqnr_db", "bits/mean",
        "bits/size_mib", "time/total_s", "time/reconstruction_s", "memory/peak_mib",
    } <= set(metrics) <= set(METRICS["quantize"])  # fmt: skip
    assert metrics["bits/mean"] <= 4
    assert metrics["quantized/sqnr_db"] > metrics["nearest/sqnr_db"]
    assert {"config", "config_hash", "git_revision", "seed", "versions", "device"} <= set(record)
    assert len(record["calibration"]["indices"]) == 6
    assert len(record["calibration"]["skipped"]) == 1
    layers = (run / "layers.csv").read_text().splitlines()
    assert len(layers) == 1 + len(record["allocation"]["bit_width"])
    assert {"name", "shape", "bits", "coding_length", "weight_sqnr_db", "output_sqnr_db"} <= set(layers[0].split(","))
    for picture in ("layers.png", "moved.png", "losses.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    assert "reconstruction/conv1" in (run / "csv" / "metrics.csv").read_text()
    (wandb,) = map(WandbFile, run_files(run))
    assert {key: wandb.summary[key] for key in metrics} == metrics
    assert wandb.config["config_hash"] == record["config_hash"]
    assert {"model=test_resnet", "quantizer=attention_round", "bits=mixed", "W4", "A32"} <= set(wandb.run.tags)
    assert [row["name"] for row in wandb.table("layers")] == list(record["allocation"]["bit_width"])
    assert {f"pictures/{name}" for name in ("layers", "moved", "losses")} <= set(wandb.summary)
    written = {each.path: each.size for each in wandb.artifacts["model"].manifest.contents}
    files = ("quantized.safetensors", "model_card.md", "record.json")
    assert written == {name: (run / name).stat().st_size for name in files}
    assert wandb.exit_code == 0


def command(entry: str, *arguments: str, python: tuple[str, ...] = (), cwd=None) -> subprocess.CompletedProcess:
    """A command line as it is typed: a new Python, with what it takes to start."""
    words = [sys.executable, *python, str(ROOT / "src" / f"{entry}.py"), *arguments]
    return subprocess.run(words, cwd=cwd, env=os.environ, capture_output=True, text=True)


@pytest.mark.parametrize(
    "fewer",
    [
        ("data.limit=1000", "data.num_calibration=128", "quantizer.num_steps=30"),
        pytest.param((), marks=pytest.mark.slow),
    ],
    ids=["few images", "all"],
)
def test_the_main_job(fewer, tmp_path):
    done = command("train", "quantizer=attention_round", "bits=mixed", *fewer, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run/record.json").read_text())["metrics"]
    assert metrics["fp32/top1"] >= 93
    assert metrics["quantized/top1"] >= metrics["fp32/top1"] - 0.3
    assert metrics["quantized/sqnr_db"] > metrics["nearest/sqnr_db"] + 6
    assert 3.9 < metrics["bits/mean"] <= 4
    assert metrics["memory/peak_mib"] < 2048


def test_several_quantizers_side_by_side(train, own, tmp_path):
    own = [each for each in own if "num_steps" not in each]
    done = train("-m", *own[:-1], "quantizer=nearest,gptq", "logger=wandb", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / "sweep" / str(i) / "record.json").read_text()) for i in range(2)]
    assert records[0]["metrics"]["quantized/top1"] == records[0]["metrics"]["nearest/top1"]
    assert records[0]["config_hash"] != records[1]["config_hash"]
    runs = [[WandbFile(path) for path in run_files(tmp_path / "sweep" / str(i))] for i in range(2)]
    assert [[each.config["config_hash"] for each in one] for one in runs] == [[each["config_hash"]] for each in records]
    assert [one[0].exit_code for one in runs] == [0, 0]


def test_a_job_that_fails_stops_no_other(train, own, tmp_path):
    own = [each for each in own if "num_steps" not in each]
    done = train("-m", *own[:-1], "quantizer=nearest", "bits=uniform", "bits.bit_width=9,4", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: bits.bit_width=9" in done.stderr
    assert (tmp_path / "sweep/1/record.json").exists()


def test_pretraining_writes_weights_that_load(train, tmp_path):
    root = few_clothes(tmp_path / "few", 100)
    short = "training.num_epochs=1", "data.full_train=false", "data.batch_size=10", f"data.root={root}"
    arguments = ("experiment=pretrain", "model=mobilenetv2_050", "logger=wandb", "hydra.run.dir=run")
    done = train(*arguments, *short)
    assert done.returncode == 0, done.stderr
    assert "fp32/top1" in json.loads((tmp_path / "run/record.json").read_text())["metrics"]
    model = TimmModel(
        "mobilenetv2_050", checkpoint=str(tmp_path / "run/model.safetensors"), num_classes=10, small_image_stem=True,
        arguments={"in_chans": 1}, preprocessing={"input_size": [1, 28, 28], "mean": [0.3], "std": [0.3]},
    )  # fmt: skip
    assert model.build()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    again = train(*arguments[:-1], *short, "resume=run")
    assert again.stderr.strip().endswith("pre-training keeps nothing to go on from, leave it out")


@pytest.mark.parametrize("entry", ["train", "tables", "evaluate", "verify", "export"])
def test_help_waits_for_no_library(entry, tmp_path):
    done = command(entry, "--help", python=("-X", "importtime"), cwd=tmp_path)
    assert done.returncode == 0
    assert "the traceback of an error is shown" in done.stdout
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "hydra" in imported
    assert not imported & {"torch", "timm", "pytorch_lightning", "matplotlib", "scipy", "wandb", "onnx"}


BAD = {
    "unknown model": (["model=timm", "model.name=resnet_18"], "resnet18"),
    "missing checkpoint": (["model.checkpoint=no.safetensors"], "no.safetensors is not there"),
    "not a checkpoint": ([f"model.checkpoint={ROOT / 'Makefile'}"], "not a checkpoint"),
    "another model's checkpoint": (["model.name=resnet34"], "missing"),
    "no weights": (["model=timm", "model.name=resnet18"], "model.checkpoint"),
    "missing data": (["data.root=nowhere"], "nowhere"),
    "no val folder": (["data=image_folder", f"data.root={ROOT / 'assets'}"], "has no folder val"),
    "missing folder": (["data=image_folder", "data.root=nowhere"], "nowhere is not there"),
    "too many images": (["data.num_calibration=20000"], "10000"),
    "bits": (["bits=uniform", "bits.bit_width=9"], "2 to 8"),
    "budget too low": (["bits.budget=1.5"], "takes 2."),
    "budget too high": (["bits.budget=8.5"], "to 8.0"),
    "seed": (["seed=abc"], "seed=abc"),
    "sigma": (["quantizer.sigma=0"], "above 0"),
    "unknown option": (["quantizer.sigm=1"], "has no sigm: give quantizer.sigma"),
    "unknown group": (["quantiser=nearest"], "give quantizer=nearest"),
    "unknown choice": (["quantizer=adaroundd"], "give one of adaround, "),
    "another choice's option": (["bits.bit_width=3"], "give bits=uniform bits.bit_width=3 or bits.budget"),
    "added option": (["+bits.bit_width=3"], "give bits=uniform bits.bit_width=3 or bits.budget"),
    "no value": (["data=image_folder"], "needs data.root=...: folder that holds val/<class>/"),
    "cut-off value": (["bits.pinned={last"], "{ has no }"),
    "class": (["quantizer._target_=os.system"], "cannot be given here"),
    "launcher": (["-m", "hydra/launcher=nodes"], "basic"),
    "unknown metric": (["metric=quantized/top5"], "give quantized/top1"),
    "metric of another run": (["metric=ptq/top1"], "metric=ptq/top1 is of training with labels: give qat=lsq"),
    "task of another entry": (["task=pretrain"], "task=pretrain takes training: leave task out"),
    "devices of pre-training": (
        ["experiment=pretrain", "trainer.devices=2"],
        "trainer.devices=2: pre-training takes one",
    ),
    "group of another task": (["experiment=pretrain", "bits=uniform"], "task=pretrain takes no bits: leave it out"),
    "resume elsewhere": (["resume=."], "resume=. goes on there: leave out hydra.run.dir=run"),
    "empty folder": (["hydra.run.dir="], "hydra.run.dir= is empty"),
    "unwritable output": (["hydra.run.dir=/dev/null/run"], "/dev/null"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(train, case, tmp_path):
    arguments, word = BAD[case]
    place = [] if case in ("unwritable output", "empty folder") else ["hydra.run.dir=run"]
    done = train(*arguments, *place)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert word in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "record.json").exists()


def test_wandb_online_without_a_key_is_one_clear_line_before_work_starts(train, tmp_path):
    nobody = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "NETRC": "netrc", "WANDB_CONFIG_DIR": str(tmp_path)}
    done = train("logger=[csv,wandb]", "hydra.run.dir=run", **nobody)
    assert done.returncode == 1
    assert "run `wandb login`, or set WANDB_MODE=offline" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_two_runs_in_one_folder_are_refused(train, tmp_path):
    (tmp_path / "run").mkdir()
    with alone_in(tmp_path / "run"):
        done = train("hydra.run.dir=run")
    assert done.returncode == 1
    assert [each.name for each in (tmp_path / "run").iterdir()] == [".lock"]
    assert done.stderr.endswith("run: another run is writing there: wait for it, or give another folder\n")
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(train):
    done = train("model.checkpoint=no.safetensors", "debug=true")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
