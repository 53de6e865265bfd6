"""A float model and the test images of Fashion-MNIST that what is quantized of it is judged on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from trials import ROOT

from attnround.data import FashionMNIST
from attnround.evaluation import Outputs, fidelity, logits
from attnround.prepared import Prepared
from attnround.zoo import TimmModel


@dataclass(frozen=True)
class Case:
    """A float model, equalized or not, and the test images with its logits and their labels."""

    prepared: Prepared
    images: Tensor
    wanted: Tensor
    labels: Tensor

    def measures(self, student: nn.Module) -> dict[str, str]:
        """Top-1 of the student and of the float model, and how closely the one follows the other."""
        given = logits(student, self.images)
        measured = fidelity(self.wanted, given)
        return {
            "top1": self._top1(given),
            "fp32_top1": self._top1(self.wanted),
            **{name: f"{measured[name]:.4g}" for name in ("agreement", "sqnr_db", "kl")},
        }

    def _top1(self, given: Tensor) -> str:
        return f"{Outputs(given, self.labels).top1:.2f}"


def case_of(model: TimmModel, num_calibration: int, num_judged: int | None, seed: int, equalization: str) -> Case:
    """Read the images, calibration's and as many test images, all of them for None, and prepare the model."""
    net = model.build()
    data = FashionMNIST(str(ROOT / "assets/fashion_mnist"), num_calibration, limit=num_judged, seed=seed)
    data.match(net.preprocessing, net.num_classes)
    prepared = Prepared(model, data.calibration().images, equalization=equalization)
    images, labels = zip(*data.val_dataloader(), strict=True)
    judged = torch.cat(images)
    return Case(prepared, judged, logits(prepared.teacher, judged), torch.cat(labels))
