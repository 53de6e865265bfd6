"""A piece of a model as a module of its own: from one value of its graph to a later one."""

from torch import fx, nn


def segment(model: nn.Module, graph: fx.Graph, start: fx.Node, end: fx.Node) -> fx.GraphModule:
    """The nodes after `start` that `end` needs, with the modules of `model` (no copies): value of start -> of end.

    `end` needs nothing else from before `start` but parameters and constants; a cut of the graph sees to that.
    """
    needed, pending = set(), [end]
    while pending:
        node = pending.pop()
        if node not in needed and node is not start:
            needed.add(node)
            pending.extend(node.all_input_nodes)
    piece = fx.Graph()
    copies = {start: piece.placeholder("x")}
    for node in graph.nodes:
        if node in needed:
            copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output(copies[end])
    piece.lint()
    return fx.GraphModule(model, piece)


def output_of(graph: fx.Graph) -> fx.Node:
    """The node whose value the model returns."""
    (last,) = next(node for node in reversed(graph.nodes) if node.op == "output").all_input_nodes
    return last
