"""Give committed rows the identities of today: once, when what a run's hash is over has changed.

python benchmarks/rekey_rows.py results/rows

Until now the hash was over the whole config, import paths among it. A row is read as it was written (its digest is
checked), its config loses what no longer counts, and it is written under its new hash.
"""

import hashlib
import json
import sys
from pathlib import Path

from attnround.experiment.identity import computing, identity
from attnround.experiment.record import unpack
from attnround.files import json_floats
from attnround.study.row import Row, write_row

TASKS = {"attnround.pipeline.quantize": "quantize"}


def main(folder: str) -> None:
    """Rewrite every row of the folder; the old files go."""
    paths = sorted(Path(folder).glob("*.json"))
    for path in paths:
        content = json.loads(path.read_text())
        digest = content.pop("digest")
        assert digest == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), path
        config = computing(content["config"]) | {"task": TASKS[content["config"]["task"]]}
        unset_cache(config)
        correct = {name: unpack(packed) for name, packed in content["correct"].items()}
        new = {"config": config, "config_hash": identity(config, content["choices"]), "correct": correct}
        path.unlink()
        write_row(Row(**content | new | {"metrics": json_floats(content["metrics"])}), Path(folder))
    assert len(list(Path(folder).glob("*.json"))) == len(paths), "two rows are one"


def unset_cache(config: dict) -> None:
    """2,048 MiB on a CPU are what null now says."""
    if config["reconstruction"].get("cache_mib") == 2048:
        config["reconstruction"]["cache_mib"] = None


if __name__ == "__main__":
    main(*sys.argv[1:])
