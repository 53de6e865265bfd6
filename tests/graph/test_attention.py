"""What attention's products take can be quantized: found in any form of attention, and written out where it is one."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from attnround.calibration import attach_activations, calibrate_activations
from attnround.errors import InputError
from attnround.graph import beside, capture, find_edges, find_layers, left_float, swap_layers, with_edges
from attnround.graph.layers import operation
from attnround.quantization.observer import ClipSearch, sqnr_db
from attnround.quantization.ranges import Mse

PLACES, SIZE = 9, 6


class Attention(nn.Module):
    """Two heads over the pixels of an image; form: fused, written out by hand, or einsum."""

    def __init__(self, form: str = "fused", mask: torch.Tensor | None = None, **options: object):
        super().__init__()
        self.form, self.options = form, options
        self.qkv, self.out = nn.Linear(3, 3 * 2 * SIZE), nn.Linear(2 * SIZE, 5)
        self.register_buffer("mask", mask)

    def forward(self, x):
        x = self.qkv(x.flatten(2).mT).unflatten(2, (3, 2, SIZE))
        q, k, v = x.permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "fused":
            x = scaled_dot_product_attention(q, k, v, attn_mask=self.mask, **self.options)
        elif self.form == "einsum":
            scores = torch.einsum("nhqd,nhkd->nhqk", q, k) * SIZE**-0.5
            x = torch.einsum("nhqk,nhkd->nhqd", scores.softmax(-1), v)
        else:
            x = ((q * SIZE**-0.5) @ k.mT + (0 if self.mask is None else self.mask)).softmax(-1) @ v
        return self.out(x.transpose(1, 2).flatten(2).mean(1))


MASKS = {
    "none": None,
    "added": torch.randn(PLACES, PLACES, generator=torch.Generator().manual_seed(0)),
    "truths": torch.rand(PLACES, PLACES, generator=torch.Generator().manual_seed(0)) > 0.3,
}
EDGES = ["edges.query", "edges.key", "edges.probability", "edges.value"]


def captured(*args: object, **options: object) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = Attention(*args, **options).eval()
    return capture(net, torch.zeros(1, 3, 3, 3)), torch.randn(16, 3, 3, 3)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", [{}, {"scale": 0.7}])
@torch.no_grad()
def test_written_out_it_gives_what_torchs_gives(mask, options):
    model, images = captured("fused", MASKS[mask], **options)
    placed = with_edges(model, "inputs", attention=True)
    assert sorted(find_edges(placed)) == sorted(EDGES)
    torch.testing.assert_close(placed(images), model(images))
    assert "scaled_dot_product_attention" in {operation(node) for node in model.graph.nodes}
    assert "scaled_dot_product_attention" not in {operation(node) for node in placed.graph.nodes}


@pytest.mark.parametrize("form", ["fused", "by hand", "einsum"])
@torch.no_grad()
def test_all_four_are_quantized_at_the_bits_of_inputs(form):
    model, images = captured(form)
    placed, names = with_edges(model, "inputs", attention=True), list(find_layers(model))
    found = {}
    for bits in (4, 8):
        student = swap_layers(placed, dict.fromkeys(names, 8), ClipSearch())
        attach_activations(student, calibrate_activations(placed, images, Mse(bits), 16))
        edges = find_edges(student)
        assert sorted(edges) == sorted(EDGES)
        assert {edge.activation.bit_width for edge in edges.values()} == {bits}
        assert edges["edges.probability"].activation.zero_point == 0
        found[bits] = sqnr_db(model(images), student(images))
        follower = beside(model, student)
        torch.testing.assert_close(follower(images), model(images))
        assert not any("attention" in each or "matmul" in each for each in left_float(follower, names))
    assert any("attention" in each or "matmul" in each or "einsum" in each for each in left_float(model, names))
    assert found[8] > found[4] + 10
    assert found[8] > 25


@torch.no_grad()
def test_each_of_them_can_have_bits_of_its_own():
    model, images = captured()
    placed = with_edges(model, "inputs", attention=True)
    pinned = {"first": 8, "last": 8, "*.probability": 6, "edges.[kv]*": 3}
    found = calibrate_activations(placed, images, Mse(4, pinned=pinned), 16)
    bits = {"qkv": 8, "out": 8, "edges.query": 4, "edges.key": 3, "edges.probability": 6, "edges.value": 3}
    assert {name: each.bit_width for name, each in found.items()} == bits
    with pytest.raises(InputError, match=r"no layer is called edges\.queries; near"):
        calibrate_activations(placed, images, Mse(4, pinned={"edges.queries": 8}), 16)


def test_what_is_of_training_or_text_stays_as_it_is():
    model, _ = captured("fused", is_causal=True)
    with pytest.raises(InputError, match="attention=true: the model has no product of two values"):
        with_edges(model, "inputs", attention=True)


class Shared(nn.Module):
    """A value that two products take, one of them with its own transpose, and a layer."""

    def __init__(self, last: str):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 4)
        self.add_module(last, nn.Linear(4, 5))
        self.last = last

    def forward(self, x):
        x = self.one(x.flatten(2).mT)
        return self.get_submodule(self.last)((self.two(x) + x @ (x.mT @ x)).mean(1))


@torch.no_grad()
def test_a_value_has_one_quantizer_that_products_alone_take():
    torch.manual_seed(0)
    model = capture(Shared("head").eval(), torch.zeros(1, 3, 3, 3))
    placed = with_edges(model, "inputs", attention=True)
    assert sorted(find_edges(placed)) == ["edges.left", "edges.right", "edges.right_2"]
    takers = {node.args[0].target for node in placed.graph.nodes if node.op == "call_module"}
    assert not takers & set(find_edges(placed))


def test_a_name_that_is_taken_is_said():
    model = capture(Shared("edges").eval(), torch.zeros(1, 3, 3, 3))
    with pytest.raises(InputError, match="attention=true: the model has a submodule called edges"):
        with_edges(model, "inputs", attention=True)
