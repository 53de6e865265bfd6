"""A script as a user writes it, which no test runs: `make lint` has mypy read it, as strictly as it can.

The right calls pass. Each wrong one is to be refused for the named reason: where it no longer is, its `type: ignore` is
an unused one, and mypy says so.
"""

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


def right(net: nn.Module, images: Tensor, data: ImageFolder) -> Quantized:
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


def wrong(net: nn.Module, images: Tensor) -> None:
    from attnround.data import ImageFoldr  # type: ignore[attr-defined]

    print(ImageFoldr)
    attnround.quantize(net, images, bits=[4])  # type: ignore[arg-type]
    attnround.quantize(net, images, bit=4)  # type: ignore[call-arg]
    attnround.quantize(net, images, rounding=4)  # type: ignore[arg-type]
    attnround.Prepared(net)  # type: ignore[call-arg]
    attnround.load(4)  # type: ignore[arg-type]
    print(attnround.quantize(net, images).allocations)  # type: ignore[attr-defined]
    attnround.bits.Uniform(bit_width="4")  # type: ignore[arg-type]
    attnround.quantise(net, images)  # type: ignore[attr-defined]
