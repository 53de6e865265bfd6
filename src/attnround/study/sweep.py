"""A W&B sweep file: what it asks for, and the points it takes without a server.

https://docs.wandb.ai/models/sweeps/define-sweep-configuration
"""

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from attnround.errors import InputError, near
from attnround.typed import parsed_yaml

METHODS = ("grid", "random", "bayes")
KEYS = {  # that W&B knows, of a file, its metric and a parameter
    "file": (
        "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "method",
        "metric", "name", "parameters", "program", "project", "queue", "run_cap",
    ),
    "metric": ("goal", "impute", "impute_while_running", "name", "target"),
    "parameter": ("distribution", "max", "min", "mu", "parameters", "probabilities", "q", "sigma", "value", "values"),
}  # fmt: skip
NUM_POINTS = 20  # of a random search that says no run_cap
USUAL = {"name": "quantized/top1", "goal": "maximize"}  # the metric of a file that names none
ARGUMENTS = "${args_no_hyphens}"  # key=value, as Hydra takes it; W&B's default is --key=value


@dataclass(frozen=True)
class Sweep:
    """A sweep: the overrides that all its runs share, and what is known of each parameter it varies.

    parameters: option -> values=[...], or distribution, min, max (and q) of a draw; metric: of the record; left_out:
    what its file asks of W&B's server alone.
    """

    name: str
    method: str
    metric: str
    goal: str
    shared: tuple[str, ...]
    parameters: dict[str, dict]
    run_cap: int | None
    left_out: tuple[str, ...] = ()

    @property
    def varied(self) -> list[str]:
        """What has more than one value, seeds left out unless there is nothing else."""
        several = [key for key, given in self.parameters.items() if len(given.get("values", (0, 1))) > 1]
        return [key for key in several if key != "seed"] or several or list(self.parameters)


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file. Raises InputError with the file's name where W&B or Hydra would not take it."""
    try:
        given = parsed_yaml(path.read_text())
    except OSError as error:
        others = ", ".join(sorted(str(each) for each in path.parent.glob("*.yaml"))) or "a W&B sweep file"
        raise InputError(f"{path} cannot be read ({type(error).__name__}): give {others}") from error
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    try:
        return _checked(path.stem, given)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def fixed(sweep: Sweep, overrides: Sequence[str]) -> Sweep:
    """The sweep where parameters that these overrides name have that value alone."""
    given = {option_of(each): each.partition("=")[2] for each in overrides}
    named = [key for key in sweep.parameters if option_of(key) in given]
    alone = {key: {"values": [parsed_yaml(given[option_of(key)])], "weights": None} for key in named}
    return replace(sweep, parameters=sweep.parameters | alone)


def option_of(override: str) -> str:
    """The option that an override names.

    >>> option_of("quantizer.sigma=0.5"), option_of("++quantizer.sigma=0.5")
    ('quantizer.sigma', 'quantizer.sigma')
    """
    return override.partition("=")[0].lstrip("+")


def points(sweep: Sweep, seed: int = 0) -> list[dict[str, object]]:
    """Option -> value for each run: every combination of a grid in the file's order, else seeded draws."""
    if sweep.method == "grid":
        values = [given["values"] for given in sweep.parameters.values()]
        every = [dict(zip(sweep.parameters, each, strict=True)) for each in itertools.product(*values)]
        return every[: sweep.run_cap]
    rng = random.Random(seed)
    count = sweep.run_cap or NUM_POINTS
    return [{key: _draw(rng, given) for key, given in sweep.parameters.items()} for _ in range(count)]


def arguments(point: dict[str, object]) -> list[str]:
    """A point as overrides, in the words of W&B's agent."""
    return [f"{key}={value}" for key, value in point.items()]


def over_seeds(values: Iterable[tuple[dict[str, object], float]]) -> list[tuple[dict[str, object], list[float]]]:
    """Each point without its seed, and the values of all its seeds.

    >>> over_seeds([({"lr": 1, "seed": 0}, 2.0), ({"lr": 1, "seed": 1}, 4.0)])
    [({'lr': 1}, [2.0, 4.0])]
    """
    found: dict[str, tuple[dict[str, object], list[float]]] = {}
    for point, value in values:
        rest = {key: each for key, each in point.items() if key != "seed"}
        found.setdefault(str(rest), (rest, []))[1].append(value)
    return list(found.values())


