import pytest
import torch

from attnround.calibration import cache
from attnround.calibration.walk import Walk
from attnround.graph import find_layers, fold_batch_norms, swap_layers
from attnround.graph.branches import find_branches
from attnround.graph.trace import calls, executor, graph_of
from attnround.quantization.layers import QuantizedLayer
from attnround.quantization.observer import ClipSearch


@pytest.fixture(autouse=True)
def small_values_apart_too(monkeypatch):
    """As large ones are: in memory of their own."""
    monkeypatch.setattr(cache, "APART", 0)


def recorded_inputs(model, names, x):
    """Each layer's input in an ordinary forward pass."""
    seen = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, __, name=name: seen.update({name: args[0].clone()})
        )
        for name in names
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.fixture
def pair(network):
    fold_batch_norms(network)
    names = list(find_layers(network))
    return network, swap_layers(network, dict.fromkeys(names, 3), ClipSearch()), names


@pytest.mark.parametrize("cache_mib", [0, 0.01, 100], ids=["keeps nothing", "keeps some", "keeps all"])
def test_inputs_are_those_of_a_forward_pass_however_little_is_kept(pair, cache_mib):
    teacher, student, names = pair
    x = torch.randn(10, 3, 16, 16)
    graph = graph_of(teacher)
    walk = Walk(graph, *(executor(each, graph) for each in pair[:2]), list(x.split(4)), cache_mib)
    expected, expected_quantized = recorded_inputs(teacher, names, x), recorded_inputs(student, names, x)
    for node in calls(graph, student, (QuantizedLayer,)):
        inputs = list(walk.values(node.all_input_nodes[0]))
        torch.testing.assert_close(torch.cat([a for a, _ in inputs]), expected[node.target])
        torch.testing.assert_close(torch.cat([b for _, b in inputs]), expected_quantized[node.target])


def test_before_the_first_quantized_layer_both_models_have_one_value(pair):
    graph = graph_of(pair[0])
    walk = Walk(graph, *(executor(each, graph) for each in pair[:2]), list(torch.randn(4, 3, 16, 16).split(2)), 100)
    first, second, *_ = calls(graph, pair[1], (QuantizedLayer,))
    assert all(a is b for a, b in walk.values(first.all_input_nodes[0]))
    assert all(not a.equal(b) for a, b in walk.values(second.all_input_nodes[0]))


@pytest.mark.parametrize("cache_mib", [0, 0.02, 100], ids=["keeps nothing", "keeps some", "keeps all"])
def test_values_of_several_nodes_come_together(pair, cache_mib):
    """The values that a sum far behind needs are there with a layer's input, whichever comes first in the graph."""
    graph = graph_of(pair[0])
    relu, depthwise, after = (node for node in graph.nodes if node.name in ("relu", "depthwise", "relu_1"))
    x = torch.randn(10, 3, 16, 16)
    expected = [executor(each, graph) for each in pair[:2]]
    for each in expected:
        each.run(x, enable_io_processing=False)
    walk = Walk(graph, *(executor(each, graph) for each in pair[:2]), list(x.split(4)), cache_mib)
    for nodes in ([relu], [relu, depthwise], [after, relu], [relu, after]):
        found = list(walk.values_of(nodes))
        for node in nodes:
            for i, each in enumerate(expected):
                torch.testing.assert_close(torch.cat([both[i][node] for both in found]), each.env[node])


def test_where_all_is_kept_no_layer_runs_twice(pair):
    teacher, student, names = pair
    graph = graph_of(teacher)
    counts = dict.fromkeys(names, 0)
    for name in names:
        student.get_submodule(name).register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    walk = Walk(graph, *(executor(each, graph) for each in pair[:2]), list(torch.randn(4, 3, 16, 16).split(2)), 100)
    for node in calls(graph, student, (QuantizedLayer,)):
        operands = find_branches(node.target, graph, teacher).operands  # a sum's, which is behind the layer
        list(walk.values_of([node.all_input_nodes[0], *operands]))
    assert counts == {**dict.fromkeys(names, 2), names[-1]: 0}  # two batches; nothing is behind the last layer


def test_the_cache_holds_only_what_later_layers_need(pair):
    teacher, student, _ = pair
    graph = graph_of(teacher)
    walk = Walk(graph, *(executor(each, graph) for each in pair[:2]), [torch.randn(4, 3, 16, 16)], 100)
    for node in calls(graph, student, (QuantizedLayer,)):
        list(walk.values(node.all_input_nodes[0]))
    (values, quantized_values) = walk.kept[0]
    assert len(values) == len(quantized_values) == 1  # the last layer's input
    assert all(isinstance(each, cache.Apart) for each in (*values.values(), *quantized_values.values()))


def test_what_both_models_share_is_kept_and_read_once(pair):
    graph = graph_of(pair[0])
    walk = Walk(graph, *(executor(each, graph) for each in pair[:2]), [torch.randn(4, 3, 16, 16)], 100)
    first, *_ = calls(graph, pair[1], (QuantizedLayer,))
    list(walk.values(first.all_input_nodes[0]))
    values, quantized_values = walk.kept[0]
    assert values is quantized_values


VALUES = {
    "images": torch.randn(2, 3, 4, 5),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "part": torch.randn(2, 3, 4, 5)[:, 1:, ::2],
    "the same for all": torch.randn(1, 3, 1).expand(4, 3, 2),
    "tokens": torch.randn(2, 3, 4).mT,
    "mask": torch.rand(2, 3) > 0.5,
    "halves": torch.randn(2, 3).bfloat16(),
    "numbers": torch.arange(6),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_copy_apart_is_the_same(name):
    value = VALUES[name]
    found = cache.apart(value).load()
    assert found.dtype == value.dtype
    assert found.equal(value)
    assert found.data_ptr() != value.data_ptr()
    if name == "channels last":
        assert found.stride() == value.stride()


def test_small_values_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(cache, "APART", 1000)
    value = torch.randn(249)
    assert cache.apart(value) is value
    assert len(cache.apart(torch.randn(250)).memory) == 1000
