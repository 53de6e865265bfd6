import pytest
import timm
import torch
from safetensors.torch import save_file

from attnround.errors import InputError
from attnround.zoo import TimmModel

NAME = "test_resnet"


@pytest.fixture
def state():
    return timm.create_model(NAME, num_classes=7).state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_gives_weights_and_class_count(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    model = TimmModel(NAME, checkpoint=str(path)).build()
    assert model.num_classes == 7
    assert not model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_an_unknown_name_gets_the_closest():
    with pytest.raises(InputError, match="resnet18"):
        TimmModel("resnet_18", random_init=True).build()


def test_an_unknown_argument_is_named():
    with pytest.raises(InputError, match="colour"):
        TimmModel(NAME, random_init=True, arguments={"colour": "red"}).build()


def test_no_weights_is_not_a_silent_default():
    with pytest.raises(InputError, match=r"model\.checkpoint"):
        TimmModel(NAME).build()


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(InputError, match="not there"):
        TimmModel(NAME, checkpoint=str(tmp_path / "no.pth")).build()


@pytest.mark.parametrize("content", [b"", b"hello, I am no checkpoint", b"\x80\x04\x95" + bytes(50)])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_is_no_checkpoint(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a checkpoint"):
        TimmModel(NAME, checkpoint=str(path)).build()


def test_a_checkpoint_of_other_shapes_names_the_keys(tmp_path, state):
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"of another shape fc\.weight \[7, .*for \[9, "):
        TimmModel(NAME, checkpoint=str(tmp_path / "weights.safetensors"), num_classes=9).build()


def test_missing_and_foreign_keys_are_named(tmp_path, state):
    state["new.weight"] = state.pop("fc.weight")
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"missing fc\.weight.*not in the model new\.weight"):
        TimmModel(NAME, checkpoint=str(tmp_path / "weights.safetensors"), num_classes=7).build()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_a_checkpoint_is_named(tmp_path, state, value):
    state["fc.bias"][0] = value
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"NaN or infinity in fc\.bias"):
        TimmModel(NAME, checkpoint=str(tmp_path / "weights.safetensors")).build()


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050"])
def test_the_small_stem_keeps_the_size_of_small_images(name):
    grey = {"input_size": [1, 28, 28], "mean": [0.3], "std": [0.3]}
    arguments = {"in_chans": 1} | (
        {"channels": [16, 32, 64, 128], "stem_type": "deep", "stem_width": 8} if name == "resnet18" else {}
    )
    model = TimmModel(
        name, random_init=True, num_classes=10, small_image_stem=True, arguments=arguments, preprocessing=grey
    ).build()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.stride == (1, 1)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    assert model.forward_features(torch.randn(1, 1, 28, 28)).shape[-1] >= 2


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"arguments": {"in_chans": 1}}, "takes 1 channels"),
        ({"preprocessing": {"input_size": [1, 32, 32]}}, "takes 3 channels"),
        ({"preprocessing": {"mean": [0.5, 0.5]}}, "a value a channel"),
        ({"preprocessing": {"crop_pcct": 0.9}}, "no crop_pcct"),
    ],
)
def test_preprocessing_must_fit_the_model(settings, word):
    with pytest.raises(InputError, match=word):
        TimmModel(NAME, random_init=True, **settings).build()


@pytest.mark.parametrize("others", [{"pretrained": True}, {"checkpoint": "a.pth"}])
def test_weights_come_from_one_place(others):
    with pytest.raises(InputError, match=r"and model\.random_init=true contradict each other"):
        TimmModel(NAME, random_init=True, **others)


@pytest.mark.parametrize("arguments", [{"features_only": True}, {"num_classes": 0}])
def test_a_model_that_gives_no_classes_is_refused(arguments):
    with pytest.raises(InputError, match="gives no classes then"):
        TimmModel(NAME, random_init=True, arguments=arguments).build()
