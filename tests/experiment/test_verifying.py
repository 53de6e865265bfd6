"""verify.py on an exported file: an execution provider of onnxruntime against the simulation of the run."""

import importlib.util
import json
import shutil
from functools import partial

import onnx
import onnxruntime
import pytest
import torch
from tests import processes
from tests.conftest import ROOT
from tests.deploy.conftest import exported
from tests.experiment.conftest import data, run_with

from attnround.cli.recorded import run_of_file
from attnround.deploy import save
from attnround.deploy.comparison import compare_of_pixels
from attnround.deploy.preprocessing import steps_of
from attnround.deploy.runtime import OnnxModel, about_onnx, open_onnx, with_steps
from attnround.deploy.seal import preprocessing_of
from attnround.errors import InputError
from attnround.experiment.exporting import export
from attnround.experiment.verifying import verify
from attnround.quantization.layers import quantized_layers

CPU, AZURE = "CPUExecutionProvider", "AzureExecutionProvider"  # the second runs calls to a service, and none of ours


@pytest.fixture(scope="module")
def exported_once(finished, tmp_path_factory):
    """The folder of a run with its ONNX file."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("exported") / "run")
    export(folder=str(folder), format="onnx", opset=None, data=data(), run=run_with(folder))
    return folder


@pytest.fixture
def shipped(exported_once, tmp_path):
    return shutil.copytree(exported_once, tmp_path / "run")


def verified(folder, file=None, **options) -> dict[str, float]:
    file = str(file or folder / "quantized.onnx")
    return verify(folder=str(folder), data=data(), batch_size=50, run=run_with(folder), file=file, **options)


def test_a_file_is_compared_with_its_run(shipped, caplog):
    caplog.set_level("INFO", "attnround")
    metrics = verified(shipped)
    report, of_export = (
        json.loads((shipped / name).read_text()) for name in (f"verify_{CPU}.json", "export_onnx.json")
    )
    assert report["provider"] == CPU
    assert metrics["agreement"] == report["agreement"] == 100 * report["comparison"]["agreeing"] / 40
    assert report["simulation_top1"] == json.loads((shipped / "record.json").read_text())["metrics"]["quantized/top1"]
    assert report["comparison"] == of_export["with_default_options"][0]
    assert report["layers_in_integers"] == of_export["layers_in_integers"] != []
    assert set(report["operators"]) == {CPU}
    assert report["fault"] is None
    assert min(report["latency"].values()) > 0
    text = (shipped / "model_card.md").read_text()
    assert f"in {CPU} (session=default" in text
    number, layers = len(report["layers_in_integers"]), len(quantized_layers(exported("resnet")[0]))
    assert f"{number} of {layers} layers with quantized inputs run in integers" in caplog.text
    first = next(each for each in of_export["kernels"] if not each["in_integers"])
    assert f"| `{first['layer']}` | {first['runs_as']} | {first['why']} |" in text


@pytest.mark.slow
def test_an_ir_is_compared_with_its_run_on_a_device(exported_once, tmp_path, caplog):
    caplog.set_level("INFO", "attnround")
    folder = shutil.copytree(exported_once, tmp_path / "run")
    for weights in ("runtime", "signed"):
        options = {"format": "openvino", "opset": None, "weights": weights}
        export(folder=str(folder), **options, data=data(), run=run_with(folder))
        of_export = json.loads((folder / "export_openvino.json").read_text())
        eights = [name for name, each in quantized_layers(exported("resnet")[0]).items() if each.grid.bit_width == 8]
        assert of_export["stored_unsigned"] == (eights if weights == "runtime" else [])
        assert not set(of_export["stored_unsigned"]) & set(of_export["layers_in_integers"])
    metrics = verified(folder, folder / "quantized.xml", provider="CPU")
    report = json.loads((folder / "verify_OpenVINO_CPU.json").read_text())
    assert metrics["agreement"] == report["agreement"] == 100 * report["comparison"]["agreeing"] / 40
    assert report["comparison"] == of_export["with_default_options"][0]
    assert report["layers_in_integers"] == of_export["layers_in_integers"] != []
    assert report["sha256"] == of_export["sha256"]
    verified(folder, folder / "quantized.xml", session="written", provider_options={"NUM_STREAMS": 1})
    written = json.loads((folder / "verify_OpenVINO_CPU_written.json").read_text())
    assert written["layers_in_integers"] == []
    assert written["comparison"] == of_export["comparison"]
    text = (folder / "model_card.md").read_text()
    assert "in OpenVINO CPU (session=default" in text
    assert "in OpenVINO CPU (session=written" in text
    with pytest.raises(InputError, match=r"provider=NPU9: openvino .* here has CPU.*: give one of these"):
        verified(folder, folder / "quantized.xml", provider="NPU9")
    with pytest.raises(InputError, match=r"does not run it"):
        verified(folder, folder / "quantized.xml", provider_options={"NO_SUCH": 1})
    (folder / "quantized.bin").write_bytes(b"other")
    with pytest.raises(InputError, match=r"damaged or not that of"):
        verified(folder, folder / "quantized.xml")


def test_a_file_that_takes_pixels_is_given_these(shipped):
    file = shipped / "quantized.onnx"
    said = about_onnx(onnx.load(file), file)
    steps = steps_of(preprocessing_of(said), are_files=False)
    about = {key: value for key, value in said.items() if key not in ("format", "sha256")}
    file.write_bytes(with_steps(file.read_bytes(), steps, about)[0])
    assert verified(shipped)["agreement"] == 100
    assert json.loads((shipped / f"verify_{CPU}.json").read_text())["sha256"] != said["sha256"]
    assert f"in {CPU}" not in (shipped / "model_card.md").read_text()  # not of the file that export_onnx.json is of


def test_a_file_that_resizes_is_given_image_files_as_they_are(shipped):
    file = shipped / "quantized.onnx"
    said = about_onnx(onnx.load(file), file)
    preprocessing = preprocessing_of(said) | {"crop_pct": 0.9, "interpolation": "bilinear"}
    about = {key: value for key, value in said.items() if key not in ("format", "sha256")}
    file.write_bytes(with_steps(file.read_bytes(), steps_of(preprocessing, are_files=True), about)[0])
    with pytest.raises(InputError, match=r"data=fashion_mnist: .*quantized.onnx resizes image files: give data=photos"):
        verified(shipped)
    opened = open_onnx(file.read_bytes(), file)
    image = torch.zeros(1, *opened.preprocessing["input_size"])
    with pytest.raises(InputError, match="resizes image files itself: give it to verify"):
        opened(image)
    pixels = torch.zeros(1, 50, 70, image.shape[1], dtype=torch.uint8)
    assert compare_of_pixels(opened.of_pixels, opened.of_pixels, [(pixels, pixels)]).agreement == 100


def test_a_provider_that_runs_nothing_proves_nothing(shipped, monkeypatch):
    """What it has no kernel for falls to the CPU without a word."""
    monkeypatch.setattr("attnround.experiment.verifying.Onnxruntime.latency", lambda *_: (1, 1))
    with pytest.raises(InputError, match=rf"in {AZURE}: it runs none of the \d+ operators, what was compared is {CPU}"):
        verified(shipped, provider=AZURE, session="written")
    report = json.loads((shipped / f"verify_{AZURE}_written.json").read_text())
    assert report["agreement"] == 100
    assert report["layers_in_integers"] == []
    assert "not as it should be, it runs none" in (shipped / "model_card.md").read_text()


def test_another_class_on_too_many_images_is_a_fault(shipped, monkeypatch):
    monkeypatch.setattr("attnround.experiment.verifying.Onnxruntime.latency", lambda *_: (1, 1))
    right = OnnxModel.forward
    monkeypatch.setattr(OnnxModel, "forward", lambda model, images: -right(model, images))
    with pytest.raises(InputError, match=r"quantized.onnx in CPU.*agrees with the simulation on .* 99.9 % is asked"):
        verified(shipped, session="written")
    assert (shipped / f"verify_{CPU}_written.json").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (
            {"provider": "CUDAExecutionProvider"},
            f"provider=CUDA.* here has {AZURE}, {CPU}: give one of these, or install",
        ),
        ({"session": "literal"}, "session=literal: give one of default, written"),
    ],
)
def test_what_is_not_there_is_a_line(shipped, options, word):
    with pytest.raises(InputError, match=word):
        verified(shipped, **options)
    assert not list(shipped.glob("verify_*"))


def test_a_provider_is_of_a_file(folder):
    with pytest.raises(InputError, match=r"are of an exported file: give .*run/quantized.onnx"):
        verify(folder=str(folder), data=data(), batch_size=50, run=run_with(folder), provider=CPU)


def with_a_changed_level(file) -> None:
    model = onnx.load(file)
    levels = next(each for each in model.graph.initializer if each.name == "conv1.levels")
    levels.raw_data = bytes([levels.raw_data[0] ^ 1]) + levels.raw_data[1:]
    onnx.save(model, file)


def optimised(file) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(file), 4
    onnxruntime.InferenceSession(file.read_bytes(), options, providers=[CPU])


def with_another(name: str, change):
    def changed(file) -> None:
        model = onnx.load(file)
        (held,) = (each for each in model.graph.initializer if each.name == name)
        held.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(held)), name))
        onnx.save(model, file)

    return changed


def with_sigmoids(file) -> None:
    model = onnx.load(file)
    for node in model.graph.node:
        node.op_type = "Sigmoid" if node.op_type == "Relu" else node.op_type
    onnx.save(model, file)


def renamed(file) -> None:
    model = onnx.load(file)
    model.producer_name, model.producer_version = "a tool", "1.2"
    onnx.save(model, file)


def cut_short(file) -> None:
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (with_another("layer1.0.conv1.input_scale", lambda scale: scale * 2), "another layer1.0.conv1.input_scale"),
        (with_another("layer1.0.conv1.input_zero_point", lambda zero: zero + 7), "layer1.0.conv1.input_zero_point"),
        (with_another("layer1.0.conv1.zero_point", lambda zeros: zeros + 1), "layer1.0.conv1.zero_point: export"),
        (with_sigmoids, "its integers are that run's, something else is damaged or was changed: export it anew"),
        (with_a_changed_level, "is not what was exported from .*: it has another conv1.levels: export it anew"),
        (optimised, r"has the operators com.microsoft.*QLinearConv.*; it lacks .*and \d+ more"),
        (renamed, "it was written by a tool 1.2: export"),
        (cut_short, "is no whole ONNX file"),
    ],
)
def test_a_file_that_another_tool_changed_is_refused_with_what_differs(shipped, change, word):
    change(shipped / "quantized.onnx")
    with pytest.raises(InputError, match=word):
        verified(shipped)


def test_the_file_of_another_run(shipped, tmp_path):
    elsewhere = shutil.copytree(shipped, tmp_path / "other")
    record = json.loads((elsewhere / "record.json").read_text())
    model, about = exported("resnet")
    save(model, elsewhere / record["deployed"]["file"], about | {"data": "others"})
    with pytest.raises(InputError, match=r"run/quantized.onnx is of another run than .*other/quantized.safetensors"):
        verified(elsewhere, shipped / "quantized.onnx")


def test_without_onnxruntime_a_line_says_what_to_install(shipped, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(InputError, match=r"quantized.onnx needs onnxruntime: install the extra.*\[export\]"):
        verified(shipped)


def test_images_of_another_size_are_a_line(shipped):
    small = data()
    small.val_dataloader = lambda: [(torch.zeros(2, 1, 14, 14), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(InputError, match=r"data=fashion_mnist gives images of \[1, 14, 14\].*takes \[1, 28, 28\]"):
        verify(
            folder=str(shipped), data=small, batch_size=50, run=run_with(shipped), file=str(shipped / "quantized.onnx")
        )


def test_the_run_of_a_file(shipped, tmp_path):
    file = shutil.copy(shipped / "quantized.onnx", tmp_path / "a b.onnx")
    assert run_of_file(str(shipped / "quantized.onnx"), []) == str(shipped)
    assert run_of_file(str(file), ["data.limit=10", f"folder='{shipped}'"]) == str(shipped)
    with pytest.raises(InputError, match=r"a b.onnx: the run that it came from is not beside it: give folder="):
        run_of_file(str(file), [])
    with pytest.raises(InputError, match=r"no.onnx is no file"):
        run_of_file(str(tmp_path / "no.onnx"), [])


def test_the_entry_takes_a_file_that_lies_elsewhere(shipped, tmp_path):
    (tmp_path / "device").mkdir()
    shutil.move(shipped / "quantized.onnx", tmp_path / "device")
    verify_py = partial(processes.run, cwd=tmp_path)
    done = verify_py([str(ROOT / "src/verify.py"), "device/quantized.onnx", "folder=run", "data.limit=10"])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / f"device/verify_{CPU}.json").read_text())["comparison"]["images"] == 10
    assert f"provider {CPU}, session=default" in done.stdout
