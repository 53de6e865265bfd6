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
    scale = samples[:, :3].diagonal(dim1=2, dim2=3).mean(1).rsqrt()[:, None, :, None]  # of the first batch
    scaled = samples * scale * scale.mT * ~torch.eye(num_values, dtype=torch.bool)
    total = scaled.mean(1).square().sum()
    error = (scaled.square().mean(1).sum() - total) / (6 - 1)
    assert 0 < error < total
    assert moment.sampling_share() == pytest.approx((error / total).item(), rel=1e-5)
