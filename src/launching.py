"""Many jobs through any of Hydra's launchers: one after another, on all cores, or on a cluster.

A job is what `python src/train.py` would run, in a folder of its own, so that no two write to one file.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from entry import CONF, DIED, check_launcher, keep_empty, quoted

BEGUN = "begun"  # what a mark says until the job has ended


def compose(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config of one job, and the option chosen in each group.

    Raises HydraException or OmegaConfBaseException where it does not compose.
    """
    config = _loader().load_configuration("train", list(overrides), RunMode.RUN)
    choices = {group: option for group, option in config.hydra.runtime.choices.items() if not group.startswith("hydra")}
    with open_dict(config):
        del config["hydra"]
    keep_empty(config, overrides)
    return config, choices


def launch(
    jobs: Mapping[str, Sequence[str]],
    task: Callable[[DictConfig], object],
    folder: Path,
    launcher: Sequence[str] = (),
) -> dict[str, str]:
    """Call `task` with the config of every job and wait for all; return a line for each job that failed.

    jobs: its folder, below `folder` or absolute -> overrides of the config `train`, which must compose.
    task: a function of a module, for other processes import it; HydraConfig.get().runtime.output_dir is its folder.
    launcher: overrides such as hydra/launcher=joblib and hydra.launcher.n_jobs=2; none: one job after another, here.

    A job that raises, exits or takes its process along stops no other. Loky ends all processes of a pool where one
    dies, so what had begun there is begun anew, each job alone: a task has to bear that.
    Raises InputError where the launcher is not installed or has no such option.
    """
    import tempfile

    check_launcher(launcher)
    folder = folder.resolve()
    before = HydraConfig.instance().cfg
    with tempfile.TemporaryDirectory() as marks:
        plugin = _instantiate([*launcher, f"hydra.sweep.dir={quoted(str(folder))}"], _Guarded(task, Path(marks)))
        outcomes = {}
        pools = [list(jobs)] if jobs else []
        while pools:
            ended, begun, others = _run(plugin, {name: jobs[name] for name in pools.pop(0)}, Path(marks))
            outcomes |= ended
            if len(begun) + len(ended) + len(others) == 1 or not (begun or ended):
                outcomes |= dict.fromkeys(begun + others, DIED)
            else:
                pools = ([others] if others else []) + pools + [[name] for name in begun]
    HydraConfig.instance().cfg = before  # of the entry that asked for the jobs
    return {name: outcomes[name] for name in jobs if outcomes[name]}


class _Guarded:
    """A task that returns a line where it fails, and leaves a mark while it runs."""

    def __init__(self, task: Callable[[DictConfig], object], marks: Path):
        self.task = task
        self.marks = marks

    def __call__(self, cfg: DictConfig) -> str | None:
        from attnround.errors import InputError

        mark = _mark(self.marks, HydraConfig.get().sweep.subdir)
        shared = self.marks.is_dir()  # not on another machine
        if shared:
            mark.write_text(json.dumps(BEGUN))
        fault = None
        try:
            self.task(cfg)
        except SystemExit as error:
            fault = str(error.code).removeprefix("error: ") if error.code else None
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            fault = " ".join(f"{kind}{error}".split())
            if cfg.debug:
                sys.excepthook(type(error), error, error.__traceback__)
        if shared:
            mark.write_text(json.dumps([fault]))
        return fault


def _mark(marks: Path, name: str) -> Path:
    import hashlib

    return marks / hashlib.sha256(name.encode()).hexdigest()


def _run(
    plugin: Launcher, jobs: Mapping[str, Sequence[str]], marks: Path
) -> tuple[dict[str, str | None], list[str], list[str]]:
    """Launch some jobs: the outcome of those that ended; those that a dying pool had begun, and had not."""
    from concurrent.futures.process import BrokenProcessPool

    overrides = [[*given, f"hydra.sweep.subdir={quoted(name)}"] for name, given in jobs.items()]
    try:
        with _dead_jobs_return(plugin):
            returns = plugin.launch(overrides, initial_job_idx=0)
        outcomes = [each.return_value if isinstance(each, JobReturn) else each for each in returns]
        return dict(zip(jobs, outcomes, strict=True)), [], []
    except BrokenProcessPool:
        ended, begun, others = {}, [], []
        for name in jobs:
            mark = _mark(marks, name)
            said = json.loads(mark.read_text() or json.dumps(BEGUN)) if mark.exists() else None
            if isinstance(said, list):
                ended[name] = said[0]
            else:
                (begun if said else others).append(name)
            mark.unlink(missing_ok=True)
        return ended, begun, others


@contextmanager
def _dead_jobs_return(plugin: Launcher) -> Iterator[None]:
    """Within, a job of submitit whose process died has a line as its result.

    Hydra's launcher asks one job after another for its result: the error of one would leave the others unwaited.
    """
    if "submitit" not in type(plugin).__module__:
        yield
        return
    from unittest.mock import patch

    from submitit import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError

    ask = Job.results

    def results(job: Job) -> list[object]:
        try:
            return ask(job)
        except (FailedJobError, UncompletedJobError):
            return [f"{DIED}: {job.paths.stderr}"]

    with patch.object(Job, "results", results):
        yield


def _loader() -> object:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.version import setbase

    setup_globals()
    setbase("1.3")
    Plugins.instance()  # they bring options of groups
    return ConfigLoaderImpl(create_config_search_path(CONF))


def _instantiate(overrides: Sequence[str], task: Callable[[DictConfig], object]) -> Launcher:
    from hydra._internal.callbacks import Callbacks

    from attnround.errors import InputError

    loader = _loader()
    # A job knows it is one of many; the launcher does not list them all.
    ours = ["hydra.mode=MULTIRUN", "hydra.job.name=train", "hydra.hydra_logging.root.level=WARNING"]
    try:
        config = loader.load_configuration("train", [*ours, *overrides], RunMode.MULTIRUN)
    except HydraException as error:
        raise InputError(f"{' '.join(overrides)}: {' '.join(str(error).split())}") from error
    HydraConfig.instance().set_config(config)
    context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
    return Plugins.instance().instantiate_launcher(context, task, config)
