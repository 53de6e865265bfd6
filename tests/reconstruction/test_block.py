"""The block objective on a net of two residual blocks, and on units where the answer is known."""

from dataclasses import replace

import pytest
import torch
from tests.conftest import same_state
from torch import nn

from attnround.calibration.cache import ActivationCache
from attnround.errors import InputError
from attnround.graph import fold_batch_norms
from attnround.quantization.activation import ActivationQuantizer
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Lsq, Mse
from attnround.quantization.rounding import GPTQ, AdaRound, AttentionRound, CoordinateDescent, FlexRound
from attnround.reconstruction import BlockReconstruction, LayerReconstruction, unit_data
from attnround.reconstruction.block_objective import BlockObjective
from attnround.reconstruction.report import decibel
from attnround.reconstruction.unit_data import UnitData

METHODS = {
    "adaround": AdaRound(num_steps=100, lr=0.05),
    "expected": AttentionRound(num_steps=100),
    "sampled": AttentionRound(num_steps=100, estimator="sampled"),
    "gated": AttentionRound(num_steps=100, estimator="gated"),
    "flexround": FlexRound(num_steps=100, lr=0.005),
}
ENDS = ("layer", "network")
SHARED = {"observer": ClipSearch(), "batch_size": 16, "held_out": 0.25}
ABSURD = AttentionRound(num_steps=3, lr=1000.0)


def block(**options) -> BlockReconstruction:
    return BlockReconstruction(**SHARED | {"minibatch": 12, "burst": 50} | options)


@pytest.mark.parametrize(
    ("name", "granularity"),
    [*((name, "block") for name in METHODS), *((name, size) for name in ("adaround", "expected") for size in ENDS)],
)
def test_a_unit_comes_closer_to_float_on_images_it_did_not_learn_from(blocks, name, granularity):
    student, reports = blocks.run(METHODS[name], block(granularity=granularity))
    assert len(reports) == {"layer": 6, "block": 4, "network": 1}[granularity]
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)
    assert sum(report.sqnr_db - report.start_sqnr_db for report in reports) > 0.3 * len(reports)
    assert blocks.fidelity(student) > blocks.fidelity(blocks.student)


def test_batch_norms_depthwise_and_grouped_layers_are_learned_in_a_block(network, problem_of):
    fold_batch_norms(network)
    problem = problem_of(network)
    student, reports = problem.run(METHODS["expected"], block())
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)
    assert problem.fidelity(student) > problem.fidelity(problem.student) + 1


@pytest.mark.parametrize(
    "options", [{}, {"mix": 0.5}, {"loss": "fisher"}, {"loss": "logits"}], ids=["plain", "mix", "fisher", "logits"]
)
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(with_activations, options):
    problem = with_activations(Lsq(4, drop=0.5))
    quantizer = AttentionRound(num_steps=20, estimator="sampled")
    one, two = (problem.run(quantizer, block(**options))[0] for _ in range(2))
    assert same_state(one, two)
    assert not same_state(one, problem.run(quantizer, block(**options), seed=1)[0])


@pytest.mark.parametrize("quantizer", [GPTQ(), CoordinateDescent(), AttentionRound(polish=True)])
def test_what_needs_the_layer_objective_is_refused_in_a_line(blocks, quantizer):
    with pytest.raises(InputError, match=r"give reconstruction=layer") as caught:
        blocks.run(quantizer, block())
    assert "\n" not in str(caught.value)


def test_a_worse_result_is_given_up_for_the_start(with_activations):
    problem = with_activations(Lsq(4))
    student, reports = problem.run(ABSURD, block(activation_lr=0.1))
    assert not any(report.kept for report in reports)
    assert all(report.sqnr_db == report.start_sqnr_db for report in reports)
    assert all(layer.moved_one == layer.moved_more == 0 for report in reports for layer in report.layers)
    assert same_state(student, problem.student)


def test_learned_scales_of_activations_stay_positive(with_activations):
    problem = with_activations(Lsq(4))
    unit, _ = problem.begin(METHODS["expected"], block(activation_lr=1.0), index=1)
    before = [scale.item() for scale in unit._learned_scales()]
    unit._descend(range(20))
    found = [scale.item() for scale in unit._learned_scales()]
    assert found != before
    assert all(0.009 * start < scale for start, scale in zip(before, found, strict=True))


