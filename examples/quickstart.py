"""Quantize a network of your own from Python: four-bit weights, a report, a small file, and back again.

python examples/quickstart.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import attnround


class Net(nn.Module):
    """Any module that torch.export can follow; this one is random, yours is trained."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    # Calibration images, normalised as the model takes them. Labels may be there; they are not looked at.
    images = torch.randn(256, 3, 32, 32)
    with torch.no_grad():
        data = TensorDataset(images, model(images).argmax(1))

    q = attnround.quantize(model, DataLoader(data, batch_size=64), bits=4)
    print(q.report)

    x = torch.randn(8, 3, 32, 32)
    print("logits differ by", (q.model(x) - model(x)).abs().max().item())

    q.save(folder / "net.safetensors")  # integers, packed at their bits
    print((folder / "net.safetensors").stat().st_size, "bytes")
    again = attnround.load(folder / "net.safetensors", model=Net)
    assert torch.equal(again(x), q.model(x))

    q.export(folder / "net.onnx")  # compared with q.model before it is written

    # The same model at other settings: captured and folded once.
    prepared = attnround.Prepared(model, data)
    for bits in (2, 3, attnround.bits.Mixed(budget=5, pinned={"first": 8, "last": 8})):
        other = attnround.quantize(prepared, bits=bits, rounding="gptq", activation=8)
        print(other.allocation.bit_width, f"{other.report.sqnr_db:.2f} dB")

    # With labels: how good it is, and some epochs of quantization-aware training from there.
    print(q.evaluate(data))
    tuned = q.finetune(data, epochs=1, lr=0.001)
    print(tuned.evaluate(data))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
