"""What every rounding method keeps, one table for all of them."""

import copy
import functools
import io

import pytest
import torch

from attnround.errors import InputError
from attnround.quantization.grid import Grid
from attnround.quantization.rounding import (
    GPTQ,
    AdaRound,
    AttentionRound,
    CoordinateDescent,
    FlexRound,
    Nearest,
    Stochastic,
)
from attnround.reconstruction.block_objective import LayerError
from attnround.reconstruction.layer import descend

METHODS = {
    "nearest": Nearest(),
    "stochastic": Stochastic(),
    "adaround": AdaRound(num_steps=150, lr=0.08),
    "adaround_as_published": AdaRound(num_steps=150, lr=0.08, relative=False, regularization=1.0),
    "attention_round": AttentionRound(num_steps=100),
    "attention_round_sampled": AttentionRound(estimator="sampled", lr=0.1, num_steps=100),
    "attention_round_gated": AttentionRound(estimator="gated", lr=0.1, num_steps=200),
    "attention_round_polished": AttentionRound(polish=True, num_steps=40),
    "flexround": FlexRound(num_steps=150, lr=0.006),
    "gptq": GPTQ(),
    "gptq_natural": GPTQ(order="natural"),
    "coordinate_descent": CoordinateDescent(),
    "coordinate_descent_from_gptq": CoordinateDescent(init="gptq"),
}
LEARNED = [name for name, method in METHODS.items() if method.num_steps]
INFORMED = [name for name, method in METHODS.items() if not method.data_free]
SOFT = ["adaround", "attention_round"]  # their mean starts at the weight itself


class Output:
    """The output error of correlated inputs for rows u, as every layer's objective has it, in plain torch."""

    def __init__(self, u, second):
        self.centre, self.second, self.unit = u.flatten(1)[None], second[None], 1.0
        self.gain = torch.ones(1, len(u), 1)
        self.coupling = None

    def __call__(self, mean, variance=None):
        error = mean.reshape(self.centre.shape) - self.centre
        loss = ((error @ self.second) * error).sum()
        if variance is None:
            return loss
        diagonal = self.second.diagonal(dim1=1, dim2=2)[:, None]
        return loss + (variance.reshape(self.centre.shape) * diagonal).sum()


def covariance(n, generator):
    mixing = torch.randn(n, n, generator=generator)
    return mixing @ mixing.T / n + 0.05 * torch.eye(n)


@pytest.fixture
def problem():
    return make_problem()


def make_problem():
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(6, 24, generator=generator) * 1.5
    return u, Grid(3), Output(u, covariance(24, generator))


def begin(method, problem, seed=0, zero_point=0.0):
    u, grid, objective = problem
    rounding = method.start(u, grid, objective, torch.Generator().manual_seed(seed), zero_point)
    learned = list(rounding.parameters())
    return rounding, torch.optim.Adam(learned, method.lr) if learned else None


def learn(method, problem, seed=0, zero_point=0.0):
    rounding, optimizer = begin(method, problem, seed, zero_point)
    if optimizer:
        descend(rounding, problem[2], optimizer, range(method.num_steps), method.num_steps)
    return rounding


@functools.cache
def learned(name):
    """A method that has learned the problem, once for all tests that only look at it."""
    return learn(METHODS[name], make_problem())


def decided(rounding, zero_point=0.0):
    """The levels decided for, in steps of the scale at the start."""
    levels, gain = rounding.decide(), rounding.gain()
    return levels if gain is None else gain[:, None] * (levels - zero_point) + zero_point


@pytest.mark.parametrize("name", METHODS)
def test_the_decision_is_whole_levels_in_range(name, problem):
    levels = learned(name).decide()
    grid = problem[1]
    assert levels.dtype == problem[0].dtype
    assert torch.equal(levels, levels.round())
    assert levels.min() >= grid.qmin
    assert levels.max() <= grid.qmax


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name, problem):
    one, two = learned(name), learn(METHODS[name], problem)
    assert torch.equal(decided(one), decided(two))


def test_another_seed_gives_another_draw(problem):
    for name in ("stochastic", "attention_round_sampled"):
        assert not torch.equal(*(learn(METHODS[name], problem, seed).decide() for seed in (0, 1)))


@pytest.mark.parametrize("name", INFORMED)
def test_what_looks_at_the_data_lowers_the_objective_well_below_nearest(name, problem):
    u, grid, objective = problem
    nearest = objective(u.round().clamp(grid.qmin, grid.qmax))
    assert objective(decided(learned(name))) < 0.8 * nearest


