"""The task of `src/verify.py`: the integer proof of a run, or an exported ONNX file in one of onnxruntime's execution
providers against the run's simulation, for devices that are elsewhere."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnround.data import ImageData
from attnround.deploy import compare, read
from attnround.deploy.changes import changes
from attnround.deploy.comparison import Comparison
from attnround.deploy.file import Content
from attnround.deploy.kernels import in_integers, num_quantized
from attnround.deploy.marked import float_graph
from attnround.deploy.preprocessing import with_head
from attnround.deploy.runtime import GIVE, OnnxModel, about_onnx, open_onnx, read_graph
from attnround.deploy.seal import check_seal, read_bytes
from attnround.deploy.session import (
    AS_WRITTEN,
    CPU,
    Provider,
    any_image,
    check_provider,
    latency,
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

    batch_size: of the proof; file: an exported ONNX one; provider, provider_options, session: what runs it, see
    `verify_onnx`. Raises InputError.
    """
    if session not in SESSIONS:
        raise InputError(choice("session", session, SESSIONS))
    own = {"factory": factory, "arguments": arguments}
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
    size = list(model.preprocessing["input_size"])
    (found,) = compare(model, [exported], _of_size(size, checks.watched(data, "verify"), run.choices["data"]))
    image = exported.taken(any_image(size))
    operators = operators_by_provider(raw, file, image, settings, provider)
    fault = _fault(found, operators, provider)
    report = {
        "file": path.name,
        "sha256": about["sha256"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "data": run.choices["data"],
        "provider": provider.name,
        "provider_options": provider.options,
        "session": session,
        "fault": fault,
        "top1": found.top1,
        "simulation_top1": found.simulation_top1,
        "agreement": found.agreement,
        "comparison": asdict(found),
        "operators": operators,
        **_integers(raw, content, file, provider, session),
        "latency": _latency(exported, model, raw, image, settings, provider),
    }
    beside = path.with_name(f"verify_{provider.name}{'' if session == 'default' else f'_{session}'}.json")
    write_atomically(beside, json_text(report, indent=2) + "\n")
    write_card(Path(folder))
    _say(report, found)
    say("verify", f"{beside}, model_card.md")
    if fault:
        raise InputError(f"{file} in {provider.name}: {fault}")
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
    if about.get("source", content.about["sha256"]) != content.about["sha256"]:
        raise InputError(f"{path} is of another run than {source}: give folder=<the folder of its own>")
    return about


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


def _integers(raw: bytes, content: Content, file: str, provider: Provider, session: str) -> dict[str, object]:
    """Which layers run in integers; None where the provider compiles the graph, so that onnxruntime cannot say."""
    quantized = num_quantized(content.layers)
    integer: list[str] | None = []
    if session == "default":
        try:
            integer = sorted(in_integers(raw, file, provider))
        except InputError:
            integer = None
    return {"layers_with_quantized_inputs": quantized, "layers_in_integers": integer}


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
