"""Capture a model as it runs, by torch.export, and give it its layers back as modules.

What comes out is a graph without in-place operations, for batches of any size of images of one shape. A layer is a
convolution or a linear operation whose weight is a parameter; it becomes a module of its kind (kinds.py) under the
weight's name, wherever the model kept the parameter and whatever module called the operation. Batch norms become
modules too. What depends on no image, such as a standardised weight or a table of relative positions, is computed once;
random numbers are drawn at every call.
"""

import copy
import copyreg
import inspect
import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.optim.swa_utils import AveragedModel
from torch.utils import _pytree as pytree

from attnround.errors import InputError, listed, reason
from attnround.graph.inplace import out_of_place
from attnround.graph.kinds import BY_OPERATION, KINDS
from attnround.graph.outputs import Output, named_leaves, tensors

aten = torch.ops.aten
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
ASSERTIONS = {
    aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
}  # fmt: skip
# A view asks for one order in memory, the one that was captured, where a reshape does not. What sizes go through is a
# method too.
METHODS = {
    aten.view.default: "reshape", aten.reshape.default: "reshape", aten.expand.default: "expand",
    aten.sym_size.int: "size",
}  # fmt: skip
# What torch calls the tensor behind a parametrized weight, such as one with spectral norm.
PARAMETRIZED = re.compile(r"(?:parametrizations\.)?(\w+?)(?:\.original|_orig)$")
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}  # by its input's dimensions
RESERVED = (
    "graph", "kinds", "form", "remarks", "logits_at", "placement", "quantizes_attention", "about", "preprocessing",
    "num_classes", "_run", "compile_graph", "returning_tensors", "self",
)  # fmt: skip
KEPT = ("num_classes", "num_features", "default_cfg", "pretrained_cfg", "preprocessing", "licence", "weights_from")


