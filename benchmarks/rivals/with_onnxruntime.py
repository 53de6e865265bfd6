"""onnxruntime's static quantizer: 8 bits for weights and for the results of operations, read back in a default session.

As its documentation recommends for convolutional networks: a prepared graph (quant_pre_process), quantizers on edges
(QDQ), int8 for both, a scale a channel for weights. Ranges by its default, the smallest and largest value, and by the
percentile (99.999) and the entropy that it offers.
"""

import tempfile
from pathlib import Path

import onnxruntime
import torch
from cell import Case
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

PACKAGE, OPSET, BATCH = "onnxruntime", 21, 32  # its histograms want batches of one size


class Images(CalibrationDataReader):
    """The calibration images, a batch at a time."""

    def __init__(self, case: Case):
        self.left = iter(case.images.split(BATCH))

    def get_next(self) -> dict[str, object] | None:
        found = next(self.left, None)
        return None if found is None else {"images": found.contiguous().numpy()}


class InSession(nn.Module):
    """A file, run by onnxruntime as it is by default."""

    def __init__(self, file: Path):
        super().__init__()
        self.session = onnxruntime.InferenceSession(file)

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"images": images.contiguous().numpy()})[0])


def static(case: Case, weights: int, inputs: int | None, ranges: CalibrationMethod) -> nn.Module:
    if (weights, inputs) != (8, 8):
        raise ValueError(f"weights of {weights} bits, inputs of {inputs}: its convolutions have 8 and 8")
    with tempfile.TemporaryDirectory() as folder:
        written, prepared, found = (Path(folder) / f"{name}.onnx" for name in ("float", "prepared", "found"))
        program = torch.onnx.export(
            case.module, (case.images[:2],), input_names=["images"], opset_version=OPSET, dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
        program.save(written)
        quant_pre_process(written, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared, found, Images(case), quant_format=QuantFormat.QDQ, per_channel=True, calibrate_method=ranges
        )
        return InSession(found)


def min_max(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return static(case, weights, inputs, CalibrationMethod.MinMax)


def percentile(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return static(case, weights, inputs, CalibrationMethod.Percentile)


def entropy(case: Case, weights: int, inputs: int | None) -> nn.Module:
    return static(case, weights, inputs, CalibrationMethod.Entropy)


METHODS = {each.__name__: each for each in (min_max, percentile, entropy)}
