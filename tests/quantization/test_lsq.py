import pytest
import torch

from attnround.quantization.lsq import LearnedStep, gradient_scale


def reference(x, scale, lowest, highest, factor):
    """The published pseudo-code in plain autograd: a step's gradient scaled, rounding passed straight through."""
    scale = (scale * factor + (scale - scale * factor).detach()).reshape(-1, *[1] * (x.ndim - 1))
    lowest, highest = (values.double().reshape(scale.shape) for values in (lowest, highest))
    clipped = torch.minimum(torch.maximum(x / scale, lowest), highest)
    return (clipped + (clipped.round() - clipped).detach()) * scale


@pytest.mark.parametrize("zero_point", [0, 3])
def test_the_gradients_of_a_step_a_channel_are_those_of_the_published_code(generator, zero_point):
    x = torch.randn(5, 3, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    scale = torch.tensor([0.02, 0.1, 0.3, 0.9, 4.0], dtype=torch.float64, requires_grad=True)
    lowest, highest = torch.full((5,), -4 - zero_point), torch.full((5,), 3 - zero_point)
    factor = gradient_scale(12, 3)
    upstream = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (each(x, scale, lowest, highest, factor) for each in (LearnedStep.apply, reference))
    torch.testing.assert_close(ours, theirs)
    for one, two in zip(*(torch.autograd.grad(each, (x, scale), upstream) for each in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, two)


def test_one_step_for_all_is_as_one_a_channel_of_equal_ones(generator):
    x = torch.randn(4, 30, generator=generator, requires_grad=True)
    single, many = torch.tensor(0.3, requires_grad=True), torch.full((4,), 0.3, requires_grad=True)
    bounds = torch.full((4,), -2), torch.full((4,), 1)
    grads = [
        torch.autograd.grad(y.square().sum(), (x, scale))
        for scale, y in (
            (single, LearnedStep.apply(x, single, -2, 1, 0.5)),
            (many, LearnedStep.apply(x, many, *bounds, 0.5)),
        )
    ]
    assert torch.equal(grads[0][0], grads[1][0])
    assert grads[0][1].item() == pytest.approx(grads[1][1].sum().item(), rel=1e-5)


def test_the_gradient_of_one_step_is_the_same_however_the_memory_has_the_values(generator):
    x, upstream = torch.randn(2, 6, 5, 4, 3, generator=generator, dtype=torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = []
    for given in (x, x.to(memory_format=torch.channels_last)):
        y = LearnedStep.apply(given.requires_grad_(), scale, -2, 1, 0.5)
        for gradient in (upstream, upstream.to(memory_format=torch.channels_last), upstream.expand(2, 6, 5, 4, 3)[1]):
            found.append(torch.autograd.grad(y, (given, scale), gradient, retain_graph=True))
    for grad_x, grad_scale in found[1:]:
        torch.testing.assert_close(grad_x, found[0][0])
        torch.testing.assert_close(grad_scale, found[0][1])


def test_a_step_moves_in_proportion_to_its_weights():
    """Section 2.2 there: for gradients that are independent of the weights, R is about 1 at every width and size."""
    torch.manual_seed(0)
    for num_weights, bit_width in ((100, 2), (1000, 4), (10000, 4)):
        qmax = 2 ** (bit_width - 1) - 1
        ratios = []
        for _ in range(30):
            x = torch.randn(1, num_weights, requires_grad=True)
            scale = torch.tensor([2 * x.abs().mean().item() / qmax**0.5], requires_grad=True)
            bounds = torch.tensor([-qmax - 1]), torch.tensor([qmax])
            y = LearnedStep.apply(x, scale, *bounds, gradient_scale(num_weights, qmax))
            grad_x, grad_scale = torch.autograd.grad(y, (x, scale), torch.randn(x.shape))
            ratios.append((grad_scale / scale).abs().item() / (grad_x.norm() / x.norm()).item())
        assert 0.1 < sum(ratios) / len(ratios) < 3
