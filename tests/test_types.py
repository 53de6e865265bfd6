"""A user's type checker sees the library's types: right calls pass in its strictest mode, wrong ones are named."""

import importlib
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

RIGHT = """
import torch
from torch import Tensor, nn

import attnround
from attnround import Prepared, Quantized, load, quantize
from attnround.bits import Allocation, Mixed, Uniform
from attnround.data import ImageFolder
from attnround.quantization.observer import ClipSearch
from attnround.quantization.ranges import Mse
from attnround.quantization.rounding import GPTQ, AttentionRound
from attnround.reconstruction import BlockReconstruction, LayerReconstruction
from attnround.zoo import TimmModel


def smallest(net: nn.Module, images: Tensor, data: ImageFolder) -> Quantized:
    layer = LayerReconstruction(observer=ClipSearch(), burst=20)
    block = BlockReconstruction(observer=ClipSearch(), num_steps=500, layer_first=layer)
    prepared = Prepared(net, images, num_images=256)
    found = quantize(prepared, bits=Mixed(budget=4.0), rounding=AttentionRound(sigma=0.4), reconstruction=block)
    quantize(net, images, bits="mixed", rounding="gptq", activation=8, images_of=lambda batch: images)
    quantize(TimmModel("resnet18"), data, bits=Uniform(bit_width=4), rounding=GPTQ(), activation=Mse(8))
    quantize(net, images, bits=attnround.bits.Uniform(bit_width=3))
    allocation: Allocation = found.allocation
    bits: dict[str, int] = allocation.bit_width
    agreement: float = found.export("net.onnx")
    metrics: dict[str, float] = found.evaluate(data)
    print(bits, agreement, metrics, found.save("net.safetensors"), found.verify().faults)
    again: nn.Module = load("net.safetensors", model=net)
    return found.finetune(data, epochs=2) if torch.equal(again(images), found.model(images)) else found
"""
WRONG = {
    "from attnround.data import ImageFoldr": "attr-defined",
    "attnround.quantize(net, images, bits=[4])": "arg-type",
    "attnround.quantize(net, images, bit=4)": "call-arg",
    "attnround.quantize(net, images, rounding=4)": "arg-type",
    "attnround.Prepared(net)": "call-arg",
    "attnround.load(4)": "arg-type",
    "attnround.quantize(net, images).allocations": "attr-defined",
    "attnround.bits.Uniform(bit_width='4')": "arg-type",
    "attnround.quantise(net, images)": "attr-defined",
}


def test_a_users_script_is_typed(tmp_path):
    head = "import torch\nfrom torch import nn\n\nimport attnround\n\nnet, images = nn.Flatten(), torch.zeros(1)\n"
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(head + "\n".join(WRONG))
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file="]
    cache = f"--cache-dir={ROOT / '.mypy_cache/users'}"  # torch is read but once
    done = subprocess.run(
        [*command, cache, "right.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
    )  # fmt: skip
    faults = [line for line in done.stdout.splitlines() if ": error:" in line]
    first = head.count("\n") + 1
    places = [(line.split(":")[0], int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]")) for line in faults]
    assert places == [("wrong.py", first + i, code) for i, code in enumerate(WRONG.values())], done.stdout + done.stderr


@pytest.mark.parametrize("room", ["", ".data", ".evaluation", ".qat", ".training", ".zoo"])
def test_names_that_a_type_checker_sees_are_there(room):
    module = importlib.import_module(f"attnround{room}")
    assert all(hasattr(module, name) for name in module.__all__)
