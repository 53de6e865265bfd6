"""What W&B wrote of a run while offline, read from the file that `wandb sync` would upload."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768  # the log format of LevelDB: records in parts, none over the end of a block
WHOLE, LAST = 1, 4


def run_files(folder: Path) -> list[Path]:
    """The files of the W&B runs in a run's folder, in the order of their start."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def records(path: Path) -> Iterator[Record]:
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    at, whole = 7, b""
    while at < len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (WHOLE, LAST):
            yield Record.FromString(whole)
            whole = b""


class WandbFile:
    """run: group, tags and such; config and summary as dicts; artifacts by type; exit_code: None: it has not ended.

    history: a dict of single values for each thing logged; axes: metric -> the one that its curve is over.

    W&B's process writes the last of it when it ends: before that, with wandb.teardown().
    """

    def __init__(self, path: Path):
        self.files, self.config, self.summary, self.artifacts, self.exit_code = path.parent / "files", {}, {}, {}, None
        self.history, self.axes = [], {}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            content = getattr(record, kind)
            if kind == "run":
                self.run = content
                self.config |= {each.key: json.loads(each.value_json) for each in content.config.update}
            elif kind == "config":
                self.config |= {each.key: json.loads(each.value_json) for each in content.update}
            elif kind == "summary":
                for each in content.update:
                    place, *rest = [*each.nested_key] or [each.key]
                    value = json.loads(each.value_json)
                    if rest:
                        self.summary.setdefault(place, {})["/".join(rest)] = value
                    else:
                        self.summary[place] = value
            elif kind == "history":
                single = (each for each in content.item if len(each.nested_key) == 1)
                self.history.append({each.nested_key[0]: json.loads(each.value_json) for each in single})
            elif kind == "metric" and content.step_metric:
                self.axes[content.name or content.glob_name] = content.step_metric
            elif kind == "artifact":
                self.artifacts[content.type] = content
            elif kind == "exit":
                self.exit_code = content.exit_code

    def table(self, key: str) -> list[dict]:
        """The rows of a table."""
        content = json.loads((self.files / self.summary[key]["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
