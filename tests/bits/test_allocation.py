"""All allocators through one table: budgets, pins, groups, files."""

import dataclasses
import json
from itertools import pairwise

import pytest
import torch
from tests.bits.conftest import make_layers

from attnround.bits import (
    Auto,
    Convention,
    File,
    Fisher,
    Layer,
    Mixed,
    Problem,
    Random,
    RateDistortion,
    Sensitivity,
    Uniform,
    allocation_json,
)
from attnround.bits.budget import cost
from attnround.errors import InputError

ALLOCATORS = {
    "uniform": Uniform,
    "mixed": Mixed,
    "mixed, clusters": lambda **options: Mixed(rule="cluster", **options),
    "mixed, Fisher traces": lambda **options: Mixed(relative_to="fisher", **options),
    "mixed, outputs": lambda **options: Mixed(relative_to="rms", input_weighted=True, **options),
    "sensitivity": Sensitivity,
    "sensitivity, network": lambda **options: Sensitivity(measure="network", **options),
    "fisher": Fisher,
    "rate_distortion": RateDistortion,
    "rate_distortion, moments": lambda **options: RateDistortion(h="moments", **options),
    "random": Random,
}
UNITS = {"mean_bits": [2.0, 2.5, 3.7, 8.0], "mib": [0.0006, 0.0008], "gbops": [0.0004, 0.001]}
each_allocator = pytest.mark.parametrize("make", ALLOCATORS.values(), ids=ALLOCATORS)


def total(allocation, problem: Problem, unit: str) -> int:
    return sum(cost(unit, layer, allocation.bit_width[layer.name], problem) for layer in problem.layers)


@each_allocator
@pytest.mark.parametrize(("unit", "budget"), [(unit, budget) for unit in UNITS for budget in UNITS[unit]])
def test_the_budget_is_kept_and_spent(make, unit, budget, problem):
    allocation = make(budget=budget, unit=unit).allocate(problem)
    assert list(allocation.bit_width) == [layer.name for layer in problem.layers]
    spent = total(allocation, problem, unit) + (problem.other_bits if unit == "mib" else 0)
    weights = sum(layer.weight.numel() for layer in problem.layers)
    limit = budget * {"mean_bits": weights, "mib": 8 * 2**20, "gbops": 1e9}[unit]
    assert spent <= limit + 1e-6
    for layer in problem.layers:
        bits = allocation.bit_width[layer.name]
        more = cost(unit, layer, bits + 1, problem) - cost(unit, layer, bits, problem)
        assert bits == 8 or spent + more > limit


@each_allocator
def test_more_budget_costs_more_and_the_same_gives_the_same(make, problem):
    costs = [total(make(budget=budget).allocate(problem), problem, "mean_bits") for budget in (2, 3, 4, 5, 6.5, 8)]
    assert all(low < high for low, high in pairwise(costs))
    assert make(budget=3.3).allocate(problem) == make(budget=3.3).allocate(problem)


@pytest.mark.parametrize("unit", UNITS)
def test_pins_that_take_more_than_a_fifth_of_the_budget_are_said(unit, problem):
    budget = {"mean_bits": 4, "mib": 0.0007, "gbops": 0.0007}[unit]
    said = Mixed(budget=budget, unit=unit, pinned={"block.3": 8}).allocate(problem).budget
    share = 8 * 60 / (4 * (9 + 30 + 30 + 60 + 60 + 9))
    assert "; bits.pinned takes " in said
    assert said.endswith(" % of it (block.3)")
    if unit == "mean_bits":
        assert f"takes {100 * share:.0f} % of it" in said
    assert "bits.pinned" not in Mixed(budget=budget, unit=unit, pinned={"first": 8}).allocate(problem).budget


@each_allocator
def test_pins_groups_and_candidates_are_kept(make, problem):
    bits = make(
        budget=4.5,
        pinned={"first": 8},
        candidates={"*": [2, 4, 8], "block.5": [3]},
        groups=[["block.3", "block.4"]],
    ).allocate(problem)
    assert bits.bit_width["block.0"] == 8
    assert bits.bit_width["block.5"] == 3
    assert bits.bit_width["block.3"] == bits.bit_width["block.4"]
    assert {bits.bit_width[f"block.{i}"] for i in (1, 2, 3)} <= {2, 4, 8}
    sums = make(budget=4.5, groups="sums").allocate(problem).bit_width
    assert sums["block.1"] == sums["block.2"]


