"""Sessions of onnxruntime: in which execution provider, what it makes of a graph, what runs where, and how fast."""

import functools
import importlib.util
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnround.errors import InputError, reason

AS_WRITTEN = {  # else biases are rounded to int32 for the integer kernels, and of two quantizers in a row one goes
    "session.disable_quant_qdq": "1", "session.disable_double_qdq_remover": "1",
}  # fmt: skip
WARM_UP = 3  # first runs, which allocate


def need_onnx(what: str) -> None:
    """Raise InputError unless the optional packages are there."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}: install the extra, pip install -e '.[export]'")


@dataclass(frozen=True)
class Provider:
    """What runs the operators of a session: one of onnxruntime's execution providers, and its options."""

    name: str = "CPUExecutionProvider"
    options: dict[str, object] = field(default_factory=dict)


CPU = Provider()


def check_provider(name: str) -> None:
    """Raise InputError unless this onnxruntime has such an execution provider."""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if name not in there:
        raise InputError(
            f"provider={name}: onnxruntime {onnxruntime.__version__} here has {', '.join(there)}: give one of these, "
            "or install the build of onnxruntime that has it"
        )


def session(
    raw: bytes,
    source: str,
    settings: dict[str, str] = AS_WRITTEN,
    provider: Provider = CPU,
    *,
    optimised: Path | None = None,
    profile: Path | None = None,
) -> Any:
    """An onnxruntime session with as many threads as torch. Raises InputError where it takes no such model.

    As written, it computes what the graph says. Without settings it uses onnxruntime's integer kernels where it can,
    for which it rounds biases to integers, in steps of the scales' product, unless they are. What the
    provider cannot run falls to the CPU. optimised: a file for the graph that it makes of the model's; profile: how
    names of files begin in which it says what ran where.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = torch.get_num_threads()
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    chosen = [(provider.name, {key: str(value) for key, value in provider.options.items()})]
    try:
        made = onnxruntime.InferenceSession(raw, options, providers=chosen, enable_fallback=0)
    except Exception as error:  # its kinds share no base class of their own
        raise InputError(
            f"{source}: onnxruntime {onnxruntime.__version__} does not run it ({reason(error)}): "
            "install a newer one, or export with an older opset"
        ) from error
    if provider.name not in made.get_providers():
        raise InputError(
            f"{source}: onnxruntime {onnxruntime.__version__} has {provider.name} and cannot start it: its own "
            "libraries or its device are missing here"
        )
    return made


def optimised_graph(raw: bytes, source: str, provider: Provider = CPU) -> Any:
    """The graph that onnxruntime makes of a model's by default. Raises InputError as `session` does."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        session(raw, source, {}, provider, optimised=file)
        return onnx.load(file).graph


def run(session: Any, images: Tensor) -> Tensor | dict[str, Tensor]:
    """What a session gives for images on the CPU, several outputs by their names.

    Raises InputError where onnxruntime fails at what it took.
    """
    try:
        found = session.run(None, {"images": images.numpy()})
    except Exception as error:  # as in `session`
        raise InputError(f"onnxruntime fails to run the model ({reason(error)}): try another version") from error
    names = [each.name for each in session.get_outputs()]
    outputs = {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}
    return outputs[names[0]] if len(names) == 1 else outputs


def operators_by_provider(
    raw: bytes, source: str, image: Tensor, settings: dict[str, str] = AS_WRITTEN, provider: Provider = CPU
) -> dict[str, int]:
    """How many operators of a session ran in which execution provider, for what it takes. Raises as `session` does."""
    with tempfile.TemporaryDirectory() as folder:
        each = session(raw, source, settings, provider, profile=Path(folder) / "ran")
        run(each, image)
        events = json.loads(Path(each.end_profiling()).read_text())
    ran = (event["args"]["provider"] for event in events if event.get("args", {}).get("provider"))
    return dict(Counter(ran))


def any_image(size: list[int]) -> Tensor:
    """[1, C, H, W] of noise, always the same, to see how a session runs."""
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))


def latency(sessions: list[Any], image: Tensor, rounds: int = 40, seconds: float = 5.0) -> list[float]:
    """Median milliseconds of each session for an image [1, C, H, W], see `medians_ms`."""
    return medians_ms([functools.partial(run, each, image) for each in sessions], rounds, seconds)


def medians_ms(runs: Sequence[Callable[[], object]], rounds: int = 40, seconds: float = 5.0) -> list[float]:
    """Median milliseconds of each, in turns so that all meet the same machine.

    At most `rounds` of each and about `seconds` in all.
    """
    times: list[list[float]] = [[] for _ in runs]
    begun = time.perf_counter()
    for i in range(WARM_UP + rounds):
        for each, taken in zip(runs, times, strict=True):
            clock = time.perf_counter()
            each()
            taken.append(time.perf_counter() - clock)
        if i > WARM_UP and time.perf_counter() - begun > seconds:
            break
    return [1000 * statistics.median(taken[WARM_UP:]) for taken in times]
