"""What an exported file says of itself, and the checksum over all of it.

Every file carries one JSON object, `about`: format, sha256, model (what builds it), data, method, versions and what its
kind needs. Where it stands is the kind's own affair. sha256 is that of the whole file with 64 zeros in its own place,
so that no bit of the file can flip unseen. It guards against damage, not against malice: whoever changes a file can
seal it again.
"""

import hashlib
import json
import math
from importlib.metadata import version
from pathlib import Path

from attnround.errors import InputError
from attnround.typed import Count, check, parsed

Nothing = type(None)
SIZE = [Count]
LARGEST_IMAGE = 2**28  # values: a gibibyte
ABOUT = {  # what is used of it
    "format": int,
    "sha256": str,
    "model": {
        "module?": str, "name?": str, "num_classes?": (int, Nothing), "output?": (str, int, Nothing),
        "input_size?": SIZE, "arguments?": {}, "preprocessing?": {"input_size": SIZE},
    },
    "versions": {"torch": str, "timm": str},
    "layers?": {
        "name": [str], "shape": [[Count]], "bits": [int], "symmetric": [bool], "activation_bits": [(int, Nothing)],
    },
    "placement?": str,
    "attention?": bool,
    "edges?": {"name": [str], "bits": [int]},
    "caps?": [str],
    "probe?": [float],
    "steps?": [{}],
}  # fmt: skip

# 4 with quantizers of what attention's products take, 3 with caps a value a channel, 2 with values between layers
# quantized, else 1, which older versions read
FORMAT = 4
ENTRY = "attnround"
NOT_EXPORTED = ("format", "sha256", "layers", "edges", "caps", "probe")  # of the packed file alone
NO_DIGEST = "0" * 64


def describe(about: dict) -> str:
    """The JSON of a file that is yet to be sealed. It must not be preceded by the word sha256 in the file."""
    number = 4 if "attention" in about else 3 if "caps" in about else 2 if "edges" in about else 1
    return json.dumps({"format": number, "sha256": NO_DIGEST, **about}, separators=(",", ":"))


def about_export(about: dict) -> dict:
    """What a file in another format says of itself, from what the packed file says."""
    kept = {key: value for key, value in about.items() if key not in NOT_EXPORTED}
    return kept | {"versions": kept["versions"] | {"torch": version("torch")}}


def preprocessing_of(about: dict) -> dict:
    """timm's data config of a file's model; of the caller's own module the shape of its images alone."""
    model = about["model"]
    return model["preprocessing"] if "preprocessing" in model else {"input_size": model["input_size"]}


def seal(raw: bytes) -> tuple[bytes, str]:
    """The file with its sha256 in place of the zeros, and that sha256."""
    digest = hashlib.sha256(raw).hexdigest()
    place = raw.index(NO_DIGEST.encode(), raw.index(b"sha256"))  # weights may hold 64 zeros too
    return raw[:place] + digest.encode() + raw[place + len(digest) :], digest


def read_about(entry: str | bytes | None, path: str | Path, give: str) -> dict:
    """The JSON of a file, not to be trusted before `check_seal`. give: what to give instead of another file."""
    try:
        about = parsed(entry or "")
        check(about, {key: ABOUT[key] for key in ("format", "sha256")})
        if len(about["sha256"]) != len(NO_DIGEST) or not about["sha256"].isascii():
            raise ValueError("no sha256")
    except ValueError as error:
        raise InputError(f"{path} does not say that it is a quantized model of this project: give {give}") from error
    if about["format"] > FORMAT:
        raise InputError(
            f"{path} is of format {about['format']}, this version reads up to {FORMAT}: install a newer attnround"
        )
    return about


def check_seal(raw: bytes, about: dict, path: str | Path) -> None:
    """Raise InputError unless the file is, bit for bit, the one that was sealed, and says what is used of it."""
    digest = about["sha256"].encode()
    if raw.count(digest) != 1 or hashlib.sha256(raw.replace(digest, NO_DIGEST.encode())).hexdigest().encode() != digest:
        raise InputError(f"{path} is damaged: its checksum is not that of its content; copy it anew from its source")
    try:
        check(about, ABOUT)
        _check_model(about["model"])
    except ValueError as error:  # sealed by another program
        raise InputError(
            f"{path} is not as format {about['format']} says ({error}): use the file that a run wrote"
        ) from error


def _check_model(model: dict) -> None:
    if not {"name", "preprocessing"} <= set(model) and not {"module", "input_size"} <= set(model):
        raise ValueError("model has neither name and preprocessing nor module and input_size")
    for size in (model.get("input_size", []), model.get("preprocessing", {}).get("input_size", [])):
        if math.prod(size) > LARGEST_IMAGE:
            raise ValueError(f"an image has {math.prod(size):.0e} values")


def read_bytes(path: str | Path, give: str) -> bytes:
    """All of a file. Raises InputError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): give {give}") from error
