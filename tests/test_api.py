"""The library as people meet it: `attnround.quantize`, what it gives, and what it leaves alone."""

import copy
import json
import runpy

import numpy as np
import onnxruntime
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import attnround
from attnround.api import ALLOCATORS, ENDS, RECONSTRUCTIONS, ROUNDINGS
from attnround.data import FashionMNIST
from attnround.deploy import fingerprint
from attnround.errors import InputError
from attnround.evaluation import kl_nats, logit_sqnr_db
from attnround.experiment import quantizing
from attnround.qat import Lsq
from attnround.qat.layer import TrainedLayer
from attnround.quantization.grid import quantize
from attnround.quantization.layers import quantized_layers
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Mse
from attnround.quantization.rounding import AttentionRound
from attnround.quantized import RECIPE
from attnround.reconstruction import BlockReconstruction, LayerReconstruction
from attnround.zoo import TimmModel
from tests.conftest import ROOT, Residual, same_state
from tests.golden.runs import RUNS, W3, outcome

SIDE = 16


class Own(Residual):
    """A reader's own: dropout, a frozen stem, a module that is never called."""

    def __init__(self, num_classes: int = 5):
        super().__init__(num_classes=num_classes)
        self.drop, self.spare = nn.Dropout(0.5), nn.Linear(3, 3)
        self.stem.weight.requires_grad_(False)

    def forward(self, x, scale=1.0):
        return self.drop(super().forward(x)) * scale


@pytest.fixture
def own() -> Own:
    torch.manual_seed(0)
    return Own()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(48, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def quick(model, images=None, **options):
    return attnround.quantize(model, images, **{"rounding": "gptq", "progress": False} | options)


def test_the_same_numbers_as_the_entry_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setitem(RUNS, "few steps", ("quantizer.num_steps=4", *W3))
    monkeypatch.setattr(quantizing, "draw", lambda *_: [])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"paths.root={ROOT}"])
    model = instantiate(config.model, _convert_="all")
    data = FashionMNIST(str(ROOT / "assets/fashion_mnist"), num_calibration=64)
    net = model.build()
    data.match(net.preprocessing, net.num_classes)
    settings = RECONSTRUCTIONS["layer"](burst=10)
    found = attnround.quantize(
        model, data.calibration().images, bits=3, rounding=AttentionRound(num_steps=4), reconstruction=settings,
        progress=False,
    )  # fmt: skip
    assert fingerprint(found.model) == outcome("few steps", tmp_path)["fingerprint"]


@pytest.mark.parametrize(
    ("group", "words"), [("quantizer", ROUNDINGS), ("bits", ALLOCATORS), ("reconstruction", RECONSTRUCTIONS)]
)
def test_words_stand_for_the_options_of_the_command_line(group, words):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for name, make in words.items():
            option = instantiate(compose("train", [f"{group}={name}"])[group], _convert_="all")
            made = make()
            if group == "bits":  # lists there, tuples here
                option, made = ({**vars(each), "candidates": 0, "groups": 0} for each in (option, made))
                option["pinned"] = {name: bits for name, bits in option["pinned"].items() if bits is not None}
            assert option == made, name
        assert instantiate(compose("train", ["activation=mse"]).activation, _convert_="all") == Mse(8, pinned=ENDS)


def test_the_callers_model_and_generator_stay_as_they_are(own, images):
    own.train()
    own.head.register_forward_hook(lambda *_: None)
    before, flags = copy.deepcopy(own), [p.requires_grad for p in own.parameters()]
    state = torch.get_rng_state()
    quick(own, images, activation=8)
    assert same_state(own, before)
    assert flags == [p.requires_grad for p in own.parameters()]
    assert all(module.training for module in own.modules())
    assert own.act.inplace
    assert len(own.head._forward_hooks) == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_what_comes_out_follows_the_float_model_and_reports_its_layers(own, images):
    found = quick(own, images)
    with torch.no_grad():
        expected = own.eval()(images)
        assert (found.model(images) - expected).abs().max() < 0.5 * expected.std()
        assert torch.equal(found(images), found.model(images))
    assert [(row["name"], row["bits"]) for row in found.report] == [
        ("stem", 8), ("depthwise", 4), ("grouped", 4), ("head", 8),
    ]  # fmt: skip
    assert "grouped" in str(found.report)
    assert found.report.kl == pytest.approx(kl_nats(expected, found.model(images)), rel=1e-4)
    assert f"{found.report.sqnr_db:.2f} dB, KL {found.report.kl:.3g} nats" in str(found.report)
    assert len(found.report.dataframe()) == 4 if _has_pandas() else True


