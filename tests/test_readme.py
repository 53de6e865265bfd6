"""What the README tells a newcomer to type works, and the numbers it shows are those of committed rows."""

import csv
import re
import shlex

import pytest
from hydra import compose, initialize_config_dir

from attnround.study.tables.write import put_into
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python (src/train\.py (?:[^\n#]*\\\n)*[^\n#]*)", TEXT.replace("`", "\n"))))


@pytest.mark.parametrize("command", [each.strip() for each in COMMANDS])
def test_a_command_composes(command):
    overrides = [each for each in shlex.split(command.replace("\\\n", " "))[1:] if not each.startswith("-")]
    # a sweep's first choice stands for all: each option composes in tests/test_config.py
    first = [each if "=[" in each else each.split(",")[0] for each in overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("train", first)


def test_there_are_commands():
    assert len(COMMANDS) >= 8


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", TEXT)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_tables_in_the_readme_are_the_committed_ones():
    assert TEXT.count("<!-- table ") >= 1
    assert put_into(TEXT, ROOT / "results/tables") == TEXT


def test_the_readme_shows_the_committed_ratios_of_a_step():
    with (ROOT / "results/block_step.csv").open() as file:
        ratios = [float(row["ratio"]) for row in csv.DictReader(file)]
    assert f"{min(ratios):.2f} to\n{max(ratios):.2f} times a bare float step" in TEXT


SETTINGS = {
    "uniform": "uniform",
    "mixed, of the weights alone": "mixed eps=0.1 relative_to=rms",
    "mixed, as it is by default": "mixed eps=0.3 relative_to=fisher",
    "rate_distortion": "rate_distortion",
    "sensitivity": "sensitivity",
    "sensitivity, `measure=network`": "sensitivity measure=network",
    "fisher": "fisher",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_readme_shows_the_committed_allocators(name):
    (line,) = [
        each for each in TEXT.splitlines() if re.match(rf"\| {re.escape(name)}( \(.*\))? \|", each) and "dB" not in each
    ]
    with (ROOT / "results/allocation.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["budget"], row["seed"]) == ("2.5", "0")]
    cells = []
    for model in ("resnet18_slim", "mobilenetv2_050"):
        (row,) = [each for each in rows if (each["model"], each["allocator"]) == (model, SETTINGS[name])]
        cells += [f"{float(row['sqnr_db']):.1f}", f"{float(row['rank_correlation'] or 0):.2f}"]
    shown = [cell.strip() for cell in line.split("|")[2:-1]]
    assert [cell if cell != "-" else "0.00" for cell in shown] == cells


def test_the_default_convention_is_the_one_that_is_shown():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        bits = compose("train", ["bits=mixed"]).bits
    assert f"mixed eps={bits.eps} relative_to={bits.relative_to}" == SETTINGS["mixed, as it is by default"]


def test_the_readme_shows_the_committed_speed_of_allocation():
    with (ROOT / "results/allocation_speed.csv").open() as file:
        seconds = [f"{float(row['seconds']):.2f} s" for row in csv.DictReader(file)]
    assert all(each in TEXT for each in seconds)


def test_the_readme_shows_the_committed_costs():
    with (ROOT / "results/cost.csv").open() as file:
        for row in csv.DictReader(file):
            cost = f"| {float(row['time/total_s']):.0f} | {float(row['memory/peak_mib']) / 1024:.1f} GiB |"
            assert cost in TEXT


def test_files_that_are_linked_exist():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
