"""`model_card.md`: what a user of the quantized model has to know, from the run's record and its verification alone.

It is the README.md of a model on the Hugging Face Hub, whose metadata it starts with.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from attnround.deploy.kernels import HEADER
from attnround.experiment.comparison import fidelity_cells, interval
from attnround.experiment.record import device_of, model_of
from attnround.experiment.schema import read_exported, read_exported_ir, read_provided, read_record, read_verified
from attnround.files import json_floats, write_atomically
from attnround.table import markdown_table
from attnround.zoo import hub_id

COMPARED = (("nearest", "nearest"), ("quantized", "this model"))  # of the metrics -> what the card calls it
READINGS = ["read", "ms an image", "top-1 %", "the simulation's class %", "largest difference of a logit"]
TASK = "image-classification"  # the Hub's word
LICENCES = (  # those of the Hub's list that weights of images' classifiers come under
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail",
    "apple-ascl", "apple-amlr", "gemma", "unlicense", "other", "unknown",
)  # fmt: skip


@dataclass(frozen=True)
class Public:
    """A data set that others know. name: in its authors' spelling; hub_id: on the Hugging Face Hub."""

    name: str
    hub_id: str


FASHION_MNIST = Public("Fashion-MNIST", "zalando-datasets/fashion_mnist")
DATASETS = {  # by the option of the group `data`
    "fashion_mnist": FASHION_MNIST,
    "fashion_mnist_full": FASHION_MNIST,
    "cifar10": Public("CIFAR-10", "uoft-cs/cifar10"),
    "cifar100": Public("CIFAR-100", "uoft-cs/cifar100"),
    "imagenet": Public("ImageNet (ILSVRC 2012)", "ILSVRC/imagenet-1k"),
}


def write_card(folder: Path, record: dict | None = None) -> None:
    """Write the card of a run from its record.json, and from what was verified and exported of the same file.

    record: what is yet to be written as record.json. Raises InputError where one of them is not as it should be.
    """
    record = record or read_record(folder)
    of_run = record["deployed"]["sha256"]
    verification = _of(read_verified(folder), "sha256", of_run)
    exported, ir = (_of(read(folder), "source", of_run) for read in (read_exported, read_exported_ir))
    found = map(read_provided, sorted(folder.glob("verify_*.json"))) if exported or ir else ()
    reports = [each for each in found if each is not None]
    write_atomically(folder / "model_card.md", card(record, verification, exported, ir, reports))


def _of(report: dict | None, key: str, digest: str) -> dict | None:
    """A report, unless it is of another file than this: left by an earlier run in this folder."""
    return report if report is not None and report.get(key) == digest else None


def card(
    record: dict,
    verification: dict | None = None,
    exported: dict | None = None,
    ir: dict | None = None,
    reports: Sequence[dict] = (),
) -> str:
    """The card: its metadata as YAML, then Markdown; what lies on this machine goes by its last name alone.

    verification: verify.json; exported: export_onnx.json; ir: export_openvino.json; reports: what `verify` found of
    exported files, these or others.
    """
    record = record | {"metrics": json_floats(record["metrics"])}
    choices, deployed = record["choices"], record["deployed"]
    own, of_own = choices["model"] == "module", choices["data"] == "module"
    beside = "" if has_top1(record) else " model=<the float model>"
    beside += f" factory={record['config']['model']['factory']}" if own else ""
    beside += f" data.factory={record['config']['data']['factory']}" if of_own else ""
    given = ", model=<the float module>" if own else ""
    sections = {
        _name(record): _summary(record),
        "Accuracy" if has_top1(record) else "Fidelity": _accuracy(record),
        "Size": _size(record),
        "Bits": _bits(record),
        "What stays float": _floats(record),
        "Verification": _verification(verification),
        **({"ONNX": [*_onnx(exported), *_providers(exported, reports)]} if exported else {}),
        **({"OpenVINO": [*_openvino(ir), *_providers(ir, reports)]} if ir else {}),
        "Licences": [
            f"- weights ({_source(record)}): {record['licence']['weights'] or 'unknown'}",
            f"- data ({choices['data']}): {record['licence']['data'] or 'unknown'}",
        ],
        "Use": [
            "```python",
            "import torch",
            "",
            "import attnround",
            "",
            f'model = attnround.load("{deployed["file"]}"{given})  # an nn.Module in eval mode',
            'images = torch.zeros(1, *model.preprocessing["input_size"])  # yours, after model.preprocessing',
            "print(model(images).argmax(1))",
            "```",
            "",
            f"`attnround evaluate checkpoint={deployed['file']} data={choices['data']}{beside}` measures it again.",
        ],
    }
    titles = ["#"] + ["##"] * (len(sections) - 1)
    parts = [
        f"{mark} {title}\n\n" + "\n".join(lines) for mark, (title, lines) in zip(titles, sections.items(), strict=True)
    ]
    front = yaml.safe_dump(metadata(record), sort_keys=False, allow_unicode=True)
    text = f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"
    for path in sorted(_paths(record["config"]), key=len, reverse=True):
        text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w-])", lambda _, name=Path(path).name: name, text)
    return text


