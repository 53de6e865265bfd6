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
# What takes a tensor in both forms by the same arguments, and of floats gives floats.
ALIKE = {
    aten.relu_.default: aten.relu.default, aten.relu6_.default: aten.relu6.default,
    aten.hardtanh_.default: aten.hardtanh.default, aten.leaky_relu_.default: aten.leaky_relu.default,
    aten.elu_.default: aten.elu.default, aten.silu_.default: aten.silu.default, aten.mish_.default: aten.mish.default,
    aten.hardswish_.default: aten.hardswish.default, aten.hardsigmoid_.default: aten.hardsigmoid.default,
    aten.add_.Tensor: aten.add.Tensor, aten.mul_.Tensor: aten.mul.Tensor,
}  # fmt: skip


def out_of_place(graph: fx.Graph) -> None:
    """Replace activations, sums and products in place whose operand nothing else reads, all floats of one type."""
    fresh = {node for node in graph.nodes if node.target in FRESH}
    for node in graph.nodes:
        given = node.args[0] if node.target in ALIKE else None
        if given in fresh and set(given.users) == {node}:
            kind = _type(given)
            if kind.is_floating_point and all(_type(each) == kind for each in node.all_input_nodes):
                node.target = ALIKE[node.target]
                fresh.add(node)


def _type(node: fx.Node) -> torch.dtype | None:
    return getattr(node.meta["val"], "dtype", None)
