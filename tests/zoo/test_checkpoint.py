"""Whatever a checkpoint is wrapped in, the model has its weights to the bit; what is not clear is asked for."""

import argparse
import zipfile

import pytest
import timm
import torch
from safetensors.torch import save_file

from attnround.errors import InputError
from attnround.zoo import TimmModel

NAME = "test_resnet"


def weights(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(NAME, num_classes=3).state_dict()


@pytest.fixture(scope="module")
def state():
    return weights(0)


@pytest.fixture(scope="module")
def other():
    return weights(1)


def under(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def build(path, **more):
    return TimmModel(NAME, checkpoint=str(path), **more).build()


def saved(content, path):
    torch.save(content, path)
    return path


def assert_is(model, state):
    assert model.num_classes == 3
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)


def optimizer_state():
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


WRAPPINGS = {  # name: (what is saved for a state, the phrase for it)
    "plain": (lambda s: s, "it.ckpt"),
    "beside numbers": (lambda s: s | {"epoch": 3, "acc": 91.0}, "it.ckpt"),
    "model_state_dict": (lambda s: {"model_state_dict": s, "epoch": 3}, "model_state_dict of it.ckpt"),
    "net": (lambda s: {"net": s, "acc": 91.0}, "net of it.ckpt"),
    "any name": (lambda s: {"mine": s, "notes": "best so far"}, "mine of it.ckpt"),
    "nested": (lambda s: {"checkpoint": {"state_dict": s}, 0: "x"}, "checkpoint.state_dict of it.ckpt"),
    "DistributedDataParallel": (lambda s: under("module.", s), "it.ckpt under module."),
    "optimizer beside": (
        lambda s: {"state_dict": s, "optimizer": optimizer_state(), "optimizers": [optimizer_state()]},
        "state_dict of it.ckpt",
    ),
    "timm's training": (
        lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1), "version": 2},
        "state_dict of it.ckpt",
    ),
    "criterion beside": (
        lambda s: {"state_dict": under("model.", s) | {"criterion.weight": torch.ones(3)}},
        "state_dict of it.ckpt under model., 1 other tensor left out",
    ),
    "averaged by torch": (
        lambda s: {"model": under("module.", s) | {"n_averaged": torch.tensor(5), "step": torch.tensor(5)}},
        "model of it.ckpt under module., 2 other tensors left out",
    ),
    "profiled": (
        lambda s: s | {"total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1)},
        "it.ckpt",
    ),
    "float64": (lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()}, "it.ckpt"),
    "NaN in what is left out": (
        lambda s: {"state_dict": under("net.", s) | {"loss.best": torch.tensor(float("nan"))}},
        "state_dict of it.ckpt under net., 1 other tensor left out",
    ),
} | {
    f"Lightning {prefix}": (
        lambda s, p=prefix: {
            "state_dict": under(p, s),
            "pytorch-lightning_version": "2.6.6",
            "optimizer_states": [optimizer_state()],
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9), "dirpath": "x"}},
        },
        f"state_dict of it.ckpt under {prefix}",
    )
    for prefix in ("model.", "net.", "model._orig_mod.", "module.", "_orig_mod.", "backbone.model.")
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_weights_come_out_of_any_wrapping_to_the_bit(tmp_path, state, wrapping):
    wrap, said = WRAPPINGS[wrapping]
    model = build(saved(wrap(state), tmp_path / "it.ckpt"))
    assert_is(model, state)
    assert model.weights_from == said


