"""The task of `src/verify.py`: the integer proof of a run, or an exported file in one of onnxruntime's execution
providers or on one of OpenVINO's devices against the run's simulation, for devices that are elsewhere."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnround.data import ImageData
from attnround.deploy import compare, openvino, read
from attnround.deploy.changes import changes
from attnround.deploy.comparison import Comparison
from attnround.deploy.file import Content
from attnround.deploy.kernels import in_integers, num_quantized
from attnround.deploy.marked import float_graph
from attnround.deploy.opened import Opened
from attnround.deploy.preprocessing import with_head
from attnround.deploy.runtime import GIVE, OnnxModel, about_onnx, open_onnx, read_graph
from attnround.deploy.seal import about_export, check_seal, read_bytes
from attnround.deploy.session import (
    AS_WRITTEN,
    CPU,
    Provider,
    any_image,
    check_provider,
    latency,
    medians_ms,
    need_onnx,
    operators_by_provider,
    session,
)
from attnround.errors import InputError, choice
from attnround.experiment import checks
from attnround.experiment.card import write_card
from attnround.experiment.exporting import say
from attnround.experiment.record import Run
from attnround.files import json_text, write_atomically
from attnround.machine import processor

SESSIONS: dict[str, dict[str, str]] = {"default": {}, "written": AS_WRITTEN}


def verify(
    *,
    folder: str,
    data: ImageData,
    batch_size: int,
    run: Run,
    factory: str | None = None,
    arguments: dict | None = None,
    file: str | None = None,
    provider: str | None = None,
    provider_options: dict | None = None,
    session: str = "default",
) -> dict[str, float]:
    """Prove a run's integers, or where a file is given, compare that with the run's simulation; return the agreement.

    batch_size: of the proof; file: an exported ONNX file or an .xml of OpenVINO; provider, provider_options, session:
    what runs it, see `verify_onnx` and `verify_ir`. Raises InputError.
    """
    if session not in SESSIONS:
        raise InputError(choice("session", session, SESSIONS))
    own = {"factory": factory, "arguments": arguments}
    if file is not None and Path(file).suffix == ".xml":
        device, options = provider or openvino.CPU, provider_options or {}
        return verify_ir(file=file, folder=folder, device=device, properties=options, session=session, data=data,
                         run=run, **own)  # fmt: skip
    if file is not None:
        chosen = Provider(provider or CPU.name, provider_options or {})
        return verify_onnx(file=file, folder=folder, provider=chosen, session=session, data=data, run=run, **own)
    if provider or provider_options or session != "default":
        raise InputError(f"provider and session are of an exported file: give {Path(folder) / 'quantized.onnx'}")
    return checks.verify(folder=folder, data=data, batch_size=batch_size, run=run, **own)


def verify_onnx(
    *,
    file: str,
    folder: str,
    provider: Provider,
    session: str,
    data: ImageData,
    run: Run,
    factory: str | None = None,
    arguments: dict | None = None,
) -> dict[str, float]:
    """Compare an exported file, as a provider runs it, with the simulation of its run; return the agreement.

    session: of `SESSIONS`, what a session makes of the file by default, or what the graph says. Writes
    verify_<provider>.json beside the file, and the run's card. Raises InputError, after these are written, where the
    classes differ on more images than `LEAST` allows, or nothing runs in that provider.
    """
    path = Path(file)
    need_onnx(file)
    check_provider(provider.name)
    _, source = checks.of_run(folder, factory)
    content, raw = read(source), read_bytes(path, GIVE)
    about = _unchanged(raw, path, content, source)
    settings = SESSIONS[session]
    exported = open_onnx(raw, path, settings, provider)
    model = checks.simulation(content, source, factory, arguments, data)
    found = _compared(model, exported, data, run)
    image = exported.taken(any_image(model.preprocessing["input_size"]))
    operators = operators_by_provider(raw, file, image, settings, provider)
    integer = _integers(raw, file, provider, session)
    latency = _latency(exported, model, raw, image, settings, provider)
    ran = Ran(provider.name, provider.options, session, operators, integer, latency)
    return _finish(path, about, content, folder, run, ran, found, _fault(found, operators, provider))


def verify_ir(
    *,
    file: str,
    folder: str,
    device: str,
    properties: dict,
    session: str,
    data: ImageData,
    run: Run,
    factory: str | None = None,
    arguments: dict | None = None,
) -> dict[str, float]:
    """Compare an exported .xml, as OpenVINO runs it on a device, with the simulation of its run; return the agreement.

    device: such as GPU or NPU; properties: OpenVINO's, as its documentation has them; session: by default, or `written`
    in floats. Writes verify_OpenVINO_<device>.json beside the file, and the run's card. Raises InputError as
    `verify_onnx` does.
    """
    path = Path(file)
    need_onnx(file)
    openvino.need_openvino(file)
    openvino.check_device(device)
    _, source = checks.of_run(folder, factory)
    content, xml = read(source), read_bytes(path, openvino.GIVE)
    settings = {"default": {}, "written": openvino.AS_WRITTEN}[session] | {k: str(v) for k, v in properties.items()}
    weights = read_bytes(path.with_suffix(".bin"), openvino.GIVE)
    exported = openvino.open_ir(xml, weights, path, settings, device)
    _check_source(exported.about, path, content, source)
    model = checks.simulation(content, source, factory, arguments, data)
    found = _compared(model, exported, data, run)
    image = any_image(model.preprocessing["input_size"])
    about = about_export(content.about)
    floats = openvino.sealed_ir(float_graph(model, openvino.OPSET).SerializeToString(), about)
    of_floats = openvino.OpenVinoModel(*floats, about, "the float graph", settings, device)
    float_ms, ms = medians_ms([partial(each, image) for each in (of_floats, exported)])
    latency = {"threads": torch.get_num_threads(), "float_ms": float_ms, "ms": ms}
    operators = {device: len(exported.compiled.get_runtime_model().get_ops())}
    ran = Ran(f"OpenVINO {device}", properties, session, operators, openvino.layers_in_integers(exported), latency)
    return _finish(path, exported.about, content, folder, run, ran, found, found.fault(quantized_inputs=True))


@dataclass(frozen=True)
class Ran:
    """How a file ran.

    provider: its name in reports; operators: how many ran where; integer: the layers that ran in integers, None where
    that is not known; latency: milliseconds of the file and of the float graph, and threads.
    """

    provider: str
    options: dict
    session: str
    operators: dict[str, int]
    integer: list[str] | None
    latency: dict[str, float]


def _compared(model: nn.Module, exported: Opened, data: ImageData, run: Run) -> Comparison:
    """What the file gives beside the simulation, on the run's evaluation images."""
    size = list(model.preprocessing["input_size"])
    (found,) = compare(model, [exported], _of_size(size, checks.watched(data, "verify"), run.choices["data"]))
    return found


