"""What else goes into the sums that a layer's output goes into, and how the layer's output makes up for its drift.

On its way to a sum the output y may be rearranged, and scaled by parameters: to T y with at most one value of y in each
of T's outputs, so that T^T T is diagonal. For a drift e of the sum, T r comes closest to e at r = T^T e / (T^T T 1).
Autograd gives these products, whatever T is made of.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import vjp
from torch.nn.modules.batchnorm import _BatchNorm

from attnround.graph.layers import operation
from attnround.graph.trace import calls, only_user
from attnround.quantization.layers import Edge

aten = torch.ops.aten
SUMS = (aten.add.Tensor, aten.sub.Tensor)
SCALINGS = (*SUMS, aten.mul.Tensor, aten.div.Tensor)  # where the other argument is a parameter or a number
REARRANGING = {"alias", "clone", "permute", "pixel_shuffle", "roll", "slice", "squeeze", "transpose", "unsqueeze"}
RESHAPING = {"reshape", "_unsafe_view"}
NEUTRAL = (nn.Identity, Edge)  # what an edge quantizes is followed as if it did nothing
MODULES = (*NEUTRAL, _BatchNorm)  # that scale or do nothing
LEAST = 1e-2  # of the largest scale: past a smaller one, the output would have to change many times over


def terms(node: fx.Node) -> tuple[fx.Node, ...]:
    """The two values that a sum or a difference takes; none for other nodes, and where one of the two is a number."""
    found = tuple(each for each in node.args if isinstance(each, fx.Node))
    return found if node.target in SUMS and len(found) == 2 else ()


@dataclass(frozen=True)
class Branches:
    """What meets a layer's output and is final before the layer runs.

    operands: the other terms of the sums behind it, in their order; layer: the call of it, None without operands;
    total: the layer's output and the operands -> the last of the sums; None where that is their plain sum.
    """

    operands: tuple[fx.Node, ...] = ()
    layer: fx.Node | None = None
    total: fx.GraphModule | None = None

    def residual(self, values: Mapping[fx.Node, Tensor], quantized: Mapping[fx.Node, Tensor]) -> Tensor | None:
        """The operands' drift r in the shape of the layer's output, which makes up for it with -r; None without any.

        values, quantized: of the layer's input and the operands in the float model and in the one quantized so far.
        """
        drifts = [quantized[node] - values[node] for node in self.operands]
        if self.total is None:
            return sum(drifts[1:], drifts[0]) if drifts else None
        x = values[self.layer.args[0]]
        shape = [x.shape[i] if size is None else size for i, size in enumerate(self.layer.meta["shape"])]
        zero, *zeros = (torch.zeros_like(each) for each in (x.new_empty(shape), *drifts))

        def scaled(y: Tensor) -> Tensor:
            return self.total(y, *zeros)

        constant, transposed = vjp(scaled, zero)
        (product,) = transposed(self.total(zero, *drifts) - constant)
        (squares,) = transposed(scaled(torch.ones_like(zero)) - constant)
        return torch.where(squares > LEAST**2 * squares.max(), product / squares, 0.0)


def find_branches(name: str, graph: fx.Graph, model: nn.Module) -> Branches:
    """The branches that meet the output of the layer of this name; none where it is called several times.

    The output is followed while its only user is a sum, or scales or rearranges it. A sum's other term counts where it
    lies before the layer in the graph: then all that it depends on is final when the layer's turn comes. One that
    lies behind ends the search: the layers of that branch make up for this one's error.
    """
    layer, *more = [node for node in calls(graph, model, (nn.Module,)) if node.target == name]
    place = {node: i for i, node in enumerate(graph.nodes)}
    chain, operands, num_behind = [layer], [], 0
    while not more and (user := only_user(chain[-1])) is not None:
        other = _other_term(user, chain[-1])
        if other is None:
            if not _is_scaling(user, chain[-1], model):
                break
        elif place[other] < place[layer]:
            operands.append(other)
            num_behind = len(chain)
        else:
            break
        chain.append(user)
    if not operands:
        return Branches()
    chain = chain[: num_behind + 1]
    is_plain = all(_is_plain(node, model) for node in chain[1:])
    return Branches(tuple(operands), layer, None if is_plain else _total(operands, chain, model))


def _other_term(node: fx.Node, term: fx.Node) -> fx.Node | None:
    """What a sum adds to this term of it, if that depends on the images and has the term's and the sum's shape."""
    others = [each for each in terms(node) if each is not term and each.op != "get_attr"]
    alike = len({each.meta.get("shape") for each in (node, term, *others)}) == 1
    return others[0] if others and alike else None


def _is_scaling(node: fx.Node, before: fx.Node, model: nn.Module) -> bool:
    """Whether each value of the node is one of the node's before it, times a parameter or plus one."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), MODULES)
    if [each is before for each in node.args].count(True) != 1:
        return False
    others = [each for each in node.all_input_nodes if each is not before]
    if node.target in SCALINGS:
        is_divisor = node.target is aten.div.Tensor and node.args[0] is not before
        return not is_divisor and all(each.op == "get_attr" for each in others)
    name = _name(node)
    return (name in REARRANGING and not others) or (name in RESHAPING and len(others) <= 1)


def _name(node: fx.Node) -> str:
    return node.target if node.op == "call_method" else operation(node)


def _is_plain(node: fx.Node, model: nn.Module) -> bool:
    """Whether the node adds one value to another, or does nothing."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), NEUTRAL)
    return node.target is aten.add.Tensor and not node.kwargs and all(each.op != "get_attr" for each in terms(node))


def _total(operands: list[fx.Node], chain: list[fx.Node], model: nn.Module) -> fx.GraphModule:
    """The values of the chain's first node, a layer's output, and of the operands -> that of its last, a sum."""
    layer, *behind = chain
    piece = fx.Graph()
    copies = {node: piece.placeholder(node.name) for node in (layer, *operands)}

    def copied(node: fx.Node) -> fx.Node | int:
        if node.op == "get_attr":
            return piece.get_attr(node.target)
        return copies.get(node, -1)  # all else is the size in a reshape that grows with the number of images

    for node in behind:
        copies[node] = piece.node_copy(node, copied)
    piece.output(copies[behind[-1]])
    return fx.GraphModule(model, piece)
