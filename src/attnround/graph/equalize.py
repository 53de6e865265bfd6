"""Cross-layer equalization: give a layer's output channels ranges as even as can be, with the same outputs.

Of two layers y = W2 f(W1 x + b1) with f(s y) = s f(y) for s > 0 in every channel, such as ReLU, channel i of what runs
between them can be scaled by 1/s_i:

    W1_i <- W1_i / s_i      b1_i <- b1_i / s_i      W2_:i <- W2_:i s_i      cap_i <- cap_i / s_i   (of a ReLU6)

The outputs stay. With r1_i = max |W1_i| and r2_i = max |W2_:i|, s_i = sqrt(r1_i / r2_i) makes both ranges
sqrt(r1_i r2_i), so that no channel is lost in a scale that all of a tensor share. Layers in a row undo a part of each
other's, so pair after pair is equalized until none changes. A channel without weights on one side stays as it is.

Bias absorption: where f is ReLU and y = W1 x + b1 is above c in a channel for nearly every input, f(y) is f(y - c) + c,
and the constant goes into the next bias:

    c = max(0, beta - 3 gamma)      b1 <- b1 - c      b2 <- b2 + W2 c

with beta and gamma those of the batch norm that was folded into the first layer, over s: the mean and the deviation of
y. It is exact but for the inputs that lie below c, 0.13 % of a Gaussian, and so a switch of its own. It is left out
where the second layer pads, since zeros in the padding have no c.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721,
sections 4.1 and 4.2. The paper takes ReLU6 for ReLU, which changes outputs; here the cap is scaled along.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnround.graph.capture import Captured
from attnround.graph.fold import FoldedNorm
from attnround.graph.kinds import grouped_rows
from attnround.graph.pairs import Pair, cap_channels, find_caps, find_pairs
from attnround.quantization.grid import per_channel

TOLERANCE = 1e-3  # a scale that is closer to 1 than this ends the iteration
MOST_ROUNDS = 200  # over all pairs
MOST = 1024.0  # times that a channel is scaled: one of hardly any weights would get a bias that dwarfs all others
DEVIATIONS = 3  # below the mean, where a bias is absorbed: section 4.2


class Equalization(ABC):
    """What is done to a folded float model before it is quantized, which leaves its outputs as they are."""

    @abstractmethod
    def equalize(self, model: Captured, norms: Mapping[str, FoldedNorm], images: Tensor) -> str | None:
        """Change the model in place; return what was done in a line, None where nothing was asked for.

        norms: layer name -> the batch norm that was folded into it; images: for calibration, [N, C, H, W].
        """


@dataclass(frozen=True)
class NoEqualization(Equalization):
    """The folded model as it is."""

    def equalize(self, model: Captured, norms: Mapping[str, FoldedNorm], images: Tensor) -> None:
        """Leave it."""


@dataclass(frozen=True)
class CrossLayer(Equalization):
    """Cross-layer equalization of a folded model; with absorb_bias, of its high biases too, which is not exact."""

    absorb_bias: bool = False

    def equalize(self, model: Captured, norms: Mapping[str, FoldedNorm], images: Tensor) -> str:
        pairs = find_pairs(model)
        if not pairs:
            return "nothing can be equalized: no layer gives to another alone, through ReLU, ReLU6 or nothing"
        cap_channels(model, [pair.first for pair in pairs if pair.cap is not None])
        scales = equalize_pairs(model, pairs)
        largest = max(scale.log2().abs().max().item() for scale in scales.values())
        line = f"{len(pairs)} pairs of layers, channels scaled by up to {2**largest:.3g}"
        if self.absorb_bias:
            line += f", the biases of {absorb_biases(model, pairs, norms, scales)} absorbed"
        return line


@torch.no_grad()
def equalize_pairs(model: Captured, pairs: list[Pair]) -> dict[str, Tensor]:
    """Equalize these pairs in place, whose caps are a value a channel; the scales s [C] by the first layer's name."""
    names = {name for pair in pairs for name in (pair.first, pair.second)}
    layers = {name: model.get_submodule(name) for name in names}
    weights = {
        name: layer.weight.double().clone(memory_format=torch.contiguous_format) for name, layer in layers.items()
    }
    totals = {pair.first: weights[pair.first].new_ones(pair.channels) for pair in pairs}
    for _ in range(MOST_ROUNDS):
        changes = []
        for pair in pairs:
            first, second = weights[pair.first], by_input(weights[pair.second], layers[pair.second], pair)
            ours, theirs = first.flatten(1).abs().amax(1), second.abs().amax((1, 3, 4)).flatten()
            before = totals[pair.first]
            wanted = torch.where((ours > 0) & (theirs > 0), before * (ours / theirs).sqrt(), before)
            totals[pair.first] = wanted.clamp(1 / MOST, MOST)
            scale = totals[pair.first] / before
            first /= per_channel(scale, first)
            second *= scale.reshape(len(second), 1, -1, 1, 1)
            changes.append((scale - 1).abs().max().item())
        if max(changes) < TOLERANCE:
            break
    caps = find_caps(model)
    for name, layer in layers.items():
        layer.weight.copy_(weights[name])
        if name in totals and layer.bias is not None:
            layer.bias.copy_(layer.bias.double() / totals[name])
        if name in totals and name in caps:
            limit = caps[name].limit
            limit.copy_(limit.double() / totals[name].reshape(limit.shape))
    return totals


@torch.no_grad()
def absorb_biases(
    model: Captured, pairs: list[Pair], norms: Mapping[str, FoldedNorm], scales: Mapping[str, Tensor]
) -> int:
    """Absorb high biases of equalized pairs into the next layers' biases, in place; how many channels had one."""
    caps, absorbed = find_caps(model), 0
    for pair in pairs:
        if pair.first not in norms or not pair.passes_shifts:
            continue
        norm = norms[pair.first]
        shift = (norm.mean.double() - DEVIATIONS * norm.deviation.double()).clamp(min=0) / scales[pair.first]
        if pair.first in caps:
            limit = caps[pair.first].limit
            shift = shift.minimum(limit.double().flatten())
            limit.copy_(limit.double() - shift.reshape(limit.shape))
        first, second = (model.get_submodule(name) for name in (pair.first, pair.second))
        first.bias.copy_(first.bias.double() - shift)
        weight = by_input(second.weight.double(), second, pair)
        taken = (weight * shift.reshape(len(weight), 1, -1, 1, 1)).sum((2, 3, 4)).flatten()
        if second.bias is not None:
            taken += second.bias.double()
        second.bias = nn.Parameter(taken.to(second.weight.dtype))
        absorbed += int((shift > 0).sum())
    return absorbed


def by_input(weight: Tensor, layer: nn.Module, pair: Pair) -> Tensor:
    """A second layer's weight [O, *rest] seen as [G, O/G, C/G, repeat, taps], C the first's channels."""
    return grouped_rows(layer, weight).unflatten(2, (pair.channels // getattr(layer, "groups", 1), pair.repeat, -1))
