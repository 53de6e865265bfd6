"""The task of `src/export.py`: the model of a run as ONNX or as a torch.export program, compared before it is kept."""

import logging
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import nn

from attnround.data import ImageData
from attnround.deploy import build, compare, read
from attnround.deploy.file import StoredLayer
from attnround.deploy.program import exported_program, open_program, sealed_program
from attnround.deploy.qdq import NARROW, OLDEST, storage_bits, wanted_opset
from attnround.deploy.runtime import latency, need_onnx, newest_opset, onnx_file, open_onnx, session
from attnround.deploy.seal import about_export
from attnround.errors import InputError, check_number
from attnround.experiment.checks import of_run, own_model, watched
from attnround.experiment.record import Run
from attnround.files import json_text, write_atomically
from attnround.machine import processor

log = logging.getLogger(__name__)
FORMATS = {"onnx": ".onnx", "torch": ".pt2"}


def export(
    *,
    folder: str,
    format: str,  # noqa: A002 (what it is called on the command line)
    opset: int | None,
    data: ImageData,
    run: Run,
    factory: str | None = None,
    arguments: dict | None = None,
) -> dict[str, float]:
    """Write a run's model in another format, and export_<format>.json beside it; return its agreement.

    The file is kept only where it gives what the simulation does. opset: None takes the oldest that has the types;
    factory, arguments: what makes the float module where it is the user's own.
    Raises InputError.
    """
    if format not in FORMATS:
        raise InputError(f"format={format} is none of {', '.join(FORMATS)}")
    record, source = of_run(folder, factory)
    content = read(source)
    model = build(content, str(source), own_model(factory, arguments))
    data.match(model.preprocessing, model.num_classes)
    about = about_export(content.about) | {"source": content.about["sha256"]}
    target = source.with_suffix(FORMATS[format])
    writer = partial(_as_onnx, opset=opset) if format == "onnx" else _as_program
    raw, exported, facts = writer(model, content.layers, about, target)
    found, *others = compare(model, exported, watched(data, "export"))
    fault = found.fault(any(layer.activation is not None for layer in content.layers))
    if fault:
        raise InputError(f"{target} is not written: {fault}")
    budget = sum(record["deployed"]["parts"].values())
    report = {
        "file": target.name,
        "bytes": len(raw),
        "budget_bytes": budget,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "data": run.choices["data"],
        "top1": found.top1,
        "agreement": found.agreement,
        "comparison": asdict(found),
        "with_default_options": [asdict(each) for each in others],
        **about,
        **facts,
    }
    write_atomically(target, raw)
    write_atomically(Path(folder) / f"export_{format}.json", json_text(report, indent=2) + "\n")
    say("size", f"{len(raw) / 2**20:.3f} MiB; the run's budget is {budget / 2**20:.3f} MiB")
    say("logits", f"differ by up to {found.relative:.1e} of the largest, on {found.images} images")
    top1 = "" if found.top1 is None else f"top-1 {found.top1:.2f} %, "
    say("classes", f"{top1}the same as those of the simulation on {found.agreement:.2f} % of the images")
    for other in others:
        say("default", f"with onnxruntime's default options the same class on {other.agreement:.2f} %")
    say("export", f"{target}, export_{format}.json")
    return {"agreement": found.agreement}


def _as_onnx(
    model: nn.Module, layers: list[StoredLayer], about: dict, target: Path, opset: int | None
) -> tuple[bytes, list[nn.Module], dict]:
    """The file's bytes; the model as written, and as onnxruntime runs it by default; what to report."""
    need_onnx("format=onnx")
    import onnx
    import onnxruntime

    newest = newest_opset()
    if opset is not None:
        check_number("opset", opset, least=OLDEST, most=newest, whole=True)
    wanted = wanted_opset(layers)
    chosen = opset or min(wanted, newest)
    less = f" ({wanted} would store {'2' if wanted == NARROW[2] else '4'} bits as such)" if chosen < wanted else ""
    say("opset", f"{chosen}{less}; onnxruntime {onnxruntime.__version__} runs up to {newest}")
    widths = Counter((layer.grid.bit_width, storage_bits(layer.grid.bit_width, chosen)) for layer in layers)
    wider = [
        f"{bits} bits in INT{stored} ({n} layers)" for (bits, stored), n in sorted(widths.items()) if bits < stored
    ]
    say("weights", f"stored wider: {', '.join(wider)}" if wider else "all stored at their bits")
    raw, floats = onnx_file(model, layers, about, chosen)
    exported = [open_onnx(raw, target), open_onnx(raw, target, {})]
    image = torch.randn(1, *model.preprocessing["input_size"], generator=torch.Generator().manual_seed(0))
    sessions = [session(floats.SerializeToString(), "the float graph"), *(each.session for each in exported)]
    before, after, default = latency(sessions, image)
    say(
        "latency",
        f"{after:.2f} ms an image, {after / before:.2f} times the {before:.2f} ms of the float ONNX; with "
        f"onnxruntime's default options {default:.2f} ms, {default / before:.2f} times",
    )
    latencies = {"float_ms": before, "as_written_ms": after, "default_ms": default}
    return (
        raw,
        exported,
        {
            "opset": chosen,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "stored_wider": wider,
            "latency": latencies | {"threads": torch.get_num_threads()},
        },
    )


def _as_program(
    model: nn.Module, layers: list[StoredLayer], about: dict, target: Path
) -> tuple[bytes, list[nn.Module], dict]:
    """The file's bytes, the model as it is loaded again, and nothing to report."""
    raw, _ = sealed_program(exported_program(model), about)
    return raw, [open_program(raw, target)], {}


def say(stage: str, text: str) -> None:
    """One line a finding."""
    log.info("%-8s %s", stage, text)
