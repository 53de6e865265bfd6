"""The proof that integers compute what the simulation did: codes and logits of both, compared on real images.

Three passes over the same images:

1. the simulation: the fake-quantized float model, whose accuracy a run reports;
2. each layer alone: an integer layer gets the simulation's codes, and what it puts out goes on to the next quantized
   layers, or to a quantized value between layers, through the float operations between. There it is coded again. A
   code that differs from the simulation's does so by float rounding alone, so it must lie at a tie, where two levels
   are equally near: the values are then within `TIE` of a step of each other, on either side of a half. All others are
   counted as unexplained.
3. the network: the integer layers get their own codes, so that a tie's other side has its consequences. That is what
   runs on hardware; its logits are compared with the simulation's.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from attnround.deploy.comparison import Comparison
from attnround.deploy.file import StoredLayer
from attnround.deploy.integer import IntegerEdge, IntegerLayer, integer_model
from attnround.errors import check_number
from attnround.quantization.grid import per_channel
from attnround.quantization.layers import Edge, QuantizedLayer, quantized_edges, quantized_layers

# Layer name -> the inputs of the simulation's calls of it and their codes, in the order of the calls.
Inputs = dict[str, deque[tuple[Tensor, Tensor]]]
TIE = 2**-10  # of a step; float rounding was seen to move a value by up to 5e-5 of one


@dataclass(kw_only=True)
class CodesProof:
    """What was compared of the codes of a layer's input, or of a value between layers.

    ties, unexplained: codes that differ in pass 2; tie_gap: how far apart, in steps, the values behind a tie are at
    most; codes_differing, largest: in pass 3.
    """

    name: str
    activation_bits: int | None
    codes: int = 0
    ties: int = 0
    tie_gap: float = 0.0
    unexplained: int = 0
    codes_differing: int = 0
    largest: int = 0


@dataclass(kw_only=True)
class LayerProof(CodesProof):
    """What was compared of a layer; the counts of codes stay 0 where the input is float.

    bound: of the magnitude of any partial sum; weights_differing: weights of the simulation that are another level than
    the file's; witnessed: that integer types give the same sums.
    """

    bits: int
    accumulator: str
    bound: int | None
    weights: int
    weights_differing: int
    witnessed: bool | None = None


@dataclass
class Proof:
    """All layers, in the file's order, the network, the numbers of the images whose class differs, and the edges."""

    layers: list[LayerProof]
    network: Comparison = field(default_factory=Comparison)
    disagreeing: list[int] = field(default_factory=list)
    edges: list[CodesProof] = field(default_factory=list)

    @property
    def coded(self) -> list[CodesProof]:
        """Whatever codes were compared of."""
        return [*(layer for layer in self.layers if layer.activation_bits is not None), *self.edges]

    @property
    def faults(self) -> list[str]:
        """What contradicts the proof, one line each."""
        faults = []
        for each in self.coded:
            if each.unexplained:
                faults.append(f"{each.name}: {each.unexplained} codes differ where there is no tie")
        for layer in self.layers:
            if layer.weights_differing:
                faults.append(f"{layer.name}: {layer.weights_differing} weights differ from the file's")
            if layer.witnessed is False:
                faults.append(
                    f"{layer.name}: torch's integer types give other sums, so float products are inexact here"
                )
        return faults


@torch.no_grad()
def prove(
    model: nn.Module, stored: list[StoredLayer], batches: Iterable[tuple[Tensor, Tensor | None]], batch_size: int
) -> Proof:
    """Compare the simulation `model`, as loaded, with integer arithmetic on images, `batch_size` at a time.

    batches: of images and their labels, or None in place of these.
    """
    check_number("batch_size", batch_size, least=1, whole=True)
    simulated, integer = quantized_layers(model), integer_model(model)
    layers = {each.name: integer.get_submodule(each.name) for each in stored}
    proof = Proof([_weights(each, simulated[each.name], layers[each.name]) for each in stored])
    edges = quantized_edges(model)
    proof.edges = [CodesProof(name=name, activation_bits=edge.bit_width) for name, edge in edges.items()]
    coded = {each.name: integer.get_submodule(each.name) for each in proof.coded}
    inputs: Inputs = defaultdict(deque)
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(partial(_keep, inputs, name), with_kwargs=True)
        for name in coded
    ]
    try:
        for images, labels in batches:
            parts = images.split(batch_size)
            known = [None] * len(parts) if labels is None else labels.split(batch_size)
            for some, right in zip(parts, known, strict=True):
                inputs.clear()
                expected = model(some)
                for record in proof.coded:
                    coded[record.name].watch = partial(_alone, record, coded[record.name], inputs)
                if inputs:
                    integer(some)
                for record in proof.coded:
                    coded[record.name].watch = partial(_together, record, inputs)
                first = proof.network.images
                at = getattr(model, "logits_at", None)
                differing = proof.network.add(expected, integer(some), right, at, len(some))
                proof.disagreeing += [first + int(each) for each in differing.nonzero()]
    finally:
        for hook in hooks:
            hook.remove()
    return proof


def _weights(stored: StoredLayer, simulated: QuantizedLayer, layer: IntegerLayer) -> LayerProof:
    weight, scale = simulated.layer.weight.double(), per_channel(stored.scale.double(), stored.levels)
    codes = (weight / scale).round() + per_channel(stored.zero_point, stored.levels)
    return LayerProof(
        name=stored.name,
        bits=stored.grid.bit_width,
        activation_bits=None if layer.activation is None else layer.activation.bit_width,
        accumulator="float64" if layer.accumulator is None else str(layer.accumulator).removeprefix("torch."),
        bound=layer.bound,
        weights=stored.levels.numel(),
        weights_differing=int((codes != stored.levels).sum()),
    )


def _keep(inputs: Inputs, name: str, layer: QuantizedLayer | Edge, args: tuple, kwargs: dict) -> None:
    x = args[0] if args else kwargs["input"]
    inputs[name].append((x.clone(), layer.activation.codes(x)))  # a later sum in place may take the memory of x


def _of_this_call(inputs: Inputs, name: str) -> tuple[Tensor, Tensor]:
    """What the simulation's layer had; a pass goes once around all its calls."""
    inputs[name].rotate(-1)
    return inputs[name][-1]


def _alone(record: CodesProof, layer: IntegerLayer | IntegerEdge, inputs: Inputs, x: Tensor, codes: Tensor) -> Tensor:
    """Pass 2: compare, then go on with the simulation's codes."""
    original, expected = _of_this_call(inputs, record.name)
    if isinstance(record, LayerProof) and record.witnessed is None:
        record.witnessed = layer.witness(expected[:1])
    record.codes += codes.numel()
    differs = codes != expected
    if differs.any():
        scale = layer.activation.scale.double()
        gap = ((x[differs] - original[differs]).double() / scale).abs()
        step = (codes[differs].int() - expected[differs].int()).abs()
        tie = (gap <= TIE) & (step == 1)
        record.ties += int(tie.sum())
        record.unexplained += int((~tie).sum())
        record.tie_gap = max(record.tie_gap, gap[tie].max().item() if tie.any() else 0.0)
    return expected


def _together(record: CodesProof, inputs: Inputs, x: Tensor, codes: Tensor) -> Tensor:
    """Pass 3: compare, and go on with the own codes."""
    _, expected = _of_this_call(inputs, record.name)
    differs = codes != expected
    if differs.any():
        record.codes_differing += int(differs.sum())
        record.largest = max(record.largest, int((codes[differs].int() - expected[differs].int()).abs().max()))
    return codes