@pytest.mark.parametrize("num_images", [1, 5])
def test_a_few_images_and_a_larger_minibatch_are_no_trouble(two_blocks, problem_of, num_images):
    problem = problem_of(two_blocks, num_images=num_images)
    _, reports = problem.run(AttentionRound(num_steps=20), block(minibatch=64, batch_size=64))
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)
    assert any(report.sqnr_db > report.start_sqnr_db for report in reports)


def test_fisher_weights_are_squared_gradients_for_drawn_labels(blocks):
    unit, _ = blocks.begin(METHODS["expected"], block(loss="fisher"), index=1, seed=5)
    weights, targets = unit.data.weights[:], unit.data.targets[:]
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    generator = torch.Generator().manual_seed(5 + 1)
    expected, two = [], blocks.teacher.two

    def logits_of(y):
        return blocks.teacher.head((y + two.second(two.first(y).relu())).relu().mean((2, 3)))

    for batch in targets.split(16):
        chance = logits_of(batch).softmax(1)
        for y, label in zip(batch, torch.multinomial(chance, 1, generator=generator), strict=True):
            y = y[None].clone().requires_grad_()
            logits = logits_of(y)
            (gradient,) = torch.autograd.grad(-logits.log_softmax(1)[0, label.item()], y)
            expected.append(gradient.square())
    expected = torch.cat(expected)
    torch.testing.assert_close(weights, expected / expected.mean(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ["fisher", "logits"])
def test_what_a_unit_inside_a_block_does_to_the_logits_is_refused_in_a_line(blocks, loss):
    with pytest.raises(InputError, match=r"logits.*granularity=block") as caught:
        blocks.run(AttentionRound(num_steps=2), block(loss=loss, granularity="layer"))
    assert "\n" not in str(caught.value)


def test_the_metric_of_a_block_is_what_its_channels_do_to_the_logits(blocks):
    """The last block's output goes through a mean over its places and a linear head: G is that of the head."""
    unit, _ = blocks.begin(METHODS["expected"], block(loss="logits"), index=2)
    data, head = unit.data, blocks.teacher.head.weight.double()
    num_places = data.targets.data[0, 0].numel()
    expected = head.T @ head / num_places**2
    expected = 0.9 * expected / expected.diagonal().mean() + 0.1 * torch.eye(len(expected))
    found = (data.factor.T @ data.factor).double()
    assert data.channel_dim == 1
    torch.testing.assert_close(found.diagonal(), expected.diagonal(), rtol=0.3, atol=0.05)
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize(("shape", "dim"), [((2, 5, 3, 4), 1), ((2, 3, 4, 5), 3), ((2, 7, 5), 2), ((2, 5), 1)])
def test_an_error_in_the_metric_is_its_quadratic_form(shape, dim):
    generator = torch.Generator().manual_seed(0)
    error, factor = torch.randn(shape, generator=generator), torch.randn(5, 5, generator=generator)
    targets = ActivationCache(2, torch.Size(shape[1:]), "float32")
    targets.write(0, torch.randn(shape, generator=generator))
    objective = BlockObjective(UnitData(targets, targets, targets, None, 0, factor, dim), batch_size=2)
    rows = error.movedim(dim, -1).reshape(-1, 5)
    form = torch.einsum("ni,ij,nj->", rows, factor.T @ factor, rows) / error.numel() * objective.percent
    found = objective(targets[:] + error, targets[:], None)
    torch.testing.assert_close(found, form, rtol=1e-4, atol=0)


def test_blocks_in_the_metric_of_the_logits_come_closer_to_float(blocks):
    student, reports = blocks.run(METHODS["expected"], block(loss="logits"))
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)
    assert sum(report.sqnr_db - report.start_sqnr_db for report in reports) > 0.3 * len(reports)
    assert blocks.fidelity(student) > blocks.fidelity(blocks.student)


