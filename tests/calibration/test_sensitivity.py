"""What allocators ask of a model, against direct computations."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from attnround.bits import Mixed, Uniform
from attnround.bits.distortion import energy
from attnround.calibration.sensitivity import fisher_traces, input_covariances, logit_noise
from attnround.errors import InputError
from attnround.evaluation import size_mib
from attnround.graph import find_layers, fold_batch_norms, swap_layers
from attnround.problem import bit_problem
from attnround.quantization.observer import ClipSearch


@pytest.fixture
def folded(network) -> nn.Module:
    fold_batch_norms(network)
    return network


@pytest.fixture
def images(generator) -> torch.Tensor:
    return torch.randn(40, 3, 12, 12, generator=generator)


def names_of(model: nn.Module) -> list[str]:
    return list(find_layers(model))


def test_the_energy_of_a_weight_is_the_variance_of_its_output(folded, images):
    """tr(W H W^T), for plain, depthwise, grouped and linear layers: all of whose positions are drawn."""
    outputs = {}
    hooks = [
        folded.get_submodule(name).register_forward_hook(
            lambda layer, args, out, name=name: outputs.update({name: out.clone()})
        )
        for name in names_of(folded)
    ]
    with torch.no_grad():
        folded(images)
    for hook in hooks:
        hook.remove()
    covariances = input_covariances(folded, names_of(folded), images, seed=0)
    for name, output in outputs.items():
        channels = output.transpose(0, 1).flatten(1)
        direct = channels.double().var(1, correction=0).sum().item()
        assert energy(folded.get_submodule(name).weight, covariances[name].second) == pytest.approx(direct, rel=1e-4)


def test_fisher_traces_against_the_whole_jacobian(folded, images):
    """tr(J^T (diag p - p p^T) J), summed over a layer's weights and averaged over the images."""
    images = images[:6]
    names = names_of(folded)
    estimates = fisher_traces(folded, names, images, num_probes=600, seed=0)
    for name in ("stem", "depthwise", "head"):
        key = f"{name}.weight"
        weight = folded.get_submodule(name).weight.detach()
        jacobian = jacrev(lambda w, key=key: functional_call(folded, {key: w}, (images,)))(weight).detach()
        p = folded(images).softmax(1).detach()
        metric = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        direct = torch.einsum("ncw,ncd,ndw->", jacobian.flatten(2), metric, jacobian.flatten(2)) / len(images)
        assert estimates[name] == pytest.approx(direct.item(), rel=0.1)


def test_fisher_traces_leave_the_model_as_it_was(folded, images):
    wanted = [parameter.requires_grad for parameter in folded.parameters()]
    before = {key: value.clone() for key, value in folded.state_dict().items()}
    assert fisher_traces(folded, ["head"], images, 2, 0) == fisher_traces(folded, ["head"], images, 2, 0)
    assert [parameter.requires_grad for parameter in folded.parameters()] == wanted
    assert all(torch.equal(value, before[key]) for key, value in folded.state_dict().items())
    assert all(parameter.grad is None for parameter in folded.parameters())


def test_logit_noise_is_none_for_the_same_weight_and_the_weight_is_put_back(folded, images):
    with torch.no_grad():
        reference = folded(images)
    before = folded.head.weight.clone()
    assert logit_noise(folded, "head", before, images, reference) == 0
    doubled = logit_noise(folded, "head", 2 * before, images, reference)
    shift = (reference - folded.head.bias).square().mean() / reference.var()
    assert doubled == pytest.approx(shift.item(), rel=1e-4)
    assert torch.equal(folded.head.weight, before)


def test_inputs_that_are_not_finite_name_their_layer(folded, images):
    images[3, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"^stem: its inputs hold NaN"):
        input_covariances(folded, names_of(folded), images, 0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_size_budget_is_what_the_quantized_model_weighs(symmetric, folded, images):
    observer = ClipSearch(symmetric=symmetric)
    problem = bit_problem(folded, images, observer, {}, {}, seed=0)
    largest = size_mib(swap_layers(folded, Uniform(bit_width=8).allocate(problem).bit_width, observer))
    allocation = Mixed(budget=0.8 * largest, unit="mib").allocate(problem)
    size = size_mib(swap_layers(folded, allocation.bit_width, observer))
    assert size <= 0.8 * largest
    assert f"{size:.4g} of {0.8 * largest:g} MiB" in allocation.budget


def test_bit_operations_count_the_inputs_bits(folded, images):
    quantized = bit_problem(folded, images, ClipSearch(), dict.fromkeys(names_of(folded), 8), {}, seed=0)
    floating = bit_problem(folded, images, ClipSearch(), {}, {}, seed=0)
    reach = Mixed(unit="gbops").reach
    assert reach(floating) == tuple(pytest.approx(4 * end) for end in reach(quantized))


def test_constant_inputs_have_no_covariance():
    """In float32, the product of large constant inputs less that of their means would leave some of either sign."""
    model = nn.Sequential(nn.Conv2d(16, 4, 1))
    images = (torch.randn(16, 1, 1) * 100).expand(100, 16, 12, 12)
    covariance = input_covariances(model, ["0"], images, seed=0)["0"].second
    assert covariance.abs().max() < 1e-6


def test_few_images_leave_independent_inputs_uncorrelated(generator):
    """20 vectors of 64 independent inputs seem to span 20 dimensions; shrunk, they fill all 64 nearly evenly."""
    model = nn.Sequential(nn.Linear(64, 4))
    found = input_covariances(model, ["0"], torch.randn(20, 64, generator=generator), seed=0)["0"]
    assert torch.linalg.eigvalsh(found.second)[0, 0] < 1e-5
    assert torch.linalg.eigvalsh(found.shrunk())[0, 0] > 0.1
    many = input_covariances(model, ["0"], torch.randn(5000, 64, generator=generator).cumsum(1), seed=0)["0"]
    assert many.sampling_share < 0.01
