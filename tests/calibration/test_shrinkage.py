"""What a moment's samples say of its error, against all of them held at once in float64."""

import pytest
import torch

from attnround.calibration.shrinkage import SampledMoment


@pytest.mark.parametrize(("num_places", "num_values"), [(7, 4), (4, 7), (4, 4)])
def test_the_share_that_is_sampling_error(num_places, num_values, generator):
    mix = torch.randn(num_values, num_values, generator=generator)
    rows = torch.randn(2, 6, num_places, num_values, generator=generator) @ mix
    moment = SampledMoment()
    for batch in rows.split(3, dim=1):
        moment.add(batch)

    samples = rows.double().mT @ rows.double() / num_places  # [G, N, n, n]
    torch.testing.assert_close(moment.mean(), samples.mean(1).float())
    scale = samples.diagonal(dim1=2, dim2=3).mean(1).rsqrt()[:, None, :, None]
    scaled = samples * scale * scale.mT * ~torch.eye(num_values, dtype=torch.bool)
    total = scaled.mean(1).square().sum()
    error = (scaled.square().mean(1).sum() - total) / (6 - 1)
    assert 0 < error < total
    assert moment.sampling_share() == pytest.approx((error / total).item(), rel=1e-5)


@pytest.mark.parametrize("scale", [1, 1e-6])
def test_a_value_that_begins_late_is_one_value_of_many(scale, generator):
    """Zero, or next to it, in the first batch."""
    values = torch.randn(256, 49, 2, generator=generator) @ torch.randn(2, 16, generator=generator)
    values[..., 0] *= scale
    late, even = SampledMoment(), SampledMoment()
    for rows in values.split(64):
        even.add(rows[None])
    for i, rows in enumerate(values.split(64)):
        rows[..., 0] *= 1e-9 if i == 0 else 1
        late.add(rows[None])
    assert even.sampling_share() < 0.01
    assert late.sampling_share() < 0.01


def test_some_of_many_values_say_what_all_do(generator):
    mix = torch.randn(20, 500, generator=generator)
    rows = torch.randn(1, 24, 9, 20, generator=generator) @ mix + torch.randn(1, 24, 9, 500, generator=generator)
    moment = SampledMoment()
    moment.add(rows)
    samples = rows[0].double().mT @ rows[0].double() / 9
    scale = samples.diagonal(dim1=1, dim2=2).mean(0).rsqrt()
    scaled = samples * scale * scale[:, None] * ~torch.eye(500, dtype=torch.bool)
    total = scaled.mean(0).square().sum()
    error = (scaled.square().mean(0).sum() - total) / 23
    assert moment.sampling_share() == pytest.approx((error / total).item(), rel=0.1)
