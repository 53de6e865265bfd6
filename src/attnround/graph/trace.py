"""What a captured model's graph says: which modules are called in which order, by whom, and how to run single nodes."""

import copy

from torch import fx, nn

from attnround.graph.capture import Captured
from attnround.graph.outputs import join


def graph_of(model: Captured) -> fx.Graph:
    """A copy of the model's graph, to be cut up; it returns one tensor, several as `joined` puts them together."""
    graph = copy.deepcopy(model.graph)
    (output,) = (node for node in graph.nodes if node.op == "output")
    if model.form is not None:
        rows = [each for each in output.args[0] if isinstance(each, fx.Node) and grows(each)]
        with graph.inserting_before(output):
            output.args = (graph.call_function(join, tuple(rows or output.args[0])),)
    return graph


def grows(node: fx.Node) -> bool:
    """Whether a node's value has a part for each image, one behind the other."""
    return (node.meta.get("shape") or ())[:1] == (None,)


def calls(graph: fx.Graph, model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[fx.Node]:
    """The nodes that call a module of these kinds, in execution order."""
    return [
        node for node in graph.nodes if node.op == "call_module" and isinstance(model.get_submodule(node.target), kinds)
    ]


def of_images(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values depend on the images, and not on their number alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (node.target != "size" and found & set(node.all_input_nodes)):
            found.add(node)
    return found


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that takes this one's value, but for its size; None where there are several, or none."""
    users = [user for user in node.users if user.target != "size"]
    return users[0] if len(users) == 1 else None


def runs_once(node: fx.Node) -> bool:
    """Whether no other node calls the module that this one calls."""
    return sum(other.target == node.target for other in node.graph.nodes) == 1


def place(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a new dotted path."""
    *parts, last = path.split(".")
    for part in parts:
        if part not in model._modules:
            model.add_module(part, nn.Module())
        model = model.get_submodule(part)
    model.add_module(last, module)


def executor(model: nn.Module, graph: fx.Graph) -> fx.Interpreter:
    """What runs single nodes of a graph with the modules of `model`."""
    return fx.Interpreter(fx.GraphModule(model, graph), garbage_collect_values=False)
