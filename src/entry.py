"""What the entries beside this file share: the task that a config names, and one clear line where it fails."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

if TYPE_CHECKING:
    from attnround.results.record import Run

ROOT = Path(__file__).resolve().parents[1]
CONF = str(ROOT / "conf")
os.environ.setdefault("ATTNROUND_ROOT", str(ROOT))
# What a launcher starts elsewhere finds these files too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys([str(ROOT / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
)
OmegaConf.register_new_resolver("first", lambda *values: next(value for value in values if value), replace=True)
DIED = "its process died, for want of memory perhaps"
RECORDED: dict[str, object] = {}  # of the run that `start_on_run` was given: the values of its data's options
CLUSTER = ("submitit_local", "submitit_slurm")


def perform(cfg: DictConfig) -> float:
    """Run the config's task with the groups that its signature names; return the metric that a sweep optimises.

    Where the user can mend what is wrong, exit with one line; among several jobs raise it as InputError.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from attnround.errors import InputError  # the heavy imports wait until help and completion are out of the way

    try:
        take_recorded(cfg)
        metrics = carry_out(cfg, run_of(cfg))
        if cfg.metric not in metrics:
            raise InputError(f"metric={cfg.metric} is none of {', '.join(metrics)}; the run itself is recorded")
        return metrics[cfg.metric]
    except (InputError, InstantiationException, OSError) as error:
        if cfg.debug:
            raise
        line = in_a_line(error)
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on
            raise InputError(line) from error
        sys.exit(f"error: {line}")


def in_a_line(error: BaseException) -> str:
    """What a user can mend, without line breaks."""
    from attnround.errors import InputError

    mendable = error.__cause__ if isinstance(error.__cause__, InputError) else error
    return " ".join(str(mendable).split())


def run_of(cfg: DictConfig) -> "Run":
    """The run that a job's config is of."""
    from hydra.core.hydra_config import HydraConfig

    from attnround.results.record import Run

    keep_empty(cfg, HydraConfig.get().overrides.task)
    source = OmegaConf.to_container(cfg, resolve=False)
    OmegaConf.resolve(cfg)
    runtime = HydraConfig.get().runtime
    choices = {group: option for group, option in runtime.choices.items() if not group.startswith("hydra")}
    return Run(OmegaConf.to_container(cfg), source, choices, Path(runtime.output_dir))


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
    """Run the config's task with the groups that its signature names."""
    import inspect

    from hydra.utils import get_method, instantiate

    task = get_method(cfg.task)
    named = [name for name in inspect.signature(task).parameters if name in cfg]
    return task(**instantiate(OmegaConf.masked_copy(cfg, named), _convert_="all"), run=run)


def start(main: Callable[[], object]) -> None:
    """Call `main`, which Hydra wraps, with one clear line where the config does not compose or a folder is barred."""
    from concurrent.futures.process import BrokenProcessPool

    from attnround.errors import InputError

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints half a traceback itself
    try:
        check_launcher(sys.argv[1:])
        main()
    except (HydraException, OmegaConfBaseException, OSError, InputError) as error:
        if "debug=true" in sys.argv:
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenProcessPool:
        sys.exit(f"error: a job was lost: {DIED}; the others of its pool ended with it")


def check_launcher(overrides: Sequence[str]) -> None:
    """Raise InputError where these choose a launcher that is not installed."""
    chosen = [each.partition("=")[2] for each in overrides if each.startswith("hydra/launcher=")]
    if not chosen:
        return
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from attnround.errors import InputError

    Plugins.instance()  # the launchers that are installed enter the store
    known = sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/launcher"))
    if chosen[-1] not in known:
        way = "pip install 'attnround[cluster]'" if chosen[-1] in CLUSTER else f"give one of {', '.join(known)}"
        raise InputError(f"hydra/launcher={chosen[-1]} is not installed: {way}")


def start_on_run(main: Callable[[], object]) -> None:
    """`start` with the folder of a run as an argument, whose data `main` then takes unless told otherwise."""
    folders = [each for each in sys.argv[1:] if "=" not in each and not each.startswith("-")]
    options = [each for each in sys.argv[1:] if each not in folders]
    if len(folders) > 1:
        sys.exit(f"error: {' '.join(folders)}: give the folder of one run")
    if folders:
        sys.argv[1:] = _recorded(folders[0], options) + options
    start(main)


def _recorded(folder: str, given: list[str]) -> list[str]:
    """Overrides that choose the run's folder and, unless `given` has others, its kind of data; keep the rest for
    `take_recorded`."""
    from attnround.errors import InputError
    from attnround.results.schema import read_record

    overrides = [f"folder={quoted(folder)}"]
    if any(each.startswith("data=") for each in given):
        return overrides
    try:
        record = read_record(Path(folder))
    except InputError as error:
        sys.exit(f"error: {error}")
    choice, known = record["choices"]["data"], sorted(each.stem for each in Path(CONF, "data").glob("*.yaml"))
    if choice not in known:
        sys.exit(f"error: {folder}/record.json: choices.data is {choice}, not one of {', '.join(known)}: give data=...")
    said = {each.lstrip("+").partition("=")[0] for each in given}
    RECORDED.update({key: value for key, value in record["config"]["data"].items() if f"data.{key}" not in said})
    root = record["config"]["paths"]["root"]
    for key, value in RECORDED.items():
        if isinstance(value, str) and (value == root or value.startswith(f"{root}/")):  # the project may have moved
            RECORDED[key] = str(ROOT) + value[len(root) :]
    return [*overrides, f"data={choice}"]


def take_recorded(cfg: DictConfig) -> None:
    """Give the run's own data its recorded values, which are data: the option's own file says what is called with them.

    Raises InputError for one that the option has not.
    """
    from attnround.errors import InputError

    for key, value in RECORDED.items():
        if key == "_target_":
            continue
        if key not in list(cfg.data):  # `in` the node says no for what is still to be given
            raise InputError(f"record.json: config.data.{key} is no option of that data: give data=... for others")
        cfg.data[key] = value


def quoted(value: object) -> str:
    """As Hydra's grammar takes it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" if isinstance(value, str) else json.dumps(value)
