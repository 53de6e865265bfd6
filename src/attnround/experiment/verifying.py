"""The task of `src/verify.py`: the integer proof of a run, or an exported file in one of onnxruntime's execution
providers or on one of OpenVINO's devices against the run's simulation, for devices that are elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from attnround.data import ImageData, ImageFiles
from attnround.deploy import compare, openvino, read
from attnround.deploy.changes import changes
from attnround.deploy.comparison import Comparison, compare_of_pixels
from attnround.deploy.file import Content
from attnround.deploy.kernels import in_integers, num_quantized
from attnround.deploy.marked import float_graph
from attnround.deploy.opened import Opened
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
    medians_ms,
    need_onnx,
    operators_by_provider,
    session,
)
from attnround.deploy.ties import Ties
from attnround.errors import InputError, choice
from attnround.experiment import checks
from attnround.experiment.card import write_card
from attnround.experiment.exporting import say
from attnround.experiment.record import Run
from attnround.files import json_text, write_atomically
from attnround.graph import Captured
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
    what runs it, see `verify_file`. Raises InputError.
    """
    if session not in SESSIONS:
        raise InputError(choice("session", session, SESSIONS))
    own = {"factory": factory, "arguments": arguments}
    if file is not None:
        runtime = OpenVino if Path(file).suffix == ".xml" else Onnxruntime
        chosen = Provider(provider or runtime.usual, provider_options or {})
        opened = runtime(Path(file), chosen, session)
        return verify_file(opened, folder=folder, data=data, run=run, **own)
    if provider or provider_options or session != "default":
        raise InputError(f"provider and session are of an exported file: give {Path(folder) / 'quantized.onnx'}")
    return checks.verify(folder=folder, data=data, batch_size=batch_size, run=run, **own)


class Runtime(ABC):
    """What runs an exported file: an execution provider of onnxruntime, or a device of OpenVINO.

    session: of `SESSIONS`, what the runtime makes of the file by default, or what its graph says. Raises InputError
    where the runtime or the provider is not there.
    """

    usual: ClassVar[str]  # the provider, where none is given
    label = "{}"  # of a provider, in reports
    exported: Opened  # the file, once it is opened

    def __init__(self, path: Path, provider: Provider, session: str):
        self.path, self.provider, self.session = path, provider, session
        need_onnx(str(path))

    @abstractmethod
    def open(self, content: Content, source: Path) -> None:
        """Open the file. Raises InputError where it is not as it was exported, or not of the run of this content."""

    @abstractmethod
    def operators(self, model: nn.Module) -> dict[str, int]:
        """How many ran in which provider. model: the simulation."""

    @abstractmethod
    def in_integers(self) -> list[str] | None:
        """The layers that run in integers; None where that is not known."""

    @abstractmethod
    def latency(self, model: nn.Module) -> tuple[float, float]:
        """Milliseconds of the float graph and of the file, for an image as the file takes it."""


class Onnxruntime(Runtime):
    """An execution provider of onnxruntime, on an ONNX file."""

    usual = CPU.name

    def __init__(self, path: Path, provider: Provider, session: str):
        super().__init__(path, provider, session)
        check_provider(provider.name)
        self.settings = SESSIONS[session]

    def open(self, content: Content, source: Path) -> None:
        self.raw = read_bytes(self.path, GIVE)
        _check_unchanged(self.raw, self.path, content, source)
        self.exported: OnnxModel = open_onnx(self.raw, self.path, self.settings, self.provider)

    def operators(self, model: nn.Module) -> dict[str, int]:
        image = self._image(model)
        return operators_by_provider(self.raw, str(self.path), image, self.settings, self.provider)

    def in_integers(self) -> list[str] | None:
        """None where the provider compiles the graph, so that onnxruntime cannot say."""
        if self.session != "default":
            return []
        try:
            return sorted(in_integers(self.raw, str(self.path), self.provider))
        except InputError:
            return None

    def latency(self, model: nn.Module) -> tuple[float, float]:
        opset = next(each.version for each in read_graph(self.raw, "the file").opset_import if each.domain == "")
        floats = float_graph(model, opset)
        if "steps" in self.exported.about:
            floats = with_head(floats, self.exported.about["steps"], model.preprocessing["input_size"][0])
        of_floats = session(floats.SerializeToString(), "the float graph", self.settings, self.provider)
        float_ms, ms = latency([of_floats, self.exported.session], self._image(model))
        return float_ms, ms

    def _image(self, model: nn.Module) -> Tensor:
        return self.exported.taken(any_image(model.preprocessing["input_size"]))


class OpenVino(Runtime):
    """A device of OpenVINO, on an .xml with its .bin; the provider's options are OpenVINO's properties."""

    usual = openvino.CPU
    label = "OpenVINO {}"

    def __init__(self, path: Path, provider: Provider, session: str):
        super().__init__(path, provider, session)
        openvino.need_openvino(str(path))
        openvino.check_device(provider.name)
        as_asked = {} if session == "default" else openvino.AS_WRITTEN
        self.settings = as_asked | {key: str(value) for key, value in provider.options.items()}

    def open(self, content: Content, source: Path) -> None:
        xml = read_bytes(self.path, openvino.GIVE)
        weights = read_bytes(self.path.with_suffix(".bin"), openvino.GIVE)
        self.exported: openvino.OpenVinoModel = openvino.open_ir(
            xml, weights, self.path, self.settings, self.provider.name
        )
        _check_source(self.exported.about, self.path, content, source)

    def operators(self, model: nn.Module) -> dict[str, int]:
        return {self.provider.name: len(self.exported.compiled.get_runtime_model().get_ops())}

    def in_integers(self) -> list[str] | None:
        return openvino.layers_in_integers(self.exported)

    def latency(self, model: nn.Module) -> tuple[float, float]:
        about = {key: each for key, each in self.exported.about.items() if key not in ("sha256", openvino.BIN)}
        floats = openvino.sealed_ir(float_graph(model, openvino.OPSET).SerializeToString(), about)
        of_floats = openvino.OpenVinoModel(*floats, about, "the float graph", self.settings, self.provider.name)
        image = any_image(model.preprocessing["input_size"])
        float_ms, ms = medians_ms([partial(each, image) for each in (of_floats, self.exported)])
        return float_ms, ms


