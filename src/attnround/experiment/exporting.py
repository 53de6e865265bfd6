"""The task of `src/export.py`: the model of a run as ONNX, OpenVINO's IR or a torch.export program, compared before it
is kept.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnround.data import ImageData, ImageFiles
from attnround.deploy import compare, read
from attnround.deploy.comparison import compare_of_pixels
from attnround.deploy.file import Content, StoredLayer
from attnround.deploy.kernels import HEADER, Kernel, kernels, num_quantized
from attnround.deploy.openvino import AS_WRITTEN as OPENVINO_AS_WRITTEN
from attnround.deploy.openvino import OPSET, OpenVinoModel, need_openvino, open_ir, sealed_ir
from attnround.deploy.openvino import kernels as kernels_of_ir
from attnround.deploy.preprocessing import described, steps_of
from attnround.deploy.program import exported_program, open_program, sealed_program
from attnround.deploy.qdq import NARROW, check_form, shifted, storage_bits, wanted_form, wanted_opset
from attnround.deploy.runtime import about_onnx, checked_opset, onnx_file, open_onnx, opened, read_graph, with_steps
from attnround.deploy.seal import about_export
from attnround.deploy.session import any_image, latency, medians_ms, need_onnx, session
from attnround.deploy.static import need_nncf
from attnround.deploy.ties import Ties
from attnround.errors import InputError, choice
from attnround.experiment.beside import beside_nncf, beside_onnxruntime, beside_table
from attnround.experiment.card import READINGS, readings, write_card
from attnround.experiment.checks import of_run, simulation, watched
from attnround.experiment.record import Run
from attnround.files import json_text, write_atomically
from attnround.machine import processor
from attnround.table import text_table
from attnround.zoo import Blueprint

log = logging.getLogger(__name__)
RIVALS = {"onnxruntime": "onnx", "nncf": "openvino"}  # whose own static quantizer is compared with: of which format
PREPROCESSING = ("beside", "graph")
RUNTIMES = {"onnx": "onnxruntime", "openvino": "OpenVINO"}  # what has default options that are compared too
FORMATS = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}


def export(
    *,
    folder: str,
    format: str,  # noqa: A002 (what it is called on the command line)
    opset: int | None,
    weights: str = "runtime",
    preprocessing: str = "beside",
    compare_with: str | None = None,
    model: Blueprint | None = None,
    data: ImageData,
    run: Run,
    factory: str | None = None,
    arguments: dict | None = None,
) -> dict[str, float]:
    """Write a run's model in another format, and export_<format>.json beside it; return its agreement.

    The file is kept only where it gives what the simulation does. opset: None takes the oldest that has the types;
    weights: one of `FORMS_OF` the format; preprocessing: what an image goes through is written `beside`, in
    preprocessing.json, or into the `graph` of an ONNX file too, which then takes pixels; compare_with: `onnxruntime`,
    or `nncf` for OpenVINO, whose own static quantizer's files of the float `model` are measured beside this one;
    factory, arguments: what makes the float module where it is the user's own.
    Raises InputError.
    """
    if format not in FORMATS:
        raise InputError(f"format={format} is none of {', '.join(FORMATS)}")
    if preprocessing not in PREPROCESSING or (preprocessing == "graph" and format != "onnx"):
        raise InputError(f"preprocessing={preprocessing}: give beside, or with format=onnx graph")
    if format != "onnx" and opset is not None:
        raise InputError(f"opset is of format=onnx: leave it out with format={format}")
    check_form(weights, FORMATS[format])
    record, source = of_run(folder, factory)
    check_rival(compare_with, (format, preprocessing), model, record)
    content = read(source)
    quantized = simulation(content, source, factory, arguments, data)
    about = about_export(content.about) | {"source": content.about["sha256"]}
    target = source.with_suffix(FORMATS[format])
    steps = known_steps(data, quantized.preprocessing, needed=preprocessing == "graph")
    head = steps if preprocessing == "graph" else None
    of_onnx = partial(_as_onnx, opset=opset, weights=weights, head=head)
    of_ir = partial(_as_ir, weights=weights)
    writer = {"onnx": of_onnx, "torch": _as_program, "openvino": of_ir}[format]
    files, exported, facts = writer(quantized, content, about, target)
    num_bytes = sum(map(len, files.values()))
    found, *others = compare(quantized, exported, watched(data, "export"))
    ties = Ties(quantized, lambda: watched(data, "ties"))
    fault = ties.fault(found, content.quantizes_values)
    if fault:
        raise InputError(f"{target} is not written: {fault}")
    faults = [ties.fault(other, quantized_inputs=True, by_class=False) for other in others]
    if head and isinstance(data, ImageFiles):
        whole = compare_of_pixels(quantized, open_onnx(files[target], target).of_pixels, data.pixels())
        say("graph", f"resizing image files itself the same class on {whole.agreement:.2f} % of {whole.images}")
        facts["resizing_itself"] = asdict(whole)
    budget = sum(record["deployed"]["parts"].values())
    report = {
        "file": target.name,
        "bytes": num_bytes,
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
    if ties.itself:
        report["beside_itself"] = asdict(ties.itself)
    for path, raw in files.items():
        write_atomically(path, raw)
    if compare_with:
        beside = {"onnxruntime": beside_onnxruntime, "nncf": beside_nncf}[compare_with]
        report["compared_with"] = _rivals(lambda: beside(exported[-1], num_bytes, model, data))
    if steps:
        text = json_text(described(quantized.preprocessing, steps), indent=2)
        write_atomically(Path(folder) / "preprocessing.json", text + "\n")
    write_atomically(Path(folder) / f"export_{format}.json", json_text(report, indent=2) + "\n")
    write_card(Path(folder))
    say("size", f"{num_bytes / 2**20:.3f} MiB; the run's budget is {budget / 2**20:.3f} MiB")
    say("classes", f"the simulation's on {found.agreement:.2f} % of {found.images} images")
    for other, wrong in zip(others, faults, strict=True):
        say("default", f"with {RUNTIMES[format]}'s default options {wrong or f'on {other.agreement:.2f} %'}")
    if "latency" in report:
        log.info("\n%s\n", text_table(READINGS, readings(report)))
    say("export", f"{', '.join(map(str, reversed(files)))}, export_{format}.json, model_card.md")
    return {"agreement": found.agreement}


def check_rival(compare_with: str | None, taken: tuple[str, str], model: Blueprint | None, record: dict) -> None:
    """Raise InputError for another rival than the format's, and where its files would not take what this one does.

    taken: format and preprocessing; model: of the comparison alone.
    """
    if compare_with is None:
        if model is not None:
            named = " or ".join(RIVALS)
            raise InputError(f"model is what compare_with={named} compares with: give that too, or leave model out")
        return
    if compare_with not in RIVALS:
        raise InputError(choice("compare_with", compare_with, list(RIVALS)))
    if taken != (RIVALS[compare_with], "beside"):
        raise InputError(
            f"compare_with={compare_with}: give format={RIVALS[compare_with]} and preprocessing=beside, files that "
            "take the same images"
        )
    if model is None:
        raise InputError(f"compare_with={compare_with} needs the float model: give model={record['choices']['model']}")
    if compare_with == "nncf":
        need_nncf(f"compare_with={compare_with}")


def _rivals(measured: Callable[[], list[dict]]) -> list[dict]:
    """Rows of the export and of its runtime's own files; none where that quantizer fails, which is said."""
    try:
        rows = measured()
    except InputError as error:
        say("beside", str(error))
        return []
    log.info("\n%s\n", beside_table(rows))
    return rows


