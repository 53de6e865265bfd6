"""Carry the calibration images through the network, the float and the quantized one side by side, layer by layer."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx

Values = dict[fx.Node, object]


class Walk:
    """Where the calibration images are in the network: for each batch, the values that later nodes still need.

    A step to the next layer runs only the nodes between. The values are then kept where they are if they fit into
    `cache_mib`, in place of the earlier ones, so that no node runs twice; where they do not fit (an expanded
    activation) the earlier ones stay, and the nodes between run again for the next layer.
    """

    def __init__(
        self, graph: fx.Graph, teacher: fx.Interpreter, student: fx.Interpreter, batches: list[Tensor], cache_mib: float
    ):
        self.nodes = list(graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.last_use = {node: max((self.place[user] for user in node.users), default=-1) for node in self.nodes}
        self.teacher, self.student = teacher, student
        self.cache_bytes = cache_mib * 2**20
        start = next(node for node in self.nodes if node.op == "placeholder" and node.users)
        self.at = self.place[start] + 1
        self.kept: list[tuple[Values, Values]] = [({start: batch}, {start: batch}) for batch in batches]

    @torch.no_grad()
    def inputs(self, layer: fx.Node) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch's input of this layer, in the float model and in the model quantized so far."""
        end = self.place[layer]
        (source,) = layer.all_input_nodes
        keep = None
        for i, (teacher_values, student_values) in enumerate(self.kept):
            x = self._run(self.teacher, teacher_values, end)
            x_quantized = self._run(self.student, student_values, end)
            if keep is None:
                keep = num_bytes(x, x_quantized) * len(self.kept) <= self.cache_bytes
            if keep:
                self.kept[i] = (x, x_quantized)
            yield x[source], x_quantized[source]
        if keep:
            self.at = end

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
        return {node: value for node, value in values.items() if self.last_use[node] >= end}


def num_bytes(*values: Values) -> int:
    """Bytes of the tensors, in tuples too, each counted once however many share it."""
    flat = [
        part for each in values for value in each.values() for part in (value if isinstance(value, tuple) else [value])
    ]
    tensors = {id(part): part for part in flat if isinstance(part, Tensor)}
    return sum(tensor.nbytes for tensor in tensors.values())
