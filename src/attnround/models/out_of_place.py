"""Turn what a graph does in place into the same out of place: activations are kept, and used again.

A tensor that is changed in place is changed under all its names. Its own later uses are led to the changed value;
where it may be seen under another name, as a view of it, the model is refused.
"""

import inspect
import operator
from functools import partialmethod

import torch
from timm.layers import DropPath
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from attnround.errors import InputError

ASSIGNMENTS = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
}
PASSING = (nn.Identity, nn.Flatten, _DropoutNd, DropPath)  # may give back what they were given
VIEWS = {"chunk", "contiguous", "detach", "expand", "expand_as", "flatten", "getitem", "movedim", "narrow", "permute"}
VIEWS |= {"reshape", "select", "split", "squeeze", "swapaxes", "to", "transpose", "unbind", "unflatten", "unsqueeze"}
VIEWS |= {"t", "view", "view_as"}


class Proxy(fx.Proxy):
    """Records `x += y` as what it is; torch's own proxy records x + y, and `x` under another name would not change."""

    def _assign(self, function, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    __iadd__ = partialmethod(_assign, operator.iadd)
    __imul__ = partialmethod(_assign, operator.imul)
    __isub__ = partialmethod(_assign, operator.isub)
    __itruediv__ = partialmethod(_assign, operator.itruediv)


def switch_modules(model: nn.Module) -> set[str]:
    """Let no module work in place; the names of those that did."""
    switched = {name for name, module in model.named_modules() if getattr(module, "inplace", False) is True}
    for name in switched:
        model.get_submodule(name).inplace = False
    return switched


def work_out_of_place(graph: fx.Graph, model: nn.Module, switched: set[str]) -> None:
    """Rewrite every operation in place; `switched` are the modules that worked in place before.

    Raises InputError, with the node, where another name of a tensor that is changed is used later.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        rebinds = node.op == "call_module" and node.target in switched
        if node.op == "call_function" and node.target in ASSIGNMENTS:
            node.target, rebinds = ASSIGNMENTS[node.target], True
            if _is_number(node.args[0]):  # which has no other names
                continue
        elif not rebinds and not _rewrite(node):
            continue
        changed = node.all_input_nodes[0]
        names = _other_names(changed, node, place, model)
        if any(place[user] > place[node] for name in names | ({changed} if rebinds else set()) for user in name.users):
            raise InputError(
                f"{type(model).__name__} cannot be handled: {node.name} changes {changed.name} in place, which is "
                "used again later; write it out of place"
            )
        changed.replace_all_uses_with(node, lambda user, node=node: place[user] > place[node])


def _is_number(node: fx.Node) -> bool:
    """Whether this is a tensor's size, or computed from sizes."""
    if (node.op, node.target) == ("call_method", "size") or (node.target is getattr and node.args[1] == "shape"):
        return True
    computed = getattr(node.target, "__module__", None) == operator.add.__module__
    return computed and all(_is_number(each) for each in node.all_input_nodes)


def _rewrite(node: fx.Node) -> bool:
    """Make this call out of place; whether it was in place."""
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if node.op in ("call_method", "call_function") and name.endswith("_") and not name.endswith("__"):
        twin = getattr(Tensor if node.op == "call_method" else torch, name[:-1], None)
        if not callable(twin):
            raise InputError(f"{name} works in place at {node.name} and cannot be handled: write it out of place")
        node.target = name[:-1] if node.op == "call_method" else twin
        return True
    position = _inplace_argument(node.target) if node.op == "call_function" else None
    if position is None or not (node.args[position:] or (node.kwargs.get("inplace"),))[0]:
        return False
    if position < len(node.args):
        node.update_arg(position, False)
    else:
        node.update_kwarg("inplace", False)
    return True


def _inplace_argument(function: object) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # torch's built-in functions have no signature, and no such argument
        return None
    return names.index("inplace") if "inplace" in names else None


def _other_names(changed: fx.Node, node: fx.Node, place: dict[fx.Node, int], model: nn.Module) -> set[fx.Node]:
    """Values from before `node` that may be views of the changed one, or it of them."""
    names, new = {changed}, [changed]
    while new:
        value = new.pop()
        near = [user for user in value.users if place[user] < place[node] and _passes(user, model)]
        near += value.all_input_nodes[:1] if _passes(value, model) else []
        new += [name for name in near if name not in names]
        names.update(near)
    return names - {changed}


def _passes(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), PASSING)
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.op in ("call_method", "call_function") and name in VIEWS