def test_a_file_of_the_old_format_and_a_prefixed_safetensors(tmp_path, state):
    torch.save({"net": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(under("module.", state), tmp_path / "new.safetensors")
    assert_is(build(tmp_path / "old.pth"), state)
    model = build(tmp_path / "new.safetensors")
    assert_is(model, state)
    assert model.weights_from == "new.safetensors under module."


def test_batch_counts_may_be_missing_under_a_prefix(tmp_path, state):
    some = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert_is(build(saved(under("model.", some), tmp_path / "it.pth")), state)


@pytest.mark.parametrize(("averaged", "last"), [("state_dict_ema", "state_dict"), ("ema", "net")])
def test_averaged_weights_come_first_and_the_key_takes_the_others(tmp_path, state, other, averaged, last):
    path = saved({last: state, averaged: other}, tmp_path / "ema.pth.tar")
    model = build(path)
    assert_is(model, other)
    assert model.weights_from == f"{averaged} of ema.pth.tar (also there: {last}; model.weights_key= chooses)"
    model = build(path, weights_key=last)
    assert_is(model, state)
    assert model.weights_from == f"{last} of ema.pth.tar (also there: {averaged}; model.weights_key= chooses)"


def test_an_unknown_key_names_those_that_are_there(tmp_path, state, other):
    path = saved({"state_dict": state, "state_dict_ema": other, "optimizer": optimizer_state()}, tmp_path / "ema.pth")
    with pytest.raises(InputError, match=r"weights_key=model is not in .*: there are state_dict, state_dict_ema$"):
        build(path, weights_key="model")
    with pytest.raises(InputError, match="the file is one set, so leave it out"):
        build(saved(state, path), weights_key="model")


def test_a_key_without_a_checkpoint():
    with pytest.raises(InputError, match=r"give model\.checkpoint=<file> too"):
        TimmModel(NAME, random_init=True, weights_key="state_dict").build()


def test_of_student_and_teacher_the_key_decides(tmp_path, state, other):
    path = saved({"state_dict": under("student.", state) | under("teacher.model.", other)}, tmp_path / "two.ckpt")
    with pytest.raises(InputError, match=r"weights_key=, of state_dict\.student, state_dict\.teacher\.model$"):
        build(path)
    model = build(path, weights_key="state_dict.student")
    assert_is(model, state)
    assert model.weights_from == (
        f"state_dict of two.ckpt under student., {len(other)} other tensors left out "
        "(also there: state_dict.teacher.model; model.weights_key= chooses)"
    )
    assert_is(build(path, weights_key="state_dict.teacher"), other)
    with pytest.raises(InputError, match=r"there are state_dict\.student, state_dict\.teacher\.model$"):
        build(path, weights_key="state_dict.pupil")


def test_a_student_without_a_prefix_beside_its_teacher(tmp_path, state, other):
    path = saved({"model": state | under("teacher.", other)}, tmp_path / "two.pth")
    with pytest.raises(InputError, match=r"weights_key=, of model, model\.teacher$"):
        build(path)
    assert_is(build(path, weights_key="model"), state)
    assert_is(build(path, weights_key="model.teacher"), other)


def test_sets_of_unknown_names_are_asked_for(tmp_path, state, other):
    path = saved({"first": state, "second": other}, tmp_path / "two.pth")
    with pytest.raises(InputError, match=r"give model\.weights_key=, of first, second$"):
        build(path)
    assert_is(build(path, weights_key="second"), other)


def test_the_class_count_is_of_the_set_that_is_asked_for(tmp_path, state):
    teacher = timm.create_model(NAME, num_classes=9).state_dict()
    path = saved({"student": under("model.", state), "teacher": teacher}, tmp_path / "two.pth")
    assert_is(build(path, weights_key="student"), state)
    assert build(path, weights_key="teacher").num_classes == 9


def test_only_the_weights_that_are_taken_must_be_finite(tmp_path, state):
    broken = state | {"fc.bias": torch.full((3,), float("nan"))}
    path = saved({"state_dict": broken, "state_dict_ema": state}, tmp_path / "ema.pth")
    assert_is(build(path), state)
    with pytest.raises(InputError, match=r"NaN or infinity in fc\.bias"):
        build(path, weights_key="state_dict")


def test_a_set_of_another_model_is_no_candidate(tmp_path, state):
    resnet = timm.create_model("test_resnet", num_classes=3, channels=(8, 8, 8, 8)).state_dict()
    del resnet["fc.bias"]
    assert_is(build(saved({"state_dict_ema": resnet, "mine": state}, tmp_path / "it.pth")), state)


def test_a_checkpoint_of_another_model_names_its_keys(tmp_path):
    vit = timm.create_model("test_vit", num_classes=3).state_dict()
    path = saved({"state_dict": under("model.", vit), "losses": {"last": torch.ones(1)}}, tmp_path / "vit.ckpt")
    with pytest.raises(InputError, match=r"vit\.ckpt \(state_dict\) is of another .*not in the model model\.cls_token"):
        build(path)


def test_what_does_not_fit_under_a_prefix_is_named(tmp_path, state):
    wrong = under("model.", state) | {"model.extra.weight": torch.ones(1), "loss.weight": torch.ones(1)}
    with pytest.raises(InputError, match=r"another model: not in the model extra\.weight\. Check"):
        build(saved({"state_dict": wrong}, tmp_path / "it.ckpt"))
    del wrong["model.fc.bias"]
    with pytest.raises(InputError, match=r"another model: missing fc\.bias; not in the model extra\.weight\. Check"):
        build(saved({"state_dict": wrong}, tmp_path / "it.ckpt"))


def test_integer_codes_are_no_weights(tmp_path, state):
    codes = state | {"fc.weight": state["fc.weight"].mul(100).to(torch.int8)}
    with pytest.raises(InputError, match=r"not of floats fc\.weight"):
        build(saved(codes, tmp_path / "it.pth"))


def test_an_archive_that_claims_more_than_it_is(tmp_path, state, monkeypatch):
    saved(state | {"fc.weight": torch.zeros(3, 2**20)}, tmp_path / "it.pth")
    with zipfile.ZipFile(tmp_path / "it.pth") as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in source.namelist():
            bomb.writestr(entry, source.read(entry), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch, "load", lambda *args, **more: pytest.fail("it was read"))
    with pytest.raises(InputError, match="would unpack to 1"):
        build(tmp_path / "bomb.pth")


class Touch:
    """What pickle makes a file of."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_an_object_is_named_and_not_made(tmp_path, state):
    path = saved({"state_dict": state, "more": Touch(tmp_path / "ran")}, tmp_path / "it.pth")
    with pytest.raises(InputError, match=r"not a checkpoint of tensors .*holds a Python object, [\w.]+, and"):
        build(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"a": {"b": {"c": {"d": torch.ones(1)}}}}, torch.ones(2)])
def test_a_file_without_a_state_dict(tmp_path, content):
    with pytest.raises(InputError, match="holds no state dict"):
        build(saved(content, tmp_path / "it.pth"))


def test_no_checkpoint_is_said_too():
    assert TimmModel(NAME, random_init=True).build().weights_from == "random"
