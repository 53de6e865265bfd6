"""Carry the calibration images through the network, the float and the quantized one side by side."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from attnround.calibration.cache import ActivationCache, Apart, Slice, apart
from attnround.quantization.layers import Edge, QuantizedLayer

Values = dict[fx.Node, Any]
Both = tuple[Values, Values]  # in the float model, in the model quantized so far


class Walk:
    """The calibration images on their way: for each batch, the values in both models that later nodes still need.

    To reach a node, only the nodes from where the images are up to it are run. The values there replace the earlier
    ones if they fit into `cache_mib`, so that no node runs twice; if they do not (an expanded activation), the earlier
    ones stay, and the nodes in between run again for the next place.

    batches: of images; own: which of them are carried here, None for all: other processes carry the others.
    """

    def __init__(
        self,
        graph: fx.Graph,
        teacher: fx.Interpreter,
        student: fx.Interpreter,
        batches: Sequence[Tensor],
        cache_mib: float,
        own: Sequence[bool] | None = None,
    ):
        self.nodes = list(graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.last_use = {node: max((self.place[user] for user in node.users), default=-1) for node in self.nodes}
        self.teacher, self.student = teacher, student
        self.cache_bytes = cache_mib * 2**20
        start = next(node for node in self.nodes if node.op == "placeholder" and node.users)
        self.at = self.place[start] + 1
        self.alike = next((self.place[node] for node in self.nodes if _quantizes(student, node)), len(self.nodes))
        self.sizes = [len(batch) for batch in batches]
        self.kept: list[Both | None] = [
            ({start: batch}, {start: batch}) if mine else None
            for batch, mine in zip(batches, own or [True] * len(batches), strict=True)
        ]

    def fork(self) -> "Walk":
        """Another walk from here on; what is kept is shared."""
        walk = copy.copy(self)
        walk.kept = list(self.kept)
        return walk

    def values(self, node: fx.Node, keep: bool | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch's value of this node, in the float model and in the model quantized so far.

        keep: whether the walk moves here; with None it does if the values fit into the budget.
        """
        for both in self.values_of([node], keep):
            assert both is not None, "a batch of another process"
            values, quantized = both
            yield values[node], quantized[node]

    @torch.no_grad()
    def values_of(self, nodes: Sequence[fx.Node], keep: bool | None = None) -> Iterator[Both | None]:
        """Each batch's values of these nodes and of others, in both models, as `values` gives those of one.

        Nodes behind the last of these need each of them. None is a batch that another process carries.
        """
        end = max(self.at, *(self.place[node] + 1 for node in nodes))
        num_own = sum(both is not None for both in self.kept)
        for i, both in enumerate(self.kept):
            if both is None:
                yield None
                continue
            loaded = _loaded(both)
            x = self._run(self.teacher, loaded[0], end)
            x_quantized = x if end <= self.alike else self._run(self.student, loaded[1], end)
            if keep is None:
                keep = num_bytes(x, x_quantized) * num_own <= self.cache_bytes
            if keep:
                self.kept[i] = _stored((x, x_quantized), loaded, both)
            yield x, x_quantized
        if keep:
            self.at = end

    def is_alone(self, node: fx.Node) -> bool:
        """Whether all nodes after this one need nothing from before it but its value."""
        place = self.place[node]
        return all(self.last_use[other] <= place for other in self.nodes[:place] if other.op != "get_attr")

    def adopt(self, node: fx.Node, cache: ActivationCache, quantized: ActivationCache) -> None:
        """Move to `node`, with its values from these caches; later nodes must need nothing else (`is_alone`)."""
        ends = list(itertools.accumulate(self.sizes))
        self.kept = [
            ({node: Slice(cache, end - size, end)}, {node: Slice(quantized, end - size, end)})
            for end, size in zip(ends, self.sizes, strict=True)
        ]
        self.at = self.place[node] + 1

    def _run(self, interpreter: fx.Interpreter, kept: Values, end: int) -> Values:
        """The values that the node at `end` and those after it need, from those kept at `self.at`."""
        values = interpreter.env = dict(kept)
        for i in range(self.at, end):
            node = self.nodes[i]
            if self.last_use[node] >= 0:
                values[node] = interpreter.run_node(node)
            for used in node.all_input_nodes:
                if self.last_use[used] <= i:
                    values.pop(used, None)
        interpreter.env = {}
        return {node: value for node, value in values.items() if self.last_use[node] >= end}


def _quantizes(student: fx.Interpreter, node: fx.Node) -> bool:
    """Whether the student's value of a node may be another than the teacher's, where their inputs are alike."""
    if node.op == "call_module":
        return isinstance(student.fetch_attr(str(node.target)), QuantizedLayer | Edge)
    return False


def _stored(found: Both, loaded: Both, kept: Both) -> Both:
    """What was found, as it is kept; what was kept before, and loaded from there, stays where it is."""
    places = {
        id(tensor): kept[model][node]
        for model, values in enumerate(loaded)
        for node, tensor in values.items()
        if isinstance(tensor, Tensor)
    }
    for part in itertools.chain.from_iterable(map(_tensors, found)):
        if id(part) not in places:
            places[id(part)] = apart(part)
    first, second = ({node: _placed(value, places) for node, value in values.items()} for values in found)
    return first, (first if found[0] is found[1] else second)


def _placed(value: object, places: Mapping[int, object]) -> object:
    """Where a tensor is kept, or those of a tuple are; places: by the tensor's id."""
    if isinstance(value, tuple):
        return tuple(_placed(part, places) for part in value)
    return places[id(value)] if isinstance(value, Tensor) else value


def _loaded(both: Both) -> Both:
    """The tensors that are kept; what both models share is loaded once."""
    tensors: dict[int, Tensor] = {}

    def of(value: object) -> object:
        if isinstance(value, Slice | Apart):
            if id(value) not in tensors:
                tensors[id(value)] = value.load()
            return tensors[id(value)]
        return value

    first, second = (
        {node: tuple(map(of, value)) if isinstance(value, tuple) else of(value) for node, value in values.items()}
        for values in both
    )
    return first, (first if both[0] is both[1] else second)


def num_bytes(*values: Values) -> int:
    """Bytes of the tensors, in tuples too, each counted once however many share it."""
    return sum({id(part): part.nbytes for each in values for part in _tensors(each)}.values())


def _tensors(values: Values) -> Iterator[Tensor]:
    for value in values.values():
        parts = value if isinstance(value, tuple) else (value,)
        yield from (part for part in parts if isinstance(part, Tensor))
