"""The runtimes' own static quantizers on a float network: what an exported file is measured against.

onnxruntime's quantize_static in QDQ form, a scale a channel, ranges by min-max: S8S8 is what its documentation
recommends first, U8S8 has unsigned activations.

OpenVINO's NNCF. defaults: symmetric activations, ranges by the mean of the images' extremes, fast bias correction.
tuned: asymmetric activations, ranges by the extremes of all images, full bias correction, which was the best of its
options on resnet18_slim, and weights of half the range on processors without VNNI and of all of it on others, as its
documentation says.
"""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from attnround.deploy.openvino import saved
from attnround.errors import InputError, reason
from attnround.graph import Captured, attends
from attnround.machine import processor

FORMS = {"S8S8": "QInt8", "U8S8": "QUInt8"}  # name -> onnxruntime's type of the activations
OPSET = 21  # of the float graph that it was measured with, benchmarks/deployment.py
NUM_IMAGES = 64  # that ranges are taken from; its tools hold what every operator gives for all of them
NNCF_FORMS = ("defaults", "tuned")
NNCF_IMAGES = 300  # at most, its default


def quantized_by_onnxruntime(floats: Any, images: Tensor) -> Iterator[tuple[str, bytes]]:
    """The name of each of `FORMS` and the bytes of its file, calibrated on images [N, C, H, W].

    floats: an ONNX model with the input `images`. Raises InputError where onnxruntime fails at it.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        float_file, prepared, quantized = (Path(folder) / f"{name}.onnx" for name in ("float", "prepared", "quantized"))
        onnx.save(floats, float_file)
        try:
            quant_pre_process(float_file, prepared, skip_symbolic_shape=True)
            for form in FORMS:
                _quantize(prepared, quantized, images, form)
                yield form, quantized.read_bytes()
        except Exception as error:  # its kinds share no base class of their own
            raise InputError(f"onnxruntime's own quantizer fails at the float graph ({reason(error)})") from error


def _quantize(prepared: Path, quantized: Path, images: Tensor, form: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(images[:NUM_IMAGES].split(1))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its advice, which has been followed
    try:
        quantize_static(
            prepared, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType[FORMS[form]],
        )  # fmt: skip
    finally:
        logging.disable(before)


def need_nncf(what: str) -> None:
    """Raise InputError unless NNCF is installed."""
    if importlib.util.find_spec("nncf") is None:
        raise InputError(f"{what} needs nncf, which no extra has: pip install nncf")


def quantized_by_nncf(
    model: Captured, images: Tensor, forms: Sequence[str] = NNCF_FORMS
) -> Iterator[tuple[str, tuple[bytes, bytes]]]:
    """The name of each of these forms with its .xml and its .bin, of the network as OpenVINO converts it from torch.

    images: [N, C, H, W], to calibrate on. Raises InputError where NNCF fails at it.
    """
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    batches = [image.contiguous() for image in images[:NNCF_IMAGES].split(1)]
    kind = nncf.ModelType.TRANSFORMER if attends(model) else None
    try:
        for form in forms:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's, of how OpenVINO traces
                converted = openvino.convert_model(model, example_input=batches[0])
            dataset = nncf.Dataset([each.numpy() for each in batches])
            options = _tuned() if form == "tuned" else {}
            yield form, saved(nncf.quantize(converted, dataset, model_type=kind, subset_size=len(batches), **options))
    except Exception as error:  # its kinds share no base class of their own
        raise InputError(f"NNCF fails at the float network ({reason(error)})") from error


def _tuned() -> dict[str, Any]:
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        overflow_fix=OverflowFix.DISABLE if "VNNI" in processor() else OverflowFix.ENABLE,
    )
    preset = nncf.QuantizationPreset.MIXED
    return {"preset": preset, "fast_bias_correction": False, "advanced_parameters": advanced}