def _operation(name: str) -> torch._ops.OpOverload:
    """Of such a name as `aten.relu.default`."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found


copyreg.pickle(torch._ops.OpOverload, lambda operation: (_operation, (str(operation),)))  # torch's own do not pickle


class Captured(nn.Module):
    """A captured model: images [N, C, H, W] -> what the original gives for them.

    graph: its operations; a `call_module` node is a layer or a norm, and any module may be put in its place by
    `set_submodule`. kinds: path of a module of the original -> its class's name. A node's meta["module"] is the path of
    the module that it came from, meta["shape"] its value's, with None where it grows with the number of images; None
    of what is no tensor.
    preprocessing, num_classes: as the original has them, where it has; about: of one loaded from a file, its metadata.
    form: how what the graph returns is put together, None for a tensor alone. remarks: what the original had that the
    captured model has not, a sentence each. logits_at: which of its tensors are the logits, as `class_logits` takes it.
    placement, quantizes_attention: which values can be quantized besides layers' inputs, as `with_edges` takes them.
    """

    preprocessing: dict[str, Any]
    num_classes: int
    about: dict[str, Any]

    def __init__(self, graph: fx.Graph, kinds: dict[str, str], form: pytree.TreeSpec | None = None):
        super().__init__()
        self.graph, self.kinds, self.form = graph, kinds, form
        self.remarks: list[str] = []
        self.logits_at: Output = None
        self.placement, self.quantizes_attention = "inputs", False
        self.compile_graph()

    def compile_graph(self) -> None:
        """Take up a change of the graph."""
        code = self.graph.python_code("self")
        names = dict(code.globals)
        exec(code.src, names)  # what torch.fx wrote for this graph
        self._run: Callable[[nn.Module, Tensor], Tensor] = names["forward"]

    def __getstate__(self) -> dict[str, Any]:
        """Without the function, which `__setstate__` makes again: so that the model goes to another process."""
        return {key: value for key, value in self.__dict__.items() if key != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.compile_graph()

    def forward(self, x: Tensor) -> object:
        values = self._run(self, x)
        return values if self.form is None else pytree.tree_unflatten(values, self.form)

    def returning_tensors(self) -> tuple["Captured", list[str]]:
        """A copy that returns its tensors alone, as a tuple where they are several: for formats that know no other.

        And their names in what this one gives, as `tensors` has them; "" is that of a tensor alone.
        """
        model = copy.deepcopy(self)
        if self.form is None:
            return model, [""]
        (output,) = (node for node in model.graph.nodes if node.op == "output")
        results = output.args[0]
        names = [name for name, _ in named_leaves(pytree.tree_unflatten(list(range(len(results))), self.form))]
        kept = [i for i, each in enumerate(results) if isinstance(each, fx.Node) and _is_tensor(each)]
        output.args = (results[kept[0]] if len(kept) == 1 else tuple(results[i] for i in kept),)
        model.form = None
        model.compile_graph()
        return model, [names[i] for i in kept]

    def returning_builtins(self) -> "Captured":
        """A copy that returns what Python and torch alone know.

        That is a dictionary of its tensors, under their names, in place of a namedtuple, a dataclass or the like.
        """
        if self.form is None or _is_builtin(pytree.tree_unflatten([0] * self.form.num_leaves, self.form)):
            return copy.deepcopy(self)
        model, names = self.returning_tensors()
        (output,) = (node for node in model.graph.nodes if node.op == "output")
        if len(names) == 1:
            output.args = (output.args,)
        model.form = pytree.tree_structure(dict.fromkeys(names, 0))
        model.compile_graph()
        return model


def _is_builtin(value: object) -> bool:
    """Whether it is put together of tuples, lists and dictionaries alone, down to numbers."""
    if isinstance(value, int | None):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return type(value) in (tuple, list, dict, OrderedDict) and all(map(_is_builtin, inner))


@torch.no_grad()
def capture(model: nn.Module, image: Tensor) -> Captured:
    """Capture a model in eval mode; the model stays as it is. image: of the shape that it takes, [1, C, H, W].

    A model of another precision than the image is captured in the image's.
    What users read from a timm model, such as `num_classes` and `pretrained_cfg`, is on the captured one too.
    Raises InputError where torch.export cannot follow the forward.
    """
    model = unwrapped(model)
    kind = type(model).__name__
    _check_inputs(model)
    check_names(model)
    net = _copied(model).eval().cpu()
    floats = {each.dtype for each in net.parameters() if each.is_floating_point()}
    if floats - {image.dtype}:
        net = net.to(image.dtype)
    fake_tensors = logging.getLogger("torch._subclasses.fake_tensor")
    before = fake_tensors.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that become constants, and of torch's own
            fake_tensors.setLevel(logging.CRITICAL)  # it would print a traceback
            shapes = ({0: Dim.DYNAMIC},)
            program = torch.export.export(net, (torch.cat([image, image]),), dynamic_shapes=shapes, strict=False)
            out_of_place(program.graph)
            program = program.run_decompositions({})
    except Exception as error:  # a forward that meets no values but shapes may fail in any way
        raise InputError(f"{kind} cannot be handled: torch.export cannot follow its forward ({_why(error)})") from error
    finally:
        fake_tensors.setLevel(before)
    captured = _Converter(program).convert()
    captured.remarks = _remarks(net, captured, program)
    for name in KEPT:
        if hasattr(model, name) and not isinstance(getattr(model, name), nn.Module):
            setattr(captured, name, copy.deepcopy(getattr(model, name)))
    _check_batches(captured.eval(), image)
    return captured


def _check_batches(model: Captured, image: Tensor) -> None:
    """Raise InputError where a batch of one is given otherwise than one of two, as by a squeeze of all dimensions."""
    one, two = tensors(model(image)), tensors(model(torch.cat([image, image])))
    for name, value in two.items():
        if name in one and one[name].ndim != value.ndim:
            shapes = f"{list(one[name].shape)} for one image and {list(value.shape)} for two"
            raise InputError(f"the model gives {shapes}: write flatten(1), or squeeze((2, 3)), in place of squeeze()")


def _copied(model: nn.Module) -> nn.Module:
    """A copy. Tensors that follow from parameters come without their history.

    torch.nn.utils.weight_norm keeps such, and LeViT's cache of the biases of its attention.
    """
    held = pytree.tree_leaves([vars(module) for module in model.modules()])
    derived = {id(value): value.detach().clone() for value in held if isinstance(value, Tensor) and not value.is_leaf}
    try:
        return copy.deepcopy(model, derived)
    except Exception as error:  # of whatever a module holds
        what = f"{type(model).__name__} cannot be copied ({reason(error)})"
        raise InputError(f"{what}: first take off what bars it, such as a lock, an open file or a generator") from error


def check_names(model: nn.Module) -> None:
    """Raise InputError where a model holds modules or tensors under names that the captured one needs."""
    clashing = [name for name in RESERVED if isinstance(getattr(model, name, None), nn.Module | Tensor)]
    if clashing:
        held = "submodule" if isinstance(getattr(model, clashing[0]), nn.Module) else "tensor"
        kind = type(model).__name__
        raise InputError(f"{kind} has a {held} called {clashing[0]}, as the captured model has a field: rename it")


def _check_inputs(model: nn.Module) -> None:
    """Raise InputError for a forward that takes more than images, and for a script."""
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{kind} cannot be handled: torch.export takes no ScriptModule; give the module it was made of"
        )
    needed = [
        each.name
        for each in inspect.signature(model.forward).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        raise InputError(
            f"{kind} cannot be handled: its forward needs {', '.join(needed)}, and only images are given: wrap it in a "
            "module that gives the others"
        )


def _remarks(model: nn.Module, captured: Captured, program: ExportedProgram) -> list[str]:
    """Layers that are never called, and buffers that the forward changes."""
    there = {name for name, _ in captured.named_modules()} | set(captured.kinds)
    kinds = tuple(kind.native for kind in KINDS)
    idle = [name for name, module in model.named_modules() if isinstance(module, kinds) and name not in there]
    remarks = [f"never called, left alone: {listed(idle)}"] if idle else []
    outputs = program.graph_signature.output_specs
    changed = [each.target for each in outputs if each.kind is OutputKind.BUFFER_MUTATION]
    if changed:
        remarks.append(f"the forward changes {listed(changed)}; in the captured model they stay as they are")
    return remarks


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that torch.compile, DataParallel, DistributedDataParallel or AveragedModel holds."""
    while isinstance(model, WRAPPERS) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def _why(error: Exception) -> str:
    """Torch's reason, and where it is of no help to who wrote the forward, what to look for."""
    if "specialized it to be a constant" in str(error):
        return "it takes the number of images for a constant, as len(x) does: write x.shape[0]"
    if "register a pytree" in str(error):
        return "it takes or gives an object that torch does not know: torch.export.register_dataclass makes one known"
    if "data-dependent" in str(error) or "GuardOnDataDependent" in type(error).__name__:
        return f"what it does depends on values: {reason(error)}"
    return reason(error)


