"""Matrix products of two values that depend on the images, as attention has them, and what they take.

In attention the first product is of queries and keys, the second of values and the probabilities that a softmax makes
of the first. torch's scaled_dot_product_attention is all at once; to reach the probabilities it is written out:

    softmax(q k^T * scale + mask) v
"""

import math
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from attnround.graph.capture import Captured
from attnround.graph.layers import operation
from attnround.graph.trace import of_images

aten = torch.ops.aten
PRODUCTS = {"matmul", "bmm", "einsum"}
ATTENTION = "scaled_dot_product_attention"
SCORED = PRODUCTS | {"mul", "div", "add", "reshape", "masked_fill"}  # between queries, keys and the softmax


def write_out_attention(model: Captured) -> None:
    """Put products and a softmax in the place of every attention of the model's graph.

    Left as they are: what is for training or text (values dropped, later places hidden), several heads of queries for
    one of keys, and a mask that depends on the image and may be one of truths.
    """
    for node in list(model.graph.nodes):
        if operation(node) != ATTENTION:
            continue
        names = [argument.name for argument in node.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        mask = given.get("attn_mask")
        if any(map(given.get, ("dropout_p", "is_causal", "enable_gqa"))) or (mask and mask.op != "get_attr"):
            continue
        with model.graph.inserting_before(node):
            node.replace_all_uses_with(_written_out(node, given, mask and attrgetter(mask.target)(model)))
        model.graph.erase_node(node)


def attends(model: Captured) -> bool:
    """Whether the model has products of two values that depend on the images, written out or not."""
    inside = any(operation(node) == ATTENTION for node in model.graph.nodes)
    return inside or any(operands_of_products(model.graph))


def operands_of_products(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node, str]]:
    """Each product, and a value that it takes with what that is called, in execution order."""
    depending = of_images(graph)
    for node in graph.nodes:
        if operation(node) in PRODUCTS:
            given = node.args[1] if operation(node) == "einsum" else node.args[:2]
            if len(given) == 2 and depending.issuperset(given):
                yield from ((node, value, name) for value, name in zip(given, _names(node, given[0]), strict=True))


def _names(product: fx.Node, left: fx.Node) -> tuple[str, str]:
    """What a product's operands are called."""
    if operation(left) == "softmax":
        return "probability", "value"
    after = product
    while (after.target if after.op == "call_method" else operation(after)) in SCORED and len(after.users) == 1:
        (after,) = after.users
    return ("query", "key") if operation(after) == "softmax" else ("left", "right")


def _written_out(node: fx.Node, given: dict[str, Any], mask: Tensor | None) -> fx.Node:
    """The value of an attention, of nodes put before it."""
    query, key, value = (given[name] for name in ("query", "key", "value"))
    (*batch, places, size), (*others, num_keys, _) = query.meta["shape"], key.meta["shape"]
    scale = given.get("scale")

    def call(target: object, *args: object, shape: tuple) -> fx.Node:
        new = node.graph.call_function(target, args)
        new.meta = {"module": node.meta.get("module"), "shape": shape}
        return new

    scores = (*batch, places, num_keys)
    turned = call(aten.transpose.int, key, -2, -1, shape=(*others, size, num_keys))
    found = call(aten.matmul.default, query, turned, shape=scores)
    found = call(aten.mul.Tensor, found, 1 / math.sqrt(size) if scale is None else scale, shape=scores)
    if mask is not None:
        added = given["attn_mask"]
        if mask.dtype == torch.bool:
            added = call(aten.where.Scalar, added, 0.0, -math.inf, shape=tuple(mask.shape))
        found = call(aten.add.Tensor, found, added, shape=scores)
    found = call(aten.softmax.int, found, -1, shape=scores)
    return call(aten.matmul.default, found, value, shape=node.meta["shape"])