@each_allocator
@pytest.mark.parametrize(
    ("budget", "pinned"), [(1.99, {}), (8.01, {}), (2.2, {"block.3": 8}), (7.99, {"last": 2, "first": 2})]
)
def test_a_budget_out_of_reach_says_the_range(make, budget, pinned, problem):
    with pytest.raises(InputError, match=r"takes [\d.]+ to [\d.]+$") as refusal:
        make(budget=budget, pinned=pinned).allocate(problem)
    for end in str(refusal.value).split("takes ")[1].split(" to "):
        make(budget=float(end), pinned=pinned).allocate(problem)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pinned": {"blok.1": 8}}, "bits.pinned: no layer is called blok.1; near that are block.1"),
        ({"candidates": {"*": [4], "stage*": [4]}}, "bits.candidates: no layer is called stage"),
        ({"candidates": {"block.1": [4]}}, "names none for block.0, block.2"),
        ({"groups": [["block.1", "head"]]}, "bits.groups: no layer is called head"),
        ({"groups": [["block.1", "block.2"], ["block.[23]"]]}, "block.2 is in two groups"),
        ({"groups": ["block.1"]}, "a list of lists"),
        ({"groups": "residual"}, "bits.groups=residual"),
        ({"groups": [["block.1", "block.2"]], "pinned": {"block.1": 8, "block.2": 4}}, "contradict each other"),
        (
            {"groups": [["block.1", "block.2"]], "candidates": {"*": [2, 8], "block.2": [4]}},
            "block.1, block.2 share a width",
        ),
        ({"unit": "MB"}, "bits.unit=MB: give one of mean_bits, mib, gbops"),
        ({"candidates": []}, "at least one"),
        ({"candidates": [4, 4.5]}, "2 to 8"),
        ({"budget": None}, "bits.budget=null goes with"),
        ({"rule": "sort"}, "bits.rule=sort"),
        ({"relative_to": "mean"}, "bits.relative_to=mean: give one of logits, prediction, rms, max, nothing, fisher"),
        ({"eps": 0.1, "folded": False}, "bits.relative_to=logits leaves no choice of bits.eps, bits.folded"),
        ({"relative_to": "rms", "places": "apart"}, "bits.relative_to=rms leaves no choice of bits.places"),
    ],
)
def test_what_contradicts_itself_is_refused_in_a_line(options, said, problem):
    with pytest.raises(InputError, match=said.replace("[", r"\[")) as refusal:
        Mixed(**options).allocate(problem)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("make", [Mixed, Fisher, Sensitivity, RateDistortion])
def test_who_measures_on_images_refuses_weights_alone(make):
    alone = Problem.of({layer.name: layer.weight for layer in make_layers(9, 30)})
    with pytest.raises(InputError, match="holds weights alone"):
        make(budget=4.0).allocate(alone)


def test_a_pin_on_one_of_a_group_pins_them_all(problem):
    bits = Mixed(budget=5, groups=[["block.1", "block.4"]], pinned={"block.4": 3}).allocate(problem).bit_width
    assert bits["block.1"] == bits["block.4"] == 3


def test_uniform_is_uniform_but_for_its_pins(problem):
    widths = Uniform(bit_width=3, pinned={"first": 8, "block.[23]": 6}).allocate(problem).bit_width
    assert list(widths.values()) == [8, 3, 6, 6, 3, 3]
    assert set(Uniform(budget=5.0).allocate(problem).bit_width.values()) == {5}
    for wrong in (lambda: Uniform(budget=5.0, bit_width=3), lambda: Auto(allocator=Uniform(bit_width=3))):
        with pytest.raises(InputError, match=r"bits.bit_width=3: bits.budget says which width it is"):
            wrong()
    between = Uniform(budget=5.5).allocate(problem).bit_width
    assert set(between.values()) <= {5, 6, 7}
    assert between["block.0"] >= 6 > between["block.4"]


def test_random_draws_differ_by_seed_alone(problem):
    one, same, other = (Random(budget=4.0, seed=seed).allocate(problem).bit_width for seed in (0, 0, 1))
    assert one == same != other


def test_clusters_without_a_budget_take_the_candidates_as_they_are(problem):
    allocation = Mixed(rule="cluster", budget=None, candidates=[3, 4, 6]).allocate(problem)
    assert set(allocation.bit_width.values()) == {3, 4, 6}
    by_length = sorted(allocation.score, key=allocation.score.get)
    widths = [allocation.bit_width[name] for name in by_length]
    assert widths == sorted(widths)


