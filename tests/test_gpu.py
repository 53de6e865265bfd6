"""The same work on a CUDA device: `pytest -m gpu` where there is one."""

import copy
import json
from types import SimpleNamespace

import pytest
import timm
import torch

import attnround
from attnround.graph import capture, find_layers, fold_batch_norms, swap_layers
from attnround.quantization.grid import Grid
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.rounding import AdaRound, AttentionRound
from attnround.quantization.rounding.gaussian import GaussianTable
from attnround.quantization.rounding.mean_field import MeanField
from attnround.reconstruction import LayerReconstruction, reconstruct
from tests import processes
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@pytest.mark.parametrize("quantizer", [AdaRound(num_steps=400), AttentionRound()], ids=["ada", "attention"])
def test_a_gpu_reconstructs_as_well_as_a_cpu(network, quantizer):
    fold_batch_norms(network)
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    start = swap_layers(network, dict.fromkeys(find_layers(network), 3), ClipSearch())
    settings = LayerReconstruction(observer=ClipSearch(), batch_size=16)
    fidelity = {}
    for device in ("cpu", "cuda"):
        student = copy.deepcopy(start)
        reconstruct(copy.deepcopy(network), student, images, quantizer, settings, device=device)
        with torch.no_grad():
            fidelity[device] = sqnr_db(network(images), student(images))
    assert fidelity["cuda"] > fidelity["cpu"] - 1


@pytest.mark.parametrize("shape", [(1, 40, 72), (24, 1, 9)], ids=["coupled", "depthwise"])
def test_captured_sweeps_are_the_sweeps(shape):
    generator = torch.Generator().manual_seed(0)
    groups, rows, columns = shape
    images = torch.randn(groups, 100, columns, generator=generator)
    rotation = torch.randn(1, rows, rows, generator=generator)
    metric = torch.eye(rows) + 0.1 * rotation @ rotation.mT
    best = 3 * torch.randn(shape, generator=generator)
    found = {}
    for device in ("cpu", "cuda"):
        objective = SimpleNamespace(
            second=(images.mT @ images / 100).to(device),
            centre=best.to(device),
            gain=metric.diagonal(dim1=1, dim2=2)[:, :, None].expand(groups, rows, 1).to(device),
            coupling=metric.to(device) if groups == 1 else None,
        )
        field, centre = MeanField(objective), objective.centre.clone()
        for sigma in (0.5, 0.4, 0.3, 0.2, 0.1):  # two sizes of the table
            loss = field.sweep(centre, GaussianTable(sigma, Grid(4), centre))
        found[device] = loss.item(), centre.cpu()
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=1e-3)
    assert (found["cuda"][1] - found["cpu"][1]).abs().mean() < 1e-2


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224", "tf_efficientnet_lite0"])
@torch.no_grad()
def test_a_captured_model_computes_on_a_gpu_what_it_does_on_a_cpu(name):
    net = timm.create_model(name).eval()
    images = torch.randn(3, *net.pretrained_cfg["input_size"])
    model = capture(net, images[:1])
    expected = model(images)
    found = model.cuda()(images.cuda()).cpu()
    assert (found - expected).abs().max() < 1e-2 * expected.abs().max()


def test_the_library_computes_on_a_gpu(network):
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = attnround.quantize(network, images, bits=3, activation=8, device="gpu", progress=False)
    assert {each.device.type for each in found.model.state_dict().values()} == {"cpu"}
    on_cpu = attnround.quantize(network, images, bits=3, activation=8, progress=False)
    assert abs(found.report.sqnr_db - on_cpu.report.sqnr_db) < 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device")
def test_two_gpus_share_a_run(tmp_path):
    found = {}
    for devices in (1, 2):
        words = (
            "trainer=gpu",
            f"trainer.devices={devices}",
            "data.num_calibration=256",
            "data.limit=1000",
            "logger=[]",
        )
        done = processes.run([str(ROOT / "src/train.py"), *words, f"hydra.run.dir={devices}"], tmp_path)
        assert done.returncode == 0, done.stderr
        found[devices] = json.loads((tmp_path / f"{devices}/record.json").read_text())["metrics"]["quantized/sqnr_db"]
    assert found[2] == pytest.approx(found[1], abs=0.5)
