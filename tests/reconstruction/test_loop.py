import copy
import dataclasses
import io
import sys

import pytest
import torch
from tests.conftest import same_state
from torch import nn

from attnround.errors import InputError
from attnround.graph import capture, find_layers, fold_batch_norms, swap_layers
from attnround.quantization.grid import dequantize
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.rounding import GPTQ, AdaRound, AttentionRound, Nearest
from attnround.reconstruction import Callback, LayerReconstruction, ReconstructionLoop, reconstruct
from attnround.reconstruction.loop import mixed

SETTINGS = LayerReconstruction(observer=ClipSearch(), batch_size=16, burst=40, held_out=0)
BITS = 3


@pytest.fixture
def problem(network):
    fold_batch_norms(network)
    names = list(find_layers(network))
    student = swap_layers(network, dict.fromkeys(names, BITS), ClipSearch())
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return network, student, images


def run(problem, quantizer, settings=SETTINGS, seed=0):
    teacher, student, images = problem
    student = copy.deepcopy(student)
    return student, reconstruct(teacher, student, images, quantizer, settings, seed=seed)


@torch.no_grad()
def fidelity(problem, student) -> float:
    teacher, _, _ = problem
    x = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return sqnr_db(teacher(x), student(x))


@pytest.mark.parametrize("quantizer", [AdaRound(num_steps=400, lr=0.03), AttentionRound()], ids=["ada", "attention"])
def test_reconstruction_brings_the_network_closer_to_float(problem, quantizer):
    student, reports = run(problem, quantizer)
    assert [report.name for report in reports] == ["stem", "depthwise", "grouped", "head"]
    assert fidelity(problem, student) > fidelity(problem, problem[1]) + 3
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)
    assert all(0 < report.layers[0].moved_one < 100 for report in reports)


def test_mirrored_images_are_learned_from_and_no_copy_is_held_out(problem):
    teacher, start, images = problem
    both = torch.cat([images[:48], images[:48].flip(-1), images[48:]])
    students = []
    for given, settings in ((images, {"held_out": 0.25, "mirrored": True}), (both, {"held_out": 16.5 / 112})):
        students.append(copy.deepcopy(start))
        settings = dataclasses.replace(SETTINGS, output_metric="none", **settings)
        reconstruct(teacher, students[-1], given, AttentionRound(num_steps=20), settings)
    assert same_state(*students)
    assert not same_state(students[0], run(problem, AttentionRound(num_steps=20))[0])


@pytest.mark.parametrize("mirrored", [False, True])
def test_images_are_learned_from_mixed_with_others_too(problem, mirrored):
    teacher, start, images = problem
    learned = torch.cat([images[:48], images[:48].flip(-1)]) if mirrored else images[:48]
    others = mixed(learned, 0)
    assert torch.equal(others, mixed(learned, 0))
    assert not torch.equal(others, mixed(learned, 1))
    assert (others - learned).square().mean() < (others - learned.mean(0)).square().mean()
    given = torch.cat([learned, others, images[48:]])
    students = []
    for shown, settings in (
        (images, {"held_out": 0.25, "mirrored": mirrored, "mixup": True}), (given, {"held_out": 16.5 / len(given)})
    ):  # fmt: skip
        students.append(copy.deepcopy(start))
        settings = dataclasses.replace(SETTINGS, output_metric="none", **settings)
        reconstruct(teacher, students[-1], shown, AttentionRound(num_steps=20), settings)
    assert same_state(*students)


def test_nearest_changes_nothing(problem):
    student, reports = run(problem, Nearest())
    for (key, before), after in zip(problem[1].state_dict().items(), student.state_dict().values(), strict=True):
        assert torch.equal(before, after), key
    assert all(report.layers[0].moved_one == 0 for report in reports)


def test_the_weights_are_what_the_integers_say(problem):
    student, _ = run(problem, AttentionRound())
    for name in ("stem", "depthwise", "grouped", "head"):
        layer = student.get_submodule(name)
        assert layer.levels.min() >= layer.grid.qmin
        assert layer.levels.max() <= layer.grid.qmax
        assert torch.equal(layer.layer.weight, dequantize(layer.levels, layer.scale, layer.zero_point))


def test_the_same_seed_gives_the_same_bits_and_the_cache_changes_none(problem):
    one, _ = run(problem, AttentionRound())
    two, _ = run(problem, AttentionRound())
    without_cache = LayerReconstruction(observer=ClipSearch(), batch_size=16, burst=7, cache_mib=0, held_out=0)
    three, _ = run(problem, AttentionRound(), without_cache)
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key])
        assert torch.equal(value, three.state_dict()[key])


