"""Layers to allocate bits to."""

import pytest
import torch

from attnround.bits import Layer, Problem


def make_layers(*sizes: int) -> list[Layer]:
    """Layers of four filters of these sizes, called block.0, block.1 and so on."""
    generator = torch.Generator().manual_seed(0)
    return [
        Layer(
            f"block.{i}",
            torch.randn(4, size, generator=generator) * torch.rand(4, 1, generator=generator),
            macs=100 * size,
            input_bits=8,
        )
        for i, size in enumerate(sizes)
    ]


@pytest.fixture
def problem() -> Problem:
    """Six layers with made-up answers to all that an allocator may ask."""
    layers = make_layers(9, 30, 30, 60, 60, 9)
    noise = {layer.name: 1.0 + i for i, layer in enumerate(layers)}
    return Problem(
        layers,
        other_bits=1000,
        sums=lambda: [["block.1", "block.2"]],
        second_moments=lambda: {layer.name: torch.eye(layer.weight.shape[1])[None] for layer in layers},
        shrunk_moments=lambda: {layer.name: torch.eye(layer.weight.shape[1])[None] for layer in layers},
        output_metrics=lambda kind: {layer.name: noise[layer.name] * torch.eye(4)[None] for layer in layers},
        joint_moments=lambda kind: {
            layer.name: (eye := torch.eye(layer.weight.shape[1])[None], 4 * noise[layer.name] * eye) for layer in layers
        },
        logit_energy=lambda: 1e6,
        fisher_traces=lambda num_probes: {layer.name: noise[layer.name] for layer in layers},
        logit_noise=lambda name, weight: noise[name] * (weight - layers[int(name[-1])].weight).square().sum().item(),
    )
