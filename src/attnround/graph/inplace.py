"""Operations in place as the ones that give a new tensor, where that is the same.

torch.export's own way of doing so goes through the operations that each is made of, for ReLU6 and its like a fifth of a
second apiece, half of the time that capturing a MobileNet takes. It is left to what changes a tensor that others see.
"""

import torch
from torch import fx

aten = torch.ops.aten

# Their result is a tensor of its own, so that who takes it first may change it unseen.
FRESH = {
    aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding,
    aten.conv3d.padding, aten.linear.default, aten.batch_norm.default, aten.group_norm.default, aten.layer_norm.default,
    aten.add.Tensor, aten.mul.Tensor, aten.cat.default,
}  # fmt: skip


def out_of_place(graph: fx.Graph) -> None:
    """Replace operations in place whose operand nothing else reads, and that do not convert another to its type."""
    fresh = {node for node in graph.nodes if node.target in FRESH}
    for node in graph.nodes:
        given = node.args[0] if node.args else None
        if given in fresh and set(given.users) == {node} and len(set(map(_type, node.all_input_nodes))) == 1:
            alike = _out_of_place(node.target)
            if alike is not None:
                node.target = alike
                fresh.add(node)


def _type(node: fx.Node) -> torch.dtype | None:
    return getattr(node.meta["val"], "dtype", None)


def _out_of_place(operator: object) -> torch._ops.OpOverload | None:
    """aten.relu.default for aten.relu_.default; None for what is not in place."""
    if not isinstance(operator, torch._ops.OpOverload):
        return None
    namespace, _, name = operator._schema.name.partition("::")
    if namespace != "aten" or not name.endswith("_") or name.startswith("_"):
        return None
    packet = getattr(aten, name.removesuffix("_"), None)
    return getattr(packet, operator._overloadname, None)
