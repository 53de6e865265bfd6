"""Weights & Biases: a run a job, which can be found by what it is made of, and nothing uploaded that was not asked for.

Like Lightning, it imports wandb where that is used: a second that runs with other loggers do not pay.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytorch_lightning.loggers import WandbLogger

from attnround.errors import InputError
from attnround.experiment.loggers.base import Row, hyperparameters, need
from attnround.experiment.loggers.labels import Labels
from attnround.experiment.record import Run
from attnround.table import plain

MODES = ("online", "offline", "disabled")
PLACES = {"WANDB_DATA_DIR": "staging", "WANDB_CACHE_DIR": "cache"}  # else in the home folder, which may be read-only
CURVES, RECONSTRUCTION = "trainer/global_step", "reconstruction/step"  # the axes of what a fit logs
ABOUT = ("config_hash", "choices", "seed", "date", "git_revision", "versions", "metrics", "licence", "deployed")


class WandbRun(WandbLogger):
    """Lightning's logger, where the environment alone says whether anything is uploaded: WANDB_MODE, else offline.

    What a fit logs is a curve; the summary holds what the run came to, and that alone. All files lie below save_dir,
    those of artifacts too, unless the environment says where (`PLACES`).
    group, name, job_type: None takes those of `Labels`; tags: more than those; artifact: keep the files of the model.
    Raises InputError where WANDB_MODE is unknown, or online and nobody is logged in.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        group: str | None = None,
        name: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        artifact: bool = False,
    ):
        need("wandb", "wandb", extra="suite")
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode not in MODES:
            raise InputError(f"WANDB_MODE={mode}: give online, offline or disabled")
        if mode == "online":
            check_login()
        super().__init__(name, save_dir, project=project, mode=mode, group=group, job_type=job_type, tags=tags)
        self._wandb_init.pop("anonymous")  # Lightning's; wandb warns of it
        self.artifact, self.curves = artifact, set()
        folder = Path(save_dir).absolute() / "wandb"
        self.places = {name: str(folder / place) for name, place in PLACES.items() if name not in os.environ}

    def begin(self, run: Run, groups: Sequence[str]) -> None:
        """Start the W&B run of this job. Raises InputError where the server cannot be reached or refuses it."""
        import wandb

        labels, init = Labels.of(run, groups), self._wandb_init
        derived = {"name": labels.name, "group": labels.group, "job_type": labels.task}
        init |= {key: init[key] or value for key, value in derived.items()}
        init["tags"] = list(dict.fromkeys([*labels.tags, *init["tags"]]))
        init["settings"] = wandb.Settings(quiet=True)  # its report of the run's end would stand before ours
        os.environ.update(self.places)
        try:
            experiment = self.experiment
        except wandb.Error as error:
            raise refused(error) from error
        for axis in (CURVES, RECONSTRUCTION):
            experiment.define_metric(axis, summary="none")
        self.log_hyperparams(hyperparameters(run))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Points of curves: those of a reconstruction over an axis of their own, a step of which is a burst."""
        axis = RECONSTRUCTION if all(key.startswith("reconstruction/") for key in metrics) else CURVES
        for key in metrics.keys() - self.curves:  # by name: of two patterns that fit, wandb takes one by chance
            self.experiment.define_metric(key, step_metric=axis, summary="none")
        self.curves |= metrics.keys()
        self.experiment.log(metrics if step is None else {**metrics, axis: step})

    def publish(
        self, metrics: dict[str, float], rows: Sequence[Row], pictures: Sequence[Path], files: Sequence[Path]
    ) -> None:
        """The summary, with a table of the layers and the pictures; where asked for, the files as an artifact."""
        import wandb

        shown = {f"pictures/{picture.stem}": wandb.Image(str(picture)) for picture in pictures}
        if rows:
            cells = [[plain(value) for value in row.values()] for row in rows]
            shown["layers"] = wandb.Table(columns=list(rows[0]), data=cells)
        self.experiment.log(metrics | shown)
        if self.artifact:
            name = re.sub(r"[^\w.-]", "_", self._wandb_init["name"], flags=re.ASCII)
            artifact = wandb.Artifact(name, type="model", metadata=about(files))
            for file in files:
                artifact.add_file(str(file))
            self.experiment.log_artifact(artifact)

    def end(self, failure: BaseException | None) -> None:
        """Close the W&B run, if it came to one: a fit's end leaves it open for the next fit of the job."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=int(failure is not None))
        for name in self.places:  # the next job has its own
            os.environ.pop(name, None)


def about(files: Sequence[Path]) -> dict[str, object]:
    """What the record among these files says of the model, without what is long: images, layers, the config."""
    record = next((json.loads(file.read_text()) for file in files if file.name == "record.json"), {})
    return {key: record[key] for key in ABOUT if key in record}


def check_login() -> None:
    """Raise InputError where no key is found for W&B's server, or one of a wrong form; the server is not asked."""
    import wandb

    try:
        found = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise refused(error) from error
    if not found:
        raise refused("no W&B key is configured")


def refused(why: object) -> InputError:
    """What is wrong, and the two ways out."""
    said = " ".join(str(why).split())
    return InputError(f"WANDB_MODE=online: {said}; run `wandb login`, or set WANDB_MODE=offline and `wandb sync` later")