def _as_onnx(
    model: nn.Module,
    content: Content,
    about: dict,
    target: Path,
    opset: int | None,
    weights: str,
    head: list[dict] | None,
) -> tuple[dict[Path, bytes], list[nn.Module], dict]:
    """The file, the model as written and as onnxruntime runs it by default, and what to report.

    In the literal form it is not run by default, where some files are refused. head: steps that the file does first;
    where these resize images, what is run takes images that are resized already.
    """
    need_onnx("format=onnx")
    import onnx
    import onnxruntime

    newest = checked_opset(opset)
    layers = content.layers
    wanted = wanted_opset(layers)
    chosen = opset or min(wanted, newest)
    less = f" ({wanted} would store {'2' if wanted == NARROW[2] else '4'} bits as such)" if chosen < wanted else ""
    say("opset", f"{chosen}{less}; onnxruntime {onnxruntime.__version__} runs up to {newest}")
    facts = {"opset": chosen, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    form = wanted_form(weights, content.placement)
    facts |= _storage(layers, chosen, form)
    raw, floats = onnx_file(model, content, about, chosen, weights)
    exported = opened(raw, target, form)
    facts |= _kernels(raw, content, target)
    facts |= {"latency": _latency(floats, exported, model.preprocessing["input_size"])}
    if head:
        raw, same_size = with_steps(raw, head, about)
        exported = opened(same_size, target, form)
        say("graph", f"takes pixels, uint8 [batch, height, width, {model.preprocessing['input_size'][0]}]")
    return {target: raw}, exported, facts | {"sha256": about_onnx(read_graph(raw, target), target)["sha256"]}


def known_steps(data: ImageData, preprocessing: dict, needed: bool) -> list[dict] | None:
    """What an image goes through; None where that cannot be said, or, if it is needed, an InputError."""
    try:
        if data.are_resized is None:
            raise InputError("how images become tensors is the affair of your own data: there are no steps to write")
        return steps_of(preprocessing, data.are_resized)
    except InputError as error:
        if needed:
            raise
        say("images", str(error))
        return None


def _storage(layers: list[StoredLayer], opset: int, form: str) -> dict[str, object]:
    """Which bits take wider types than their own, and which layers are unsigned in place of signed."""
    widths = Counter((layer.grid.bit_width, storage_bits(layer.grid.bit_width, opset)) for layer in layers)
    wider = [
        f"{bits} bits in INT{stored} ({n} layers)" for (bits, stored), n in sorted(widths.items()) if bits < stored
    ]
    say("weights", f"stored wider: {', '.join(wider)}" if wider else "all stored at their bits")
    unsigned = _unsigned(layers, form)
    if unsigned:
        say("weights", f"8 bits as UINT8 with zero point 128 ({len(unsigned)} layers): no sum of 16 bits overflows")
        say("weights", "weights=signed is faster on processors with VNNI and on ARM; 7 bits need no choice")
    return {"weights": form, "stored_wider": wider, "stored_unsigned": unsigned}


def _unsigned(layers: list[StoredLayer], form: str) -> list[str]:
    """The layers whose signed levels a form stores as unsigned ones."""
    return [layer.name for layer in layers if shifted(layer, form)]


def _kernels(raw: bytes, content: Content, target: Path) -> dict[str, object]:
    """How onnxruntime runs the layers by default, and why some run in floats; nothing where it refuses the file."""
    quantized = num_quantized(content.layers)
    try:
        found = kernels(raw, content.layers, str(target))
    except InputError as error:  # of the literal form
        say("kernels", f"not run by default: {error}")
        return {"layers_with_quantized_inputs": quantized, "layers_in_integers": [], "kernels": []}
    return _said_of(found, quantized)


def _said_of(found: Sequence[Kernel], quantized: int) -> dict[str, object]:
    """What is reported of how the layers run. quantized: how many have quantized inputs."""
    integer = sorted(each.layer for each in found if each.in_integers)
    say("kernels", f"{len(integer)} of {quantized} layers with quantized inputs run in integers by default")
    in_floats = [each for each in found if not each.in_integers]
    if in_floats and quantized:
        log.info("\n%s\n", text_table(HEADER, [each.cells for each in in_floats]))
    facts = {"layers_with_quantized_inputs": quantized, "layers_in_integers": integer}
    return facts | {"kernels": [asdict(each) for each in found]}


def _latency(floats: Any, exported: list[nn.Module], size: list[int]) -> dict[str, float]:
    """Milliseconds an image of the float graph, and of the exported model as written and by default."""
    image = any_image(size)
    sessions = [session(floats.SerializeToString(), "the float graph"), *(each.session for each in exported)]
    before, after, *default = latency(sessions, image)
    lines = [f"{after:.2f} ms an image, {after / before:.2f} times the {before:.2f} ms of the float ONNX"]
    lines += [f"with onnxruntime's default options {each:.2f} ms, {each / before:.2f} times" for each in default]
    say("latency", "; ".join(lines))
    taken = zip(("float_ms", "as_written_ms", "default_ms"), [before, after, *default], strict=False)
    return {"threads": torch.get_num_threads(), **dict(taken)}


def _as_program(
    model: nn.Module, content: Content, about: dict, target: Path
) -> tuple[dict[Path, bytes], list[nn.Module], dict]:
    """The file, the model as it is loaded again, and nothing to report."""
    raw, _ = sealed_program(exported_program(model), about)
    return {target: raw}, [open_program(raw, target)], {}


def _as_ir(
    model: nn.Module, content: Content, about: dict, target: Path, weights: str
) -> tuple[dict[Path, bytes], list[nn.Module], dict]:
    """Both files, the model as written and as OpenVINO runs it by default, and what to report."""
    need_onnx("format=openvino")
    need_openvino("format=openvino")
    raw, floats = onnx_file(model, content, about, OPSET, weights)
    xml, packed = sealed_ir(raw, about)
    exported = [open_ir(xml, packed, target, OPENVINO_AS_WRITTEN), open_ir(xml, packed, target)]
    form = wanted_form(weights, content.placement)
    unsigned = _unsigned(content.layers, form)
    if unsigned:
        say("weights", f"8 bits as UINT8 with zero point 128 ({len(unsigned)} layers), which OpenVINO runs in floats")
        say("weights", "7 bits run in integers, on any processor; so do signed ones, right where there is VNNI or ARM")
    of_kernels = _said_of(kernels_of_ir(exported[1], content.layers, form), num_quantized(content.layers))
    image = any_image(model.preprocessing["input_size"])
    of_floats = OpenVinoModel(*sealed_ir(floats.SerializeToString(), about), about, "the float graph")
    before, after, default = medians_ms([partial(each, image) for each in (of_floats, *exported)])
    say("latency", f"{default:.2f} ms an image, {default / before:.2f} times the {before:.2f} ms of the float graph")
    facts = {
        "sha256": exported[0].about["sha256"],
        "openvino": version("openvino"),
        "weights": weights,
        "stored_unsigned": unsigned,
        **of_kernels,
        "latency": {
            "threads": torch.get_num_threads(), "float_ms": before, "as_written_ms": after, "default_ms": default,
        },
    }  # fmt: skip
    return {target.with_suffix(".bin"): packed, target: xml}, exported, facts


def say(stage: str, text: str) -> None:
    """One line a finding."""
    log.info("%-8s %s", stage, text)