class Flat(nn.Module):
    """A linear unit, whose loss is quadratic in the weights; inputs of very different size."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 144, 128)

    def forward(self, x):
        return self.layer(x.flatten(1))


def test_the_curvature_of_a_linear_unit_is_the_energy_of_its_inputs(problem_of):
    torch.manual_seed(0)
    problem = problem_of(Flat().eval())
    problem.images *= torch.linspace(0.1, 3, 12)
    unit, _ = problem.begin(METHODS["expected"], block(minibatch=36))
    layer, targets = problem.student.layer, unit.data.targets[:36].double()
    energy = problem.images[:36].flatten(1).double().square().mean(0)
    percent = 100 / targets.var(correction=0)
    exact = percent / targets.shape[1] * energy * layer.scale.double()[:, None].square()
    ratio = unit.curvature["layer"].double() / exact
    assert ratio.mean().item() == pytest.approx(1, rel=0.03)
    assert ratio.std() < 0.1


@pytest.mark.parametrize("name", ["expected", "adaround"])
def test_a_block_is_never_worse_than_the_layers_that_it_starts_from(blocks, name):
    layer = LayerReconstruction(**SHARED)
    student, reports = blocks.run(replace(METHODS[name], num_steps=30), block(layer_first=layer))
    assert [report.objective for report in reports].count("layer") == 6
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)
    assert blocks.fidelity(student) > blocks.fidelity(blocks.student) + 3


def test_a_block_that_gives_up_leaves_the_layers_result(blocks, monkeypatch):
    """Each layer then sees what it sees without blocks: the fork and the main walk carry the same values."""
    layer = LayerReconstruction(**SHARED)
    quantizer = AttentionRound(num_steps=20)
    alone, _ = blocks.run(quantizer, layer, seed=0)
    monkeypatch.setattr(BlockReconstruction, "adapt", lambda self, quantizer: ABSURD)
    student, reports = blocks.run(quantizer, block(layer_first=layer))
    assert not any(report.kept for report in reports if report.objective != "layer")
    moved = [
        (one != two).double().mean()
        for (key, one), two in zip(alone.state_dict().items(), student.state_dict().values(), strict=True)
        if key.endswith("levels")
    ]
    assert max(moved) < 0.02  # the positions that enter the moments are drawn by the step's seed


def test_scales_of_activations_move_under_block_and_stay_under_layer(with_activations):
    problem = with_activations(Lsq(3))

    def scales(student):
        return torch.stack([value.detach() for key, value in student.state_dict().items() if "activation.scale" in key])

    student, _ = problem.run(METHODS["expected"], block(activation_lr=1e-2))
    assert (scales(student) != scales(problem.student)).any()
    assert (scales(student) > 0).all()
    student, _ = problem.run(AttentionRound(num_steps=10), LayerReconstruction(**SHARED))
    assert torch.equal(scales(student), scales(problem.student))


def test_bfloat16_lowers_the_error_too(blocks):
    student, reports = blocks.run(METHODS["expected"], block(), autocast=True)
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)
    assert blocks.fidelity(student) > blocks.fidelity(blocks.student) + 2
    assert all(value.dtype == torch.float32 for value in student.parameters())


def test_images_that_are_not_finite_are_refused_with_the_unit(blocks):
    blocks.images[7, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"^stem: its inputs hold NaN or infinity") as caught:
        blocks.run(METHODS["expected"], block())
    assert "\n" not in str(caught.value)


def test_inputs_that_are_quantized_anyway_are_kept_as_codes_with_the_same_result(with_activations, monkeypatch):
    coded = set()
    problem, settings = with_activations(Mse(4)), block(granularity="layer")
    encode = ActivationQuantizer.codes
    monkeypatch.setattr(ActivationQuantizer, "codes", lambda self, x: coded.add(self) or encode(self, x))
    with_codes, _ = problem.run(METHODS["expected"], settings)
    assert len(coded) == 4  # of six layers; the first ones of the blocks share their input with a shortcut
    monkeypatch.setattr(unit_data, "lossless_coding", lambda consumers: {})
    plain, _ = problem.run(METHODS["expected"], settings)
    assert same_state(with_codes, plain)


def test_inputs_that_a_shortcut_takes_too_or_whose_steps_are_learned_stay_as_they_are(with_activations):
    for search, granularity in ((Mse(4), "block"), (Lsq(4), "layer"), (Mse(4, drop=0.5), "layer")):
        unit, _ = with_activations(search).begin(METHODS["expected"], block(granularity=granularity), index=1)
        assert unit.data.quantized.storage == "float32"


def looks(unit) -> list[float]:
    """The errors that a unit is judged by from now on, as they come."""
    seen, look = [], unit.stopping.look
    unit.stopping.look = lambda error, state: seen.append(error) or look(error, state)
    return seen


def test_a_unit_stops_where_no_better_decision_comes_and_keeps_the_best(blocks):
    unit, loop = blocks.begin(AttentionRound(num_steps=400), block(burst=4, patience=3), index=1)
    seen = looks(unit)
    with loop.on("cpu"):
        for burst in range(100):
            loop.run_burst(burst)
            if unit.stopped:
                break
    assert 3 < len(seen) == len(unit.losses) < 100
    assert seen.index(min(seen)) == len(seen) - 4
    best = {key: layer["levels"] for key, layer in unit.stopping.best.items()}
    assert any((unit.layers[key].levels != levels).any() for key, levels in best.items())
    report = unit.finish()
    assert report.kept
    assert report.sqnr_db == decibel(min(seen))
    assert all(torch.equal(unit.layers[key].levels, levels) for key, levels in best.items())


def test_looking_does_not_disturb_the_learning(with_activations):
    """Scales are learned, of weights by FlexRound and of activations, and a look bakes the former."""
    problem = with_activations(Lsq(4, drop=0.5))
    quantizer, settings = FlexRound(num_steps=40, lr=0.005), {"burst": 4, "mix": 0.5, "activation_lr": 1e-2}
    _, plain = problem.run(quantizer, block(**settings))
    _, judged = problem.run(quantizer, block(**settings, patience=10))
    assert judged[0].losses == plain[0].losses
    assert all(one.sqnr_db >= other.sqnr_db for one, other in zip(judged[:1], plain, strict=False))


def test_the_best_state_has_the_scales_that_it_was_judged_with(with_activations):
    unit, loop = with_activations(Lsq(4)).begin(
        FlexRound(num_steps=40, lr=0.02), block(burst=4, patience=2, activation_lr=1e-1), index=1
    )
    seen = looks(unit)
    with loop.on("cpu"):
        for burst in range(10):
            loop.run_burst(burst)
    unit.start_error = float("inf")
    assert unit.finish().sqnr_db == decibel(min(seen))


def test_a_start_that_nothing_beats_stays_where_a_unit_stops(blocks):
    student, reports = blocks.run(replace(ABSURD, num_steps=40), block(burst=2, patience=2))
    assert all(len(report.losses) < 20 for report in reports)
    assert not any(report.kept for report in reports)
    assert same_state(student, blocks.student)


@pytest.mark.parametrize(("held_out", "num_images"), [(0.0, 48), (0.125, 7)])
def test_stopping_where_no_image_is_held_out_is_refused_in_a_line(two_blocks, problem_of, held_out, num_images):
    with pytest.raises(InputError, match=r"patience=2 .*held_out=0.*larger held_out.* patience=null") as caught:
        problem_of(two_blocks, num_images=num_images).run(ABSURD, block(patience=2, held_out=held_out))
    assert "\n" not in str(caught.value)


def test_roundings_that_refine_lose_less_of_the_layers_result_at_first(blocks):
    blocks.student, _ = blocks.run(METHODS["expected"], LayerReconstruction(**SHARED))
    lowest = {}
    for refine in (False, True):
        unit, loop = blocks.begin(METHODS["expected"], block(burst=4, patience=9, refine=refine), index=1)
        for key, rounding in unit.roundings.items():
            levels = unit.layers[key].levels
            assert torch.equal(rounding.decide(), levels.float())
            assert (rounding.u - levels).abs().max() == pytest.approx(0.25 if refine else 0.49)
        with loop.on("cpu"):
            loop.run_burst(0)
        assert rounding.sigma == pytest.approx(0.5 * 0.2 ** (0.5 + 0.5 * 0.03 if refine else 0.03))
        lowest[refine] = unit.stopping.lowest
    assert lowest[True] < 0.95 * lowest[False]


@pytest.mark.parametrize("patience", [0, -1, 1.5, float("nan"), True, "x", [3]])
def test_a_patience_that_is_no_number_of_bursts_is_refused_in_a_line(patience):
    with pytest.raises(InputError, match=r"^reconstruction\.patience=.*: give a whole number of at least 1$"):
        block(patience=patience)