def test_the_convention_is_said(problem):
    allocation = Mixed(eps=0.05, vectors="inputs", relative_to="rms", codebook=True).allocate(problem)
    for word in ("folded", "inputs", "eps = 0.05 rms", "code book"):
        assert word in allocation.convention
    assert str(Convention(folded=False)).startswith("coding length of the unfolded weight")
    assert "pinned ones too" in allocation.budget


def test_searches_prefer_what_they_measure(problem):
    """Of two equal layers the one whose noise counts more gets the bits."""
    twin = make_layers(30)[0].weight
    twins = Problem(
        [Layer("calm", twin), Layer("loud", twin)],
        second_moments=lambda: {"calm": torch.eye(30)[None], "loud": torch.eye(30)[None]},
        shrunk_moments=lambda: {"calm": torch.eye(30)[None], "loud": torch.eye(30)[None]},
        output_metrics=lambda kind: {"calm": torch.eye(4)[None], "loud": 200 * torch.eye(4)[None]},
        joint_moments=lambda kind: {
            name: (torch.eye(30)[None], times * torch.eye(30)[None]) for name, times in (("calm", 4), ("loud", 800))
        },
        logit_energy=lambda: 1.0,
        fisher_traces=lambda num_probes: {"calm": 1.0, "loud": 200.0},
        logit_noise=lambda name, weight: {"calm": 1.0, "loud": 200.0}[name] * (weight - twin).square().sum().item(),
    )
    for allocator in (
        Fisher(budget=4),
        Sensitivity(budget=4, measure="network"),
        RateDistortion(budget=4),
        Mixed(budget=4),
        Mixed(budget=4, relative_to="prediction"),
    ):
        bits = allocator.allocate(twins).bit_width
        assert bits["loud"] > bits["calm"]
    assert Sensitivity(budget=4).allocate(twins).bit_width == {"calm": 4, "loud": 4}


def test_a_sweep_of_budgets_measures_once(problem):
    asked = []
    counted = dataclasses.replace(
        problem,
        second_moments=lambda: asked.append("moments") or problem.second_moments(),
        shrunk_moments=lambda: asked.append("moments") or problem.shrunk_moments(),
        output_metrics=lambda kind: asked.append(f"metric {kind}") or problem.output_metrics(kind),
        joint_moments=lambda kind: asked.append(f"joint {kind}") or problem.joint_moments(kind),
        fisher_traces=lambda num_probes: asked.append("fisher") or problem.fisher_traces(num_probes),
    )
    for budget in (2.5, 3, 3.5, 4, 4.5, 5, 6, 7):
        for allocator in (Sensitivity, Fisher, RateDistortion, Mixed):
            allocator(budget=budget).allocate(counted)
        Mixed(budget=budget, relative_to="fisher", input_weighted=True).allocate(counted)
    # moments for distortions, pivots and decompositions; traces for the searches and, from fewer probes, for lengths
    assert sorted(asked) == ["fisher", "fisher", "joint logits", "metric logits", "moments", "moments"]


@pytest.mark.parametrize("drop", [0.0, 5.0, 40.0])
def test_auto_finds_the_smallest_budget_that_agrees(drop, problem):
    """Agreement grows with the bits spent, from 50 % at 2 to 100 % at 8."""

    auto, tried = Auto(allocator=Mixed(), max_drop=drop, num_trials=10), {}

    def agreement(budget: float) -> float:
        mean_bits = auto.at(budget).allocate(problem).mean_bits(problem.layers)
        tried[budget] = 50 + 50 * (mean_bits - 2) / 6
        return tried[budget]

    found = auto.smallest(agreement, problem)
    assert tried[found] >= 100 - drop
    wanted = 8 - 6 * drop / 50
    assert wanted - 0.02 <= auto.at(found).allocate(problem).mean_bits(problem.layers) + 0.2
    assert next(iter(tried)) == 8
    assert len(tried) == 11
    assert max((budget for budget, percent in tried.items() if percent < 100 - drop), default=0) < found
    assert found == min(budget for budget, percent in tried.items() if percent >= 100 - drop)


def test_auto_takes_a_drop_that_is_just_as_asked():
    assert Auto(allocator=Mixed(), max_drop=5.6).accepts(100 * 236 / 250)
    assert not Auto(allocator=Mixed(), max_drop=5.5).accepts(100 * 236 / 250)


def test_auto_says_how_far_the_most_on_offer_falls_short(problem):
    asked = []
    with pytest.raises(InputError, match=r"max_drop=0.5 is out of reach: .* 8 mean bits .* by 3.00"):
        Auto(allocator=Mixed()).smallest(lambda budget: asked.append(budget) or 97.0, problem)
    assert asked == [8]


