"""Rewrite a captured graph so that its stretches need as little as possible from what ran before them.

A size that is read early and used late, or a parameter that is, would otherwise count as a value to carry along.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from attnround.graph.trace import executor


@torch.no_grad()
def localize(graph: fx.Graph, model: nn.Module, example: Tensor) -> dict[fx.Node, object]:
    """Make sizes that images of one shape share constants, read batch sizes and parameters where they are used.

    In place, and the same after a second call. The graph computes what it did for any number of images of the
    example's shape [1, C, H, W]. Returns the nodes' values for the example, each tensor as one of its shape on `meta`.
    """
    one = _record(graph, model, example)
    two = _record(graph, model, torch.cat([example, example]))
    for node in list(graph.nodes):
        if node.op == "get_attr":
            _read_where_used(graph, node, one, two)
        elif node.op in ("call_function", "call_method") and _is_plain(one[node]):
            if one[node] == two[node]:
                for user in list(node.users):
                    _replace(user, node, one[node])
                graph.erase_node(node)
            elif isinstance(one[node], int):
                _read_from_inputs(graph, node, one, two)
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output", "call_module"))
    return one


class _Recorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        self.seen[n] = map_aggregate(value, lambda part: part.to("meta") if isinstance(part, Tensor) else part)
        return value


def _record(graph: fx.Graph, model: nn.Module, images: Tensor) -> dict[fx.Node, object]:
    recorder = _Recorder(executor(model, graph).module)
    recorder.seen = {}
    recorder.run(images)
    return recorder.seen


def _is_plain(value: object) -> bool:
    """Numbers, and tuples of them; None is what an assertion returns. A device or a dtype may change."""
    return value is None or isinstance(value, int | float) or (type(value) is tuple and all(map(_is_plain, value)))


def _replace(user: fx.Node, old: fx.Node, new: object) -> None:
    user.args = map_arg(user.args, lambda node: new if node is old else node)
    user.kwargs = map_arg(user.kwargs, lambda node: new if node is old else node)


def _read_where_used(graph: fx.Graph, node: fx.Node, one: dict, two: dict) -> None:
    following = node.next
    while following.op == "get_attr":
        following = following.next
    for user in list(node.users):
        if user is not following:
            with graph.inserting_before(user):
                copy = graph.get_attr(node.target)
            one[copy], two[copy] = one[node], two[node]
            _replace(user, node, copy)
    if not node.users:
        graph.erase_node(node)


def _read_from_inputs(graph: fx.Graph, size: fx.Node, one: dict, two: dict) -> None:
    """A user of a size that grows with the batch reads it from a value at hand that has it as its length."""
    for user in list(size.users):
        for source in _at_hand(graph, user):
            if size.target == "size" and size.args == (source, 0):
                break
            if _length(one[source]) == one[size] and _length(two[source]) == two[size]:
                with graph.inserting_before(user):
                    own = graph.call_method("size", (source, 0))
                one[own], two[own] = one[size], two[size]
                _replace(user, size, own)
                break


def _at_hand(graph: fx.Graph, user: fx.Node) -> Iterator[fx.Node]:
    """A node's own inputs, then values from before it that are needed behind it anyway, the latest first."""
    yield from user.all_input_nodes
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in reversed(list(place)[: place[user]]):
        if any(place[other] > place[user] for other in node.users):
            yield node


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, Tensor) and value.ndim else None