def metadata(record: dict) -> dict[str, object]:
    """What the Hugging Face Hub reads at the head of a card: how to find, load and compare the model.

    https://huggingface.co/docs/hub/model-cards#model-card-metadata
    """
    choices, model, data = record["choices"], record["config"]["model"], record["choices"]["data"]
    metrics, labelled = record["metrics"], has_top1(record)
    base = hub_id(model["name"]) if model.get("pretrained") and not model.get("checkpoint") else None
    public = DATASETS.get(data)
    result = {
        "task": {"type": TASK, "name": "Image Classification"},
        "dataset": {"type": public.hub_id if public else data, "name": public.name if public else data},
        "metrics": [
            {"type": "accuracy", "name": "Top-1 accuracy, %", "value": metrics["quantized/top1"]}
            if labelled
            else {"type": "agreement", "name": "Agreement with FP32, %", "value": metrics["quantized/agreement"]}
        ],
    }
    trained = choices.get("qat") not in (None, "none")
    return {
        "library_name": "attnround",
        "pipeline_tag": TASK,
        **_licence(record["licence"]["weights"]),
        **({"base_model": base, "base_model_relation": "quantized"} if base else {}),
        **({"datasets": [public.hub_id]} if public else {}),
        **({"metrics": ["accuracy"]} if labelled else {}),
        "tags": [
            "quantization",
            "quantization-aware-training" if trained else "post-training-quantization",
            choices["quantizer"],
            *(["timm"] if choices["model"] != "module" else []),
        ],
        "model-index": [{"name": _name(record), "results": [result]}],
    }


def has_top1(record: dict) -> bool:
    """Whether the images that a run was evaluated on had labels."""
    return all(f"{name}/top1" in record["metrics"] for name in ("fp32", "nearest", "quantized"))


def _licence(stated: str | None) -> dict[str, str]:
    """In the Hub's words, which has a list of licences, and `other` and `unknown`."""
    if stated is None:
        return {"license": "unknown"}
    known = stated.lower()
    return {"license": known} if known in LICENCES else {"license": "other", "license_name": stated}


def _paths(config: dict) -> Iterator[str]:
    """The absolute paths in a config."""
    for value in config.values():
        if isinstance(value, dict):
            yield from _paths(value)
        elif isinstance(value, str) and Path(value).is_absolute() and Path(value).name:
            yield value


def _name(record: dict) -> str:
    model = model_of(record["choices"], record["config"])
    trained = f", then {record['choices']['qat']}" if _training(record) else ""
    return f"{model}, {record['choices']['quantizer']}{trained}, {record['metrics']['bits/mean']:.2f} bits a weight"


def _training(record: dict) -> str:
    """By what, how long and with how many labels the quantized model was trained; nothing where it was not."""
    metrics = record["metrics"]
    if "qat/labels" not in metrics:
        return ""
    start = {"ptq": "where the rounding ends", "fp32": "the float weights"}[record["config"]["qat"]["start"]]
    method, epochs = record["choices"]["qat"], metrics["qat/epochs"]
    return f"{method} from {start}, {epochs:.0f} epochs, {metrics['qat/labels']:.0f} labels"


def _source(record: dict) -> str:
    """timm's name of the network, or the function that makes one's own."""
    return record["config"]["model"]["factory" if record["choices"]["model"] == "module" else "name"]


