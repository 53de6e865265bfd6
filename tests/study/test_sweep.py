"""Sweep files, as W&B reads them and as they run here."""

import math

import pytest
import yaml
from tests.conftest import ROOT
from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from attnround.cli import rows
from attnround.cli.sweep import _overrides
from attnround.errors import InputError
from attnround.study.pictures.sweep import draw_sweep, lines_of
from attnround.study.sweep import arguments, fixed, points, read_sweep

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
GRID = {
    "program": "src/train.py",
    "method": "grid",
    "metric": {"name": "quantized/top1", "goal": "maximize"},
    "parameters": {
        "quantizer.sigma": {"values": [0.25, 2.0]},
        "bits.bit_width": {"value": 2},
        "seed": {"values": [0, 1]},
    },
    "command": [
        "${env}",
        "python",
        "${program}",
        "hydra.run.dir=x",
        "logger=wandb",
        "bits=uniform",
        "${args_no_hyphens}",
    ],
}
COMMAND = 'command: ["${program}", "${args_no_hyphens}"]'
DRAWN = GRID | {
    "method": "bayes",
    "run_cap": 200,
    "parameters": {
        "a": {"min": 0.5, "max": 1.0},
        "b": {"min": 1, "max": 3},
        "c": {"distribution": "log_uniform_values", "min": 0.001, "max": 10},
        "d": {"distribution": "q_uniform", "min": 100, "max": 400, "q": 50},
        "e": {"values": ["x", "y"], "probabilities": [0, 1]},
    },
}


@pytest.fixture
def read(tmp_path):
    def of(content: object):
        path = tmp_path / "mine.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return read_sweep(path)

    return of


