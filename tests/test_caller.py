"""What stands around a call of the library: modes that are set, wrappers, pickles, seeds, methods of one's own."""

import dataclasses
import logging
import pickle
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

import attnround
from attnround.api import BLOCK, LAYER
from attnround.bits import Auto, Mixed, Uniform
from attnround.errors import InputError
from attnround.quantization.layers import quantized_layers
from attnround.quantization.ranges import Mse
from attnround.quantization.rounding import AdaRound, RoundingMethod
from attnround.quantization.rounding.base import Decided
from tests.conftest import same_state

FEW_STEPS = BLOCK(num_steps=4)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def net(num_outputs: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_outputs)).eval()


def quick(model, images, **options):
    return attnround.quantize(model, images, **{"rounding": "gptq", "progress": False} | options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_type_of_the_caller_changes_nothing(images, dtype):
    options = {"rounding": AdaRound(num_steps=4), "reconstruction": FEW_STEPS, "bits": "mixed", "activation": 8}
    expected, model = quick(net(), images, **options), net()
    torch.set_default_dtype(dtype)
    try:
        found = quick(model, images, **options)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_state(found.model, expected.model)


def test_autocast_of_the_caller_changes_nothing(images, tmp_path):
    expected = quick(net(), images, activation=8)
    with torch.autocast("cpu", torch.bfloat16):
        found = quick(net(), images, activation=8)
        assert found.export(tmp_path / "it.onnx") == 100
    assert same_state(found.model, expected.model)
    assert found.report.sqnr_db == expected.report.sqnr_db


def test_the_callers_generator_stays_where_it_was(images):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), 8, shuffle=True)
    before = torch.get_rng_state()
    attnround.Prepared(net(), loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_that_the_caller_changes_are_refused(images):
    """They are not copied, and what was measured is of what they were."""
    given = images.clone()
    prepared = attnround.Prepared(net(), given)
    found = quick(prepared, None)
    moved = pickle.loads(pickle.dumps(prepared))
    given.mul_(0.1)
    for change in (lambda: quick(prepared, None), found.trainable, lambda: pickle.dumps(prepared)):
        with pytest.raises(InputError, match="the calibration images were changed in place since they were given"):
            change()
    assert same_state(quick(moved, None).model, found.model)


def test_batches_may_come_in_the_same_memory(images):
    def batches():
        buffer = torch.empty(8, 3, 8, 8)
        for part in images.split(8):
            yield buffer.copy_(part)

    assert torch.equal(attnround.Prepared(net(), batches()).images, images)


def test_an_evaluation_is_the_same_whatever_the_caller_set(images):
    found, data = quick(net(), images), torch.utils.data.TensorDataset(images, torch.arange(32) % 5)
    expected, before = found.evaluate(data), torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert found.evaluate(data) == expected
    assert torch.equal(torch.get_rng_state(), before)
    with torch.inference_mode():
        trained = found.trainable()
    trained(images).sum().backward()


def test_a_training_leaves_the_callers_warnings_loggers_and_chance_alone(images):
    """Labels may be any whole numbers."""
    import pytorch_lightning  # noqa: F401 (which sets its loggers' levels)

    found = quick(net(), images)
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]

    def state():
        return random.getstate(), list(warnings.filters), [logger.level for logger in loggers]

    before = state()
    for labels in (torch.arange(32, dtype=torch.int32) % 5, torch.arange(32) % 5 > 2):
        found.finetune(torch.utils.data.TensorDataset(images, labels), epochs=1, progress=False)
    assert state() == before


def test_integers_are_not_trained_by_an_ordinary_loop(images, tmp_path):
    found = quick(net(), images)
    assert not any(layer.layer.weight.requires_grad for layer in quantized_layers(found.model).values())
    optimizer = torch.optim.SGD(found.model.parameters(), 0.5)  # of biases, which the file has as they are
    functional.cross_entropy(found.model(images), torch.zeros(32, dtype=torch.long)).backward()
    optimizer.step()
    found.save(tmp_path / "it.safetensors")
    assert torch.equal(attnround.load(tmp_path / "it.safetensors", model=net())(images), found.model(images))


@pytest.mark.parametrize(
    "wrapped", [AveragedModel, nn.DataParallel, lambda model: torch.compile(model, backend="eager")]
)
def test_a_trained_copy_may_be_wrapped(images, wrapped):
    found = quick(net(), images)
    trained = found.trainable()
    assert same_state(found.frozen(wrapped(trained)).model, found.frozen(trained).model)


def test_what_is_frozen_is_a_copy_of_this_models(images):
    found = quick(net(), images)
    for other in (
        net(),
        quick(net(7), images).trainable(),
        quick(net(), images, bits=2).trainable(),
        found.model,
        None,
    ):
        with pytest.raises(InputError, match=r"was not made by this model's trainable\(\)"):
            found.frozen(other)


def test_it_goes_to_another_process(images):
    prepared = attnround.Prepared(net(), images)
    found = quick(prepared, bits="mixed", images=None)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again(images), found(images))
    assert same_state(quick(pickle.loads(pickle.dumps(prepared)), None, bits="mixed").model, found.model)


@pytest.mark.parametrize("seed", [None, 1.5, True, "a", -1, 2**64])
def test_a_seed_is_a_whole_number(images, seed):
    with pytest.raises(InputError, match=rf"seed={seed}: give a whole number"):
        quick(net(), images, seed=seed)


def test_a_seed_may_be_numpys(images):
    assert same_state(quick(net(), images, seed=np.int64(3)).model, quick(net(), images, seed=3).model)