def _summary(record: dict) -> list[str]:
    choices, calibration, versions = record["choices"], record["calibration"], record["versions"]
    weights = f", weights: {record['weights']}" if "weights" in record else ""
    inputs = sorted(set(record["activation_bits"].values()))
    widths = f"{' and '.join(map(str, inputs))} bits by {choices['activation']}" if inputs else "float"
    equalized = record.get("equalized")
    trained = _training(record)
    whose = "" if choices["model"] == "module" else "timm's "
    return [
        f"- network: {whose}`{_source(record)}`, for {choices['data']}{weights}",
        f"- weights rounded by: {choices['quantizer']}, {choices['reconstruction']} objective, bits {choices['bits']}",
        *([f"- equalization of channels before that: {equalized}"] if equalized else []),
        f"- inputs of the quantized layers: {widths}",
        *([f"- then trained with labels: {trained}"] if trained else []),
        f"- calibrated on: {len(calibration['indices'])} images without labels ({calibration['source']})",
        f"- made: {record['date']}, revision {record['git_revision']}, on {device_of(record)}, with torch "
        f"{versions['torch']} and timm {versions['timm']}",
    ]


def _accuracy(record: dict) -> list[str]:
    metrics, images = record["metrics"], record["evaluation"]["images"]
    on = f"the {images} evaluation images of {record['choices']['data']}"
    if not has_top1(record):
        return _fidelity(metrics, images, on)
    rows = []
    for name, label in (("fp32", "FP32"), *COMPARED):
        top1 = metrics[f"{name}/top1"]
        agreement = f"{metrics[f'{name}/agreement']:.2f}" if name != "fp32" else "-"
        rows.append([label, f"{top1:.2f}", interval(top1, images), agreement])
    table = markdown_table(["", "top-1 %", "95 % interval (Wilson)", "agreement with FP32 %"], rows)
    return [f"On {on}:", "", table]


def _fidelity(metrics: dict[str, float], images: int, on: str) -> list[str]:
    """How closely FP32 is followed, where nothing says what is right."""
    rows = [[label, *fidelity_cells(name, metrics, images)] for name, label in COMPARED]
    header = ["", "agreement with FP32 %", "95 % interval (Wilson)", "SQNR dB", "KL nats", "confidence, points"]
    return [
        f"On {on}, which have no labels, against FP32:",
        "",
        markdown_table(header, rows),
        "",
        "SQNR is that of the logits, KL the divergence of the class probabilities from FP32's, and confidence the "
        "change of the probability that FP32's top class gets; the last two are means over the images.",
    ]


def _size(record: dict) -> list[str]:
    deployed = record["deployed"]
    parts = {kind.replace("_", " "): count for kind, count in deployed["parts"].items() if count}
    header = deployed["bytes"] - sum(parts.values())
    rows = [[kind, count] for kind, count in parts.items()]
    rows += [["header and metadata", header], [f"**{deployed['file']}**", f"**{deployed['bytes']}**"]]
    ratio = record["metrics"]["fp32/size_mib"] * 2**20 / deployed["bytes"]
    return [
        markdown_table(["what", "bytes"], rows),
        "",
        f"{deployed['bytes'] / 2**20:.3f} MiB; the float model takes {ratio:.1f} times as much. The budget counts "
        f"{record['metrics']['bits/size_mib']:.3f} MiB, which is all but the header.",
        "",
        f"Checksum (sha256 of the file with zeros in the checksum's own place): `{deployed['sha256']}`.",
    ]


def _bits(record: dict) -> list[str]:
    inputs = record["activation_bits"]
    rows = [[f"`{name}`", bits, inputs.get(name, "float")] for name, bits in record["allocation"]["bit_width"].items()]
    return [markdown_table(["layer", "weight bits", "input bits"], rows)]


def _floats(record: dict) -> list[str]:
    between = "what runs between the layers"
    placement = _placement(record)
    if placement != "inputs":
        between += f", but for the values that {placement} wants quantized, at 8 bits"
    if record["config"].get("activation", {}).get("attention"):
        between += ", but for what attention's products take"
    if not record["left_float"]:
        return [f"Biases and scales (float32), and {between}: activation functions, sums, pooling."]
    kept = ", ".join(f"`{each}`" for each in record["left_float"])
    return [f"Biases and scales (float32), {between}, and {kept}."]


