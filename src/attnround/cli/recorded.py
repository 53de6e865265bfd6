"""Entries on the folder of a finished run: they take the run's own data unless told otherwise."""

import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from attnround.cli.entry import CONF, ROOT, failing_in_a_line, perform, start
from attnround.cli.help import asks_for_help
from attnround.cli.parsed import at_home, parsed, split
from attnround.errors import InputError
from attnround.files import SHIPPED, quoted

RECORDED: dict[str, object] = {}  # of the run that was given: the values of its data's options


def start_on_run(main: Callable[[], object], takes: tuple[str, ...] = ()) -> None:
    """`start` with the folder of a run as an argument, whose data `main` then takes unless told otherwise.

    takes: how the names of files end that may be given in the folder's place.
    """
    try:
        overrides, flags = split(sys.argv[1:])
        places = [each for each in overrides if "=" not in each or Path(each).is_dir()]  # Hydra makes seed=0 a folder
        options = [each for each in overrides if each not in places]
        if places and not asks_for_help(flags):
            if len(places) > 1:
                raise InputError(f"{' '.join(places)}: give the folder of one run")
            folder, *file = places
            if folder.endswith(takes):
                folder, file = run_of_file(folder, options), [f"file={quoted(folder)}"]
            elif Path(folder).is_file():
                exported = f", or a file that ends in {' or '.join(takes)}" if takes else ""
                raise InputError(f"{folder} is a file: give the folder of a finished run{exported}")
            sys.argv[1:] = recorded(folder, options) + file + options + flags
    except InputError as error:
        sys.exit(f"error: {error}")
    start(main)


def run_of_file(file: str, given: list[str]) -> str:
    """The folder of the run that an exported file came from: that of folder=, or else the file's own.

    Raises InputError where there is no such file, or no run beside it.
    """
    if not Path(file).is_file():
        raise InputError(f"{file} is no file: give the quantized.onnx or quantized.xml that src/export.py writes")
    named = [parsed(at_home(each)).value() for each in given if each.startswith("folder=")]
    folder = Path(named[-1] if named else Path(file).parent)
    if not named and not (folder / "record.json").exists():
        raise InputError(
            f"{file}: the run that it came from is not beside it: give folder=<the folder that has its record.json "
            "and quantized.safetensors>"
        )
    return str(folder)


def recorded(folder: str, given: list[str]) -> list[str]:
    """Overrides that choose the run's folder and, unless `given` has others, its kind of data; keep the rest for
    `perform_on_run`. Raises InputError where the folder has no such record."""
    from attnround.experiment.schema import read_record

    overrides = [f"folder={quoted(folder)}"]
    if any(each.startswith("data=") for each in given):
        return overrides
    record = read_record(Path(folder))
    choice, known = record["choices"]["data"], sorted(each.stem for each in Path(CONF, "data").glob("*.yaml"))
    if choice not in known:
        names = ", ".join(known)
        raise InputError(f"{folder}/record.json: choices.data is {choice}, not one of {names}: give data=...")
    if choice == "module":  # what a record names is not run
        named = record["config"]["data"].get("factory", "package.module:function")
        raise InputError(f"{folder} is of data of your own: give data=module data.factory={named} to have it made")
    said = {each.lstrip("+").partition("=")[0] for each in given}
    RECORDED.update({key: value for key, value in record["config"]["data"].items() if f"data.{key}" not in said})
    paths = record["config"]["paths"]
    for then, now in ((paths["root"], str(ROOT)), (paths.get("shipped"), str(SHIPPED))):  # the project may have moved
        for key, value in RECORDED.items():
            if isinstance(value, str) and then and (value == then or value.startswith(f"{then}/")):
                RECORDED[key] = now + value[len(then) :]
    return [*overrides, f"data={choice}"]


def perform_on_run(cfg: DictConfig) -> float:
    """`perform`; the run's own data has its recorded values: the option's own file says what is called with them.

    Raises InputError for one that the option has not.
    """
    with failing_in_a_line(cfg):
        for key, value in RECORDED.items():
            if key == "_target_":
                continue
            if key not in list(cfg.data):  # `in` the node says no for what is still to be given
                raise InputError(f"record.json: config.data.{key} is no option of that data: give data=... for others")
            cfg.data[key] = value
    return perform(cfg)
