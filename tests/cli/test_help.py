"""What `--help` says, and that there is something to say of every option."""

import sys

import pytest
from tests.conftest import ROOT

from attnround.cli import evaluate, export, sweep, tables, train, verify
from attnround.cli.options import choices_of, description, groups_of, options_of, options_of_entry

ENTRIES = {each.__name__.rpartition(".")[2]: each for each in (evaluate, export, sweep, tables, train, verify)}
CONF = ROOT / "conf"
CHOICES = [(group, choice) for group in groups_of("train") for choice in choices_of(group)]
TOP = [each.stem for each in sorted(CONF.glob("*.yaml"))]


@pytest.fixture
def helped(monkeypatch, capsys):
    """What an entry prints with these words."""

    def run(line: str) -> str:
        entry, *words = line.split(" ")
        monkeypatch.setattr(sys, "argv", [f"src/{entry}.py", *words])
        ENTRIES[entry].main()
        return capsys.readouterr().out

    return run


def test_every_folder_of_conf_is_a_group():
    folders = {each.name for each in CONF.iterdir() if each.is_dir()}
    assert folders - {"hydra", "table"} == set(groups_of("train"))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_option_of_a_choice_says_what_it_is(group, choice):
    assert description(group, choice)
    assert len(description(group, choice)) <= 120
    assert [each.name for each in options_of(group, choice).values() if not each.meaning] == []


@pytest.mark.parametrize("entry", TOP)
def test_every_option_of_an_entry_says_what_it_is(entry):
    assert [each.name for each in options_of_entry(entry).values() if not each.meaning] == []


def test_lines_of_conf_are_not_longer_than_those_of_code():
    files = [each for each in CONF.rglob("*.yaml") if "table" not in each.parts]
    assert [each for each in files if max(map(len, each.read_text().splitlines())) > 120] == []


@pytest.mark.parametrize("entry", ["train", "evaluate", "verify", "export", "tables"])
def test_an_entry_lists_its_groups_and_options(helped, entry):
    text = helped(f"{entry} --help")
    assert text.startswith(ENTRIES[entry].__doc__.strip())
    lines = text.splitlines()
    for group, chosen in groups_of(entry).items():
        for choice in choices_of(group):
            (line,) = [each for each in lines if f" {choice} " in each and each.endswith(description(group, choice))]
            assert ("* " in line[:20]) == (choice in chosen.strip("[]").split(",")), line
    for option in options_of_entry(entry).values():
        assert f"{option.name} {option.default} {option.meaning}".split() in [each.split() for each in lines]
    assert helped(f"{entry} -h") == text


def test_a_choice_lists_its_options_a_line_each(helped):
    text = helped("train --help quantizer=attention_round bits=uniform bits.bit_width=3")
    lines = text.splitlines()
    assert lines[0] == "quantizer=attention_round"
    assert lines[1].startswith("Attention Round, arXiv 2207.03088")
    assert "  quantizer.sigma_end  0.1       width at the end, in quantization steps" in text
    assert [each.split()[0] for each in lines if each.startswith("  bits.")] == [
        f"bits.{each}" for each in ("bit_width", "budget", "unit", "candidates", "pinned", "groups")
    ]


def test_what_a_choice_has_from_other_files_is_listed_too(helped):
    assert "data.num_calibration  1024" in helped("evaluate data=fashion_mnist_full --help")
    text = helped("train --help reconstruction=layer_then_block")
    assert "reconstruction.layer_first.ridge" in text
    assert "reconstruction.layer_first " not in text
    assert "bits.allocator.budget" in helped("train --help bits=auto")


def test_an_experiment_lists_what_it_chooses_and_sets(helped):
    text = helped("train --help experiment=recipe_qdrop")
    assert "chooses quantizer=adaround bits=uniform activation=lsq reconstruction=block and sets" in text
    (drop,) = [each for each in text.splitlines() if each.startswith("  activation.drop ")]
    assert drop.split()[1:3] == ["0.5", "probability"]  # the meaning is that of conf/activation/lsq.yaml


def test_a_group_lists_all_its_choices(helped):
    text = helped("train --help qat")
    assert text.startswith("qat=lsq\n")
    assert "\n\nqat=none\n" in text
    assert text.endswith("It has no options.\n")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train --help quantizer=adaroundd", "error: quantizer=adaroundd: give adaround"),
        ("train --help quantiser", "error: quantiser: there is no group quantiser: give quantizer"),
        (
            "evaluate --help bits=mixed",
            "error: bits=mixed: there is no group bits: give data or trainer or paths or model",
        ),
    ],
)
def test_help_on_what_is_not_there(helped, line, wanted):
    with pytest.raises(SystemExit) as stopped:
        helped(line)
    assert stopped.value.code == wanted


def test_the_words_that_an_entry_takes_are_passed_over(helped):
    assert helped(f"verify --help {ROOT}") == helped("verify --help")
    assert helped(f"sweep {ROOT / 'sweeps/sigma.yaml'} --help").startswith("Run a W&B sweep file")
