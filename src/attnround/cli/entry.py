"""What the entries share: a config composed by Hydra, its task, and one clear line where something is wrong."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnround.cli.claim import MAKE_A_RUN, claimed, held
from attnround.cli.exhausted import exhausted
from attnround.cli.help import asks_for_help, help_page
from attnround.cli.kinds import check_kinds
from attnround.cli.options import FOLDERS, groups_of
from attnround.cli.parsed import at_home, config_dir, parsed, split
from attnround.cli.signals import Stopped, heard, how_to_go_on
from attnround.cli.streams import unheard
from attnround.cli.words import check, check_given, explained, explained_in_job
from attnround.errors import InputError, choice
from attnround.files import CHECKOUT, SHIPPED, alone_in, python_path

if TYPE_CHECKING:
    from attnround.experiment.record import Run

CONF = str(SHIPPED / "conf")
NO_PARTS = {"paths", "experiment"}  # groups that are not handed to a task
ROOT = Path(os.environ.setdefault("ATTNROUND_ROOT", str(CHECKOUT or Path.cwd())))  # below it lie outputs and results
os.environ.setdefault("ATTNROUND_SHIPPED", str(SHIPPED))
os.environ["PYTHONPATH"] = python_path()  # of what a launcher starts in another process
os.environ["MPLBACKEND"] = "agg"  # pictures are files; that of the notebook which started this may not be installed
OmegaConf.register_new_resolver("first", lambda *values: next(value for value in values if value), replace=True)


@unheard()
def start(main: Callable[[], object]) -> None:
    """Call `main`, which Hydra wraps; exit with one clear line where the user can mend what is wrong.

    An entry has the name of its module, whose docstring is the top of its `--help`.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints half a traceback itself
    entry, overrides, flags = main.__module__.rpartition(".")[2], [], []
    try:
        check_encoding(sys.argv)
        overrides, flags = split(list(map(at_home, sys.argv[1:])))
        own = config_dir(flags)
        FOLDERS[1:] = [own] if own else []
        sys.path.append(str(Path.cwd()))  # where classes of one's own may lie
        if asks_for_help(flags):
            print(help_page(entry, sys.modules[main.__module__].__doc__ or "", overrides))
            return
        check(overrides)
        check_launcher(overrides)
        sys.argv[1:] = overrides + flags  # Hydra takes no option after a flag
        with heard():
            main()
    except (HydraException, OmegaConfBaseException, OSError, InputError) as error:
        if "debug=true" in sys.argv:
            raise
        sys.exit(f"error: {explained(error, overrides, entry, several=are_several(flags))}")
    except Stopped as stopped:
        line = how_to_go_on(entry, claimed[-1] if claimed else None, several=are_several(flags))
        print(f"stopped by {stopped}: {line}", file=sys.stderr)
        sys.exit(stopped.status)
    except Exception as error:
        if type(error).__name__ != "BrokenProcessPool":  # loky's own, which is not there where joblib is not used
            raise
        sys.exit("error: a job was lost: its process died, for want of memory perhaps; its pool ended with it")
    finally:
        held.close()


def check_encoding(words: Sequence[str]) -> None:
    """Raise InputError where the locale's encoding lacks letters of these: no file could name such a path."""
    for word in words:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            shown = word.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise InputError(
                f"{shown}: this locale is {sys.getfilesystemencoding()}: set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
            )


def are_several(flags: Sequence[str]) -> bool:
    """Whether these ask for a multirun."""
    return "-m" in flags or "--multirun" in flags


def perform(cfg: DictConfig) -> float:
    """Run the config's task; return the metric that a sweep optimises."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from attnround.experiment import JUDGED_BY

    with failing_in_a_line(cfg), contextlib.ExitStack() as locks:
        job = HydraConfig.get()
        check_given(cfg, job.runtime.choices, job.job.config_name)
        check_used(cfg, job)
        check_metric(cfg, job.runtime.choices)
        run = run_of(cfg)
        if run.task in MAKE_A_RUN and job.mode == RunMode.MULTIRUN:  # else Claim has its folder
            locks.enter_context(alone_in(run.output_dir))
        metrics = carry_out(cfg, run)
        metric = cfg.metric or next(name for name in JUDGED_BY[cfg.task] if name in metrics)
        if metric not in metrics:
            raise InputError(f"metric={metric} is none of {', '.join(metrics)}; the run itself is recorded")
        return metrics[metric]


def check_used(cfg: DictConfig, job: DictConfig) -> None:
    """Raise InputError where something was given that would change nothing. job: Hydra's own part of the config."""
    import inspect

    from hydra.types import RunMode

    from attnround.experiment import task_of

    groups = groups_of(job.job.config_name).keys() - inspect.signature(task_of(cfg.task)).parameters - NO_PARTS
    for word in job.overrides.task:
        group = parsed(word).key_or_group.partition(".")[0]
        if group in groups:
            raise InputError(f"{word}: task={cfg.task} takes no {group}: leave it out")
    if cfg.get("resume") and job.mode == RunMode.MULTIRUN:
        raise InputError(f"resume={cfg.resume} is the folder of one run: leave -m out")