@pytest.mark.parametrize("name", SOFT)
def test_it_starts_at_the_weight_itself(name):
    grid = Grid(3)
    u = torch.linspace(grid.qmin + 1, grid.qmax - 1, 40).reshape(2, 20)
    rounding, _ = begin(METHODS[name], (u, grid, Output(u, torch.eye(20))))
    rounding.anneal(0.0)
    mean, _ = rounding.moments()
    torch.testing.assert_close(mean, u, rtol=0, atol=0.005)  # E[q] - u is at most 0.0023 at sigma = 0.5


@pytest.mark.parametrize("name", ["flexround", "attention_round_gated"])
def test_a_hard_method_starts_at_nearest(name, problem):
    rounding, _ = begin(METHODS[name], problem)
    nearest = problem[0].round().clamp(problem[1].qmin, problem[1].qmax)
    assert torch.equal(rounding.decide(), nearest)
    assert torch.equal(rounding.moments()[0], nearest)


@pytest.mark.parametrize("name", [name for name in LEARNED if name != "attention_round_polished"])
def test_at_the_end_the_mean_is_the_decision(name):
    rounding = learned(name)
    mean, _ = rounding.moments()
    assert ((mean - decided(rounding)).abs() < 0.1).double().mean() > 0.9


@pytest.mark.parametrize("name", METHODS)
def test_weights_beyond_the_range_are_clipped(name):
    grid = Grid(2)
    u = torch.tensor([[-50.0, 50.0, 0.2]])
    rounding, _ = begin(METHODS[name], (u, grid, Output(u, torch.eye(3))))
    assert rounding.decide()[0, 0] == grid.qmin
    assert rounding.decide()[0, 1] == grid.qmax


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_zeros_and_dead_inputs_are_no_trouble(name, problem):
    u, grid, objective = problem
    u[2] = 0
    dead = objective.second.clone()
    dead[:, 5], dead[:, :, 5] = 0, 0
    dead[:, 5, 5] = 1e-30  # what the layer objective leaves on the diagonal of a dead layer
    dead_layer = 1e-30 * torch.eye(24)
    for second in (dead[0], dead_layer):
        rounding = learn(METHODS[name], (u, grid, Output(u, second)))
        assert decided(rounding).isfinite().all()
        assert (rounding.decide()[2] == 0).all() or name in LEARNED  # drift may give a learned one reason to move


@pytest.mark.parametrize("name", METHODS)
def test_a_zero_point_shifts_the_levels_and_nothing_else(name, problem):
    """The same weights on a grid from 0 up, where a zero is the level 4 and not 0."""
    u, _, objective = problem
    shifted = Output(u + 4, objective.second[0])
    zero_point = torch.full((6, 1), 4.0)
    signed = decided(learned(name))
    unsigned = decided(learn(METHODS[name], (u + 4, Grid(3, symmetric=False), shifted), 0, zero_point), zero_point)
    assert ((unsigned - 4 - signed).abs() < 0.05).double().mean() > 0.7  # learning is as chaotic as it is
    ratio = shifted(unsigned) / objective(signed)
    assert ratio.item() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("name", LEARNED)