def _has_pandas() -> bool:
    import importlib.util

    return importlib.util.find_spec("pandas") is not None


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model))])
def test_what_wraps_a_model_is_taken_off(own, images, wrap):
    assert same_state(quick(wrap(own), images).model, quick(own, images).model)


def test_half_precision_is_quantized_from_its_values(own, images):
    assert same_state(quick(copy.deepcopy(own).half(), images).model, quick(own.half().float(), images).model)


def test_what_comes_out_is_a_module_like_others(own, images):
    model = quick(own, images, activation=8).model
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), expected)
        torch.testing.assert_close(model.double()(images.double()).float(), expected)


def forms(images):
    labels = torch.zeros(len(images)).long()
    yield "tensor", images, None
    yield "dataset", TensorDataset(images, labels), None
    yield "loader", DataLoader(TensorDataset(images, labels), 7), None
    yield "batches", [images[:20], images[20:]], None
    yield "dictionaries", [{"pixel_values": images[:20], "labels": 0}, {"pixel_values": images[20:], "labels": 1}], None
    yield "anything", [(0, (images,))], lambda batch: batch[1][0]


class OwnData(pl.LightningDataModule):
    """As Lightning's users write them: what there is to load is known after `setup`."""

    def setup(self, stage):
        images = torch.randn(48, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self.set = TensorDataset(images, torch.zeros(48).long())

    def train_dataloader(self):
        return DataLoader(self.set, 7)


class OwnModule(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def test_lightnings_modules_and_data_are_taken(own, images):
    found = quick(OwnModule(own), OwnData())
    assert torch.equal(found.model(images), quick(own, images).model(images))
    assert found.report[0]["name"] == "net.stem"


@pytest.mark.parametrize("form", range(6))
def test_images_in_every_form_are_the_same_images(own, images, form):
    _, given, images_of = list(forms(images))[form]
    assert same_state(quick(own, given, images_of=images_of).model, quick(own, images).model)


def test_no_more_images_are_read_than_asked_for(own, images):
    def endless():
        while True:
            yield images[:10]

    assert len(quick(own, endless(), num_images=25).images) == 25


def test_several_settings_of_one_prepared_model(own, images):
    prepared = attnround.Prepared(own, images)
    before = copy.deepcopy(prepared.teacher)
    found = [quick(prepared, bits=bits) for bits in (3, attnround.bits.Mixed(budget=5, pinned=ENDS))]
    assert same_state(found[0].model, quick(own, images, bits=3).model)
    assert same_state(prepared.teacher, before)


def capped() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("placement", ["inputs", "onnxruntime"])
def test_an_equalized_model_is_the_same_and_goes_where_others_go(images, tmp_path, placement):
    net, images = capped(), 4 * images
    found = quick(net, images, activation=8, placement=placement, equalization="cross_layer")
    torch.testing.assert_close(found.prepared.teacher(images), net(images), rtol=1e-4, atol=1e-5)
    (line,) = found.report.remarks
    assert line.startswith("equalization: 3 pairs of layers")
    found.save(tmp_path / "it.safetensors")
    assert torch.equal(attnround.load(tmp_path / "it.safetensors", model=capped)(images), found.model(images))
    assert found.export(tmp_path / "it.onnx") >= 99
    assert found.export(tmp_path / "it.pt2") == 100
    assert not found.verify().faults
    with pytest.raises(InputError, match="the model given differs in the ReLU6 behind '0'"):
        attnround.load(tmp_path / "it.safetensors", model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 5)))


