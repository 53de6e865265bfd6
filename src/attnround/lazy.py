"""Names of a package that are imported when they are first asked for, so that who needs none of them waits for none."""

from collections.abc import Callable, Mapping
from importlib import import_module


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__`. places: name -> the file of the package that has it."""

    def attribute(name: str) -> object:
        if name in places:
            return getattr(import_module(f"{package}.{places[name]}"), name)
        raise AttributeError(f"module {package} has no attribute {name}")

    return attribute