def check_metric(cfg: DictConfig, choices: DictConfig) -> None:
    """Raise InputError where such a run has no such metric: before it is run. choices: group -> what is chosen."""
    from attnround.experiment import METRICS, OF_QAT

    if cfg.metric is None:
        return
    if cfg.metric not in METRICS[cfg.task]:
        raise InputError(choice("metric", cfg.metric, METRICS[cfg.task]))
    if cfg.metric.startswith(OF_QAT) and choices.qat == "none":
        raise InputError(f"metric={cfg.metric} is of training with labels: give qat=lsq, or another metric")
    if cfg.task == "evaluate" and cfg.get("model") is None and cfg.metric != "quantized/top1":
        raise InputError(f"metric={cfg.metric} compares with the float model: give model=<it>")


@contextlib.contextmanager
def failing_in_a_line(cfg: DictConfig) -> Iterator[None]:
    """Within a job, exit with one line where the user can mend what is wrong; a job among several raises InputError.

    Hydra says something of its own about a job that raises.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    try:
        yield
    except Exception as error:
        line = exhausted(error, cfg)
        if line is None and isinstance(error, InputError | InstantiationException | OmegaConfBaseException | OSError):
            line = explained_in_job(error, cfg, HydraConfig.get())
        if line is None or cfg.debug:
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on
            raise InputError(line) from error
        sys.exit(f"error: {line}")


def run_of(cfg: DictConfig) -> "Run":
    """The run that a job's config is of."""
    from hydra.core.hydra_config import HydraConfig

    from attnround.experiment.record import Run

    keep_empty(cfg, HydraConfig.get().overrides.task)
    source = OmegaConf.to_container(cfg, resolve=False)
    OmegaConf.resolve(cfg)
    runtime = HydraConfig.get().runtime
    return Run.of(OmegaConf.to_container(cfg), source, own_choices(runtime.choices), Path(runtime.output_dir))


def own_choices(choices: DictConfig) -> dict[str, str]:
    """The option chosen in each group, without Hydra's own groups."""
    return {group: option for group, option in choices.items() if not group.startswith("hydra")}


def keep_empty(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Let `bits.pinned={}` mean an empty dictionary: Hydra merges it into the default one, which changes nothing."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = OverridesParser.create().parse_overrides(list(overrides))
    for place, override in enumerate(given):
        path = override.key_or_group
        if override.is_delete() or override.value() != {} or OmegaConf.select(cfg, path) is None:
            continue
        OmegaConf.update(cfg, path, {}, merge=False)
        for later in given[place + 1 :]:
            if not later.is_delete() and f"{later.key_or_group}.".startswith(f"{path}."):
                OmegaConf.update(cfg, later.key_or_group, later.value(), force_add=True)


def carry_out(cfg: DictConfig, run: "Run") -> dict[str, float]:
    """Run the config's task with the groups that its signature names. Raises InputError as `fitting` does."""
    from hydra.utils import instantiate

    task, named = fitting(run.config)
    return task(**instantiate(OmegaConf.masked_copy(cfg, named), _convert_="all"), run=run)


def fitting(config: Mapping[str, object]) -> tuple[Callable[..., dict[str, float]], list[str]]:
    """The task of a resolved config, and the groups and options that its signature names.

    Raises InputError as `check_kinds` does.
    """
    import inspect

    from attnround.experiment import task_of

    task = task_of(config["task"])
    parameters = inspect.signature(task).parameters
    named = [name for name in parameters if name in config]
    lacking = [name for name in parameters.keys() - {*config, "run"} if parameters[name].default is inspect._empty]
    if lacking:
        raise InputError(
            f"task={config['task']} takes {', '.join(sorted(lacking))}: leave task out: an entry or experiment has it"
        )
    check_kinds({name: config[name] for name in named}, task)
    return task, named


def check_launcher(overrides: Sequence[str]) -> None:
    """Raise InputError where these choose a launcher that is not installed."""
    chosen = [each.partition("=")[2] for each in overrides if each.startswith("hydra/launcher=")]
    if not chosen:
        return
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # the launchers that are installed enter the store
    known = sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/launcher"))
    if chosen[-1] not in known:
        needs_extra = chosen[-1] in ("submitit_local", "submitit_slurm")
        way = "pip install 'attnround[cluster]'" if needs_extra else f"give one of {', '.join(known)}"
        raise InputError(f"hydra/launcher={chosen[-1]} is not installed: {way}")
