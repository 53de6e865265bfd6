"""onnxruntime's own static quantizer on a float graph: what an exported file is measured against.

quantize_static in QDQ form, a scale a channel, ranges by min-max: S8S8 is what its documentation recommends first, U8S8
has unsigned activations.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from attnround.errors import InputError, reason

FORMS = {"S8S8": "QInt8", "U8S8": "QUInt8"}  # name -> onnxruntime's type of the activations
OPSET = 21  # of the float graph that it was measured with, benchmarks/deployment.py
NUM_IMAGES = 64  # that ranges are taken from; its tools hold what every operator gives for all of them


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
