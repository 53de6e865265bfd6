"""Cut a model into what is reconstructed at once: layers, blocks, or the network. From how it runs, not from names.

A cut point is a value that is all the rest of the model needs. Blocks are what lies between cut points, joined where
the modules say that they belong together: an inverted residual without a shortcut is one block, as in BRECQ
(arXiv 2102.05426), though it could be cut behind each of its convolutions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, takewhile

from torch import Tensor, fx, nn

from attnround.errors import InputError
from attnround.graph.capture import Captured
from attnround.graph.kinds import QUANTIZABLE
from attnround.graph.localize import localize
from attnround.graph.segment import nodes_between
from attnround.graph.trace import calls

GRANULARITIES = ("layer", "block", "network")
PLAIN = "torch.nn.modules.container.Sequential"  # exactly this one, and a module that is never called, line others up


@dataclass(frozen=True)
class Unit:
    """What is reconstructed at once: the nodes after `start` up to and with `end`, one value in and one value out.

    name: of the module that the unit is, or of its only layer; start, end: the nodes whose values go in and come out;
    layers: names of the quantizable layers inside, in execution order; more_inputs: of a layer that the forward calls
    several times, the nodes whose values the later calls take.
    """

    name: str
    start: fx.Node
    end: fx.Node
    layers: tuple[str, ...]
    more_inputs: tuple[fx.Node, ...] = ()

    def nodes(self) -> list[fx.Node]:
        """Those that make the value of `end` from that of `start`, in execution order."""
        return nodes_between(self.start, self.end)


def cut(
    graph: fx.Graph,
    model: Captured,
    granularity: str,
    example: Tensor,
    kinds: tuple[type[nn.Module], ...] = QUANTIZABLE,
) -> list[Unit]:
    """The units of a captured model in the order of their first calls; every quantizable layer is in exactly one.

    granularity: `layer`, a layer with its activation; `block`, parts that need one value and give one; `network`.
    Blocks tile the graph: each starts with the value at which the one before it ends. example: an image [1, C, H, W]
    of the shape that will be carried through; the graph's sizes become constants for it.
    """
    if granularity not in GRANULARITIES:
        raise InputError(f"reconstruction.granularity={granularity}: give one of {', '.join(GRANULARITIES)}")
    values = localize(graph, model, example)
    layers = calls(graph, model, kinds)
    if granularity == "layer":
        return [_layer_unit(name, layers, values) for name in _names(layers)]
    points = _cut_points(graph)
    if granularity == "network":
        return [Unit("network", points[0], points[-1], _names(layers))]
    return _blocks(model, _segments(graph, points, layers), values)


def _layer_unit(name: str, layers: list[fx.Node], values: dict[fx.Node, object]) -> Unit:
    first, *others = [layer for layer in layers if layer.target == name]
    end = first
    while len(end.users) == 1:
        (user,) = end.users
        if user.op == "output" or user in layers or len(user.all_input_nodes) > 1:
            break
        if not _same_shape(values[end], values[user]):
            break
        end = user
    return Unit(name, first.args[0], end, (name,), tuple(other.args[0] for other in others))


def _names(layers: Iterable[fx.Node]) -> tuple[str, ...]:
    """Of the layers that these nodes call, each once."""
    return tuple(dict.fromkeys(layer.target for layer in layers))


def _same_shape(one: object, two: object) -> bool:
    return isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == two.shape


def _cut_points(graph: fx.Graph) -> list[fx.Node]:
    """The nodes after which theirs is the only value that later nodes need, from the image to the logits."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    points: list[fx.Node] = []
    live: set[fx.Node] = set()
    for node in graph.nodes:
        live = {value for value in live | {node} if any(place[user] > place[node] for user in value.users)}
        if live == {node}:
            points.append(node)
    return points


@dataclass(frozen=True)
class _Segment:
    """From one cut point to another; owner: the innermost module that has all of its layers."""

    start: fx.Node
    end: fx.Node
    layers: tuple[str, ...]
    owner: str


def _segments(graph: fx.Graph, points: list[fx.Node], layers: list[fx.Node]) -> list[_Segment]:
    """What lies between neighbouring cut points."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    segments = []
    for start, end in pairwise(points):
        names = _names(layer for layer in layers if place[start] < place[layer] <= place[end])
        segments.append(_Segment(start, end, names, _owner(names)))
    return segments


def _owner(names: tuple[str, ...]) -> str:
    """The innermost module around these layers: "" is the model itself."""
    steps = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))


def _blocks(model: Captured, segments: list[_Segment], values: dict[fx.Node, object]) -> list[Unit]:
    """Segments joined where one's module is part of another's; what lies between goes before while the shape stays."""
    root = _owner(tuple(name for segment in segments for name in segment.layers))
    blocks: list[_Segment] = []
    for segment in segments:
        if not segment.layers:
            if blocks and blocks[-1].end is segment.start and _same_shape(values[segment.start], values[segment.end]):
                blocks[-1] = _join(blocks[-1], segment, blocks[-1].owner)
            continue
        shared = [i for i, block in enumerate(blocks) if set(block.layers) & set(segment.layers)]
        while shared and len(blocks) > shared[0]:  # all from a shared layer's first call to this one
            last = blocks.pop()
            segment = _join(last, segment, _owner(last.layers + segment.layers))
        while blocks and (owner := _common_module(model, blocks[-1].owner, segment.owner, root)) is not None:
            segment = _join(blocks.pop(), segment, owner)
        blocks.append(segment)
    owners = [block.owner for block in blocks]
    starts = [segments[0].start, *(block.end for block in blocks)]
    ends = [*(block.end for block in blocks[:-1]), segments[-1].end]
    return [
        Unit(_name(block, owners, root), start, end, block.layers)
        for block, start, end in zip(blocks, starts, ends, strict=False)
    ]


def _join(one: _Segment, two: _Segment, owner: str) -> _Segment:
    return _Segment(one.start, two.end, tuple(dict.fromkeys(one.layers + two.layers)), owner)


def _common_module(model: Captured, one: str, two: str, root: str) -> str | None:
    """The one of two modules that contains the other, unless it only lines modules up or is the whole model."""
    outer, inner = sorted((one, two), key=len)
    contains = outer == inner or inner.startswith(f"{outer}.")
    if not contains or outer == root or model.kinds.get(outer, PLAIN) == PLAIN:
        return None
    return outer


def _name(block: _Segment, owners: list[str], root: str) -> str:
    if len(block.layers) == 1:
        return block.layers[0]
    if block.owner != root and owners.count(block.owner) == 1:
        return block.owner
    return f"{block.layers[0]}..{block.layers[-1]}"
