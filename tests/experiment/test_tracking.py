"""W&B as a job meets it: the run's file is read back. Nothing here reaches a server."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import wandb
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from tests.test_config import composed
from tests.wandb_file import WandbFile, run_files

from attnround.errors import InputError
from attnround.experiment.identity import identity
from attnround.experiment.loggers import closing, publish
from attnround.experiment.loggers.labels import Labels
from attnround.experiment.loggers.wandb import PLACES
from attnround.experiment.record import Run

GROUPS = ("model", "quantizer", "bits", "activation", "reconstruction", "qat", "experiment")
METRICS = {"quantized/top1": 93.21, "bits/mean": 4, "quantized/sqnr_db": 39.4, "reconstruction/fallbacks": 2}


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """What W&B keeps outside a run's folder goes into the test's; its process ends with the test."""
    for place in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{place}_DIR", str(tmp_path / place))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()
    yield
    wandb.teardown()


def made(tmp_path, *overrides: str) -> tuple[Run, list]:
    """A run and its loggers, as the entry makes them."""
    config = composed("logger=wandb", *overrides)
    OmegaConf.update(config, "logger.wandb.save_dir", str(tmp_path))
    choices = {"data": "fashion_mnist"} | dict.fromkeys(GROUPS, None)
    choices |= {"model": "resnet18_slim", "quantizer": "attention_round", "bits": "mixed", "activation": "none"}
    choices |= {"reconstruction": "layer", "qat": "none"}
    choices |= {key: value for key, value in (each.split("=") for each in overrides) if key in choices}
    loggers = list(instantiate(config.logger, _convert_="all").values())
    source = OmegaConf.to_container(config, resolve=False)
    return Run.of(OmegaConf.to_container(config), source, choices, tmp_path), loggers


def logged(run: Run, loggers: list, **more) -> WandbFile:
    """A job that does nothing but report."""
    with closing(loggers, run, GROUPS):
        loggers[0].log_metrics({"reconstruction/conv1": 0.5}, step=3)
        loggers[0].log_metrics({"qat/loss": 2.5, "epoch": 0}, step=70)
        publish(loggers, METRICS, **more)
    return read(run.output_dir)[-1]


def read(folder) -> list[WandbFile]:
    """All runs of a folder, in their order."""
    wandb.teardown()  # only then is all of it written
    return [WandbFile(path) for path in run_files(folder)]


def test_a_run_can_be_found_by_what_it_is_made_of(tmp_path):
    run, loggers = made(tmp_path, "bits=uniform", "bits.bit_width=3", "activation=mse", "seed=2")
    seen = logged(run, loggers)
    assert seen.run.project == "attention-round"
    assert seen.run.run_group == "resnet18_slim on fashion_mnist"
    assert seen.run.job_type == "quantize"
    assert seen.run.display_name == "resnet18_slim-attention_round-uniform-mse-layer-W3-A8-seed2"
    assert set(seen.run.tags) == {
        "model=resnet18_slim", "quantizer=attention_round", "bits=uniform", "activation=mse", "reconstruction=layer",
        "W3", "A8",
    }  # fmt: skip
    assert seen.config["bits"]["bit_width"] == 3
    assert seen.config["choices"]["quantizer"] == "attention_round"
    assert seen.config["config_hash"] == run.identity
    assert seen.exit_code == 0


def test_a_table_names_the_group_by_override_or_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "w4")
    run, loggers = made(tmp_path)
    seen = logged(run, loggers)
    assert seen.run.run_group == "w4"
    overrides = "logger.wandb.group=w3", "logger.wandb.name=mine", "logger.wandb.tags=[ablation]"
    run, loggers = made(tmp_path, *overrides)
    seen = logged(run, loggers)
    assert (seen.run.run_group, seen.run.display_name) == ("w3", "mine")
    assert {"ablation", "quantizer=attention_round", "W4", "A32"} <= set(seen.run.tags)


def test_where_a_result_is_logged_leaves_the_configs_hash():
    plain, grouped = composed(), composed("logger=[csv,wandb]", "logger.wandb.group=w3", "logger.wandb.artifact=true")
    assert len({identity(OmegaConf.to_container(config, resolve=False), {}) for config in (plain, grouped)}) == 1


def test_metrics_table_and_pictures(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "layers.png")
    rows = [{"name": "conv1", "shape": [16, 3, 3], "score": None}, {"name": "fc", "shape": [10, 16], "score": 1.5}]
    run, loggers = made(tmp_path)
    seen = logged(run, loggers, rows=rows, pictures=[tmp_path / "layers.png"])
    own = {key: value for key, value in seen.summary.items() if not key.startswith("_")}  # beside what W&B itself keeps
    assert {key: own.pop(key) for key in METRICS} == METRICS
    assert set(own) == {"layers", "pictures/layers"}
    assert seen.table("layers") == [
        {"name": "conv1", "shape": "16x3x3", "score": None},
        {"name": "fc", "shape": "10x16", "score": 1.5},
    ]
    picture = seen.files / seen.summary["pictures/layers"]["path"]
    assert picture.read_bytes() == (tmp_path / "layers.png").read_bytes()
    assert "model" not in seen.artifacts


def test_curves_have_axes_of_their_own(tmp_path):
    seen = logged(*made(tmp_path))
    burst, step = seen.history[:2]
    assert seen.axes["reconstruction/conv1"] == "reconstruction/step"
    assert (burst["reconstruction/step"], burst["reconstruction/conv1"]) == (3, 0.5)
    assert seen.axes["qat/loss"] == "trainer/global_step"
    assert (step["trainer/global_step"], step["qat/loss"]) == (70, 2.5)
    assert not {"reconstruction/step", "reconstruction/fallbacks"} & set(seen.axes)


def test_the_terminal_is_left_to_the_runs_own_report(tmp_path, capsys):
    run, loggers = made(tmp_path)
    with closing(loggers, run, GROUPS):
        publish(loggers, METRICS)
        capsys.readouterr()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_the_models_files_as_an_artifact_when_asked(tmp_path):
    files = [tmp_path / name for name in ("quantized.safetensors", "model_card.md", "record.json")]
    for file in files:
        file.write_text(json.dumps({"metrics": METRICS, "calibration": {"indices": [1]}}))
    run, loggers = made(tmp_path, "model=timm", "model.name=hf_hub:some/net", "logger.wandb.artifact=true")
    artifact = logged(run, loggers, files=files).artifacts["model"]
    assert artifact.name == "hf_hub_some_net-attention_round-mixed-layer-W4-A32-seed0"
    assert {each.path for each in artifact.manifest.contents} == {file.name for file in files}
    assert json.loads(artifact.metadata) == {"metrics": METRICS}


def test_a_job_that_fails_is_closed_and_the_next_has_a_run_of_its_own(tmp_path):
    run, loggers = made(tmp_path)
    with pytest.raises(OSError, match="full"), closing(loggers, run, GROUPS):
        raise OSError("disk full")
    run, loggers = made(tmp_path, "seed=1")
    with closing(loggers, run, GROUPS):
        pass
    first, second = read(tmp_path)
    assert [each.exit_code for each in (first, second)] == [1, 0]
    assert first.run.run_id != second.run.run_id
    assert [each.config["seed"] for each in (first, second)] == [0, 1]


def test_a_logger_that_cannot_close_leaves_none_open(tmp_path):
    class Broken:
        def log_hyperparams(self, config):
            pass

        def finalize(self, status):
            raise OSError("disk full")

    run, loggers = made(tmp_path)
    with pytest.raises(OSError, match="full"), closing([*loggers, Broken()], run, GROUPS):
        pass
    assert [each.exit_code for each in read(tmp_path)] == [1]


@pytest.mark.parametrize(
    ("overrides", "widths"),
    [
        (["bits.budget=2.5"], ["W2.5", "A32"]),
        (["bits.budget=0.25", "bits.unit=mib"], ["0.25mib", "A32"]),
        (["bits=auto"], ["A32"]),
        (["bits=file", "bits.path=allocation.json", "activation=lsq", "activation.bit_width=4"], ["A4"]),
        (["bits=uniform", "bits.budget=3"], ["W3", "A32"]),
    ],
)
def test_widths_are_those_asked_for(tmp_path, overrides, widths):
    run, _ = made(tmp_path, *overrides)
    assert Labels.of(run, GROUPS).widths == widths


def test_a_float_run_has_no_quantizer(tmp_path):
    run, _ = made(tmp_path, "experiment=pretrain")
    labels = Labels.of(run, ("model", "data", "experiment"))
    assert labels.task == "pretrain"
    assert labels.tags == ["model=resnet18_slim", "data=fashion_mnist", "experiment=pretrain"]


def test_nothing_goes_online_that_was_not_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.delenv("WANDB_MODE")
    assert logged(*made(tmp_path)).exit_code == 0  # an offline run's file


def test_all_files_lie_in_the_folder_of_the_run(tmp_path, monkeypatch):
    for name in PLACES:
        monkeypatch.delenv(name)
    run, loggers = made(tmp_path)
    with closing(loggers, run, GROUPS):
        assert {os.environ[name] for name in PLACES} == {str(tmp_path / "wandb" / place) for place in PLACES.values()}
    assert not PLACES.keys() & os.environ.keys()  # the next job has its own


def test_disabled_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "record.json").write_text("{}")
    run, loggers = made(tmp_path, "logger.wandb.artifact=true")
    with closing(loggers, run, GROUPS):
        publish(loggers, METRICS, [{"name": "conv1"}], files=[tmp_path / "record.json"])
    assert run_files(tmp_path) == []


REFUSED = {
    "no key": ({"WANDB_MODE": "online"}, "no W&B key is configured; run `wandb login`, or set WANDB_MODE=offline"),
    "short key": ({"WANDB_MODE": "online", "WANDB_API_KEY": "abc"}, "WANDB_API_KEY invalid"),
    "unknown mode": ({"WANDB_MODE": "on"}, "WANDB_MODE=on: give online, offline or disabled"),
    "empty mode": ({"WANDB_MODE": ""}, "WANDB_MODE=: give online, offline or disabled"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_environment_that_cannot_work_is_refused_when_the_logger_is_made(tmp_path, monkeypatch, case):
    environment, line = REFUSED[case]
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(InstantiationException) as caught:
        made(tmp_path)
    assert isinstance(caught.value.__cause__, InputError)
    assert line in str(caught.value.__cause__)


class Refusing(BaseHTTPRequestHandler):
    """A server that does not know the key."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_server_that_refuses_the_key_is_one_line_before_work_starts(tmp_path, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}"}
        for key, value in (environment | {"WANDB_API_KEY": "a" * 40}).items():
            monkeypatch.setenv(key, value)
        run, loggers = made(tmp_path)
        line = r"WANDB_MODE=online: .*401.*WANDB_MODE=offline"
        with pytest.raises(InputError, match=line), closing(loggers, run, GROUPS):
            pytest.fail("the job went on")
        server.shutdown()