def test_equalization_of_nothing_is_said(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5))
    found = quick(net, images, equalization="cross_layer")
    assert found.report.remarks == [
        "equalization: nothing can be equalized: no layer gives to another alone, through ReLU, ReLU6 or nothing"
    ]
    assert "nothing can be equalized" in str(found.report)
    assert quick(net, images).report.remarks == []


def test_equalization_is_asked_for_once_and_by_its_name(images):
    with pytest.raises(InputError, match="equalization='cross': give none, cross_layer or layer_norm, or an object"):
        quick(capped(), images, equalization="cross")
    prepared = attnround.Prepared(capped(), images, equalization="cross_layer")
    assert quick(prepared).report.remarks == prepared.teacher.remarks != []
    with pytest.raises(InputError, match="a prepared model is equalized or not: tell Prepared"):
        quick(prepared, equalization="cross_layer")


@pytest.mark.parametrize(
    ("activation", "placement"), [(None, "inputs"), (8, "inputs"), (8, "onnxruntime"), (4, "openvino")]
)
def test_saved_loaded_exported_and_verified(own, images, tmp_path, activation, placement):
    found = quick(own, images, activation=activation, placement=placement)
    for opset, name, said in ((12, "q.onnx", "opset=12: "), (21, "q.pt2", "opset=21 is of a file that ends in .onnx")):
        with pytest.raises(InputError, match=said):
            found.export(tmp_path / name, opset=opset)
    found.save(tmp_path / "own.safetensors")
    for model in (Own, Own(), lambda: Own()):
        again = attnround.load(tmp_path / "own.safetensors", model=model)
        assert torch.equal(again(images), found.model(images))
    assert found.export(tmp_path / "own.onnx") >= 99.9
    assert found.export(tmp_path / "own.pt2") == 100
    assert not found.verify().faults
    with pytest.raises(
        InputError, match=r"own\.safetensors holds the weights of a .*Own and not how one is made: give model="
    ):
        attnround.load(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match=r"the model given differs in head"):
        attnround.load(tmp_path / "own.safetensors", model=lambda: Own(num_classes=6))
    with pytest.raises(InputError, match=r"\.tflite is of no kind that is exported"):
        found.export(tmp_path / "own.tflite")


