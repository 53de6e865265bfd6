"""`attnround <entry> ...`, and `python -m attnround.cli <entry> ...` where it is not installed."""

import importlib
import os
import sys

from attnround.cli.streams import unheard
from attnround.errors import choice
from attnround.lazy import lacking

ENTRIES = {
    "train": "quantize a model, or train one: python src/train.py",
    "evaluate": "top-1 of a file that a run or an export left, on any data",
    "verify": "prove that a run's integers, or an exported file, compute what its simulation did",
    "export": "write a run's model as ONNX or as a torch.export program",
    "tables": "run what is missing of the tables, and write them anew",
    "sweep": "run a W&B sweep file here, without a server",
}


@unheard()
def main() -> None:
    """Hand what comes after its name to an entry."""
    words = sys.argv[1:]
    if words[:2] == ["-sc", "query=bash"]:
        return complete()
    if words[:1] == ["-sc"]:
        name = "train"  # to install completion, any will do
    elif not words or words[0] in ("-h", "--help"):
        print(usage())
        return None
    elif words[0] in ENTRIES:
        name = words[0]
        del sys.argv[1]
    else:
        sys.exit(f"error: {choice('entry', words[0], ENTRIES)}")
    try:
        return importlib.import_module(f"attnround.cli.{name}").main()
    except ModuleNotFoundError as error:
        sys.exit(f"error: {lacking(f'attnround {name}', error)}")


def usage() -> str:
    """What `attnround --help` prints."""
    lines = [f"  attnround {name:10} {about}" for name, about in ENTRIES.items()]
    more = "`attnround train --help` says what an entry takes;\n"
    more += 'eval "$(attnround -sc install=bash)" completes it in this shell.'
    return "\n".join(["Post-training quantization, side by side.", "", *lines, "", more])


def complete() -> None:
    """Print what may come next, as Hydra's completion in bash asks for it: COMP_LINE has the line so far."""
    program, *words = os.environ["COMP_LINE"].split(" ")
    if len(words) < 2 or words[0] not in ENTRIES:
        print(" ".join(name for name in ENTRIES if name.startswith(words[0] if words else "")))
        return
    if words[0] == "sweep":  # takes a file
        return
    os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
    importlib.import_module(f"attnround.cli.{words[0]}").run()


if __name__ == "__main__":
    main()
