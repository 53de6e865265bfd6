"""What the files of a run must say before anything of them is used: its record, and what `verify` found of it."""

from pathlib import Path

from attnround.errors import InputError
from attnround.typed import Count, FileName, Number, Percent, Plain, read_typed

Nothing = type(None)
RIGHT = {"images": Count, "bits": str}  # what `pack` packed
RUN = {  # of any run that ended: what a line of a summary or a row of a table is made from
    "config_hash": str,
    "choices": {str: (str, Nothing)},
    "seed": int,
    "date": str,
    "git_revision": str,
    "versions": {str: str},
    "processor": str,
    "device": str,
    "num_threads": int,
    "metrics": {str: Number},
}
RECORD = {  # of a run that left a model
    "choices": {
        "model": str, "data": str, "quantizer": str, "bits": str, "activation": str, "reconstruction": str,
        str: (str, Nothing),
    },
    "date": str,
    "git_revision": str,
    "versions": {"torch": str, "timm": str},
    "processor": str,
    "device": str,
    "weights?": str,
    "metrics": {
        "fp32/top1?": Percent, "fp32/size_mib": float, "nearest/top1?": Percent, "nearest/agreement": Percent,
        "quantized/top1?": Percent, "quantized/agreement": Percent, "bits/mean": float, "bits/size_mib": float,
        "nearest/sqnr_db?": Number, "nearest/kl?": Number, "nearest/confidence_change?": Number,
        "quantized/sqnr_db?": Number, "quantized/kl?": Number, "quantized/confidence_change?": Number,
        str: Number,
    },
    "calibration": {"indices": [int], "source": str},
    "allocation": {"bit_width": {str: int}},
    "activation_bits": {str: int},
    "left_float": [str],
    "equalized?": (str, Nothing),
    "evaluation": {"images": Count},
    "licence": {"weights": (str, Nothing), "data": (str, Nothing)},
    "deployed": {"file": FileName, "bytes": Count, "sha256": str, "fingerprint": str, "parts": {str: int}},
    "config": {
        "model": {"name": (str, Nothing), "factory?": str, "pretrained?": bool, "checkpoint?": (str, Nothing)},
        "data": {"arguments?": (dict, Nothing), str: Plain},  # of one's own data, which no record has made again
        "activation?": {"placement?": str, "attention?": bool},
        "paths": {"root": str, "shipped?": (str, Nothing)},
    },
}  # fmt: skip
VERIFIED = {
    "sha256": str, "date": str, "data": str, "verdict": str, "findings": [str], "network": {"images": Count},
}  # fmt: skip

KERNEL = {"layer": str, "in_integers": bool, "runs_as": str, "why": (str, Nothing)}
RIVAL = {"made_by": str, "bytes": int, "speed_up": float, "agreement": Percent}
READING = {
    "images": Count, "agreeing": float, "right": (int, Nothing), "largest_logit": Number, "logit_difference": Number,
}  # fmt: skip
LATENCY = {"threads": int, "float_ms": float, "as_written_ms": float}
EXPORTED = {
    "source": str, "sha256": str, "file": str, "bytes": Count, "opset": int, "weights": str, "onnxruntime": str,
    "processor": str, "agreement": Percent, "comparison": READING, "layers_with_quantized_inputs": int,
    "layers_in_integers": [str], "with_default_options": [READING], "latency": LATENCY | {"default_ms?": float},
    "kernels": [KERNEL], "compared_with?": [RIVAL], "beside_itself?": READING,
}  # fmt: skip
EXPORTED_IR = {
    "source": str, "sha256": str, "file": str, "bytes": Count, "openvino": str, "processor": str, "agreement": Percent,
    "comparison": READING, "layers_with_quantized_inputs": int, "layers_in_integers": [str],
    "with_default_options": [READING], "latency": LATENCY | {"default_ms": float},
    "kernels": [KERNEL], "compared_with?": [RIVAL], "beside_itself?": READING,
}  # fmt: skip
PROVIDED = {
    "sha256": str, "provider": str, "session": str, "date": str, "data": str, "processor": str, "agreement": Percent,
    "comparison": {"images": Count}, "latency": {"ms": float, "float_ms": float}, "fault": (str, Nothing),
}  # fmt: skip


def read_record(folder: Path) -> dict:
    """The record of a run that left a model, with all that this project uses of it as it should be.

    Raises InputError that names the file and the field which is not.
    """
    path, what, give = folder / "record.json", "record of a run that left a model", "give the folder of a finished run"
    record = read_typed(path, RECORD, what, give)
    if record["config"]["model"]["name"] is None and not record["config"]["model"].get("factory"):
        raise InputError(f"{path} is no {what}: config.model.name is null, and there is no factory; {give}")
    return record


def read_verified(folder: Path) -> dict | None:
    """What `verify` found of a run; None where it was not called. Raises InputError as `read_record` does."""
    path = folder / "verify.json"
    return read_typed(path, VERIFIED, "report of verify", "verify it again") if path.exists() else None


def read_exported(folder: Path) -> dict | None:
    """What `export` said of an ONNX file; None where there is none, or an older one, which says less."""
    path, what, give = folder / "export_onnx.json", "report of export", "export it again"
    if not path.exists() or "kernels" not in read_typed(path, {}, what, give):
        return None
    return read_typed(path, EXPORTED, what, give)


def read_exported_ir(folder: Path) -> dict | None:
    """What `export` said of OpenVINO's files; None where there are none, or older ones, which say less."""
    path, what, give = folder / "export_openvino.json", "report of export", "export it again"
    if not path.exists() or "kernels" not in read_typed(path, {}, what, give):
        return None
    return read_typed(path, EXPORTED_IR, what, give)


def read_provided(path: Path) -> dict | None:
    """What `verify` found of an exported file in an execution provider or on a device; None of any other file."""
    if not {"provider", "fault"} <= read_typed(path, {}, "report of verify", "verify the file again").keys():
        return None
    return read_typed(path, PROVIDED, "report of verify", "verify the file again")


def read_run(path: Path, more: object = None) -> dict:
    """The record of any run that ended. more: what is asked of it beside that. Raises InputError as `read_record`."""
    return read_typed(path, RUN | (more or {}), "record of a run that ended", "run it again")