def test_an_exported_file_may_take_pixels(own, tmp_path):
    pixels = torch.randint(0, 256, (32, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    steps = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    mean, std = (torch.tensor(steps[name])[:, None, None] for name in ("mean", "std"))
    found = quick(own, (pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    arrays = {name: np.array(values) for name, values in steps.items()}
    assert found.export(tmp_path / "q.onnx", preprocessing=arrays) == 100
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx")
    assert np.abs(session.run(None, {"images": pixels.numpy()})[0] - found(found.images).detach().numpy()).max() < 1e-4
    resizing = steps | {"crop_pct": 0.9, "interpolation": "bilinear"}
    assert found.export(tmp_path / "r.onnx", preprocessing=resizing) == 100
    (tmp_path / "folder.onnx").mkdir()
    photograph = np.zeros((1, 40, 60, 3), np.uint8)
    assert onnxruntime.InferenceSession(tmp_path / "r.onnx").run(None, {"images": photograph})[0].shape == (1, 5)
    everything = {"crop_mode": "center", "crop_pct": np.float32(0.9), "interpolation": "bilinear", "license": object()}
    assert found.export(tmp_path / "r.onnx", preprocessing=steps | everything) == 100  # timm's, and more that it has
    assert found.export(tmp_path / "q.onnx", preprocessing=steps | {"crop_pct": None}) == 100
    for name, given, said in (
        ("q.onnx", steps | {"mean": (0.9, 0.1, 0.1)}, r"\d+ % of the values of the calibration images are of no pixel"),
        ("q.onnx", steps | {"mean": (0.4, np.nan, 0.6)}, "preprocessing mean=nan: give a number"),
        ("q.onnx", steps | {"std": (0.4, 0, 0.6)}, "preprocessing std=0.0: give a number above 0"),
        ("q.onnx", resizing | {"crop_pct": 0}, "crop_pct=0.0: give a number of at least 0.1 and of at most 1"),
        ("q.onnx", resizing | {"crop_pct": "much"}, "crop_pct=much: give a number"),
        ("q.onnx", "graph", "preprocessing='graph': give a dictionary with mean and std"),
        ("folder.onnx", None, "folder.onnx is a folder: give the name of a file"),
        ("q.onnx", steps | {"mean": (0.5,)}, r"mean=\[0.5\]: give a value for each of 3 channels"),
        ("q.onnx", {}, "nothing says how images are normalised: give preprocessing its mean"),
        ("q.onnx", {"mean": 0.5, "std": 0.2}, "preprocessing mean=0.5: give a number for each channel"),
        ("q.onnx", steps | {"crop_pct": 0.9}, "crop_pct=0.9: give interpolation too"),
        ("q.pt2", steps, "preprocessing=.* is of a file that ends in .onnx"),
    ):
        with pytest.raises(InputError, match=said):
            found.export(tmp_path / name, preprocessing=given)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (lambda: 1 / 0, "model=<lambda> raised ZeroDivisionError: division by zero"),
        (lambda: "net", "model=<lambda> gives a str"),
        (nn.Linear, "model=Linear raised TypeError: .*in_features"),
        ("net.py", "model is a str: give an nn.Module or a function that makes one"),
    ],
)
def test_a_factory_that_fails_is_told(own, images, tmp_path, model, fault):
    quick(own, images).save(tmp_path / "own.safetensors")
    with pytest.raises(InputError, match=fault) as caught:
        attnround.load(tmp_path / "own.safetensors", model=model)
    assert "\n" not in str(caught.value)


def test_timms_models_load_without_a_module(images, tmp_path):
    settings = TimmModel("test_resnet", random_init=True, num_classes=4, preprocessing={"input_size": [3, 32, 32]})
    shown = torch.randn(8, 3, 32, 32)
    found = quick(settings, shown)
    found.save(tmp_path / "it.safetensors")
    assert torch.equal(attnround.load(tmp_path / "it.safetensors")(shown), found.model(shown))
    with pytest.raises(InputError, match=r"images are \[3, 16, 16\], the model takes \[3, 32, 32\]"):
        quick(settings, images)


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rounding": "gptqq"}, r"rounding='gptqq': give gptq"),
        ({"bits": "mixd"}, r"bits='mixd': give mixed"),
        ({"bits": 9}, "bit width"),
        ({"activation": "8"}, "activation='8': give a number of bits"),
        ({"placement": "onnxruntime"}, "placement='onnxruntime': give activation=<bits>"),
        ({"attention": True}, "attention=True: give activation=<bits>"),
        ({"attention": True, "activation": 8}, "activation.attention=true: the model has no product of two values"),
        ({"placement": "onnx", "activation": 8}, "activation.placement=onnx: give one of inputs, onnxruntime, tens"),
        ({"reconstruction": "layers"}, "reconstruction='layers': give layer"),
        ({"device": "tpu"}, "device='tpu': give cpu or gpu"),
        ({"images": None}, "images are a NoneType"),
        ({"images": []}, "images gave no batch"),
        ({"images": torch.zeros(4, dtype=torch.long)}, r"images are torch.int64 of shape \[4\]"),
        ({"images": torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)}, "images are torch.uint8"),
        ({"images": [{"a": torch.zeros(2), "b": 0}]}, "a batch is a dictionary of a, b, 0 of them images"),
        ({"images": [torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 9, 9)]}, "different shapes"),
        ({"images": torch.full((2, 3, SIDE, SIDE), torch.nan)}, "NaN"),
        ({"model": "resnet18"}, "model is a str: give an nn.Module"),
        ({"model": Branches()}, "Branches cannot be handled: torch.export cannot follow its forward"),
    ],
)
def test_bad_input_is_one_line(own, images, change, fault):
    options = {"model": own, "images": images} | change
    with pytest.raises(InputError, match=fault) as caught:
        quick(options.pop("model"), options.pop("images"), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_told_in_a_line(own, images, device):
    with pytest.raises(InputError, match=f"^device='{device}': torch finds no CUDA device here") as caught:
        quick(own, images, device=device)
    assert "\n" not in str(caught.value)


def test_a_quantized_model_is_not_quantized_again(own, images):
    with pytest.raises(InputError, match="is quantized already"):
        quick(quick(own, images).model, images)


def test_the_quick_start_runs(tmp_path, capsys):
    runpy.run_path(str(ROOT / "examples/quickstart.py"))["main"](tmp_path)
    assert "stays float" in capsys.readouterr().out
    assert (tmp_path / "net.onnx").exists()


def test_the_notebook_runs_and_says_what_the_script_does(tmp_path, monkeypatch, capsys):
    cells = json.loads((ROOT / "examples/quickstart.ipynb").read_text())["cells"]
    source = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(source), {"__name__": "notebook"})
    assert (tmp_path / "net.onnx").exists()
    assert "stays float" in capsys.readouterr().out