def _finish(
    path: Path, about: dict, content: Content, folder: str, run: Run, ran: Ran, found: Comparison, fault: str | None
) -> dict[str, float]:
    """Write the report and the card and say what was found. Raises InputError then where there is a fault."""
    report = {
        "file": path.name,
        "sha256": about["sha256"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "data": run.choices["data"],
        "provider": ran.provider,
        "provider_options": ran.options,
        "session": ran.session,
        "fault": fault,
        "top1": found.top1,
        "simulation_top1": found.simulation_top1,
        "agreement": found.agreement,
        "comparison": asdict(found),
        "operators": ran.operators,
        "layers_with_quantized_inputs": num_quantized(content.layers),
        "layers_in_integers": ran.integer,
        "latency": ran.latency,
    }
    name = ran.provider.replace(" ", "_")
    beside = path.with_name(f"verify_{name}{'' if ran.session == 'default' else f'_{ran.session}'}.json")
    write_atomically(beside, json_text(report, indent=2) + "\n")
    write_card(Path(folder))
    _say(report, found)
    say("verify", f"{beside}, model_card.md")
    if fault:
        raise InputError(f"{path} in {ran.provider}: {fault}")
    return {"agreement": found.agreement}


def _unchanged(raw: bytes, path: Path, content: Content, source: Path) -> dict:
    """What a file says of itself. Raises InputError where it is not as it was exported, or of another run."""
    model = read_graph(raw, path)
    try:
        about = about_onnx(model, path)
        check_seal(raw, about, path)
    except InputError as error:
        found = changes(model, content)
        if not found:
            raise
        raise InputError(
            f"{path} is not what was exported from {source}: {'; '.join(found)}: export it anew"
        ) from error
    _check_source(about, path, content, source)
    return about


def _check_source(about: dict, path: Path, content: Content, source: Path) -> None:
    """Raise InputError where a file says that it was exported from another run."""
    if about.get("source", content.about["sha256"]) != content.about["sha256"]:
        raise InputError(f"{path} is of another run than {source}: give folder=<the folder of its own>")


def _of_size(size: list[int], batches: Iterator, name: str) -> Iterator:
    """These batches. Raises InputError where images are not as the model takes them, [C, H, W]."""
    for images, labels in batches:
        if list(images.shape[1:]) != size:
            raise InputError(
                f"data={name} gives images of {list(images.shape[1:])}, the file takes {size}: give others"
            )
        yield images, labels


def _fault(found: Comparison, operators: dict[str, int], provider: Provider) -> str | None:
    """Why the provider is not proven to compute what was measured; its floats may round otherwise."""
    if not operators.get(provider.name):
        return (
            f"it runs none of the {sum(operators.values())} operators, what was compared is {' and '.join(operators)}"
        )
    return found.fault(quantized_inputs=True)


def _integers(raw: bytes, file: str, provider: Provider, session: str) -> list[str] | None:
    """Which layers run in integers; None where the provider compiles the graph, so that onnxruntime cannot say."""
    if session != "default":
        return []
    try:
        return sorted(in_integers(raw, file, provider))
    except InputError:
        return None


def _latency(
    exported: OnnxModel, model: nn.Module, raw: bytes, image: Any, settings: dict[str, str], provider: Provider
) -> dict[str, float]:
    """Milliseconds of the float graph and of the file, for an image as the file takes it."""
    opset = next(each.version for each in read_graph(raw, "the file").opset_import if each.domain == "")
    floats = float_graph(model, opset)
    if "steps" in exported.about:
        floats = with_head(floats, exported.about["steps"], model.preprocessing["input_size"][0])
    of_floats = session(floats.SerializeToString(), "the float graph", settings, provider)
    float_ms, ms = latency([of_floats, exported.session], image)
    return {"threads": torch.get_num_threads(), "float_ms": float_ms, "ms": ms}


def _say(report: dict, found: Comparison) -> None:
    """What was found, a line each."""
    others = ", ".join(f"{count} in {name}" for name, count in report["operators"].items())
    say("provider", f"{report['provider']}, session={report['session']}; operators: {others}")
    integer, quantized = report["layers_in_integers"], report["layers_with_quantized_inputs"]
    number = "an unknown number" if integer is None else len(integer)
    say("kernels", f"{number} of {quantized} layers with quantized inputs run in integers")
    say("logits", f"differ by up to {found.relative:.1e} of the largest, on {found.images} images")
    top1 = "" if found.top1 is None else f"top-1 {found.top1:.2f} % ({found.simulation_top1:.2f} % in simulation), "
    say("classes", f"{top1}the same as those of the simulation on {found.agreement:.2f} % of the images")
    ms, float_ms = report["latency"]["ms"], report["latency"]["float_ms"]
    say("latency", f"{ms:.2f} ms an image, {ms / float_ms:.2f} times the {float_ms:.2f} ms of the float graph")
