"""Quantization-aware training on a small problem: what it gains, where it starts, that it goes on where it was."""

import pytest
import torch
from tests.conftest import same_state
from torch.nn.functional import cross_entropy

from attnround.data import HeldOut
from attnround.errors import InputError
from attnround.evaluation import evaluate
from attnround.qat.layer import TrainedLayer
from attnround.qat.module import QatModule, distillation
from attnround.trainer import TrainerSettings


def losses(tuned):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in tuned.curve]


@pytest.mark.parametrize("more", [{}, {"batch_norm": "reestimated"}, {"ema": 0.9}, {"distillation": 0.0}])
def test_training_gains(problem, tmp_path, more):
    trainer = TrainerSettings()
    before = evaluate(problem.student, problem.data, trainer)
    tuned = problem.tune(tmp_path / "qat", **more)
    after = evaluate(tuned.student, problem.data, trainer)
    assert after.top1 > before.top1 + 5
    assert cross_entropy(after.logits, after.labels) < cross_entropy(before.logits, before.labels)


@pytest.mark.parametrize("momentum", [0.0, 0.02, 0.9])
def test_the_momentum_is_the_one_that_is_asked_for(problem, tmp_path, momentum, monkeypatch):
    seen = []

    def look(self, *_):
        seen.append(self.trainer.optimizers[0].param_groups[0]["momentum"])

    monkeypatch.setattr(QatModule, "on_train_batch_end", look)
    problem.tune(tmp_path / "qat", num_epochs=2, momentum=momentum)
    assert min(seen) == pytest.approx(max(momentum - 0.05, 0), abs=0.02)
    assert max(seen) == pytest.approx(momentum + 0.05 * (momentum > 0), abs=0.02)


def test_batch_norms_train_with_the_statistics_of_their_batches(problem, tmp_path, monkeypatch):
    modes = []

    def look(self, *_):
        layers = (layer for layer in self.model.modules() if isinstance(layer, TrainedLayer))
        modes.extend(layer.norm.training for layer in layers if layer.norm is not None)

    monkeypatch.setattr(QatModule, "on_train_batch_start", look)
    problem.tune(tmp_path / "qat", num_epochs=1, batch_norm="reestimated")
    assert modes
    assert all(modes)


def test_it_leaves_student_and_teacher_as_they_were(problem, tmp_path):
    before = [problem.teacher(problem.images), problem.student(problem.images)]
    problem.tune(tmp_path / "qat", num_epochs=1)
    assert torch.equal(problem.teacher(problem.images), before[0])
    assert torch.equal(problem.student(problem.images), before[1])


@pytest.mark.parametrize("batch_norm", ["folded", "reestimated"])
def test_without_a_step_the_accuracy_is_that_of_the_start(problem, tmp_path, batch_norm):
    """PTQ then QAT starts at PTQ's accuracy: a rate of nothing leaves every logit."""
    tuned = problem.tune(tmp_path / "qat", num_epochs=1, lr=1e-12, batch_norm=batch_norm)
    with torch.no_grad():
        expected = problem.student(problem.images)
        if batch_norm == "folded":
            torch.testing.assert_close(tuned.student(problem.images), expected, rtol=1e-4, atol=1e-4)
    agreed = (tuned.student(problem.images).argmax(1) == expected.argmax(1)).double().mean()
    assert agreed > 0.97


def test_from_fp32_the_layers_have_the_means_of_the_float_model_s(problem, tmp_path):
    tuned = problem.tune(tmp_path / "qat", num_epochs=1, lr=1e-12, batch_norm="reestimated", start="fp32")
    for name in problem.norms:
        wanted, before, after = (
            means(model, name, problem.images) for model in (problem.teacher, problem.student, tuned.student)
        )
        torch.testing.assert_close(after, wanted, rtol=1e-2, atol=1e-2)
        assert (before - wanted).norm() > 2 * (after - wanted).norm()


@torch.no_grad()
def means(model, name, images):
    """Of a layer's output channels."""
    found = []
    hook = model.get_submodule(name).register_forward_hook(lambda _, __, output: found.append(output.mean((0, 2, 3))))
    model(images)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "batch_norm": "reestimated"}])
def test_a_run_that_was_interrupted_has_the_same_curve_and_the_same_bits(problem, tmp_path, more, monkeypatch):
    whole = problem.tune(tmp_path / "whole", identity="a", **more)

    class KilledError(Exception):
        pass

    def kill(self):
        if self.current_epoch == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(QatModule, "on_validation_start", kill)
        with pytest.raises(KilledError):
            problem.tune(tmp_path / "broken", identity="a", **more)
    torch.randn(7)  # a new process would not be where this one's generator is
    resumed = problem.tune(tmp_path / "broken", identity="a", resume=True, **more)
    assert losses(resumed) == losses(whole)
    assert same_state(resumed.student, whole.student)
    again = problem.tune(tmp_path / "broken", identity="a", resume=True, **more)  # it had come to its end
    assert again.curve == resumed.curve
    assert same_state(again.student, whole.student)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(problem, tmp_path):
    problem.tune(tmp_path / "qat", num_epochs=1, identity="a")
    with pytest.raises(InputError, match="another config"):
        problem.tune(tmp_path / "qat", num_epochs=1, identity="b", resume=True)
    (tmp_path / "qat/last.ckpt").write_bytes(b"half")
    with pytest.raises(InputError, match="damaged"):
        problem.tune(tmp_path / "qat", num_epochs=1, identity="a", resume=True)
    problem.tune(tmp_path / "qat", num_epochs=1, identity="b")  # anew, without resume


def test_it_stops_early_and_takes_the_best_epoch(problem, tmp_path):
    tuned = problem.tune(tmp_path / "qat", num_epochs=40, lr=1.0, patience=2, identity="a")
    assert len(tuned.curve) < 40
    assert len(tuned.curve) - 1 - tuned.best == 2
    ended = torch.load(tmp_path / "qat/best.ckpt", weights_only=True)["epoch"]
    assert ended == tuned.best
    again = problem.tune(tmp_path / "qat", num_epochs=40, lr=1.0, patience=2, identity="a", resume=True)
    assert again.curve == tuned.curve


def test_distillation_is_zero_for_equal_logits_and_its_gradient_keeps_its_size(generator):
    logits, target = torch.randn(2, 50, 7, generator=generator, dtype=torch.float64)
    assert distillation(target, target, 3.0) == pytest.approx(0, abs=1e-12)
    assert distillation(logits, target, 1.0) > 0
    sizes = []
    for temperature in (1000.0, 2000.0):
        x = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(distillation(x, target, temperature), x)
        sizes.append(gradient.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-2)


def test_too_few_labelled_images_for_a_batch_is_one_line(problem):
    with pytest.raises(InputError, match="batch_size=400"):
        HeldOut(problem.data, 0.1, 400)


def test_images_that_devices_cannot_share_are_one_line(problem):
    held_out = HeldOut(problem.data, 0.1, 33)
    held_out.check_shared(3)
    with pytest.raises(InputError, match="batch_size=33: 2 devices"):
        held_out.check_shared(2)
    with pytest.raises(InputError, match=r"held_out: 33 devices cannot share"):
        held_out.check_shared(33)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(problem, tmp_path):
    one = problem.tune(tmp_path / "one")
    two = problem.tune(tmp_path / "two", TrainerSettings(devices=2, strategy="ddp_spawn"))
    assert len(two.curve) == len(one.curve)
    assert two.curve[-1]["loss"] < two.curve[0]["loss"]
    assert two.curve[-1]["loss"] == pytest.approx(one.curve[-1]["loss"], rel=0.2)
