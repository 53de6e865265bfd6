"""One cell of the comparison, in an environment in which a rival is installed: a row as JSON on the last line.

What benchmarks/beside_rivals.py starts with a rival, a method, a network, bits of weights and of inputs, a seed, and
`smoke` where it is only to be seen that all of it runs: few images, and a 500th of the iterations.

The float network, the calibration images, the evaluation and the clock are the same for all: 1,024 calibration images
(of lite0 the photographs of assets/photos), no labels; SQNR of the logits in dB and agreement with FP32 in percent, on
2,000 test images (of lite0 on the other photographs). Seconds are of the processor, all threads together, from the
float module to the quantized one; memory is the largest that the process had, the libraries included.
"""

import copy
import importlib
import json
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version

import torch
from timm.layers import Conv2dSame, get_same_padding
from torch import Tensor, nn
from trials import MODELS, ROOT, model_of, photographs, settle

from attnround.data import FashionMNIST
from attnround.evaluation import Outputs, fidelity, logits
from attnround.machine import peak_mib, processor

NUM_CALIBRATION, NUM_JUDGED, BATCH = 1024, 2000, 64
SMOKE_IMAGES, SMOKE_EFFORT = 64, 0.002


@dataclass(frozen=True)
class Case:
    """A float module, calibration images [N, C, H, W], and what is judged: other images and their labels.

    effort: the share of its iterations that a method is to take.
    """

    module: nn.Module
    images: Tensor
    judged: Tensor
    labels: Tensor | None
    seed: int
    effort: float = 1.0

    def iterations(self, number: int) -> int:
        """So many, or the share of them."""
        return max(1, int(self.effort * number))

    @property
    def batches(self) -> list[Tensor]:
        """The calibration images, as rivals want them."""
        return list(self.images.split(BATCH))

    def plain(self) -> nn.Module:
        """The module with its paddings as modules of their own, where timm computes them from the image's size.

        That is control flow, which torch.fx cannot follow; for images of one size it says the same.
        """
        plain, sizes = copy.deepcopy(self.module), {}
        same = {name: each for name, each in plain.named_modules() if isinstance(each, Conv2dSame)}
        hooks = [
            each.register_forward_pre_hook(lambda _, given, name=name: sizes.update({name: given[0].shape[-2:]}))
            for name, each in same.items()
        ]
        plain(self.images[:1])
        for hook in hooks:
            hook.remove()
        for name, each in same.items():
            ways = zip(sizes[name], each.kernel_size, each.stride, each.dilation, strict=True)
            pads = [get_same_padding(*way) for way in ways]
            (top, left), (rows, columns) = [pad // 2 for pad in pads], pads
            inner = nn.Conv2d(
                each.in_channels, each.out_channels, each.kernel_size, each.stride, 0, each.dilation, each.groups,
                each.bias is not None,
            )  # fmt: skip
            inner.load_state_dict(each.state_dict())
            padding = nn.ZeroPad2d((left, columns - left, top, rows - top))
            plain.set_submodule(name, nn.Sequential(padding, inner))
        return plain.eval()


def case_of(network: str, seed: int, smoke: bool = False) -> Case:
    """Read the images and build the module."""
    net = model_of(network).build()
    if network in MODELS:
        data = FashionMNIST(
            str(ROOT / "assets/fashion_mnist"), SMOKE_IMAGES if smoke else NUM_CALIBRATION,
            limit=SMOKE_IMAGES if smoke else NUM_JUDGED, seed=seed,
        )  # fmt: skip
    else:
        data = photographs()
    data.match(net.preprocessing, net.num_classes)
    images = data.calibration().images
    batches = [each for each in data.val_dataloader() if each is not None]
    labels = torch.cat([each[1] for each in batches]) if network in MODELS else None
    judged, effort = torch.cat([each[0] for each in batches]), SMOKE_EFFORT if smoke else 1.0
    return Case(net.eval(), images, judged, labels, seed, effort)


def main(
    rival: str, method: str, network: str, weights: int, inputs: int | None, seed: int, smoke: bool
) -> dict[str, object]:
    """Quantize and judge."""
    settle()
    torch.manual_seed(seed)
    driver = importlib.import_module(f"with_{rival}")
    case = case_of(network, seed, smoke)
    wanted = logits(case.module, case.judged)
    begun = time.process_time()
    found = driver.METHODS[method](case, weights, inputs)
    seconds = time.process_time() - begun
    given = logits(found, case.judged)
    measured = fidelity(wanted, given)
    right = "" if case.labels is None else f"{Outputs(given, case.labels).top1:.2f}"
    return {
        "top1": right, "agreement": f"{measured['agreement']:.2f}", "sqnr_db": f"{measured['sqnr_db']:.2f}",
        "cpu_seconds": f"{seconds:.1f}", "peak_mib": f"{peak_mib():.0f}",
        "version": getattr(driver, "VERSION", "") or version(driver.PACKAGE),
        "torch": torch.__version__.partition("+")[0], "processor": processor(),
    }  # fmt: skip


if __name__ == "__main__":
    rival, method, network, weights, inputs, seed, *smoke = sys.argv[1:]
    bits = None if int(inputs) == 32 else int(inputs)
    print(json.dumps(main(rival, method, network, int(weights), bits, int(seed), smoke == ["smoke"])))
