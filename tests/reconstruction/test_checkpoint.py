"""A run that was stopped goes on to the same bits; what is no such run is refused and nothing touched."""

import copy
import random

import pytest
import torch
from tests.conftest import same_state

from attnround.errors import InputError
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Lsq
from attnround.quantization.rounding import AttentionRound
from attnround.reconstruction import BlockReconstruction, Checkpoint, LayerReconstruction

SHARED = {"observer": ClipSearch(), "batch_size": 16, "burst": 6, "held_out": 0.25}
LAYER = LayerReconstruction(**SHARED)
BLOCK = BlockReconstruction(**SHARED, num_steps=12, minibatch=8, mix=0.5, activation_lr=1e-3)
PLANS = {
    "layer": LAYER,
    "block": BLOCK,
    "block fisher": BlockReconstruction(**SHARED, num_steps=12, loss="fisher"),
    "layer_then_block": BlockReconstruction(**SHARED, num_steps=12, minibatch=8, mix=0.5, layer_first=LAYER),
    "stopped early": BlockReconstruction(**SHARED | {"burst": 2}, num_steps=40, patience=1),
    "block in bfloat16": BlockReconstruction(**SHARED, num_steps=12, cache_mib=0.2),
    "block on disk": BlockReconstruction(**SHARED, num_steps=12, cache_mib=0.01),
}
NUM_UNITS = {"layer": 6, "layer_then_block": 10}
QUANTIZER = AttentionRound(num_steps=12, estimator="sampled")  # draws, so that the state of generators matters


class KilledError(Exception):
    pass


@pytest.fixture
def problem(with_activations):
    return with_activations(Lsq(4, drop=0.5))


def stop_after(monkeypatch, num_units: int) -> None:
    save = Checkpoint.save

    def save_and_stop(self, student, reports):
        save(self, student, reports)
        if len(reports) == num_units:
            raise KilledError

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)


@pytest.mark.parametrize("plan", PLANS)
def test_a_stopped_run_ends_with_the_bits_of_an_unbroken_one(problem, plan, tmp_path):
    unbroken, reports = problem.run(QUANTIZER, PLANS[plan])
    num_units = NUM_UNITS.get(plan, 4)
    assert len(reports) == num_units
    assert not same_state(unbroken, problem.student)
    for num_done in range(1, num_units, 2 if num_units < 10 else 3):
        checkpoint = Checkpoint(tmp_path / f"{num_done}.pt", "it")
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, num_done)
            with pytest.raises(KilledError):
                problem.run(QUANTIZER, PLANS[plan], checkpoint=checkpoint)
        student, resumed = problem.run(QUANTIZER, PLANS[plan], checkpoint=checkpoint)
        assert same_state(unbroken, student), num_done
        assert [(each.name, each.losses, each.sqnr_db, each.kept) for each in resumed] == [
            (each.name, each.losses, each.sqnr_db, each.kept) for each in reports
        ]


def test_a_finished_run_is_taken_up_without_a_step(problem, tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "it.pt", "it")
    student, reports = problem.run(QUANTIZER, BLOCK, checkpoint=checkpoint)
    monkeypatch.setattr(BlockReconstruction, "begin", None)
    again, taken_up = problem.run(QUANTIZER, BLOCK, checkpoint=checkpoint)
    assert same_state(student, again)
    assert taken_up == reports


@pytest.fixture
def written(problem, tmp_path):
    checkpoint = Checkpoint(tmp_path / "it.pt", "it")
    problem.run(AttentionRound(num_steps=2), LayerReconstruction(**SHARED), checkpoint=checkpoint)
    return checkpoint


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"cannot be read .*damaged; remove it"),
        (lambda path: path.write_bytes(b""), r"cannot be read .*damaged; remove it"),
        (lambda path: path.write_text("a: 1\n"), r"cannot be read .*damaged; remove it"),
        (lambda path: torch.save({"state_dict": {"x": torch.ones(2)}}, path), r"is not a reconstruction of this"),
        (lambda path: torch.save(torch.ones(3), path), r"is not a reconstruction of this"),
    ],
    ids=["truncated", "empty", "text", "foreign", "tensor"],
)
def test_what_is_no_checkpoint_is_refused_in_a_line(problem, written, damage, message):
    damage(written.path)
    student = copy.deepcopy(problem.student)
    with pytest.raises(InputError, match=message) as caught:
        written.restore(student)
    assert "\n" not in str(caught.value)
    assert same_state(student, problem.student)


def same_content(one, two) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same_content(each, two[key]) for key, each in one.items())
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_a_flipped_bit_is_found_or_changes_nothing(written):
    raw, content = written.path.read_bytes(), written.read()
    found = 0
    for i in random.Random(0).sample(range(8 * len(raw)), 300):
        damaged = bytearray(raw)
        damaged[i // 8] ^= 1 << i % 8
        written.path.write_bytes(damaged)
        try:
            assert same_content(written.read(), content)
        except InputError:
            found += 1
    assert found > 150  # the others hit what only fills the archive up


def test_another_runs_checkpoint_is_refused_in_a_line(problem, written):
    student = copy.deepcopy(problem.student)
    with pytest.raises(InputError, match=r"another config \(it, this one is other\)") as caught:
        Checkpoint(written.path, "other").restore(student)
    assert "\n" not in str(caught.value)
    assert same_state(student, problem.student)
    assert len(written.restore(student)) == 6
    assert not same_state(student, problem.student)


def test_a_crash_while_saving_leaves_the_old_file(problem, written, monkeypatch):
    before = written.path.read_bytes()

    def crash(content, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="no space"):
        written.save(problem.student, [])
    assert written.path.read_bytes() == before
    assert len(written.restore(copy.deepcopy(problem.student))) == 6