def test_a_run_resumed_half_way_ends_with_the_same_bits(name, problem):
    method, objective = METHODS[name], problem[2]
    rounding, optimizer = begin(method, problem)
    steps, half = method.num_steps, method.num_steps // 2
    descend(rounding, objective, optimizer, range(half), steps)
    saved = io.BytesIO()
    torch.save({"rounding": rounding.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    descend(rounding, objective, optimizer, range(half, steps), steps)

    resumed, resumed_optimizer = begin(method, problem, seed=5)
    state = torch.load(saved, weights_only=True)
    resumed.load_state_dict(state["rounding"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    descend(resumed, objective, resumed_optimizer, range(half, steps), steps)
    assert torch.equal(resumed.decide(), rounding.decide())
    for key, value in rounding.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@pytest.mark.parametrize("name", METHODS)
def test_the_state_round_trips(name, problem):
    rounding = learned(name)
    other, _ = begin(METHODS[name], (problem[0] + 0.3, *problem[1:]), seed=3)
    other.load_state_dict(copy.deepcopy(rounding.state_dict()))
    assert torch.equal(decided(other), decided(rounding))


@pytest.mark.parametrize("name", METHODS)
def test_convolutions_and_groups_keep_their_shape(name):
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(4, 3, 3, 3, generator=generator)
    objective = Output(u, torch.eye(27))
    if METHODS[name].layer_only:  # two groups of two rows, each with inputs of its own
        objective.centre = u.reshape(2, 2, 27)
        objective.second = torch.stack([covariance(27, generator) for _ in range(2)])
        objective.gain = torch.ones(2, 2, 1)
        objective.coupling = None
        u_levels = METHODS[name].start(u, Grid(3), objective, generator).decide()
        assert u_levels.shape == u.shape
    else:
        assert learn(METHODS[name], (u, Grid(3), objective)).decide().shape == u.shape


def test_who_needs_the_layer_objective_says_so():
    named = {name for name, method in METHODS.items() if method.layer_only}
    assert named == {name for name in METHODS if name.startswith(("gptq", "coordinate"))} | {"attention_round_polished"}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.layer_only])
def test_who_needs_the_layer_objective_takes_no_other(name):
    objective = LayerError(lambda mean: mean.square().sum(), 1.0)
    with pytest.raises(TypeError, match="LayerError is no quadratic objective"):
        METHODS[name].start(torch.randn(2, 9), Grid(3), objective, torch.Generator())


@pytest.mark.parametrize("name", ["adaround", "adaround_as_published"])
def test_adaround_chooses_between_the_two_neighbours(name, problem):
    u, grid, _ = problem
    levels = learned(name).decide()
    below = u.floor().clamp(grid.qmin, grid.qmax)
    above = u.ceil().clamp(grid.qmin, grid.qmax)
    assert ((levels == below) | (levels == above)).all()


def test_adarounds_published_penalty_is_lambda_a_weight_in_units_of_the_squared_error(problem):
    u, grid, objective = problem
    objective.unit = 7.0
    rounding = AdaRound(relative=False, regularization=0.01).start(u, grid, objective, torch.Generator())
    rounding.anneal(0.5)
    rounding.moments()
    up = (u - u.floor()).clamp(1e-3, 1 - 1e-3)
    wanted = 0.01 * 7 * (1 - (2 * up - 1).abs() ** rounding.beta).sum()
    torch.testing.assert_close(rounding.penalty(), wanted)


def test_stochastic_rounding_is_right_on_average(generator):
    u = torch.linspace(-2.9, 2.9, 30).expand(4000, 30).contiguous()
    levels = Stochastic().start(u, Grid(4), None, generator).decide()
    assert ((levels == u.floor()) | (levels == u.ceil())).all()
    torch.testing.assert_close(levels.mean(0), u[0], rtol=0, atol=0.04)


def test_flexround_learns_the_scale_too():
    rounding = learned("flexround")
    assert (rounding.gain() - 1).abs().max() > 0.01
    mean, _ = rounding.moments()
    torch.testing.assert_close(mean, decided(rounding))


WRONG = {
    "estimator=soft": lambda: AttentionRound(estimator="soft"),
    "init=nearest": lambda: AttentionRound(init="nearest"),
    "init=gptq": lambda: AttentionRound(init="gptq", estimator="gated"),
    "order=random": lambda: GPTQ(order="random"),
    "damping=-1": lambda: GPTQ(damping=-1),
    "init=zero": lambda: CoordinateDescent(init="zero"),
    "max_sweeps=0": lambda: CoordinateDescent(max_sweeps=0),
    "lr=0": lambda: FlexRound(lr=0),
    "num_steps=0": lambda: FlexRound(num_steps=0),
}


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_option_is_refused_in_a_line(given):
    with pytest.raises(InputError, match=f"quantizer.{given}: give") as caught:
        WRONG[given]()
    assert "\n" not in str(caught.value)


def test_adarounds_gradients_are_those_of_its_formulae(problem):
    u, grid, objective = problem
    rounding = AdaRound(relative=False).start(u, grid, objective, torch.Generator())
    for v_scale, progress in ((1.0, 0.3), (20.0, 0.9)):  # in between, and where most are decided
        rounding.v.data.mul_(v_scale)
        rounding.anneal(progress)
        mean, _ = rounding.moments()
        (mean.square().sum() + rounding.penalty()).backward()
        v = rounding.v.detach().clone().requires_grad_()
        up = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
        mean = (u.floor() + up).clamp(grid.qmin, grid.qmax)
        penalty = rounding.strength * (1 - (2 * up - 1).abs().pow(rounding.beta)).sum()
        (wanted,) = torch.autograd.grad(mean.square().sum() + penalty, v)
        torch.testing.assert_close(rounding.v.grad, wanted)
        rounding.v.grad = None
