"""What a captured model's graph says: which modules are called in which order, and how to run single nodes of it."""

import copy

from torch import fx, nn

from attnround.graph.capture import Captured
from attnround.graph.outputs import join


def graph_of(model: Captured) -> fx.Graph:
    """A copy of the model's graph, to be cut up; it returns one tensor, several as `joined` puts them together."""
    graph = copy.deepcopy(model.graph)
    (output,) = (node for node in graph.nodes if node.op == "output")
    if model.form is not None:
        with graph.inserting_before(output):
            output.args = (graph.call_function(join, tuple(output.args[0])),)
    return graph


def calls(graph: fx.Graph, model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[fx.Node]:
    """The nodes that call a module of these kinds, in execution order."""
    return [
        node for node in graph.nodes if node.op == "call_module" and isinstance(model.get_submodule(node.target), kinds)
    ]


def executor(model: nn.Module, graph: fx.Graph) -> fx.Interpreter:
    """What runs single nodes of a graph with the modules of `model`."""
    return fx.Interpreter(fx.GraphModule(model, graph), garbage_collect_values=False)