class Calls(nn.Module):
    """One convolution in two places, at two sizes, and one linear layer for tokens and for their mean."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared, self.between = (
            nn.Conv2d(3, 6, 3),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Conv2d(6, 6, 3, 2),
        )
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.shared(self.stem(x).relu()).relu()
        x = self.shared(self.between(x).relu()).relu()
        x = self.mix(x.flatten(2).transpose(1, 2)).relu()
        return self.head(self.mix(x.mean(1)).relu())


FEW = {
    "layer": LayerReconstruction(observer=ClipSearch()),
    "block": BlockReconstruction(observer=ClipSearch(), num_steps=5),
    "layer_then_block": BlockReconstruction(
        observer=ClipSearch(), num_steps=5, layer_first=LayerReconstruction(observer=ClipSearch())
    ),
}


@pytest.mark.parametrize("reconstruction", FEW)
def test_a_layer_that_runs_twice_is_quantized_once(reconstruction, tmp_path):
    torch.manual_seed(0)
    net, images = Calls(), torch.randn(24, 3, 12, 12)
    found = attnround.quantize(
        net, images, bits=8, activation=8, rounding=AttentionRound(num_steps=5), progress=False,
        reconstruction=FEW[reconstruction],
    )  # fmt: skip
    assert [row["name"] for row in found.report] == ["stem", "shared", "between", "mix", "head"]
    assert logit_sqnr_db(net.eval()(images), found.model(images)) > 25
    assert found.verify().faults == []
    for name in ("q.onnx", "q.pt2"):
        assert found.export(tmp_path / name) == 100
    found.save(tmp_path / "q.safetensors")
    assert torch.equal(attnround.load(tmp_path / "q.safetensors", model=Calls)(images), found.model(images))


class Segmenter(nn.Module):
    """A picture in, a picture of classes and a vector out, as torchvision's segmentation heads give it."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
        self.aux = nn.Linear(8, 4)

    def forward(self, x):
        y = self.down(x).relu()
        return {"out": self.up(y), "aux": self.aux(y.mean((2, 3)))}


