"""The record of a run: what was run, on what, and what it gave."""

import base64
import platform
import subprocess
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from attnround.experiment.identity import identity, leaves
from attnround.experiment.sources import sources_of, with_sources
from attnround.files import has_checkpoint, sealed_json, write_atomically
from attnround.machine import processor

RESULTS = (  # the record first: without it the rest is of no finished run
    "record.json", "allocation.json", "model_card.md", "layers.csv", "layers.png", "moved.png", "losses.png",
    "trials.png", "photos.png", "trials.json", "reconstruction.pt", "qat.csv", "qat/last.ckpt", "qat/best.ckpt",
    "quantized.safetensors", "quantized.onnx", "quantized.xml", "quantized.bin", "quantized.pt2",
    "verify.json", "verify.csv", "verify_*.json", "export_onnx.json", "export_openvino.json", "export_torch.json",
)  # fmt: skip
PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "hydra-core", "numpy")


@dataclass(frozen=True)
class Run:
    """One run of a task.

    choices: group -> the option chosen; config: with interpolations resolved, as the record keeps it; identity: the
    same for every run that must give the same result; output_dir: its folder; root: of the project; sources: of the
    files that its options name, see `sources_of`.
    """

    task: str
    choices: dict[str, str]
    seed: int
    resume: bool
    config: dict
    identity: str
    output_dir: Path
    root: Path
    sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: dict, source: dict, choices: dict[str, str], output_dir: Path) -> "Run":
        """The run of a composed config. source: the same with its interpolations unresolved."""
        return cls(
            task=config["task"],
            choices=choices,
            seed=config["seed"],
            resume=bool(config.get("resume")),
            config=config,
            identity=identity(source, choices),
            output_dir=output_dir,
            root=Path(config["paths"]["root"]),
            sources=sources_of(source),
        )

    @property
    def going_on(self) -> str:
        """The identity of what it leaves to go on from."""
        return with_sources(self.identity, self.sources)

    @property
    def goes_on(self) -> bool:
        """Whether it is to go on, and from a checkpoint that it had come to."""
        return self.resume and has_checkpoint(self.output_dir)

    def clear(self) -> None:
        """Remove what an earlier run left in the folder, unless this one goes on from there; half files always.

        What the config names, as a checkpoint to read, stays.
        """
        for path in self.output_dir.glob(".*.part"):  # of a writer that was killed
            path.unlink()
        if self.goes_on:
            return
        read = {Path(value).resolve() for _, value in leaves(self.config) if isinstance(value, str)}
        for path in [path for pattern in RESULTS for path in self.output_dir.glob(pattern)]:
            if path.resolve() not in read:
                path.unlink()

    def record(self, metrics: dict[str, float], **more: object) -> dict[str, object]:
        """What record.json is to say."""
        return {
            "config_hash": self.identity,
            "choices": self.choices,
            "seed": self.seed,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **provenance(self.root),
            "metrics": metrics,
            **({"sources": self.sources} if self.sources else {}),
            **more,
            "config": self.config,
        }

    def write_record(self, record: dict[str, object]) -> None:
        """Write record.json, whole or not at all: after all that it names."""
        write_atomically(self.output_dir / "record.json", sealed_json(record, indent=2))


def provenance(root: Path) -> dict[str, object]:
    """Git revision of the project in `root` ('+' if files differ from it), versions and the processor."""
    return {
        "git_revision": git_revision(root),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "processor": processor(),
    }


def git_revision(root: Path) -> str:
    """Short revision, with a '+' for uncommitted changes; 'unknown' outside a git checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def model_of(choices: dict[str, str], config: dict) -> str:
    """The model's name: its option's, timm's, or that of one's own."""
    if choices["model"] == "module":
        return config["model"]["name"] or config["model"]["factory"].rpartition(":")[2]
    return config["model"]["name"] if choices["model"] == "timm" else choices["model"]


def device_of(record: dict) -> str:
    """What computed: the GPU, or the processor."""
    return record["processor"] if record["device"] == "cpu" else record["device"]


def pack(right: np.ndarray) -> dict[str, object]:
    """Booleans [N] as text, a bit each, compressed.

    >>> unpack(pack(np.array([True, False, True])))
    array([ True, False,  True])
    """
    bits = base64.b85encode(zlib.compress(np.packbits(right).tobytes(), 9)).decode()
    return {"images": len(right), "bits": bits}


def unpack(packed: dict) -> np.ndarray:
    """bool [N]: what `pack` packed. Raises ValueError where it is something else."""
    size = -(-packed["images"] // 8)
    try:
        packed_bits = zlib.decompressobj().decompress(base64.b85decode(packed["bits"]), size + 1)  # whatever it claims
    except zlib.error as error:
        raise ValueError("not as it was packed") from error
    if len(packed_bits) != size:
        raise ValueError(f"not of {packed['images']} images")
    return np.unpackbits(np.frombuffer(packed_bits, np.uint8), count=packed["images"]).astype(bool)
