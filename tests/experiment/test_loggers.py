"""Every logger is told the same of a run: what each wrote is read back with its own package's reader."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from tests.experiment.test_tracking import GROUPS, read
from tests.test_config import composed

from attnround.errors import InputError
from attnround.experiment.loggers import closing, kept_starts, publish
from attnround.experiment.loggers.base import hyperparameters
from attnround.experiment.record import Run
from attnround.reconstruction import UnitReport
from attnround.table import csv_text

LOGGERS = ("csv", "wandb", "tensorboard", "mlflow")
METRICS = {"quantized/top1": 93.21, "bits/mean": 4, "quantized/sqnr_db": 39.4, "reconstruction/fallbacks": 2}
CURVE = [(0, 0.5), (1, 0.25), (2, 0.1)]
ROWS = [{"name": "conv1", "shape": [16, 3, 3], "score": None}, {"name": "fc", "shape": [10, 16], "score": 1.5}]
FILES = ("quantized.safetensors", "model_card.md", "record.json")


@dataclass
class Seen:
    """What a logger wrote. curve: (step, loss of conv1); layers: cells as texts, None where it has no table."""

    metrics: dict[str, float]
    curve: list[tuple[int, float]]
    options: dict
    layers: list[list[str]] | None = None
    pictures: dict[str, tuple[int, int]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


def made(folder: Path, logger: str, *overrides: str) -> tuple[Run, list]:
    """A run and its logger, as the entry makes them."""
    choices = {"data": "fashion_mnist", "model": "resnet18_slim", "quantizer": "attention_round", "bits": "mixed"}
    choices |= {"activation": "none", "reconstruction": "layer", "qat": "none", "experiment": None}
    config = composed(f"logger={logger}", *overrides)
    OmegaConf.update(config, f"logger.{logger}.save_dir", str(folder))
    loggers = list(instantiate(config.logger, _convert_="all").values())
    source = OmegaConf.to_container(config, resolve=False)
    resolved = OmegaConf.masked_copy(config, [key for key in config if key != "logger"])
    return Run.of(OmegaConf.to_container(resolved, resolve=True), source, choices, folder), loggers


def logged(folder: Path, logger: str, *overrides: str) -> Run:
    """A run that does nothing but report, with a picture and the files of a model."""
    Image.new("RGB", (4, 3)).save(folder / "layers.png")
    for name in FILES:
        (folder / name).write_text("{}")
    run, loggers = made(folder, logger, *overrides)
    with closing(loggers, run, GROUPS):
        for step, loss in CURVE:
            loggers[0].log_metrics({"reconstruction/conv1": loss}, step=step)
        loggers[0].finalize("success")  # a fit's end
        publish(loggers, METRICS, ROWS, [folder / "layers.png"], [folder / name for name in FILES])
    return run


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def read_csv(folder: Path) -> Seen:
    with (folder / "csv/metrics.csv").open() as file:
        *bursts, last = csv.DictReader(file)
    return Seen(
        {key: float(value) for key, value in last.items() if value and key != "step"},
        [(int(each["step"]), float(each["reconstruction/conv1"])) for each in bursts],
        yaml.safe_load((folder / "csv/hparams.yaml").read_text()),
    )


def read_wandb(folder: Path) -> Seen:
    (run,) = read(folder)
    curve = [each for each in run.history if "reconstruction/conv1" in each]
    table = run.table("layers")
    with Image.open(run.files / run.summary["pictures/layers"]["path"]) as picture:
        size = picture.size
    return Seen(
        {key: value for key, value in run.summary.items() if isinstance(value, int | float) and key[0] != "_"},
        [(each["reconstruction/step"], each["reconstruction/conv1"]) for each in curve],
        {key: value for key, value in run.config.items() if key != "_wandb"},
        [list(table[0]), *([str("" if value is None else value) for value in row.values()] for row in table)],
        {"layers": size},
        {each.path for artifact in run.artifacts.values() for each in artifact.manifest.contents} & set(FILES),
    )


def read_tensorboard(folder: Path) -> Seen:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (folder / "tensorboard").glob("events.*")
    seen = EventAccumulator(str(events)).Reload()
    scalars = {tag: seen.Scalars(tag) for tag in seen.Tags()["scalars"]}
    curve = scalars.pop("reconstruction/conv1")
    (text,) = seen.Tensors("layers/text_summary")
    header, _, *rows = text.tensor_proto.string_val[0].decode().splitlines()
    (picture,) = seen.Images("pictures/layers")
    return Seen(
        {tag: point.value for tag, (point,) in scalars.items()},
        [(point.step, point.value) for point in curve],
        yaml.safe_load((folder / "tensorboard/hparams.yaml").read_text()),
        [[cell.strip().replace("None", "") for cell in row.split("|")[1:-1]] for row in (header, *rows)],
        {"layers": (picture.width, picture.height)},
    )


def read_mlflow(folder: Path) -> Seen:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "attention-round")
    (run,) = client.search_runs(experiment.experiment_id)
    curve = client.get_metric_history(run.info.run_id, "reconstruction/conv1")
    metrics = {key: value for key, value in run.data.metrics.items() if key != "reconstruction/conv1"}
    stored = Path(run.info.artifact_uri.removeprefix("file://"))
    with Image.open(stored / "pictures/layers.png") as picture:
        size = picture.size
    return Seen(
        metrics,
        [(point.step, point.value) for point in curve],
        json.loads((stored / "options.json").read_text()),
        cells((stored / "layers.csv").read_text()),
        {"layers": size},
        {each.name for each in stored.glob("model/*")},
    )


READERS = {"csv": read_csv, "wandb": read_wandb, "tensorboard": read_tensorboard, "mlflow": read_mlflow}


@pytest.mark.parametrize("logger", LOGGERS)
def test_the_same_metrics_curves_and_options(tmp_path, logger):
    run = logged(tmp_path, logger)
    seen = READERS[logger](tmp_path)
    kept = np.float32 if logger == "tensorboard" else float  # as its files have it
    assert seen.metrics == {key: kept(value) for key, value in METRICS.items()}
    assert seen.curve == [(step, kept(loss)) for step, loss in CURVE]
    assert seen.options == hyperparameters(run)


@pytest.mark.parametrize("logger", [each for each in LOGGERS if each != "csv"])
def test_the_same_table_and_pictures(tmp_path, logger):
    logged(tmp_path, logger)
    seen = READERS[logger](tmp_path)
    assert seen.layers == cells(csv_text(ROWS))
    assert seen.pictures == {"layers": (4, 3)}
    assert seen.files == set()


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_the_models_files_where_asked_for(tmp_path, logger):
    logged(tmp_path, logger, f"logger.{logger}.artifact=true")
    assert READERS[logger](tmp_path).files == set(FILES)


def test_options_are_nested_and_hold_no_class_and_no_path_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNROUND_SHIPPED", "/shipped")
    run, _ = made(tmp_path, "csv", "quantizer.sigma=0.7")
    options = hyperparameters(run)
    assert options["quantizer"]["sigma"] == 0.7
    assert options["choices"]["quantizer"] == "attention_round"
    assert options["config_hash"] == run.identity
    assert "checkpoint" not in options["model"]
    assert options["paths"]["model"] == {"checkpoint": "/shipped/assets/checkpoints/resnet18_slim.safetensors"}
    rest = json.dumps({key: value for key, value in options.items() if key != "paths"})
    assert "_target_" not in rest
    assert "/shipped" not in rest


def test_tensorboard_shows_the_options_beside_what_they_led_to(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    logged(tmp_path, "tensorboard", "quantizer.sigma=0.7")
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    seen = EventAccumulator(str(events)).Reload().SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(seen).session_start_info.hparams
    assert options["quantizer/sigma"].number_value == 0.7
    assert options["choices/bits"].string_value == "mixed"


def test_an_mlflow_run_can_be_found_by_what_it_is_made_of(tmp_path):
    import mlflow

    logged(tmp_path, "mlflow", "logger.mlflow.group=w4", "logger.mlflow.tags={by: me}", "quantizer.sigma=0.7")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("attention-round")
    wanted = "tags.quantizer = 'attention_round' and tags.group = 'w4' and params.`quantizer/sigma` = '0.7'"
    (run,) = client.search_runs(experiment.experiment_id, wanted)
    assert run.info.run_name == "resnet18_slim-attention_round-mixed-layer-W4-A32-seed0"
    assert run.info.status == "FINISHED"
    assert {"by": "me", "widths": "W4 A32", "task": "quantize"}.items() <= run.data.tags.items()


def test_mlflow_keeps_a_failure_as_such_and_the_next_run_apart(tmp_path):
    import mlflow

    run, loggers = made(tmp_path, "mlflow")
    with pytest.raises(OSError, match="full"), closing(loggers, run, GROUPS):
        raise OSError("disk full")
    logged(tmp_path, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("attention-round")
    assert sorted(each.info.status for each in client.search_runs(experiment.experiment_id)) == ["FAILED", "FINISHED"]


def test_mlflow_tells_nobody_else(tmp_path):
    made(tmp_path, "mlflow")
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()


def test_a_server_of_mlflow_that_is_not_there_is_one_line(tmp_path):
    run, loggers = made(tmp_path, "mlflow", "logger.mlflow.tracking_uri=http://127.0.0.1:9")
    line = "logger.mlflow.tracking_uri=http://127.0.0.1:9: "
    with pytest.raises(InputError, match=line) as caught, closing(loggers, run, GROUPS):
        pytest.fail("the job went on")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("logger", "package"), [("wandb", "wandb"), ("tensorboard", "tensorboard"), ("mlflow", "mlflow")]
)
def test_a_package_that_is_missing_is_one_line_that_says_what_to_install(tmp_path, monkeypatch, logger, package):
    monkeypatch.setattr("attnround.experiment.loggers.base.find_spec", lambda name: None)
    with pytest.raises(InstantiationException) as caught:
        made(tmp_path, logger)
    assert isinstance(caught.value.__cause__, InputError)
    extra = "suite" if logger == "wandb" else logger
    assert str(caught.value.__cause__) == f"logger={logger} needs {package}: pip install 'attnround[{extra}]'"


def test_a_logger_that_knows_nothing_of_runs_is_told_what_all_take(tmp_path):
    class Told:
        def __init__(self):
            self.said = []

        def log_hyperparams(self, options):
            self.said.append(options)

        def log_metrics(self, metrics):
            self.said.append(metrics)

        def finalize(self, status):
            self.said.append(status)

    run, _ = made(tmp_path, "csv")
    told = Told()
    with closing([told], run, GROUPS):
        publish([told], METRICS, ROWS)
    with pytest.raises(KeyboardInterrupt), closing([told], run, GROUPS):
        raise KeyboardInterrupt
    assert told.said == [hyperparameters(run), METRICS, "success", hyperparameters(run), "failed"]


@pytest.mark.parametrize(
    ("kept", "held_out", "said"),
    [
        ([True, True], True, ""),
        ([True, False], True, "; 1 of 2 units kept their start: what was learned was no better on held-out images"),
        ([False, False], False, "; 2 of 2 units kept their start: what was learned was no better"),
    ],
)
def test_a_start_that_was_kept_is_no_failure(kept, held_out, said):
    reports = [UnitReport("conv1", "layer", [], 20.0, 20.0, each, []) for each in kept]
    assert kept_starts(reports, held_out) == said
