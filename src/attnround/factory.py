"""Functions of the user's own that options name: `package.module:function`, or `path/to/file.py:function`."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from attnround.errors import InputError, near, reason

_FILES: list[ModuleType] = []  # that were run, which a later one of the same name may take the place of


def made(option: str, given: str, arguments: Mapping[str, object] | None = None) -> object:
    """What the function that an option names returns. arguments: of the call.

    A module is looked for in the working directory before anywhere else. Raises InputError, with the error of the
    user's own code in it, where there is no such function or it raises.
    """
    function = resolved(option, given)
    try:
        return function(**(arguments or {}))
    except Exception as error:  # the user's own
        raise InputError(f"{option}={given} raised {type(error).__name__}: {reason(error)}") from error


def resolved(option: str, given: str) -> Callable[..., object]:
    """The function itself."""
    place, _, name = str(given).rpartition(":")
    if not place or not name:
        raise InputError(f"{option}={given}: give package.module:function, or path/to/file.py:function")
    module = _file(option, given, Path(place)) if place.endswith(".py") else _module(option, given, place)
    function = module
    for part in name.split("."):
        if not hasattr(function, part):
            names = [each for each in vars(module) if callable(getattr(module, each)) and not each.startswith("_")]
            there = " or ".join(near(name, names)) or ", ".join(names) or "no function"
            raise InputError(f"{option}={given}: {place} has no {name}; it has {there}")
        function = getattr(function, part)
    if not callable(function):
        raise InputError(f"{option}={given} is a {type(function).__name__}: give a function or a class")
    return function


def _module(option: str, given: str, name: str) -> ModuleType:
    here = str(Path.cwd())
    _found_in(here)
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            why = f"there is no module {error.name}, neither installed nor in {here}"
            raise InputError(f"{option}={given}: {why}; give path/to/file.py:function for a file") from error
        raise InputError(f"{option}={given}: importing {name} raised {reason(error)}") from error
    except Exception as error:  # the user's own
        why = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"{option}={given}: importing {name} raised {why}") from error
    finally:
        sys.path.remove(here)


def _found_in(folder: str) -> None:
    """Let modules be found in the folder too, last of all: a function may import some when it runs."""
    if folder not in sys.path:
        sys.path.append(folder)


def _file(option: str, given: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{option}={given}: {path} is not there")
    name, folder = path.stem, str(path.resolve().parent)
    _found_in(folder)
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
        return sys.modules[name]
    before = sys.modules.get(name)
    if before is not None and before not in _FILES:
        there = getattr(before, "__file__", None) or "part of Python"
        raise InputError(f"{option}={given}: a module named {name} is loaded already, {there}: rename the file")
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None  # as the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its classes are found by their module's name
    sys.path.insert(0, folder)  # the file may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise InputError(f"{option}={given}: running {path} raised {type(error).__name__}: {reason(error)}") from error
    finally:
        sys.path.remove(folder)
    _FILES.append(module)
    return module