def test_the_input_weighted_search_takes_effect(problem):
    weighted = LayerReconstruction(observer=ClipSearch(input_weighted=True), batch_size=16)
    student, reports = run(problem, AttentionRound(), weighted)
    assert not torch.equal(student.stem.scale, problem[1].stem.scale)
    assert all(report.sqnr_db >= report.start_sqnr_db for report in reports)


def test_an_infinite_activation_names_the_layer(problem):
    problem[2][3] = float("inf")
    with pytest.raises(InputError, match=r"stem.*NaN or infinity"):
        run(problem, AttentionRound())


def test_outputs_beyond_float32_name_the_layer(problem):
    with torch.no_grad():
        problem[0].stem.weight.mul_(1e20)
    with pytest.raises(InputError, match=r"^stem: .*too large for float32"):
        run(problem, GPTQ())


def test_a_loss_that_diverges_names_the_layer(problem):
    class Diverging(AttentionRound):
        def start(self, *weight):
            rounding = super().start(*weight)
            rounding.alpha.data.fill_(float("nan"))
            return rounding

    with pytest.raises(InputError, match=r"stem.*lower quantizer\.lr"):
        run(problem, Diverging())


def test_a_terminal_shows_the_unit_and_its_loss(problem, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(problem, AttentionRound())
    shown = terminal.getvalue()
    assert "reconstruct 1/4 stem 3 bit" in shown
    assert "reconstruct 4/4 head 3 bit" in shown
    assert "loss" in shown


def test_without_a_terminal_there_is_a_plain_line_a_unit(problem, caplog, capsys):
    caplog.set_level("INFO")
    run(problem, AttentionRound())
    head, *lines = [record.getMessage() for record in caplog.records if "loss" in record.getMessage()]
    assert head.split(maxsplit=2) == ["4", "units", "loss: error of the unit's output, % of its variance"]
    assert len(lines) == 4
    assert lines[1].split()[:4] == ["2/4", "depthwise", "3", "bit"]
    assert "\r" not in capsys.readouterr().err


class Odd(nn.Module):
    """A keyword call, a constant made in the forward, a layer of zeros, and one behind it that sees a constant."""

    def __init__(self):
        super().__init__()
        self.first, self.zeros = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
        self.last = nn.Linear(4, 2)
        nn.init.zeros_(self.zeros.weight)

    def forward(self, x):
        x = self.first(input=x) + torch.ones(4, 1, 1)
        return self.last(self.zeros(x).mean((2, 3)))


@pytest.mark.parametrize("observer", [ClipSearch(), ClipSearch(input_weighted=True), ClipSearch(symmetric=False)])
def test_odd_layers_are_no_trouble(observer):
    torch.manual_seed(0)
    model = capture(Odd(), torch.zeros(1, 3, 8, 8))
    student = swap_layers(model, dict.fromkeys(["first", "zeros", "last"], 4), observer)
    images = torch.randn(16, 3, 8, 8)
    settings = LayerReconstruction(observer=observer, batch_size=8)
    student, _ = run((model, student, images), AttentionRound(num_steps=20), settings)
    with torch.no_grad():
        assert student(images).isfinite().all()
        assert torch.equal(student.zeros.layer.weight, torch.zeros(4, 1, 3, 3))


class Course(Callback):
    """What a loop tells, in order."""

    def __init__(self):
        self.told = []

    def on_start(self, loop):
        self.told.append("start")

    def on_unit_begin(self, loop):
        self.told.append(f"{loop.index} {loop.step.unit.name}")

    def on_burst_end(self, loop):
        self.told.append(loop.unit.loss)

    def on_unit_end(self, loop):
        self.told.append(loop.reports[-1])

    def on_end(self, loop):
        self.told.append("end")


def loop_of(problem, quantizer, *callbacks):
    teacher, student, images = problem
    return ReconstructionLoop(teacher, student, images, quantizer, SETTINGS, callbacks=callbacks)


def test_callbacks_are_told_of_units_and_bursts_in_order(problem):
    course = Course()
    loop = loop_of(problem, AttentionRound(num_steps=60), course)
    loop.run()
    expected = ["start"]
    for index, report in enumerate(loop.reports):
        assert len(report.losses) == 2  # 40 and 20 steps
        expected += [f"{index} {report.name}", *report.losses, report]
    assert course.told == [*expected, "end"]


def test_callbacks_are_told_of_the_end_where_an_error_is_the_end(problem):
    course = Course()
    problem[2][3] = float("inf")
    with pytest.raises(InputError):
        loop_of(problem, AttentionRound(), course).run()
    assert course.told == ["start", "0 stem", "end"]


def test_a_loop_learns_where_the_caller_wants_no_gradients(problem):
    expected, _ = run(problem, AttentionRound(num_steps=60))
    with torch.no_grad():
        student, _ = run(problem, AttentionRound(num_steps=60))
    assert same_state(student, expected)
