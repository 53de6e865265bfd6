"""This project beside the rivals' own code: the same float network, images, bits and evaluation.

OMP_NUM_THREADS=1 python benchmarks/beside_rivals.py                    # all, into results/rivals.csv
python benchmarks/beside_rivals.py --rivals brevitas --networks mobilenetv2_050 --bits W4 W2 --seeds 0 1 2
python benchmarks/beside_rivals.py --rivals mct --smoke                 # only see that it runs
python benchmarks/beside_rivals.py --rivals brecq qdrop --clones brecq=../BRECQ qdrop=../QDrop --methods brecq_2000

Each cell is a process. A rival is installed with pip into an environment of its own, in outputs/rivals, which sees
this project and the libraries it runs with behind what the rival brings; one that is no package is run from a clone
that the user gives. Bits are of weights, and behind an A of inputs; the first and the last layer have 8. A row that is
there is not run again; a cell that fails says how and leaves no row. What was set otherwise than a rival's defaults is
said at the head of its file, rivals/with_<rival>.py.
"""

import argparse
import csv
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trials import MODELS, ROOT, Rows

DRIVERS, PLACE = ROOT / "benchmarks/rivals", ROOT / "outputs/rivals"
BITS = {"W4": (4, 32), "W3": (3, 32), "W2": (2, 32), "W4A4": (4, 4), "W8A8": (8, 8)}
SMOKE_BITS = "W4A4"


@dataclass(frozen=True)
class Rival:
    """What its file of rivals offers.

    methods: of its `METHODS`; packages: what pip is asked for, nothing where it runs in this environment; bits: of
    `BITS`, all that it has; networks: that it can run; clone: where it is no package, the repository that a user
    clones; known_by: a file of it.
    """

    methods: tuple[str, ...]
    packages: tuple[str, ...] = ()
    bits: Collection[str] = tuple(BITS)
    networks: Collection[str] = (*MODELS, "lite0")
    clone: str = ""
    known_by: str = ""


RIVALS = {
    "attnround": Rival(("nearest", "gptq", "attention_round")),
    "brevitas": Rival(("nearest", "gptq", "qronos", "learned_round"), ("brevitas==0.13.4", "accelerate")),
    "aimet": Rival(("adaround", "adaround_1500", "adaround_75"), ("aimet-torch==2.42.0",)),
    "mct": Rival(("ptq", "gptq"), ("model-compression-toolkit==2.6.1",)),
    "onnxruntime": Rival(
        ("min_max", "percentile", "entropy"), ("onnxruntime==1.32.0", "onnx==1.23.2", "onnxscript==0.7.2"), ("W8A8",)
    ),
    "brecq": Rival(
        ("brecq", "brecq_2000"), bits=("W4", "W3", "W2", "W4A4"), networks=MODELS,
        clone="github.com/yhhhli/BRECQ", known_by="quant/block_recon.py",
    ),
    "qdrop": Rival(
        ("qdrop", "qdrop_2000"), ("easydict==1.13", "pyyaml", "scipy"), ("W4A4",), MODELS,
        clone="github.com/wimh966/QDrop", known_by="qdrop/solver/recon.py",
    ),
}  # fmt: skip
PAGE = ROOT / "docs/rivals.md"
KEYS = ("network", "bits", "rival", "method", "seed")


def python_of(rival: str) -> Path | str:
    """The Python of a rival's environment, which is made if it is not there."""
    packages = RIVALS[rival].packages
    if not packages:
        return sys.executable
    home = PLACE / rival
    python = home / "bin/python"
    if not (home / "installed").exists():
        venv.create(home, with_pip=True, clear=True)
        own = next(home.glob("lib/python3*/site-packages"))
        (own / "zz_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # behind the rival's own
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True)
        (home / "installed").touch()
    return python


def clones_of(given: Sequence[str]) -> dict[str, Path]:
    """RIVAL=FOLDER as what is given; ends with a line where that is not the rival's clone."""
    found = {}
    for each in given:
        name, _, folder = each.partition("=")
        if name not in RIVALS or not RIVALS[name].clone:
            names = " or ".join(f"{name}=FOLDER" for name, rival in RIVALS.items() if rival.clone)
            sys.exit(f"error: --clones {each}: give {names}")
        if not (Path(folder) / RIVALS[name].known_by).is_file():
            rival = RIVALS[name]
            sys.exit(f"error: --clones {each}: has no {rival.known_by}: give the folder of a clone of {rival.clone}")
        found[name] = Path(folder).resolve()
    return found


