"""An export beside what its runtime's own static quantizer makes of the same float network."""

import importlib.util
import json

import pytest
import torch
from tests.deploy.conftest import RESNET
from tests.experiment.conftest import data, run_with

from attnround.deploy.marked import float_graph
from attnround.deploy.openvino import OPSET, sealed_ir
from attnround.errors import InputError
from attnround.experiment.exporting import export


class Float:
    """What the run's model was quantized from."""

    def build(self):
        torch.manual_seed(0)
        return RESNET.build()


def exported_from(folder, **options) -> dict[str, float]:
    given = {"format": "onnx", "model": Float(), "compare_with": "onnxruntime"} | options
    return export(folder=str(folder), opset=None, data=data(), run=run_with(folder), **given)


def test_an_export_is_measured_beside_onnxruntimes_own(folder, caplog):
    caplog.set_level("INFO", "attnround")
    exported_from(folder)
    report = json.loads((folder / "export_onnx.json").read_text())
    rows = report["compared_with"]
    assert [row["made_by"] for row in rows] == ["this export", "onnxruntime S8S8", "onnxruntime U8S8"]
    assert rows[0]["bytes"] == (folder / "quantized.onnx").stat().st_size < rows[1]["bytes"]
    assert rows[0]["top1"] == 100 * report["with_default_options"][0]["right"] / 40
    for row in rows:
        assert row["speed_up"] == pytest.approx(row["float_ms"] / row["ms"])
        assert 0 <= row["agreement"] <= 100
    assert rows[2]["agreement"] >= 90  # 8 bits of the same network
    assert "- onnxruntime U8S8: " in (folder / "model_card.md").read_text()
    assert "made by" in caplog.text
    assert f"{rows[2]['agreement']:.2f}" in caplog.text


def test_where_its_quantizer_fails_the_export_stays(folder, monkeypatch, caplog):
    def fail(*_):
        raise InputError("onnxruntime's own quantizer fails")

    caplog.set_level("INFO", "attnround")
    monkeypatch.setattr("attnround.experiment.exporting.beside_onnxruntime", fail)
    exported_from(folder)
    assert json.loads((folder / "export_onnx.json").read_text())["compared_with"] == []
    assert "beside   onnxruntime's own quantizer fails" in caplog.text


def in_openvino(folder) -> dict[str, float]:
    return exported_from(folder, format="openvino", compare_with="nncf")


@pytest.mark.slow
def test_an_export_for_openvino_is_measured_beside_nncf(folder, monkeypatch):
    """Which is not installed here: files of the float network take the place of its own."""

    def floats(model, images):
        assert images.shape[1:] == (1, 28, 28)
        model.preprocessing = {"input_size": [1, 28, 28]}
        about = {"model": {"input_size": [1, 28, 28]}}
        yield "defaults", sealed_ir(float_graph(model, OPSET).SerializeToString(), about)

    monkeypatch.setattr("attnround.experiment.exporting.need_nncf", lambda what: None)
    monkeypatch.setattr("attnround.experiment.beside.quantized_by_nncf", floats)
    in_openvino(folder)
    report = json.loads((folder / "export_openvino.json").read_text())
    ours, theirs = report["compared_with"]
    assert (ours["made_by"], theirs["made_by"]) == ("this export", "NNCF defaults")
    assert theirs["agreement"] == 100  # it is the float network
    assert ours["bytes"] == sum((folder / f"quantized.{kind}").stat().st_size for kind in ("xml", "bin"))
    assert {each["layer"] for each in report["kernels"] if each["in_integers"]} == set(report["layers_in_integers"])
    assert "- NNCF defaults: " in (folder / "model_card.md").read_text()


def test_without_nncf_a_line_says_what_to_install(folder, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else there(name))
    with pytest.raises(InputError, match=r"compare_with=nncf needs nncf, which no extra has: pip install nncf"):
        in_openvino(folder)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"compare_with": "tensorrt"}, "compare_with=tensorrt: give one of onnxruntime"),
        ({"model": None}, "compare_with=onnxruntime needs the float model: give model=resnet18_slim"),
        ({"compare_with": None}, "give that too, or leave model out"),
        ({"format": "torch"}, "give format=onnx and preprocessing=beside"),
        ({"compare_with": "nncf"}, "compare_with=nncf: give format=openvino and preprocessing=beside"),
        ({"preprocessing": "graph"}, "give format=onnx and preprocessing=beside"),
    ],
)
def test_what_cannot_be_compared_is_a_line(folder, options, word):
    with pytest.raises(InputError, match=word):
        exported_from(folder, **options)
    assert not (folder / "quantized.onnx").exists()
