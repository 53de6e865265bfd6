"""A piece of a model as a module of its own: from one value of its graph to a later one."""

from torch import fx, nn


def nodes_between(start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """Those that make the value of `end` from that of `start`, in execution order."""
    needed, node = {end}, end
    while node is not start:
        if node in needed:
            needed.update(node.all_input_nodes)
        node = node.prev
    nodes = []
    while node is not end:
        node = node.next
        if node in needed:
            nodes.append(node)
    return nodes


def segment(model: nn.Module, start: fx.Node, end: fx.Node) -> fx.GraphModule:
    """The nodes after `start` that `end` needs, with the modules of `model` (no copies): value of start -> of end.

    `end` needs nothing else from before `start` but parameters and constants; a cut of the graph sees to that.
    """
    piece = fx.Graph()
    copies = {start: piece.placeholder("x")}
    for node in nodes_between(start, end):
        copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output(copies[end])
    piece.lint()
    return fx.GraphModule(model, piece)


def output_of(graph: fx.Graph) -> fx.Node:
    """The node whose value the model returns."""
    (last,) = next(node for node in reversed(graph.nodes) if node.op == "output").all_input_nodes
    return last