def _placement(record: dict) -> str:
    return record["config"].get("activation", {}).get("placement", "inputs")


def _verification(verification: dict | None) -> list[str]:
    if verification is None:
        return [
            "Not yet verified: `attnround verify <this folder>` runs every quantized layer in exact integer "
            "arithmetic, compares it with the simulation that was measured above, and writes the result here."
        ]
    network = verification["network"]
    return [
        f"`attnround verify <this folder>`, {verification['date']}, on {network['images']} images of "
        f"{verification['data']}: {verification['verdict']}",
        "",
        *[f"- {line}" for line in verification["findings"]],
    ]


def _onnx(exported: dict) -> list[str]:
    """How the exported file computes and runs."""
    return [
        f"`{exported['file']}`, {exported['bytes']} bytes, opset {exported['opset']}, weights={exported['weights']}, "
        f"in onnxruntime {exported['onnxruntime']}:",
        *_runs(exported),
    ]


def readings(report: dict) -> list[list[object]]:
    """What stands under `READINGS`: how an exported file computes as it is written, and with its runtime's options.

    And the simulation beside itself, its floats rounded otherwise, where that was asked for.
    """
    timed = report["latency"]
    rows = [("as written", timed["as_written_ms"], report["comparison"])]
    rows += [("by default", timed["default_ms"], each) for each in report["with_default_options"]]
    rows += [("simulation, rounded otherwise", None, report["beside_itself"])] if "beside_itself" in report else []
    return [
        [
            how, "-" if ms is None else f"{ms:.2f}",
            "-" if each["right"] is None else f"{100 * each['right'] / each['images']:.2f}",
            f"{100 * each['agreeing'] / each['images']:.2f}",
            f"{float(each['logit_difference']) / max(float(each['largest_logit']), 1e-30):.1e}",
        ]
        for how, ms, each in rows
    ]  # fmt: skip


def _runs(exported: dict) -> list[str]:
    """How it computes, how many layers run in integers by default, what was compared with, and what runs in floats."""
    quantized, integer, timed = (
        exported[key] for key in ("layers_with_quantized_inputs", "layers_in_integers", "latency")
    )
    lines = [
        "",
        markdown_table(READINGS, readings(exported)),
        "",
        f"- of {exported['comparison']['images']} images; the float graph takes {timed['float_ms']:.2f} ms an image "
        f"({exported['processor']}, threads: {timed['threads']})",
        f"- {len(integer)} of {quantized} layers with quantized inputs run in integers by default",
    ]
    for row in exported.get("compared_with", ()):
        lines.append(
            f"- {row['made_by']}: {row['bytes'] / 2**20:.3f} MiB, {row['speed_up']:.2f} times as fast as the float "
            f"graph, agreement with FP32 {row['agreement']:.2f} %"
        )
    in_floats = [each for each in exported["kernels"] if not each["in_integers"]]
    if not (in_floats and quantized):
        return lines
    rows = [[f"`{each['layer']}`", each["runs_as"], each["why"]] for each in in_floats]
    return [*lines, "", markdown_table(HEADER, rows), ""]


def _openvino(ir: dict) -> list[str]:
    """How OpenVINO runs both files."""
    return [
        f"`{ir['file']}` and its .bin, {ir['bytes']} bytes together, in OpenVINO {ir['openvino']}:",
        *_runs(ir),
    ]


def _providers(exported: dict, reports: Sequence[dict]) -> list[str]:
    """A line for each of the reports that is of this file."""
    return [_provider(each) for each in reports if each["sha256"] == exported["sha256"]]


def _provider(report: dict) -> str:
    """How a provider or a device runs that file."""
    same, timed = report["agreement"], report["latency"]
    return (
        f"- in {report['provider']} (session={report['session']}, {report['date']}): the simulation's class on "
        f"{same:.2f} % of {report['comparison']['images']} images of {report['data']}, {timed['ms']:.2f} ms an image, "
        f"the float graph {timed['float_ms']:.2f} ms ({report['processor']}){_but(report['fault'])}"
    )


def _but(fault: str | None) -> str:
    return "" if fault is None else f": not as it should be, {fault}"
