"""A run's folder is its own: taken before anything is written into it, and only where the run may go on in it."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from attnround.errors import InputError, check_identity
from attnround.files import alone_in

MAKE_A_RUN = ("quantize", "pretrain")  # tasks that fill a folder of their own
held = contextlib.ExitStack()  # the lock of this process's run
claimed: list[Path] = []  # its folder


class Claim(Callback):
    """Hydra calls it before it writes the config of a run that is no part of a multirun.

    Of what a callback raises Hydra makes a warning, so it exits by itself.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        if config.get("task") not in MAKE_A_RUN:
            return
        folder = Path(config.hydra.run.dir)
        try:
            if not str(config.hydra.run.dir):
                raise InputError("hydra.run.dir= is empty: give a folder")
            if config.get("resume") and folder.resolve() != Path(config.resume).resolve():
                raise InputError(f"resume={config.resume} goes on there: leave out hydra.run.dir={folder}")
            claim(folder)
            if config.get("resume"):
                check_resumed(folder, config)
        except InputError as error:
            sys.exit(f"error: {error}")


def claim(folder: Path) -> None:
    """Make the folder and take it for this process until `held` is closed. Raises InputError where that is barred."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(alone_in(folder))
        claimed.append(folder)
    except OSError as error:
        why = f"it cannot be used ({error.strerror})"
        raise InputError(f"hydra.run.dir={folder}: {why}: give another folder") from error


def check_resumed(folder: Path, config: DictConfig) -> None:
    """Raise InputError where what the folder holds is of a run with another config, before anything of it goes."""
    from attnround.cli.entry import keep_empty, own_choices
    from attnround.experiment.identity import identity
    from attnround.experiment.kept import check_kept
    from attnround.experiment.schema import read_record
    from attnround.experiment.sources import sources_of, with_sources

    config = config.copy()
    OmegaConf.set_readonly(config, False)
    keep_empty(config, config.hydra.overrides.task)
    source = OmegaConf.to_container(config, resolve=False)
    asked = with_sources(identity(source, own_choices(config.hydra.runtime.choices)), sources_of(source))
    check_kept(folder, asked)
    if config.task == "quantize" and (folder / "record.json").exists():
        record = read_record(folder)
        check_identity(folder / "record.json", with_sources(record["config_hash"], record.get("sources", {})), asked)