def test_auto_has_nothing_to_find_where_there_is_one_budget(problem):
    asked = []
    assert Auto(allocator=Mixed(candidates=[4])).smallest(lambda budget: asked.append(budget) or 100.0, problem) == 4
    assert asked == [4]


def test_auto_finds_the_budget_and_takes_none():
    with pytest.raises(InputError, match=r"^bits\.allocator\.budget=3: bits=auto finds the budget"):
        Auto(allocator=Mixed(budget=3))


@each_allocator
def test_an_allocation_goes_to_a_file_and_back(make, problem, tmp_path):
    allocation = make(budget=4.2).allocate(problem)
    path = tmp_path / "allocation.json"
    path.write_text(allocation_json(allocation, problem.layers))
    assert File(path=str(path)).allocate(problem).bit_width == allocation.bit_width
    first = json.loads(path.read_text())["layers"][0]
    assert first["layer"] == "block.0"
    assert first["shape"] == [4, 9]
    assert first["size_bytes"] == -(-36 * allocation.bit_width["block.0"] // 8)


def test_a_file_of_names_and_bits_is_enough(problem, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("".join(f"block.{i}: {i + 2}\n" for i in range(6)))
    assert list(File(path=str(path)).allocate(problem).bit_width.values()) == [2, 3, 4, 5, 6, 7]
    assert File(path=str(path), pinned={"last": 8}).allocate(problem).bit_width["block.5"] == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("block.0: 4\n", "no bits for block.1, block.2, block.3 and 2 more"),
        ("blok.0: 4\n", "the model has no layer blok.0; the nearest is block.0"),
        ("{not yaml", "cannot be read"),
        ("block.0: 4\nblock.1: 4\nblock.0: 5\n", '"block.0" is there twice'),
        ("[1, 2]", "give an allocation.json"),
        ('{"layers": [{"layer": "block.0"}, {"layer": "block.0"}]}', "block.0 is there twice"),
        ('{"layers": [{"name": "block.0"}]}', "give an allocation.json"),
        ("".join(f"block.{i}: 4.5\n" for i in range(6)), "whole number from 2 to 8"),
        ("".join(f"block.{i}: 1\n" for i in range(6)), "whole number from 2 to 8"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(text, said, problem, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as refusal:
        File(path=str(path)).allocate(problem)
    assert "\n" not in str(refusal.value)


def test_a_file_of_other_shapes_or_no_file_is_refused(problem, tmp_path):
    other = dataclasses.replace(problem, layers=make_layers(9, 30, 30, 60, 61, 9))
    path = tmp_path / "allocation.json"
    path.write_text(allocation_json(Uniform().allocate(other), other.layers))
    with pytest.raises(InputError, match=r"block.4 has the shape \[4, 60\], not \[4, 61\]"):
        File(path=str(path)).allocate(problem)
    with pytest.raises(InputError, match="cannot be read"):  # before any work
        File(path=str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("pinned", "bits"),
    [
        ({}, (4, 4)),
        (None, (4, 4)),
        ("none", (4, 4)),
        ({"first": 8, "last": None}, (8, 4)),
        ({"*": 8, "last": None}, (8, 4)),
        ({"last": None, "*": 8}, (8, 8)),
    ],
)
def test_pins_that_are_taken_away(pinned, bits, problem):
    widths = list(Uniform(bit_width=4, pinned=pinned).allocate(problem).bit_width.values())
    assert (widths[0], widths[-1]) == bits


def test_pins_that_are_none(problem):
    with pytest.raises(InputError, match=r"bits\.pinned=first: give name patterns and their bits, as in .*, or none"):
        Uniform(pinned="first").allocate(problem)


def test_the_last_layer_has_three_bits_where_the_budget_allows(problem):
    traces = {layer.name: 0.0 if layer.name == "block.5" else 1.0 for layer in problem.layers}
    problem = dataclasses.replace(problem, fisher_traces=lambda num_probes: traces)  # by which it wants none
    assert Fisher(budget=2.6).allocate(problem).bit_width["block.5"] == 3
    assert Fisher(budget=2).allocate(problem).bit_width["block.5"] == 2
    assert Uniform(bit_width=2).allocate(problem).bit_width["block.5"] == 2
    for candidates, least in (([2, 3, 4], 3), ([2, 4, 8], 4), ([2], 2), ({"*": [2, 3, 4]}, 2)):
        slots, _ = Fisher(candidates=candidates).slots(problem)
        assert slots[-1].candidates[0] == least