def captured(model: nn.Module) -> Captured:
    """Capture a model that a `Blueprint` built, for images of its preprocessing."""
    found = capture(model, torch.zeros(1, *model.preprocessing["input_size"]))
    found.logits_at = getattr(model, "logits_at", None)
    return found


def _shape(node: fx.Node) -> tuple[int | None, ...] | None:
    """Of a node's value for one image, None where it grows with the number of images; None for what is no tensor."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _is_tensor(node: fx.Node) -> bool:
    """Whether a node of a captured graph is the images, a constant, or an operation that gives a tensor."""
    return node.op in ("placeholder", "get_attr") or node.meta.get("shape") is not None


class _Converter:
    """From torch's program, whose inputs are all its parameters too, to a graph that calls modules."""

    def __init__(self, program: ExportedProgram):
        self.program = program
        self.tree, self.graph = nn.Module(), fx.Graph()
        self.kinds: dict[str, str] = {}
        self.nodes: dict[fx.Node, fx.Node] = {}  # of the program -> of the new graph
        self.constants: dict[fx.Node, object] = {}  # what needs no image
        self.paths: dict[fx.Node, str] = {}  # of constants that are the model's own tensors
        self.origins: dict[fx.Node, frozenset[str]] = {}  # paths of the parameters that a constant follows from
        self.held: set[fx.Node] = set()  # constants that follow from what the model's own state holds
        self.placed: dict[fx.Node, str] = {}  # of constants that operations read
        self.layers: dict[tuple, str] = {}  # weight, bias and how it is used -> the layer's name

    def convert(self) -> Captured:
        self._read_inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function" and node.target not in ASSERTIONS:
                self._take(node)
        results, form = self._results()
        self._check_weights()
        self.graph.output(results)
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        self.graph.lint()
        captured = Captured(self.graph, self.kinds, form)
        for name, child in self.tree.named_children():
            captured.add_module(name, child)
        for name, parameter in self.tree.named_parameters(recurse=False):
            captured.register_parameter(name, parameter)
        for name, tensor in self.tree.named_buffers(recurse=False):
            captured.register_buffer(name, tensor, name not in self.tree._non_persistent_buffers_set)
        return captured

    def _results(self) -> tuple[object, pytree.TreeSpec | None]:
        """What the graph returns, and the form it is given in; None for a tensor alone."""
        by_name = {node.name: node for node in (*self.nodes, *self.constants)}
        outputs = [each for each in self.program.graph_signature.output_specs if each.kind is OutputKind.USER_OUTPUT]
        if not any(by_name.get(getattr(each.arg, "name", None)) in self.nodes for each in outputs):
            raise InputError("the model cannot be handled: what it gives does not depend on the image")
        results = tuple(
            each.arg.value if isinstance(each.arg, ConstantArgument) else self._value(by_name[each.arg.name])
            for each in outputs
        )
        form = self.program.call_spec.out_spec
        return (results[0], None) if form.is_leaf() else (results, form)

    def _read_inputs(self) -> None:
        program = self.program
        by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        for spec in program.graph_signature.input_specs:
            node = by_name[spec.arg.name]
            if spec.kind is InputKind.USER_INPUT:
                if isinstance(node.meta.get("val"), Tensor):
                    self.nodes[node] = self.graph.placeholder("x")
            else:
                held = program.state_dict if spec.target in program.state_dict else program.constants
                self.constants[node], self.paths[node] = held[spec.target], spec.target
                self.origins[node] = frozenset({spec.target} if spec.kind is InputKind.PARAMETER else ())
                if spec.target in program.state_dict:
                    self.held.add(node)

    def _take(self, node: fx.Node) -> None:
        module = self._module(node)
        draws = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if not draws and all(each in self.constants for each in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), self.constants.__getitem__)
            self.constants[node] = node.target(*args, **kwargs)
            self.origins[node] = frozenset().union(*(self.origins[each] for each in node.all_input_nodes))
            if any(each in self.held for each in node.all_input_nodes):
                self.held.add(node)
            return
        new = self._layer(node, module) or self._norm(node) or self._operation(node)
        new.meta = {"module": module, "shape": _shape(node)}
        self.nodes[node] = new

    def _module(self, node: fx.Node) -> str:
        """The path of the innermost module that the node came from; notes the kinds of all around it."""
        path = ""
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            self.kinds[path] = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        return path

    def _operation(self, node: fx.Node) -> fx.Node:
        new = self.graph.node_copy(node, self._value)
        if node.target in METHODS:
            new.op, new.target = "call_method", METHODS[node.target]
        return new

    def _layer(self, node: fx.Node, module: str) -> fx.Node | None:
        """A call of a layer's module, where the node is an operation with a constant weight."""
        kind = BY_OPERATION.get(node.target)
        if kind is None:
            return None
        names = [argument.name for argument in node.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        if not self.origins.get(weight) or not (bias is None or bias in self.constants):
            return None  # a weight that changes, or a fixed filter that the code or a buffer holds
        key = (weight, bias, str(sorted(given.items())))
        if key not in self.layers:
            self.layers[key] = self._free(self._owner(weight, f"{module or node.name}.weight", ".weight"))
            values = self.constants[weight], None if bias is None else self.constants[bias]
            self._place(self.layers[key], kind.build(*values, **given))
        return self.graph.call_module(self.layers[key], (self._value(x),))

    def _norm(self, node: fx.Node) -> fx.Node | None:
        """A call of a batch norm's module, or what stands for the first of the values that the operation gives."""
        first = node.args[0] if node.args else None
        if isinstance(first, fx.Node) and first.target is BATCH_NORM and self.nodes[first].op == "call_module":
            return self.nodes[first]
        if node.target is not BATCH_NORM:
            return None
        x, *tensors, momentum, eps = node.args
        if not all(each is None or each in self.constants for each in tensors):
            return None
        values = [None if each is None else self.constants[each] for each in tensors]
        mean = values[2]
        affine = any(each is not None for each in values[:2])
        momentum = momentum or None  # export writes None, which is the mean over all batches, as 0
        norm = NORMS[x.meta["val"].ndim](len(mean), eps, momentum, affine=affine, dtype=mean.dtype)
        for own, value in zip((norm.weight, norm.bias, norm.running_mean, norm.running_var), values, strict=True):
            if value is not None:
                own.copy_(value)
        path = self._free(self._owner(tensors[2], f"{node.name}.running_mean", ".running_mean"))
        self._place(path, norm)
        return self.graph.call_module(path, (self._value(x),))

    def _check_weights(self) -> None:
        """Raise InputError where layers' weights are used elsewhere too, so that quantizing them would change more."""
        weights = [weight for weight, *_ in self.layers]
        tied = {w: n for (w, *_), n in reversed(self.layers.items()) if weights.count(w) > 1 or w in self.placed}
        if tied:
            raise InputError(
                f"{listed(list(tied.values()))} cannot be handled: the weight is used elsewhere too, with another bias "
                "or as a value; give each its own"
            )

    def _owner(self, constant: fx.Node, otherwise: str, ending: str) -> str:
        """The path of the module that holds a tensor, or the only parameter that it follows from; else as said."""
        origins = self.origins[constant]
        path = self.paths.get(constant) or (next(iter(origins)) if len(origins) == 1 else otherwise)
        return PARAMETRIZED.sub(r"\1", path).removesuffix(ending)

    def _value(self, node: fx.Node) -> fx.Node:
        """The new graph's node for this one; a constant is read where it is used."""
        if node in self.nodes:
            return self.nodes[node]
        if node not in self.placed:
            value, origins = self.constants[node], self.origins[node]
            path = self.paths.get(node) or (next(iter(origins)) if len(origins) == 1 else f"computed_{node.name}")
            if path.rpartition(".")[0] in self.layers.values():  # another module will stand there
                path = f"computed_{node.name}"
            self.placed[node] = self._free(path)
            if origins and not isinstance(value, nn.Parameter) and value.numel() == self._size_of(path):
                value = nn.Parameter(value)  # seen in another shape it stays a parameter
            # what follows from weights or floats of the state is kept with them; a table of the code is made again
            follows = node in self.held and (bool(origins) or value.is_floating_point())
            self._place(self.placed[node], value, persistent=follows or path in self.program.state_dict)
        return self.graph.get_attr(self.placed[node])

    def _size_of(self, path: str) -> int | None:
        return self.program.state_dict[path].numel() if path in self.program.state_dict else None

    def _free(self, path: str) -> str:
        """This path, or one with underscores behind it that nothing has yet.

        What lies below a layer, as a norm that a convolution of the user's own holds, comes beside it: another module
        will stand in the layer's place.
        """
        for layer in self.layers.values():
            if path.startswith(f"{layer}."):
                path = f"{layer}_{path[len(layer) + 1 :].replace('.', '_')}"

        def taken(path: str) -> bool:
            owner: object = self.tree
            for part in path.split("."):
                owner = getattr(owner, part, None)
            return owner is not None

        while taken(path):
            path += "_"
        return path

    def _place(self, path: str, value: object, persistent: bool = True) -> None:
        *parts, name = path.split(".")
        owner = self.tree
        for part in parts:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if isinstance(value, nn.Module):
            owner.add_module(name, value)
        elif isinstance(value, nn.Parameter):
            owner.register_parameter(name, nn.Parameter(value.detach().clone(), value.requires_grad))
        else:
            owner.register_buffer(name, value.detach().clone(), persistent)