def agents_overrides(config: dict, point: dict) -> list[str]:
    """What W&B's agent puts on the command line behind the program."""
    built = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
    command = create_sweep_command(list(config["command"]))
    behind = command[command.index("${program}") + 1 :]
    return [word for each in behind for word in (built[each[2:-1]] if each.startswith("${") else [each])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_point_of_a_committed_file_composes_as_wandb_hands_it_on(path):
    config = yaml.safe_load(path.read_text())
    _validate_config_and_fill_distribution(config)
    assert (ROOT / config["program"]).exists()
    assert config["name"] == path.stem
    sweep = read_sweep(path)
    ours = points(sweep)
    assert len({tuple(arguments(point)) for point in ours}) == len(ours) >= 20
    composed, configs = set(), []
    for point in ours:
        overrides = agents_overrides(config, point)
        assert arguments(point) == overrides[-len(point) :]
        if composed >= set(overrides):
            continue  # each value once: composing takes most of the time
        composed |= set(overrides)
        found, choices = rows.compose(overrides)
        configs.append(str(found))
        assert choices["quantizer"] in ("attention_round", *sweep.parameters.get("quantizer", {}).get("values", ()))
    assert len(set(configs)) == len(configs)


def test_what_is_given_is_varied_no_more(read):
    sweep = fixed(read(GRID), ["quantizer.sigma=0.5", "model=own"])
    assert points(sweep) == [{"quantizer.sigma": 0.5, "bits.bit_width": 2, "seed": seed} for seed in (0, 1)]
    assert sweep.varied == ["seed"]
    for plus in ("+", "++"):
        assert points(fixed(read(GRID), [f"{plus}quantizer.sigma=0.5"])) == points(sweep)
    assert fixed(sweep, ["seed=1"]).varied  # there is something to draw


def test_of_an_option_that_is_named_twice_the_last_holds(read):
    sweep = read(GRID)
    more = ["++quantizer.sigma=0.5", "+bits=rate_distortion"]
    assert _overrides(sweep, points(sweep)[0], more) == ["bits.bit_width=2", "seed=0", *more]


def test_what_only_the_server_can_do_is_known(read):
    given = GRID | {"early_terminate": {"type": "hyperband"}, "metric": GRID["metric"] | {"target": 99}}
    assert read(given).left_out == ("early_terminate", "metric.target")
    assert read(GRID).left_out == ()


def test_grid_and_bayes_both_occur():
    assert {read_sweep(path).method for path in FILES} == {"grid", "bayes"}


def test_a_grid_is_the_product_in_the_files_order(read):
    sweep = read(GRID)
    assert sweep.shared == ("bits=uniform",)
    assert [tuple(point.values()) for point in points(sweep)] == [
        (sigma, 2, seed) for sigma in (0.25, 2.0) for seed in (0, 1)
    ]
    assert points(read(GRID | {"run_cap": 3})) == points(sweep)[:3]
    assert arguments(points(sweep)[0]) == ["quantizer.sigma=0.25", "bits.bit_width=2", "seed=0"]


def test_draws_follow_their_distributions_and_their_seed(read):
    sweep = read(DRAWN)
    drawn = points(sweep)
    assert len(drawn) == 200
    assert drawn == points(sweep) != points(sweep, seed=1)
    assert all(0.5 <= point["a"] <= 1 and point["b"] in (1, 2, 3) and point["e"] == "y" for point in drawn)
    assert {point["d"] for point in drawn} == set(range(100, 401, 50))
    assert {point["b"] for point in drawn} == {1, 2, 3}
    below = sum(point["c"] < 0.1 for point in drawn)
    assert abs(below - 100) < 5 * math.sqrt(50)  # half of the logarithms
    assert len(points(read({key: value for key, value in DRAWN.items() if key != "run_cap"}))) == 20


WRONG = {
    "not a file of keys": ("- grid", "parameters are missing"),
    "cut off": ("parameters: {a", "cannot be read"),
    "method": (GRID | {"method": "annealing"}, "grid, random, bayes"),
    "empty": (GRID | {"parameters": {"a": {"values": []}}}, "a: values is empty"),
    "null": (GRID | {"parameters": {"data.limit": {"values": [None, 5]}}}, "data.limit=null in the command"),
    "nested": (GRID | {"parameters": {"quantizer": {"parameters": {"sigma": {"value": 1}}}}}, "flat key"),
    "hyphens": (GRID | {"command": ["python", "${program}", "${args}"]}, "args_no_hyphens"),
    "no command": ({key: value for key, value in GRID.items() if key != "command"}, "args_no_hyphens"),
    "range in a grid": (GRID | {"parameters": {"a": {"min": 0, "max": 1}}}, "a grid takes values"),
    "bounds": (DRAWN | {"parameters": {"a": {"min": 1, "max": 0}}}, "min < max"),
    "mixed bounds": (DRAWN | {"parameters": {"a": {"min": 0, "max": 1.5}}}, "both whole"),
    "distribution": (DRAWN | {"parameters": {"a": {"distribution": "beta", "min": 0, "max": 1}}}, "q_uniform"),
    "cap": (GRID | {"run_cap": 0}, "run_cap=0"),
    "goal": (GRID | {"metric": {"name": "x", "goal": "up"}}, "minimize or maximize"),
    "metric as text": (GRID | {"metric": "quantized/top1"}, "metric=quantized/top1: give {name: "),
    "metric without name": (GRID | {"metric": {"goal": "maximize"}}, "give {name: quantized/top1"),
    "weights": (
        DRAWN | {"parameters": {"a": {"values": [1, 2], "probabilities": [1]}}},
        "a number of at least 0 for each",
    ),
    "no weight": (DRAWN | {"parameters": {"a": {"values": [1, 2], "probabilities": [0, 0]}}}, "not all 0"),
    "a key of the file": (GRID | {"runcap": 3}, "runcap is no key of W&B's: give run_cap"),
    "a key of the metric": (
        GRID | {"metric": {"name": "x", "gaol": "maximize"}},
        "metric.gaol is no key of W&B's: give goal",
    ),
    "a key of a parameter": (
        DRAWN | {"parameters": {"a": {"min": 0.1, "max": 0.2, "distributon": "uniform"}}},
        "a.distributon is no key of W&B's: give distribution",
    ),
    "two ways": (GRID | {"parameters": {"a": {"value": 5, "values": [1, 2]}}}, "a: value and values are both there"),
    "a number that is text": ("parameters: {a: {min: 1e-5, max: 1e-1}}\nmethod: random\n" + COMMAND, "write 0.00001"),
    "parts of whole numbers": (
        DRAWN | {"parameters": {"a": {"distribution": "int_uniform", "min": 0.2, "max": 0.9}}},
        "give whole numbers for int_uniform",
    ),
    "a parameter twice": ("method: grid\nparameters:\n  a: {value: 1}\n  a: {value: 2}\n", '"a" is there twice'),
    "q": (
        DRAWN | {"parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}}},
        "q=0: give a number above 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_says_nonsense_is_one_line(read, case):
    content, word = WRONG[case]
    with pytest.raises(InputError, match=r"mine\.yaml") as caught:
        read(content)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_names_those_that_are():
    with pytest.raises(InputError, match=r"sweeps/sigma\.yaml"):
        read_sweep(ROOT / "sweeps/sigmas.yaml")


@pytest.mark.parametrize("content", [GRID, DRAWN | {"run_cap": 5}], ids=["grid", "draws"])
@pytest.mark.parametrize("end", ["png", "svg"])
def test_a_picture_of_either_kind(read, tmp_path, content, end):
    sweep = read(content)
    path = tmp_path / f"mine.{end}"
    draw_sweep(sweep, [(point, float(i)) for i, point in enumerate(points(sweep))], path)
    assert path.read_bytes().startswith(b"\x89PNG" if end == "png" else b"<?xml")


def test_a_point_of_a_line_is_the_mean_of_its_seeds(read, tmp_path, monkeypatch):
    """And its bar a standard deviation."""
    drawn = []
    monkeypatch.setattr("attnround.study.pictures.sweep.draw_panels", lambda *given: drawn.append(given))
    sweep = read(GRID)
    runs = [(point, 2.0 * point["seed"]) for point in points(sweep)]
    draw_sweep(sweep, runs, tmp_path / "a.png")
    ((panel,), frame, paths, _), *_ = drawn
    (line,) = panel.lines
    assert [(point.x, point.y, round(point.y_spread, 3)) for point in line.points] == [(0.25, 1, 1.414), (2, 1, 1.414)]
    assert (line.label, frame.kind, panel.x.kind, paths) == (None, "lines", "linear", [tmp_path / "a.png"])
    assert panel.x.ticks == {0.25: "0.25", 2: "2"}


def test_a_line_holds_the_seeds_of_each_value(read):
    sweep = read(GRID)
    runs = [(point, point["quantizer.sigma"] + point["seed"]) for point in points(sweep)]
    assert lines_of(sweep, runs) == {"": {"0.25": [0.25, 1.25], "2.0": [2.0, 3.0]}}
    several = read(GRID | {"parameters": GRID["parameters"] | {"bits.bit_width": {"values": [2, 3]}}})
    runs = [(point, 1.0) for point in points(several)]
    assert {name: dict(line) for name, line in lines_of(several, runs).items()} == {
        "bit_width=2": {"0.25": [1, 1], "2.0": [1, 1]},
        "bit_width=3": {"0.25": [1, 1], "2.0": [1, 1]},
    }


def test_a_file_without_a_metric_looks_for_the_highest_top1(read):
    sweep = read({key: value for key, value in GRID.items() if key != "metric"})
    assert (sweep.metric, sweep.goal) == ("quantized/top1", "maximize")


@pytest.mark.parametrize("method", ["grid", "random"])
def test_lists_are_values_too(read, tmp_path, method):
    values = [[2, 4, 8], [3, 8]]
    sweep = read(GRID | {"method": method, "run_cap": 4, "parameters": {"bits.candidates": {"values": values}}})
    draw_sweep(sweep, [(point, 90.0) for point in points(sweep)], tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size
