"""`model_card.md`: what a user of the quantized model has to know, from the run's record and its verification alone."""

import json
from pathlib import Path

from attnround.evaluation.interval import wilson
from attnround.files import json_floats, write_atomically
from attnround.table import markdown_table


def write_card(folder: Path) -> None:
    """Write the card of a run from its record.json, and from its verify.json where that is of the same file."""
    record = json.loads((folder / "record.json").read_text())
    proof = folder / "verify.json"
    verification = json.loads(proof.read_text()) if proof.exists() else None
    if verification is not None and verification["sha256"] != record["deployed"]["sha256"]:
        verification = None  # of an earlier run in this folder
    write_atomically(folder / "model_card.md", card(record, verification))


def card(record: dict, verification: dict | None = None) -> str:
    """The card's Markdown."""
    record = record | {"metrics": json_floats(record["metrics"])}
    choices, deployed = record["choices"], record["deployed"]
    name, architecture = choices["model"], record["config"]["model"]["name"]
    sections = {
        f"{name}, {choices['quantizer']}, {record['metrics']['bits/mean']:.2f} bits a weight": _summary(record),
        "Accuracy": _accuracy(record),
        "Size": _size(record),
        "Bits": _bits(record),
        "What stays float": _floats(record),
        "Verification": _verification(verification),
        "Licences": [
            f"- weights ({architecture}): {record['licence']['weights'] or 'unknown'}",
            f"- data ({choices['data']}): {record['licence']['data'] or 'unknown'}",
        ],
        "Use": [
            "```python",
            "import attnround",
            "",
            f'model = attnround.load("{deployed["file"]}")  # an nn.Module in eval mode',
            "model.preprocessing  # what its images must have gone through",
            "```",
            "",
            f"`python src/evaluate.py checkpoint=<this folder>/{deployed['file']} data={choices['data']}` measures it "
            "again.",
        ],
    }
    titles = ["#"] + ["##"] * (len(sections) - 1)
    parts = [
        f"{mark} {title}\n\n" + "\n".join(lines) for mark, (title, lines) in zip(titles, sections.items(), strict=True)
    ]
    return "\n\n".join(parts) + "\n"


def _summary(record: dict) -> list[str]:
    choices, calibration, versions = record["choices"], record["calibration"], record["versions"]
    device = record["processor"] if record["device"] == "cpu" else record["device"]
    inputs = sorted(set(record["activation_bits"].values()))
    widths = f"{' and '.join(map(str, inputs))} bits by {choices['activation']}" if inputs else "float"
    return [
        f"- model: timm's `{record['config']['model']['name']}`, for {choices['data']}",
        f"- weights rounded by: {choices['quantizer']}, {choices['reconstruction']} objective, bits {choices['bits']}",
        f"- inputs of the quantized layers: {widths}",
        f"- calibrated on: {len(calibration['indices'])} images without labels ({calibration['source']})",
        f"- made: {record['date']}, revision {record['git_revision']}, on {device}, with torch {versions['torch']} and "
        f"timm {versions['timm']}",
    ]


def _accuracy(record: dict) -> list[str]:
    metrics, images = record["metrics"], record["evaluation"]["images"]
    rows = []
    for name, label in (("fp32", "FP32"), ("nearest", "nearest"), ("quantized", "this model")):
        low, high = wilson(metrics[f"{name}/top1"], images)
        agreement = f"{metrics[f'{name}/agreement']:.2f}" if name != "fp32" else "-"
        rows.append([label, f"{metrics[f'{name}/top1']:.2f}", f"{low:.2f} to {high:.2f}", agreement])
    table = markdown_table(["", "top-1 %", "95 % interval (Wilson)", "agreement with FP32 %"], rows)
    return [f"On the {images} evaluation images of {record['choices']['data']}:", "", table]


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
    if not record["left_float"]:
        return ["Biases and scales (float32), and what runs between the layers: activation functions, sums, pooling."]
    kept = ", ".join(f"`{each}`" for each in record["left_float"])
    return [f"Biases and scales (float32), what runs between the layers, and {kept}."]


def _verification(verification: dict | None) -> list[str]:
    if verification is None:
        return [
            "Not yet verified: `python src/verify.py <this folder>` runs every quantized layer in exact integer "
            "arithmetic, compares it with the simulation whose accuracy is above, and writes the result here."
        ]
    network = verification["network"]
    return [
        f"`python src/verify.py <this folder>`, {verification['date']}, on {network['images']} images of "
        f"{verification['data']}: {verification['verdict']}",
        "",
        *[f"- {line}" for line in verification["findings"]],
    ]
