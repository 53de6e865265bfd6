"""A record as data: what a file that came from elsewhere must look like before anything of it is used."""

import json
import math
from pathlib import Path

from attnround.errors import InputError
from attnround.files import NON_FINITE


class Number:
    """A number, finite or as text."""


class FileName:
    """The name of a safetensors file in the record's own folder."""


class Plain:
    """A number, a text that refers to nothing else, true, false, null, or a list of such."""


# A type; a list of one; `str:` for a dictionary of any keys; `key?` may be missing; other keys are left alone.
RECORD = {
    "choices": {"model": str, "data": str, "quantizer": str, "bits": str, "activation": str, "reconstruction": str},
    "date": str,
    "git_revision": str,
    "versions": {"torch": str, "timm": str},
    "processor": str,
    "device": str,
    "metrics": {
        "fp32/top1?": Number, "fp32/size_mib": Number, "nearest/top1?": Number, "nearest/agreement": Number,
        "quantized/top1?": Number, "quantized/agreement": Number, "bits/mean": Number, "bits/size_mib": Number,
        "nearest/sqnr_db?": Number, "nearest/kl?": Number, "nearest/confidence_change?": Number,
        "quantized/sqnr_db?": Number, "quantized/kl?": Number, "quantized/confidence_change?": Number,
    },
    "calibration": {"indices": [int], "source": str},
    "allocation": {"bit_width": {str: int}},
    "activation_bits": {str: int},
    "left_float": [str],
    "equalized?": (str, type(None)),
    "evaluation": {"images": int},
    "licence": {"weights": (str, type(None)), "data": (str, type(None))},
    "deployed": {"file": FileName, "bytes": int, "sha256": str, "fingerprint": str, "parts": {str: int}},
    "config": {"model": {"name": (str, type(None))}, "data": {str: Plain}, "paths": {"root": str}},
}  # fmt: skip
WORDS = {
    Number: "a number", FileName: "the name of a .safetensors file in this folder", int: "a whole number", str: "text",
    Plain: "a plain value: a number, text without ${, true, false, null, or a list of such", dict: "a dictionary",
    list: "a list", type(None): "null",
}  # fmt: skip


def read_json(path: Path) -> object:
    """Raises ValueError where it is not JSON, also for Infinity and NaN, which Python's reader lets pass."""

    def refuse(word: str) -> object:
        raise ValueError(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def check(value: object, wanted: object, field: str = "") -> None:
    """Raise ValueError that names the first field which is not as wanted, and what it should be."""
    if isinstance(wanted, dict):
        _check_kind(value, dict, field)
        for key, inner in wanted.items():
            if key is str:
                for name, each in value.items():
                    check(each, inner, f"{field}.{name}")
            elif key.removesuffix("?") in value:
                name = key.removesuffix("?")
                check(value[name], inner, f"{field}.{name}")
            elif not key.endswith("?"):
                raise ValueError(f"{f'{field}.{key}'.lstrip('.')} is missing")
    elif isinstance(wanted, list):
        _check_kind(value, list, field)
        for place, each in enumerate(value):
            check(each, wanted[0], f"{field}[{place}]")
    else:
        _check_kind(value, wanted, field)


def _check_kind(value: object, wanted: object, field: str) -> None:
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    if not any(_is(value, kind) for kind in kinds):
        shown = json.dumps(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        asked = " or ".join(WORDS[kind] for kind in kinds)
        raise ValueError(f"{field.lstrip('.') or 'all of it'} is {shown}, {asked} is asked")


def _is(value: object, kind: object) -> bool:
    if kind is Number:
        return (_is(value, float) and math.isfinite(value)) or value in NON_FINITE
    if kind is FileName:
        return isinstance(value, str) and value == Path(value).name and value.endswith(".safetensors")
    if kind is Plain:
        if isinstance(value, list):
            return all(_is(each, Plain) and not isinstance(each, list) for each in value)
        refers = isinstance(value, str) and ("${" in value or value == "???")  # OmegaConf's
        return value is None or (isinstance(value, bool | int | float | str) and not refers)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def read_record(folder: Path) -> dict:
    """The record of a run that left a model, with all that this project uses of it as it should be.

    Raises InputError that names the file and the field which is not.
    """
    path = folder / "record.json"
    try:
        record = read_json(path)
        check(record, RECORD)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise InputError(f"{path} is no record that can be read ({why}): give the folder of a finished run") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no record of a run that left a model: {error}; give a finished run") from error
    return record
