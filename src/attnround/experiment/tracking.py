"""Weights & Biases: a run a job, which can be found by what it is made of, and nothing uploaded that was not asked for.

Like Lightning, it imports wandb where that is used: a second that runs with other loggers do not pay.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.loggers import WandbLogger

from attnround.errors import InputError
from attnround.experiment.record import Run, model_of
from attnround.table import plain

MODES = ("online", "offline", "disabled")


class WandbRun(WandbLogger):
    """Lightning's logger, where the environment alone says whether anything is uploaded: WANDB_MODE, else offline.

    group, name, job_type: None takes those of `labels`; tags: more than those; artifact: keep the files of the model.
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
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode not in MODES:
            raise InputError(f"WANDB_MODE={mode}: give online, offline or disabled")
        if mode == "online":
            check_login()
        super().__init__(name, save_dir, project=project, mode=mode, group=group, job_type=job_type, tags=tags)
        self.artifact = artifact

    def begin(self, run: Run, groups: Sequence[str]) -> None:
        """Start the W&B run of this job. Raises InputError where the server cannot be reached or refuses it."""
        import wandb

        init, derived = self._wandb_init, labels(run, groups)
        more = derived.pop("tags")
        init |= {key: init[key] or value for key, value in derived.items()}
        init["tags"] = list(dict.fromkeys([*more, *init["tags"]]))
        try:
            _ = self.experiment
        except wandb.Error as error:
            raise refused(error) from error

    def publish(self, rows: Sequence[dict], pictures: Sequence[Path], files: Sequence[Path]) -> None:
        """A table of the layers, the pictures, and where asked for, the files as an artifact under the run's name."""
        import wandb

        shown = {f"pictures/{picture.stem}": wandb.Image(str(picture)) for picture in pictures}
        if rows:
            cells = [[plain(value) for value in row.values()] for row in rows]
            shown["layers"] = wandb.Table(columns=list(rows[0]), data=cells)
        if shown:
            self.log_metrics(shown)
        if self.artifact:
            artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", self._wandb_init["name"], flags=re.ASCII), type="model")
            for file in files:
                artifact.add_file(str(file))
            self.experiment.log_artifact(artifact)

    def end(self, exit_code: int) -> None:
        """Close the W&B run, if it came to one: a fit's end leaves it open for the next fit of the job."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)


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


def labels(run: Run, groups: Sequence[str]) -> dict[str, object]:
    """Name, group, job type and tags of a run: `group=option` of these config groups, and its widths, such as W4, A8.

    The group is what has to be equal for a comparison to mean something: model and data.
    """
    chosen = {group: run.choices[group] for group in groups if run.choices.get(group) not in (None, "none")}
    chosen["model"] = model_of(run.choices, run.config)
    widths = [*weight_bits(run.config["bits"]), activation_bits(run.config["activation"])] if "bits" in groups else []
    return {
        "name": "-".join([*chosen.values(), *widths, f"seed{run.seed}"]),
        "group": f"{chosen['model']} on {run.choices['data']}",
        "job_type": run.task,
        "tags": [*(f"{group}={option}" for group, option in chosen.items()), *widths],
    }


def weight_bits(bits: dict) -> list[str]:
    """W and the bits asked for; a budget in another unit with that; nothing where none is asked for.

    >>> weight_bits({"bit_width": 4, "budget": None}), weight_bits({"budget": 0.5, "unit": "mib"}), weight_bits({})
    (['W4'], ['0.5mib'], [])
    """
    if bits.get("budget") is None:
        return [f"W{bits['bit_width']}"] if "bit_width" in bits else []
    return [f"W{bits['budget']:g}" if bits["unit"] == "mean_bits" else f"{bits['budget']:g}{bits['unit']}"]


def activation_bits(activation: dict) -> str:
    """A and the bits of the layers' inputs."""
    return f"A{activation.get('bit_width', 32)}"