@pytest.mark.parametrize("options", [{}, {"reconstruction": FEW["block"], "rounding": AttentionRound(num_steps=5)}])
def test_a_model_that_gives_a_dictionary(images, tmp_path, options):
    torch.manual_seed(0)
    net = Segmenter().eval()
    found = quick(net, images, bits=6, activation=8, **options)
    expected, given = net(images), found.model(images)
    assert list(given) == ["out", "aux"]
    assert list(found.report.outputs_db) == ["out", "aux"]
    for key, value in found.report.outputs_db.items():
        assert value == pytest.approx(logit_sqnr_db(expected[key], given[key]))
        assert value > 20
    assert f"(out {found.report.outputs_db['out']:.2f}, aux " in str(found.report)
    assert found.report.kl is None
    assert not found.verify().faults
    assert found.export(tmp_path / "it.onnx") >= 99.9
    assert found.export(tmp_path / "it.pt2") == 100
    found.save(tmp_path / "it.safetensors")
    again = attnround.load(tmp_path / "it.safetensors", model=Segmenter)(images)
    assert all(torch.equal(again[key], given[key]) for key in given)
    with pytest.raises(InputError, match="output=None: the model gives out, aux; name the one"):
        found.evaluate(labelled(images))


def test_classes_are_asked_for_where_the_output_says(images, tmp_path):
    torch.manual_seed(0)
    fisher = attnround.bits.Fisher(budget=6, pinned=ENDS)
    found = quick(Segmenter(), images, bits=fisher, output="aux")
    assert found.evaluate(labelled(images))["agreement"] > 50
    found.save(tmp_path / "it.safetensors")
    assert attnround.load(tmp_path / "it.safetensors", model=Segmenter).logits_at == "aux"
    with pytest.raises(InputError, match=r"the logits are \[48, 4, 16, 16\]: only"):
        quick(Segmenter(), images, output="out").evaluate(labelled(images))
    with pytest.raises(InputError, match=r"^output=typo: the model gives out, aux; name the one that is the logits"):
        attnround.Prepared(Segmenter(), images, output="typo")


@torch.no_grad()
def labelled(images, model=None) -> TensorDataset:
    """Images with a model's own classes for labels; its logits are made to tell them apart."""
    if model is None:
        return TensorDataset(images, torch.arange(len(images)) % 4)
    model.eval().head.bias.sub_(model(images).mean(0))
    factor = 3 / model(images).std()
    for parameter in model.head.parameters():
        parameter.mul_(factor)
    return TensorDataset(images, model(images).argmax(1))


def test_evaluation_compares_with_the_float_model(own, images):
    data = labelled(images, own)
    found = quick(own, images, bits=2, rounding="nearest")
    for given in (data, DataLoader(data, 7), [{"x": images, "labels": data.tensors[1]}]):
        result = found.evaluate(given)
        assert result["images"] == len(images)
        assert result["float_top1"] == 100
        assert result["top1"] == result["agreement"] < 100
        assert result["kl"] > 0
        assert -100 < result["confidence_change"] < 100
    with pytest.raises(InputError, match="a batch has no labels"):
        found.evaluate([images])


def test_fine_tuning_gains_and_can_be_saved(own, images, tmp_path):
    data = labelled(images, own)
    before = quick(own, images, bits=2, rounding="nearest")
    after = before.finetune(DataLoader(data, 16), held_out=data, epochs=10, lr=0.001, progress=False)
    assert after.evaluate(data)["top1"] > before.evaluate(data)["top1"]
    assert [(row["name"], row["bits"]) for row in after.report] == [(row["name"], row["bits"]) for row in before.report]
    assert same_state(before.model, quick(own, images, bits=2, rounding="nearest").model)
    after.save(tmp_path / "it.safetensors")
    assert torch.equal(attnround.load(tmp_path / "it.safetensors", model=own)(images), after.model(images))
    assert same_state(after.model, before.finetune(
        DataLoader(data, 16), held_out=data, epochs=10, lr=0.001, progress=False
    ).model)  # fmt: skip