def test_classes_are_asked_for_where_agreement_decides(images):
    with pytest.raises(
        InputError, match=r"bits=auto looks at which class is the largest, and the model gives \[32, 1\]"
    ):
        quick(net(1), images, bits=Auto(allocator=Mixed(), max_drop=0.1))


class Own(RoundingMethod):
    def __init__(self, values):
        self.values = values

    @property
    def data_free(self):
        return True

    def start(self, u, grid, objective, generator, zero_point=0.0):
        return Decided(self.values(u, grid))


@pytest.mark.parametrize(
    "values",
    [
        lambda u, grid: (4 * u).round(),
        lambda u, grid: u.clamp(grid.qmin, grid.qmax),
        lambda u, grid: torch.full_like(u, torch.nan),
    ],
    ids=["beyond", "fractions", "nan"],
)
def test_a_method_decides_for_levels(images, values):
    with pytest.raises(InputError, match=r"give whole levels from -\d+ to \d+"):
        quick(net(), images, rounding=Own(values))


def test_a_block_sets_the_steps_of_a_dataclass(images):
    class Method(AdaRound):  # of AdaRound's fields, but none itself where it stands alone
        pass

    class Bare(RoundingMethod):
        num_steps, lr = 3, 0.1

        def start(self, u, grid, objective, generator, zero_point=0.0):
            return AdaRound().start(u, grid, objective, generator, zero_point)

    quick(net(), images, rounding=Method(num_steps=3), reconstruction=FEW_STEPS)
    with pytest.raises(InputError, match="Bare is no dataclass"):
        quick(net(), images, rounding=Bare(), reconstruction=FEW_STEPS)


def test_what_learns_has_steps(images):
    class Bare(RoundingMethod):
        def start(self, u, grid, objective, generator, zero_point=0.0):
            return AdaRound().start(u, grid, objective, generator, zero_point)

    with pytest.raises(InputError, match="Bare has parameters to learn and num_steps=0"):
        quick(net(), images, rounding=Bare())


def test_a_class_that_is_written_anew_is_another(images):
    def search(scale):
        @dataclasses.dataclass(frozen=True)
        class My(Mse):
            def quantizer(self, *args, **options):
                found = super().quantizer(*args, **options)
                found.scale.data.mul_(scale)
                return found

        My.__qualname__ = "My"
        return My(8)

    prepared = attnround.Prepared(net(), images)
    quick(prepared, None, activation=search(1.0))
    found = quick(prepared, None, activation=search(0.5))
    assert same_state(found.model, quick(net(), images, activation=search(0.5)).model)


class Sequences(nn.Module):
    """Torch's own order, tokens first."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 16, 2, stride=2), nn.Linear(16, 5)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x).flatten(2).permute(2, 0, 1)).mean(0))


@pytest.mark.parametrize("num_images", [32, 16], ids=["", "as many images as tokens"])
def test_blocks_want_the_images_first(images, num_images):
    assert quick(Sequences(), images[:num_images]).report.sqnr_db > 10
    with pytest.raises(InputError, match=r"the first dimension of its values is not that of the images"):
        quick(Sequences(), images[:num_images], rounding="adaround", reconstruction=FEW_STEPS)


@pytest.mark.parametrize(
    "options",
    [
        {"reconstruction": LAYER(output_metric="fisher")},
        {"reconstruction": BLOCK(loss="fisher", num_steps=3), "rounding": "adaround"},
        {"bits": Mixed(relative_to="prediction")},
    ],
    ids=["metric", "block", "bits"],
)
def test_a_prediction_a_pixel_has_fisher_information(images, options):
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.head(functional.relu(self.first(x)))

    class Values(Pixels):
        def forward(self, x):
            return super().forward(x).mean((1, 2, 3))

    assert quick(Pixels(), images, **options).report.sqnr_db > 10
    with pytest.raises(InputError, match=r"the logits are \[\d+\]: Fisher information is of \[N, classes\]"):
        quick(Values(), images, **options)


@pytest.mark.parametrize("name", ["kinds", "form", "placement", "_run", "preprocessing", "graph"])
def test_tensors_that_are_called_as_a_field_are_told(images, name):
    model = net()
    model.register_buffer(name, torch.zeros(3))
    with pytest.raises(InputError, match=f"has a tensor called {name}, as the captured model has a field: rename it"):
        quick(model, images)


def test_a_model_that_cannot_be_copied_is_told(images):
    model = net()
    model.lock = threading.Lock()
    with pytest.raises(InputError, match=r"Sequential cannot be copied \(.*lock.*\): first take off what bars it"):
        quick(model, images)


def test_a_single_output_has_no_name(images):
    with pytest.raises(InputError, match=r"output=logits: the model gives a single tensor, without a name"):
        quick(net(), images, output="logits", bits="fisher")


def test_uniform_bits_within_a_budget_of_operations(images):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 32, 1, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5),
    )  # fmt: skip
    macs = [27 * 16 * 64, 9 * 16 * 64, 16 * 32 * 4, 128 * 5]
    budget = (4 * sum(macs) + macs[1] + macs[2] + 1) * 32 / 1e9  # 5 bits are not enough for the first layer
    found = quick(model, images, bits=Uniform(unit="gbops", budget=budget)).allocation.bit_width
    assert list(found.values()) == [4, 5, 5, 4]


@pytest.mark.parametrize("unit", ["gbops", "mib"])
def test_small_budgets_are_shown_as_they_are(images, unit):
    with pytest.raises(InputError) as told:
        quick(net(), images, bits=Mixed(unit=unit, budget=1e-6))
    low, high = (float(each) for each in str(told.value).rpartition("takes ")[2].split(" to "))
    assert 0 < low < high
    for bound in (low, high):
        quick(net(), images, bits=Mixed(unit=unit, budget=bound))
