"""Names of a package that are imported when they are first asked for, so that who needs none of them waits for none."""

from collections.abc import Callable, Mapping
from importlib import import_module

from attnround.errors import InputError

SUITE = (  # what the extra of that name installs
    "hydra", "jinja2", "matplotlib", "omegaconf", "PIL", "pytorch_lightning", "timm", "torchvision", "wandb", "yaml",
)  # fmt: skip


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__`. places: name -> the file of the package that has it.

    Raises InputError where that needs a library which the suite brings, and which is not installed.
    """

    def attribute(name: str) -> object:
        if name in places:
            try:
                return getattr(import_module(f"{package}.{places[name]}"), name)
            except ModuleNotFoundError as error:
                raise InputError(lacking(name, error)) from error
        raise AttributeError(f"module {package} has no attribute {name}")

    return attribute


def lacking(what: str, error: ModuleNotFoundError) -> str:
    """A line that says which extra of the package brings what is missing; raises the error again where none does."""
    package = (error.name or "").split(".")[0]
    if package not in SUITE:
        raise error
    return f"{what} needs {package}: pip install 'attnround[suite]'"