def test_fine_tuning_may_begin_from_the_float_weights(own, images):
    found = quick(own, images, bits=2)
    options = RECIPE | {"num_epochs": 1, "lr": 1e-12, "weight_decay": 0.0, "batch_norm": "folded"}
    for start, rounding in (("ptq", found), ("fp32", quick(own, images, bits=2, rounding="nearest"))):
        tuned = found.finetune(labelled(images, own), recipe=Lsq(start=start, **options), progress=False)
        for name, layer in quantized_layers(tuned.model).items():
            of = quantized_layers(rounding.model)[name]
            wanted = of.levels if start == "ptq" else quantize(
                found.prepared.teacher.get_submodule(name).weight, layer.scale, layer.zero_point, layer.grid
            )  # fmt: skip
            assert (layer.levels == wanted).double().mean() > 0.99, (start, name)


def test_one_image_too_many_for_a_batch_is_no_batch_of_its_own(images):
    norm = [nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), *norm, nn.Flatten(), nn.Linear(4, 2))
    many = images.repeat(-(-129 // len(images)), 1, 1, 1)[:129]
    found = quick(net, many, rounding="nearest")
    found.frozen(found.trainable())
    single = quick(net, images[:1], rounding="nearest")
    with pytest.raises(InputError, match="batch norms take no statistics from one image"):
        single.trainable()


def test_the_recipe_is_the_command_lines():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        option = instantiate(compose("train", ["qat=lsq"]).qat, _convert_="all")
    assert option == Lsq(num_epochs=10, lr=0.01, **RECIPE)


@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.SGD, 5e-4), (torch.optim.AdamW, 5e-3)])
def test_a_training_loop_of_ones_own(own, images, optimizer, lr):
    own.norm.eps, own.norm.momentum = 1e-3, 0.3
    data = labelled(images, own)
    found = quick(own, images, bits=2, activation=4, rounding="nearest")
    model = found.trainable()
    assert (model.stem.norm.eps, model.stem.norm.momentum) == (1e-3, 0.3)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(model).eval()(images), found.model(images), rtol=1e-3, atol=1e-4)
    steps = optimizer(model.parameters(), lr)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(images), data.tensors[1])
        steps.zero_grad()
        loss.backward()
        steps.step()
    trained = found.frozen(model)
    losses = [nn.functional.cross_entropy(each.model(images), data.tensors[1]) for each in (found, trained)]
    assert losses[1] < losses[0]
    assert set(quantized_layers(trained.model)) == set(quantized_layers(found.model))
    assert not trained.verify().faults
    assert any(isinstance(module, TrainedLayer) for module in model.modules())  # as it was


def test_what_one_setting_measured_serves_the_next(own, images, monkeypatch):
    prepared = attnround.Prepared(own, images)
    one = quick(prepared, bits=attnround.bits.Fisher(budget=6, pinned=ENDS), activation=8)
    monkeypatch.setattr("attnround.prepared.calibrate_activations", None)
    monkeypatch.setattr("attnround.problem.fisher_traces", None)
    other = quick(prepared, bits=attnround.bits.Fisher(budget=5, pinned=ENDS), activation=8)
    assert other.allocation.bit_width != one.allocation.bit_width
    monkeypatch.undo()
    alone = quick(own, images, bits=attnround.bits.Fisher(budget=5, pinned=ENDS), activation=8)
    assert same_state(other.model, alone.model)


@pytest.mark.parametrize(
    ("settings", "change", "warning"),
    [
        ({"input_size": (3, 32, 32)}, lambda x: x, r"images are \[3, 16, 16\], the model was trained on \[3, 32, 32\]"),
        ({}, lambda x: 255 * x.sigmoid(), r"images reach 2\d\d: give them normalised"),
        (
            {"mean": (0.5,) * 3, "std": (0.2,) * 3},
            lambda x: x.sigmoid(),
            r"images lie in 0\.\.1 and the model",
        ),
    ],
)
def test_images_that_are_not_as_the_model_takes_them_are_warned_of(own, images, settings, change, warning):
    own.pretrained_cfg = settings
    with pytest.warns(UserWarning, match=warning):
        quick(own, change(images))


def test_layers_that_are_never_called_are_said(own, images):
    assert "never called, left alone: spare" in str(quick(own, images).report)


