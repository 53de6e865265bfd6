"""Every option of every group with nonsense for its value: it is refused in a line, or is of the kind that is meant."""

import copy
import math
from collections.abc import Iterator

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from attnround.cli.kinds import check_kinds
from attnround.errors import InputError
from attnround.experiment import task_of
from tests.test_config import MEANT, NEEDS, NONSENSE, NOT_OURS, OPTIONS, composed

VALUES = [*NONSENSE, False, "", {}, [[1]], ["x"], [math.nan], [-1], [1e300], {"a": "x"}]
OURS = [each for each in OPTIONS if each.split("=")[0] not in ("paths", "experiment", "logger")]


def leaves(node: dict, above: tuple = ()) -> Iterator[tuple]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, key))
        elif key != "_target_":
            yield (*above, key)


def absurd(value: object) -> bool:
    """Whether it holds a number that no option of ours takes."""
    if isinstance(value, list):
        return any(map(absurd, value))
    return isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value <= 1e9


def fault(group: str, options: dict, task: object, path: tuple, value: object) -> str | None:
    changed = copy.deepcopy(options)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    name = ".".join((group, *path))
    try:
        check_kinds({group: changed}, task)
        made = instantiate(changed, _convert_="all")
        if group == "model" and changed.get("random_init"):
            made.build()
    except InputError as error:
        return f"{name}={value}: a line break" if "\n" in str(error) else None
    except InstantiationException as error:
        known = isinstance(error.__cause__, InputError) or isinstance(error.__cause__.__cause__, InputError)
        return None if known else f"{name}={value}: {type(error.__cause__).__name__}: {error.__cause__}"
    except Exception as error:
        return f"{name}={value}: {type(error).__name__}: {error}"
    meant = any(value is each or value == each for each in MEANT.get(name, []))
    return f"{name}={value}: taken" if absurd(value) and not meant else None


@pytest.mark.slow
@pytest.mark.parametrize("option", OURS)
def test_nonsense_is_refused_in_a_line(option, tally):
    group = option.split("=")[0]
    config = composed(option, *NEEDS.get(option, []))
    if config.get(group) is None:
        return
    OmegaConf.resolve(config[group])
    options, task = OmegaConf.to_container(config[group]), task_of(config.task)
    paths = [path for path in leaves(options) if not ".".join((group, *path)).startswith(NOT_OURS)]
    tally("values of options", (fault(group, options, task, path, value) for path in paths for value in VALUES))