def _checked(name: str, given: object) -> Sweep:
    if not isinstance(given, dict) or not isinstance(given.get("parameters"), dict) or not given["parameters"]:
        raise InputError("parameters are missing: give options and their values")
    _check_keys(given, "file")
    if given.get("method") not in METHODS:
        raise InputError(f"method={given.get('method')}: give one of {', '.join(METHODS)}")
    command = [str(each) for each in given.get("command") or ()]
    if "${program}" not in command or ARGUMENTS not in command:
        raise InputError(f"command: give one with ${{program}} and {ARGUMENTS}, for Hydra takes key=value")
    # Where a run goes and who hears of it is another matter here than under W&B's agent.
    shared = [each for each in command[command.index("${program}") + 1 :] if each != ARGUMENTS]
    metric, run_cap = given.get("metric") or USUAL, given.get("run_cap")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise InputError(f"metric={metric}: give {{name: quantized/top1, goal: maximize}}")
    _check_keys(metric, "metric", "metric.")
    if run_cap is not None and (not isinstance(run_cap, int) or run_cap < 1):
        raise InputError(f"run_cap={run_cap}: give a whole number of at least 1")
    goal = metric.get("goal", "minimize")  # as W&B has it
    if goal not in ("minimize", "maximize"):
        raise InputError(f"metric.goal={goal}: give minimize or maximize")
    return Sweep(
        name=name,
        method=given["method"],
        metric=metric["name"],
        goal=goal,
        shared=tuple(each for each in shared if not each.startswith(("hydra", "logger="))),
        parameters={key: _parameter(key, each, given["method"]) for key, each in given["parameters"].items()},
        run_cap=run_cap,
        left_out=("early_terminate",) * ("early_terminate" in given) + ("metric.target",) * ("target" in metric),
    )


def _check_keys(given: dict, kind: str, where: str = "") -> None:
    """Raise InputError for a key that W&B does not know, which would be without effect."""
    for key in given:
        if key not in KEYS[kind]:
            known = near(key, KEYS[kind]) or KEYS[kind]
            raise InputError(f"{where}{key} is no key of W&B's: give {', '.join(known)}")


def _parameter(key: str, given: object, method: str) -> dict:
    if not isinstance(given, dict) or "parameters" in given:
        raise InputError(f"{key}: give a flat key such as quantizer.sigma, with value, values, or min and max")
    _check_keys(given, "parameter", f"{key}.")
    told = [each for each in ("value", "values", "min") if each in given]
    if len(told) > 1:
        raise InputError(f"{key}: {' and '.join(told)} are both there: give one of them")
    if "value" in given:
        given = {"values": [given["value"]]}
    if "values" in given:
        if not isinstance(given["values"], list) or not given["values"]:
            raise InputError(f"{key}: values is empty: give a list")
        if any(value is None for value in given["values"]):
            raise InputError(f"{key}: W&B hands null on as the word None: give {key}=null in the command instead")
        weights = given.get("probabilities")
        if weights is not None and not _are_weights(weights, len(given["values"])):
            raise InputError(f"{key}: probabilities={weights}: give a number of at least 0 for each value, not all 0")
        return {"values": given["values"], "weights": weights}
    bounds = given.get("min"), given.get("max")
    for bound in bounds:
        if isinstance(bound, str) and _is_number(bound):
            raise InputError(f"{key}: YAML takes {bound} for text: write {Decimal(bound):f}")
    if not all(isinstance(bound, int | float) for bound in bounds) or not bounds[0] < bounds[1]:
        raise InputError(f"{key}: give value, values, or numbers min < max")
    if "distribution" not in given and len({type(bound) for bound in bounds}) > 1:
        raise InputError(f"{key}: min={bounds[0]} and max={bounds[1]}: give both whole or both with a decimal point")
    kind = given.get("distribution", "int_uniform" if isinstance(bounds[0], int) else "uniform")
    if kind not in DRAWS:
        raise InputError(f"{key}: distribution={kind}: give one of {', '.join(DRAWS)}")
    if kind == "int_uniform" and not all(isinstance(bound, int) for bound in bounds):
        raise InputError(f"{key}: min={bounds[0]} and max={bounds[1]}: give whole numbers for int_uniform")
    if kind == "log_uniform_values" and bounds[0] <= 0:
        raise InputError(f"{key}: min={bounds[0]}: give a number above 0 for log_uniform_values")
    if not isinstance(given.get("q", 1), int | float) or not given.get("q", 1) > 0:
        raise InputError(f"{key}: q={given['q']}: give a number above 0")
    if method == "grid":
        raise InputError(f"{key}: a grid takes values, no range: give values, or method: random")
    return {"distribution": kind, "min": bounds[0], "max": bounds[1], "q": given.get("q", 1)}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _are_weights(given: object, count: int) -> bool:
    numbers = given if isinstance(given, list) and len(given) == count else []
    return all(isinstance(each, int | float) and each >= 0 for each in numbers) and sum(numbers) > 0


DRAWS = {
    "uniform": lambda rng, low, high, q: rng.uniform(low, high),
    "int_uniform": lambda rng, low, high, q: rng.randint(int(low), int(high)),
    "q_uniform": lambda rng, low, high, q: round(rng.uniform(low, high) / q) * q,
    "log_uniform_values": lambda rng, low, high, q: math.exp(rng.uniform(math.log(low), math.log(high))),
}


def _draw(rng: random.Random, given: dict) -> object:
    if "values" in given:
        return rng.choices(given["values"], given["weights"])[0]
    return DRAWS[given["distribution"]](rng, given["min"], given["max"], given["q"])
