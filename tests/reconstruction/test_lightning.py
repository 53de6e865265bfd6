"""Lightning's Trainer drives the loop to what the loop comes to alone."""

import copy
import io

import pytest
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from tests.conftest import same_state
from tests.reconstruction.test_checkpoint import PLANS, QUANTIZER, KilledError, stop_after
from tqdm import tqdm

from attnround.quantization.ranges import Lsq
from attnround.quantization.rounding import Nearest
from attnround.reconstruction import Checkpoint, ReconstructionLoop, callbacks
from attnround.reconstruction.lightning import ReconstructionModule, fit_reconstruction
from attnround.trainer import TrainerSettings


class Losses(DummyLogger):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def log_metrics(self, metrics, step):
        self.seen.append((metrics, step))


class Counter(tqdm):
    """A bar that is not seen, and counts nevertheless."""

    def __init__(self, total):
        super().__init__(total=total, file=io.StringIO())


@pytest.fixture
def problem(with_activations):
    return with_activations(Lsq(4, drop=0.5))


def fitted(problem, quantizer, plan, **more):
    """What `problem.run` gives, by Lightning."""
    student = copy.deepcopy(problem.student)
    settings = PLANS[plan]
    trainer = TrainerSettings()
    return student, fit_reconstruction(problem.teacher, student, problem.images, quantizer, settings, trainer, **more)


@pytest.mark.parametrize("plan", ["layer", "block", "layer_then_block"])
def test_the_same_bits_reports_and_losses(problem, plan):
    torch.manual_seed(1)
    ours, theirs = Losses(), Losses()
    looped, reports = problem.run(QUANTIZER, PLANS[plan], seed=3, loggers=[ours])
    torch.manual_seed(2)
    student, others = fitted(problem, QUANTIZER, plan, seed=3, loggers=[theirs])
    assert not same_state(looped, problem.student)
    assert same_state(looped, student)
    assert [vars(each) | {"seconds": 0} for each in reports] == [vars(each) | {"seconds": 0} for each in others]
    assert ours.seen == theirs.seen
    assert [step for _, step in ours.seen] == list(range(2 * len(reports)))
    assert ours.seen[2] == ({f"reconstruction/{reports[1].name}": reports[1].losses[0]}, 2)


@pytest.mark.parametrize("by", ["loop", "trainer"])
def test_a_unit_that_stops_early_takes_no_more_bursts(problem, by, monkeypatch, tmp_path):
    """Loggers count as if it had taken them all, and are told again what a checkpoint has."""
    bars, losses, checkpoint = [], Losses(), Checkpoint(tmp_path / "it.pt", "it")
    monkeypatch.setattr(callbacks, "bar", lambda *_: bars.append(Counter(total=_[0])) or bars[-1])

    def run(**more):
        if by == "loop":
            return problem.run(QUANTIZER, PLANS["stopped early"], **more)
        return fitted(problem, QUANTIZER, "stopped early", **more)

    student, reports = run(loggers=[losses])
    taken = [len(report.losses) for report in reports]
    assert max(taken) < 20  # of 20 bursts
    assert [step for _, step in losses.seen] == [
        20 * unit + burst for unit, n in enumerate(taken) for burst in range(n)
    ]
    assert bars[0].n == bars[0].total == 20 * len(taken)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KilledError):
            run(checkpoint=checkpoint)
    again = Losses()
    resumed, _ = run(checkpoint=checkpoint, loggers=[again])
    assert same_state(student, resumed)
    assert again.seen == losses.seen
    assert bars[-1].n == bars[-1].total == 20 * (len(taken) - 2)


@pytest.mark.parametrize("plan", ["layer", "layer_then_block"])
@pytest.mark.parametrize("first", ["loop", "trainer"])
def test_either_goes_on_from_where_the_other_was_stopped(problem, plan, first, tmp_path):
    def run(by, **more):
        return problem.run(QUANTIZER, PLANS[plan], **more) if by == "loop" else fitted(problem, QUANTIZER, plan, **more)

    checkpoint = Checkpoint(tmp_path / "it.pt", "it")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KilledError):
            run(first, checkpoint=checkpoint)
    losses = Losses()
    student, reports = run("trainer" if first == "loop" else "loop", checkpoint=checkpoint, loggers=[losses])
    unbroken, expected = problem.run(QUANTIZER, PLANS[plan])
    assert same_state(student, unbroken)
    assert [each.losses for each in reports] == [each.losses for each in expected]
    assert [step for _, step in losses.seen] == list(range(2 * len(expected)))


def test_a_finished_run_needs_no_fit(problem, tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "it.pt", "it")
    student, reports = fitted(problem, QUANTIZER, "layer", checkpoint=checkpoint)
    monkeypatch.setattr(ReconstructionLoop, "begin_unit", None)
    again, taken_up = fitted(problem, QUANTIZER, "layer", checkpoint=checkpoint)
    assert same_state(student, again)
    assert taken_up == reports


def test_a_method_free_of_data_needs_no_fit(problem, monkeypatch):
    monkeypatch.setattr(TrainerSettings, "make", None)
    student, _ = fitted(problem, Nearest(), "layer")
    assert same_state(student, problem.student)


def test_the_modules_state_is_the_students_alone(problem):
    loop = ReconstructionLoop(problem.teacher, problem.student, problem.images, QUANTIZER, PLANS["layer"])
    keys = {key.removeprefix("student.") for key in ReconstructionModule(loop).state_dict()}
    assert keys == set(problem.student.state_dict())