def run(place: dict[str, object], clone: Path | None = None, smoke: bool = False) -> dict[str, object] | None:
    """A cell in a process of its own; None where it failed, after its last lines are shown."""
    bits = map(str, BITS[place["bits"]])
    words = [place["rival"], place["method"], place["network"], *bits, str(place["seed"])]
    words += ["smoke"] if smoke else []
    command = [python_of(place["rival"]), "-W", "ignore", DRIVERS / "cell.py", *words]
    ours = os.pathsep.join(map(str, (ROOT / "src", ROOT / "benchmarks")))
    environment = os.environ | {"PYTHONPATH": ours} | ({"CHECKOUT": str(clone)} if clone else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print("failed:", *words, *done.stderr.strip().splitlines()[-3:], sep="\n  ", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(rows: Sequence[Mapping[str, str]], network: str) -> str:
    """A line a method, a column for each bits: SQNR in dB, agreement in percent and seconds, means over the seeds."""
    columns = [bits for bits in BITS if any(row["network"] == network and row["bits"] == bits for row in rows)]
    lines = [["method", *columns], ["---"] * (len(columns) + 1)]
    for rival, offered in RIVALS.items():
        for method in offered.methods:
            some = {"network": network, "rival": rival, "method": method}
            own = [row for row in rows if some.items() <= row.items()]
            if own:
                shown = (_shown([row for row in own if row["bits"] == bits]) for bits in columns)
                lines.append([f"{rival} {method}", *shown])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_tables(text: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A page with the table of each network that it marks, as in <!-- rivals lite0 -->."""
    mark = re.compile(r"<!-- rivals (\w+) -->\n.*?<!-- end -->", re.S)
    return mark.sub(lambda found: f"<!-- rivals {found[1]} -->\n{table(rows, found[1])}<!-- end -->", text)


def _shown(rows: Sequence[Mapping[str, str]]) -> str:
    names = ("sqnr_db", "agreement", "cpu_seconds")
    means = [statistics.mean(float(row[name]) for row in rows) for name in names] if rows else []
    return "{:.1f}, {:.1f}, {:.0f}".format(*means) if means else "-"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rivals", nargs="+", default=list(RIVALS), choices=RIVALS)
    arguments.add_argument("--methods", nargs="+", help="of these rivals; all of theirs")
    arguments.add_argument("--networks", nargs="+", default=list(MODELS), choices=[*MODELS, "lite0"])
    arguments.add_argument("--bits", nargs="+", default=list(BITS), choices=BITS)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments.add_argument(
        "--clones", nargs="+", default=[], metavar="RIVAL=FOLDER", help="of rivals without a package"
    )
    arguments.add_argument("--rows", type=Path, help="where they go: results/rivals.csv, of a smoke run outputs")
    arguments.add_argument("--smoke", action="store_true", help="only see that it runs: one network, few iterations")
    given = arguments.parse_args()
    if given.smoke:
        given.networks, given.bits, given.seeds = MODELS[:1], [SMOKE_BITS], [0]
    given.rows = given.rows or ROOT / ("outputs/rivals_smoke.csv" if given.smoke else "results/rivals.csv")
    clones = clones_of(given.clones)
    for rival in given.rivals:
        if RIVALS[rival].clone and rival not in clones:
            print(f"{rival} is left out: it runs from a clone of {RIVALS[rival].clone}, --clones {rival}=FOLDER")
    rivals = [each for each in given.rivals if each in clones or not RIVALS[each].clone]
    rows, failed = Rows(given.rows, KEYS), 0
    for network, seed, bits, rival in itertools.product(given.networks, given.seeds, given.bits, rivals):
        for method in RIVALS[rival].methods:
            place = dict(zip(KEYS, (network, bits, rival, method, seed), strict=True))
            offered = bits in RIVALS[rival].bits and network in RIVALS[rival].networks
            offered &= method in (given.methods or RIVALS[rival].methods)
            if place in rows or not offered:
                continue
            found = run(place, clones.get(rival), given.smoke)
            failed += found is None
            if found:
                rows.add(place | found | {"date": time.strftime("%Y-%m-%d", time.gmtime())})
    if not given.smoke and given.rows.exists():
        with given.rows.open() as file:
            PAGE.write_text(with_tables(PAGE.read_text(), list(csv.DictReader(file))))
    if failed:
        sys.exit(f"error: {failed} cells failed; the next call runs them again")


if __name__ == "__main__":
    main()