def verify_file(
    runtime: Runtime,
    *,
    folder: str,
    data: ImageData,
    run: Run,
    factory: str | None = None,
    arguments: dict | None = None,
) -> dict[str, float]:
    """Compare an exported file, as it is run, with the simulation of its run; return the agreement.

    Writes verify_<provider>.json beside the file, and the run's card. Raises InputError, after these are written, where
    the file is further from the simulation than ties explain, or nothing runs in that provider.
    """
    path, provider, session = runtime.path, runtime.provider, runtime.session
    _, source = checks.of_run(folder, factory)
    content = read(source)
    runtime.open(content, source)
    model = checks.simulation(content, source, factory, arguments, data)
    found, ties = _compared(model, runtime.exported, data, run)
    operators = runtime.operators(model)
    fault, name = _fault(found, ties, operators, provider), runtime.label.format(provider.name)
    float_ms, ms = runtime.latency(model)
    report: dict = {
        "file": path.name,
        "sha256": runtime.exported.about["sha256"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "data": run.choices["data"],
        "provider": name,
        "provider_options": provider.options,
        "session": session,
        "fault": fault,
        "top1": found.top1,
        "simulation_top1": found.simulation_top1,
        "agreement": found.agreement,
        "comparison": asdict(found),
        "operators": operators,
        "layers_with_quantized_inputs": num_quantized(content.layers),
        "layers_in_integers": runtime.in_integers(),
        "latency": {"threads": torch.get_num_threads(), "float_ms": float_ms, "ms": ms},
    }
    if ties.itself:
        report["beside_itself"] = asdict(ties.itself)
    ending = "" if session == "default" else f"_{session}"
    beside = path.with_name(f"verify_{name.replace(' ', '_')}{ending}.json")
    write_atomically(beside, json_text(report, indent=2) + "\n")
    write_card(Path(folder))
    _say(report, found, ties.itself)
    say("verify", f"{beside}, model_card.md")
    if fault:
        raise InputError(f"{path} in {name}: {fault}")
    return {"agreement": found.agreement}


def _compared(model: Captured, exported: Opened, data: ImageData, run: Run) -> tuple[Comparison, Ties]:
    """The file with the simulation, on the evaluation images, or on their pixels where the file resizes images."""
    if isinstance(exported, OnnxModel) and exported.resizes:
        if not isinstance(data, ImageFiles):
            raise InputError(f"data={run.choices['data']}: {exported.source} resizes image files: give data=photos")
        ties = Ties(model, lambda: ((image, None) for image, _ in data.pixels()))
        return compare_of_pixels(model, exported.of_pixels, data.pixels()), ties
    size = list(model.preprocessing["input_size"])
    (found,) = compare(model, [exported], _of_size(size, checks.watched(data, "verify"), run.choices["data"]))
    return found, Ties(model, lambda: checks.watched(data, "ties"))


def _check_unchanged(raw: bytes, path: Path, content: Content, source: Path) -> None:
    """Raise InputError where a file is not as it was exported, or of another run."""
    model = read_graph(raw, path)
    try:
        about = about_onnx(model, path)
        check_seal(raw, about, path)
    except InputError as error:
        found = changes(model, content) or ["its integers are that run's, something else is damaged or was changed"]
        raise InputError(
            f"{path} is not what was exported from {source}: {'; '.join(found)}: export it anew"
        ) from error
    _check_source(about, path, content, source)


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


def _fault(found: Comparison, ties: Ties, operators: dict[str, int], provider: Provider) -> str | None:
    """Why the provider is not proven to compute what was measured; its floats may round otherwise."""
    if not operators.get(provider.name):
        return (
            f"it runs none of the {sum(operators.values())} operators, what was compared is {' and '.join(operators)}"
        )
    return ties.fault(found, quantized_inputs=True)


def _say(report: dict, found: Comparison, itself: Comparison | None) -> None:
    """What was found, a line each. itself: the simulation, its floats rounded otherwise, where asked for."""
    others = ", ".join(f"{count} in {name}" for name, count in report["operators"].items())
    say("provider", f"{report['provider']}, session={report['session']}; operators: {others}")
    integer, quantized = report["layers_in_integers"], report["layers_with_quantized_inputs"]
    number = "an unknown number" if integer is None else len(integer)
    say("kernels", f"{number} of {quantized} layers with quantized inputs run in integers")
    say("logits", f"differ by up to {found.relative:.1e} of the largest, on {found.images} images")
    top1 = "" if found.top1 is None else f"top-1 {found.top1:.2f} % ({found.simulation_top1:.2f} % in simulation), "
    say("classes", f"{top1}the same as those of the simulation on {found.agreement:.2f} % of the images")
    if itself:
        say("ties", f"its floats rounded otherwise, the simulation has its own class on {itself.agreement:.2f} %")
    ms, float_ms = report["latency"]["ms"], report["latency"]["float_ms"]
    say("latency", f"{ms:.2f} ms an image, {ms / float_ms:.2f} times the {float_ms:.2f} ms of the float graph")