def test_signals_of_one_dimension(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 28, 3)).eval()
    signals = torch.randn(20, 2, 32)
    found = quick(net, DataLoader(TensorDataset(signals, torch.zeros(20).long()), 8))
    assert [row["kind"] for row in found.report] == ["Conv1d", "Linear"]
    assert found.report.sqnr_db > 15
    assert found.export(tmp_path / "it.onnx") == 100


def test_what_a_prepared_model_was_prepared_with_is_not_asked_for_again(own, images):
    prepared = attnround.Prepared(own, images)
    for option in ({"num_images": 4}, {"images_of": lambda batch: batch}, {"output": 0}):
        (name,) = option
        with pytest.raises(InputError, match=f"{name} of a prepared model is what it was prepared with"):
            quick(prepared, **option)


def test_a_number_of_bits_may_be_numpys(own, images):
    found = quick(own, images, bits=np.int64(4), activation=np.int64(8))
    assert same_state(found.model, quick(own, images, bits=4, activation=8).model)
    with pytest.raises(InputError, match=r"bits='4': give a number of bits, mixed"):
        quick(own, images, bits="4")


def test_nothing_is_asked_of_the_mode_that_the_caller_is_in(own, images):
    expected = quick(own, images, bits="mixed")
    with torch.inference_mode():
        found = quick(own, images.clone(), bits="mixed")
    assert same_state(found.model, expected.model)


class Odd(torch.utils.data.Dataset):
    """Items that no DataLoader makes a batch of, unless their labels are left alone."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize("label", [None, object()])
def test_labels_are_not_looked_at(own, images, label):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = quick(own, Odd([(image, label) for image in images]))
    assert torch.equal(torch.get_rng_state(), before)
    assert same_state(found.model, quick(own, images).model)
    found = quick(own, Odd([{"image": image, "label": label} for image in images]))
    assert same_state(found.model, quick(own, images).model)


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        ([(object(), 0)], r"items cannot be put into a batch .*: give tensors"),
        ([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 9, 9), 0)], r"different shapes \(\[3, 8, 8\] and \[3, 9, 9\]\)"),
    ],
)
def test_items_that_are_no_images_are_one_line(own, items, fault):
    with pytest.raises(InputError, match=fault):
        quick(own, Odd(items))


def test_labels_are_a_whole_number_an_image(own, images):
    found, labels = quick(own, images), torch.arange(48) % 5
    expected = found.evaluate(TensorDataset(images, labels))
    assert found.evaluate(TensorDataset(images, labels[:, None])) == expected
    with pytest.raises(InputError, match=r"labels are torch.int64 of shape \[48, 5\]: give a whole number an image"):
        found.evaluate(TensorDataset(images, nn.functional.one_hot(labels, 5)))
    with pytest.raises(InputError, match="items cannot be put into a batch"):
        found.evaluate(Odd([(image, None) for image in images]))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(3, SIDE, SIDE), 0


def test_fine_tuning_says_what_it_cannot_train_on(own, images):
    found, labels = quick(own, images), torch.arange(48) % 5
    pairs = TensorDataset(images, labels)
    for data, options, fault in (
        (pairs, {"device": "tpu"}, "device='tpu': give cpu or gpu"),
        (TensorDataset(images, labels + 3), {}, "an image has the label .*, the model has 5 outputs"),
        (Stream(), {}, "held_out is not given: .*a Dataset with a length"),
        (Stream(), {"held_out": pairs}, "data is a Stream without a length"),
        (TensorDataset(images[:1], labels[:1]), {}, "data has 1 images: give at least 2"),
    ):
        with pytest.raises(InputError, match=fault):
            found.finetune(data, epochs=1, progress=False, **options)


def test_verify_takes_images_out_of_batches_of_any_form(own, images):
    found = quick(own, images, activation=8)
    batches = [{"a": images, "b": images}]
    with pytest.raises(InputError, match=r"give one image an item, or images_of="):
        found.verify(batches)
    assert found.verify(batches, images_of=lambda batch: batch["a"]).layers == found.verify(images).layers
