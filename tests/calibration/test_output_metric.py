"""The metric of outputs: against finite differences, and what sampling error its correlations lose."""

import pytest
import torch
from torch import nn

from attnround.calibration.output_metric import GradientSums, OutputMetric, output_metrics
from attnround.errors import InputError
from attnround.graph import capture

STEP = 1e-6


class Net(nn.Module):
    """An ordinary, a grouped and a depthwise convolution, tokens and a head, with nonlinearities between them."""

    def __init__(self, classes=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2, stride=2)
        self.depthwise = nn.Conv2d(6, 6, 2, groups=6)
        self.tokens = nn.Linear(6, 5)
        self.head = nn.Linear(5, classes)

    def forward(self, x, shifts=None):
        shifted = (lambda name, y: y + shifts[name]) if shifts else (lambda name, y: y)
        x = shifted("stem", self.stem(x)).sigmoid()
        x = shifted("grouped", self.grouped(x)).sigmoid()
        x = shifted("depthwise", self.depthwise(x)).tanh()
        x = shifted("tokens", self.tokens(x.flatten(2).transpose(1, 2))).sigmoid().mean(1)
        return shifted("head", self.head(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


NAMES = ["stem", "grouped", "depthwise", "tokens", "head"]


def finite_differences(net, name, images):
    """[O, O] summed over channels of gradients of the one logit, a mean over images and places, in float64."""
    net = net.double()
    kept = {}
    hook = getattr(net, name).register_forward_hook(lambda layer, args, y: kept.update(shape=y.shape))
    net(images.double())
    hook.remove()
    shape = kept["shape"]
    gradient = torch.zeros(shape, dtype=torch.float64)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in shape[1:])).reshape(-1, len(shape) - 1).tolist():
        both = []
        for sign in (1, -1):
            shift = torch.zeros(shape, dtype=torch.float64)
            shift[(slice(None), *place)] = sign * STEP
            shifts = {each: shift if each == name else 0.0 for each in NAMES}
            both.append(net(images.double(), shifts)[:, 0])
        gradient[(slice(None), *place)] = (both[0] - both[1]) / (2 * STEP)
    rows = gradient.flatten(2).mT if gradient.ndim == 4 else gradient.reshape(len(gradient), -1, shape[-1])
    rows = rows.flatten(0, 1)
    return rows.mT @ rows / len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_metric_is_that_of_finite_differences(net, name, monkeypatch):
    """One logit: a random sign of it changes no product of its gradients, so that nothing is left to chance."""
    monkeypatch.setattr("attnround.calibration.output_metric.shrunk", lambda mean, share: mean)
    images = torch.randn(3, 3, 6, 6)
    wanted = finite_differences(net, name, images)
    net.float()
    found = output_metrics(capture(net, images[:1]), NAMES, images, "logits", 2, 0)[name]
    groups = len(found)
    outputs = len(wanted) // groups
    for group, part in enumerate(found):
        rows = slice(group * outputs, (group + 1) * outputs)
        torch.testing.assert_close(part.double(), wanted[rows, rows], rtol=1e-4, atol=1e-9)


def test_projections_on_signs_are_the_change_of_all_logits():
    """E[g g^T] over signs is J^T J; 3,000 of them leave a few percent to chance."""
    torch.manual_seed(0)
    net, images = Net(classes=4), torch.randn(1, 3, 7, 7)
    found = output_metrics(capture(net, images), ["head", "tokens"], images, "logits", 3000, 0)
    torch.testing.assert_close(found["head"][0], torch.eye(4), rtol=0, atol=0.05)
    jacobian = net.head.weight  # of the logits at the mean over tokens, whose sigmoid's slope differs by token
    hidden = {}
    net.tokens.register_forward_hook(lambda layer, args, y: hidden.update(y=y))
    net(images)
    slope = hidden["y"].sigmoid() * (1 - hidden["y"].sigmoid()) / hidden["y"].shape[1]
    rows = jacobian[None, None] * slope[:, :, None]  # [1, tokens, classes, 5]
    wanted = (rows.mT @ rows).mean((0, 1)).detach()
    torch.testing.assert_close(found["tokens"][0], wanted, rtol=0.1, atol=0.05 * wanted.max().item())


def test_fisher_is_the_curvature_of_the_prediction():
    """At the logits G is diag p - p p^T, a mean over images."""
    torch.manual_seed(0)
    net, images = Net(classes=3), torch.randn(4, 3, 7, 7)
    p = net(images).softmax(1).detach()
    wanted = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    found = output_metrics(capture(net, images[:1]), ["head"], images, "fisher", 3000, 0)["head"][0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.01)


def test_a_layer_that_nothing_depends_on_has_no_metric():
    class Idle(Net):
        def forward(self, x):
            return super().forward(x).detach() * 0 + x.sum((1, 2, 3))[:, None]

    images = torch.randn(2, 3, 7, 7)
    net = capture(Idle(), images[:1])
    names = [name for name in NAMES if hasattr(net, name)]
    for metric in output_metrics(net, names, images, "logits", 1, 0).values():
        assert not metric.any()


def test_gradients_of_parameters_are_wanted_as_before(net):
    model = capture(net, torch.randn(1, 3, 7, 7))
    model.stem.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    output_metrics(model, NAMES, torch.randn(2, 3, 7, 7), "logits", 1, 0)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_correlations_that_are_sampling_error_are_shrunk_and_true_ones_stay(generator):
    """Of 8 outputs at 2 places, from batches of images whose gradients are known."""

    def estimate(root, num_images):
        rows = torch.randn(num_images, 2, 8, generator=generator) @ root
        sums = GradientSums(nn.Linear(3, 8), 0)
        for batch in rows.split(64):
            sums.add([batch])
        rows = rows.flatten(0, 1)
        return sums.value()[0], rows.mT @ rows / len(rows)

    def correlations(matrix):
        matrix = matrix / (matrix.diagonal()[:, None] * matrix.diagonal()).sqrt()
        return (matrix - torch.eye(8)).square().sum()

    few, plain = estimate(torch.diag(torch.arange(1.0, 9)), 20)
    assert correlations(few) < 0.2 * correlations(plain)
    torch.testing.assert_close(few.diagonal(), plain.diagonal())
    many, plain = estimate(torch.eye(8) + 0.3, 2000)
    assert correlations(many) > 0.95 * correlations(plain)


def test_the_share_of_sampling_error_is_that_of_the_samples_entries(generator):
    """As summed entry by entry, with the scales of the first batch; here it is the only one."""
    gradients = torch.randn(30, 4, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    sums = GradientSums(nn.Linear(3, 6), 0)
    sums.add([gradients])
    samples = gradients.mT @ gradients / 4
    mean = samples.mean(0)
    weight = (1 - torch.eye(6)) / (mean.diagonal()[:, None] * mean.diagonal())
    error = ((samples - mean).square() * weight).sum() / 30 / 29
    share = error / (mean.square() * weight).sum()
    off = 1 - torch.eye(6)
    torch.testing.assert_close(sums.value()[0], mean * (1 - share * off))


def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match=r"reconstruction\.output_metric=logit: give one of logits, fisher, or none"):
        OutputMetric("logit")
