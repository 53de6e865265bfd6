"""What makes two runs the same, on the real config and the committed rows."""

import copy

import pytest
from omegaconf import OmegaConf
from tests.conftest import ROOT

from attnround.cli.rows import compose
from attnround.experiment import identity as module
from attnround.experiment.identity import identity
from attnround.study.row import read_rows

CONFIG = {
    "seed": 0,
    "data": {"root": "${paths.assets}/x"},
    "paths": {"root": "/a"},
    "debug": False,
    "logger": {"csv": 1},
}


@pytest.fixture
def run():
    """The config of a committed row as it is composed today, and its choices."""
    config, choices = compose(["bits=uniform", "bits.bit_width=2"])
    source = OmegaConf.to_container(config)
    assert identity(source, choices) in read_rows(ROOT / "results/rows")
    return source, choices


def test_the_hash_is_of_what_changes_a_result():
    assert identity(CONFIG, {}) == identity(CONFIG | {"paths": {"root": "/b"}, "debug": True, "logger": {}}, {})
    assert identity(CONFIG, {}) != identity(CONFIG | {"seed": 2}, {})
    assert identity(CONFIG, {}) == identity(dict(reversed(CONFIG.items())), {})


def moved(node: object) -> object:
    """The same config after every class went into another module under another name."""
    if not isinstance(node, dict):
        return node
    return {key: f"elsewhere.{value}New" if key == "_target_" else moved(value) for key, value in node.items()}


def test_a_class_may_move(run):
    config, choices = run
    assert moved(config) != config
    assert identity(moved(config), choices) == identity(config, choices)


def test_an_option_that_is_added_at_its_neutral_value_keeps_the_rows(run, monkeypatch):
    config, choices = run
    before = identity(config, choices)
    added = config | {"quantizer": config["quantizer"] | {"warmup": 0.0}}
    assert identity(added, choices) != before
    monkeypatch.setitem(module.NEUTRAL, "quantizer.warmup", 0.0)
    assert identity(added, choices) == before
    assert identity(config | {"quantizer": config["quantizer"] | {"warmup": 0.1}}, choices) != before


def test_a_default_that_matters_makes_new_rows(run):
    config, choices = run
    changed = config | {"quantizer": config["quantizer"] | {"sigma": 0.3}}
    assert identity(changed, choices) not in read_rows(ROOT / "results/rows")


def test_two_options_with_the_same_values_are_two_runs(run):
    config, choices = run
    assert identity(config, choices | {"quantizer": "adaround"}) != identity(config, choices)
    assert identity(config, choices | {"logger": "wandb", "experiment": "recipe_brecq"}) == identity(config, choices)


@pytest.mark.parametrize("path", ["reconstruction.residual_target", "reconstruction.layer_first.residual_target"])
def test_a_run_without_the_residual_target_is_the_one_it_was_before(path):
    config, choices = compose([f"reconstruction={'layer_then_block' if 'layer_first' in path else 'layer'}"])
    OmegaConf.update(config, path, False)
    without = OmegaConf.to_container(config)
    OmegaConf.update(config, path, True)
    assert identity(OmegaConf.to_container(config), choices) != identity(without, choices)
    *groups, option = path.split(".")
    place = copy.deepcopy(without)
    before = place
    for group in groups:
        place = place[group]
    del place[option]
    assert identity(before, choices) == identity(without, choices)


@pytest.mark.parametrize(("option", "neutral", "other"), [("patience", None, 3), ("refine", False, True)])
def test_a_block_that_neither_refines_nor_stops_early_is_the_one_it_was_before(option, neutral, other):
    config, choices = compose(["reconstruction=layer_then_block"])
    now = OmegaConf.to_container(config)
    assert now["reconstruction"].pop(option) == neutral
    assert identity(OmegaConf.to_container(config), choices) == identity(now, choices)
    OmegaConf.update(config, f"reconstruction.{option}", other)
    assert identity(OmegaConf.to_container(config), choices) != identity(now, choices)


def test_a_group_that_is_added_at_its_neutral_choice_keeps_the_rows(run):
    config, choices = run
    assert choices["equalization"] == "none"
    before = identity(
        {group: options for group, options in config.items() if group != "equalization"},
        {group: choice for group, choice in choices.items() if group != "equalization"},
    )
    assert identity(config, choices) == before
    equalized, others = compose(["bits=uniform", "bits.bit_width=2", "equalization=cross_layer"])
    absorbed, _ = compose(
        ["bits=uniform", "bits.bit_width=2", "equalization=cross_layer", "equalization.absorb_bias=true"]
    )
    hashes = {identity(OmegaConf.to_container(each), others) for each in (equalized, absorbed)}
    assert len(hashes | {before}) == 3
