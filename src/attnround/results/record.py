"""The record of a run: what was run, on what, and what it gave."""

import hashlib
import json
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from attnround.files import json_text, write_atomically
from attnround.machine import processor

PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "hydra-core", "numpy")
ADDED = ("weights_key", "class_order", "class_map")  # options that came later: null is what was before they came
NO_RESULT = ("paths", "logger", "debug", "metric", "resume")  # groups that change where a result goes, not what it is


@dataclass(frozen=True)
class Run:
    """One run: its config with interpolations resolved, and as written; the option chosen in each group; its folder."""

    config: dict
    source: dict
    choices: dict[str, str]
    output_dir: Path

    @property
    def identity(self) -> str:
        """The hash of the config, the same for every run that must give the same result."""
        return config_hash(self.source)

    def write_record(self, metrics: dict[str, float], **more: object) -> None:
        """Write record.json, whole or not at all."""
        record = {
            "config_hash": self.identity,
            "choices": self.choices,
            "seed": self.config["seed"],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **provenance(Path(self.config["paths"]["root"])),
            "metrics": metrics,
            **more,
            "config": self.config,
        }
        write_atomically(self.output_dir / "record.json", json_text(record, indent=2) + "\n")


def config_hash(config: dict) -> str:
    """Twelve hex digits of the config without what cannot change a result.

    Give the config with its interpolations unresolved: then the hash is the same on every machine and in every folder.

    >>> config_hash({"seed": 0, "debug": True}) == config_hash({"debug": False, "seed": 0})
    True
    """
    kept = {key: _computing(value) for key, value in config.items() if key not in NO_RESULT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _computing(group: object) -> object:
    """The options of a group that a result depends on."""
    if not isinstance(group, dict):
        return group
    return {key: value for key, value in group.items() if key != "licence" and (key not in ADDED or value is not None)}


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
    """The model's name: its option's, or timm's."""
    return config["model"]["name"] if choices["model"] == "timm" else choices["model"]


def device_of(record: dict) -> str:
    """What computed: the GPU, or the processor."""
    return record["processor"] if record["device"] == "cpu" else record["device"]
