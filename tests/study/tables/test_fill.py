import csv
import io
import math
import re
from dataclasses import replace

import pytest
from tests.study.tables.made_up import GRID, make_cells, make_row

from attnround.study.tables.fill import fill, number
from attnround.study.tables.formats import csv as csv_of
from attnround.study.tables.formats import in_latex, latex, markdown, markdown_lines
from attnround.study.tables.grid import Cell, Grid
from attnround.study.tables.published import Published
from attnround.study.tables.table import Entry, Table, json_lines, read_table

FIRST = {"model": "resnet18", "weights": "W4", "method": "nearest"}


@pytest.fixture
def grid() -> Grid:
    return GRID


@pytest.fixture
def cells() -> list[Cell]:
    return make_cells()


def lines_of(table: Table) -> list[list[str]]:
    """The texts of the Markdown table below its header."""
    return [re.split(r" (?<!\\)\| ", line[2:-2]) for line in markdown_lines(table).splitlines()[2:]]


def changed(cells, index, **changes):
    """The cells, with the last row of one of them changed."""
    cell = cells[index]
    return [*cells[:index], Cell(cell.place, (*cell.rows[:-1], replace(cell.rows[-1], **changes))), *cells[index + 1 :]]


def test_a_line_a_cell_in_the_grids_order(grid, cells):
    table = fill(grid, cells)
    lines = lines_of(table)
    assert [tuple(line[:3]) for line in lines] == [tuple(cell.place.values()) for cell in cells]
    assert {len(line) for line in lines} == {len(table.header)} == {3 + 1 + len(grid.columns)}
    top1 = [row.metrics["quantized/top1"] for row in cells[1].rows]
    assert lines[1][4].startswith(f"{sum(top1) / 3:.2f} ± ")
    assert lines[1][-4:] == ["0.343", "11.8 ± 1.0", "0", "1024"]
    assert [line[6] for line in lines[:3]][2] == "reference"


def test_without_labels_top1_is_a_dash(grid, cells):
    kept = [name for name in cells[0].rows[0].metrics if not name.endswith("top1")]
    unlabelled = [
        Cell(
            cell.place, tuple(replace(row, metrics={k: row.metrics[k] for k in kept}, correct={}) for row in cell.rows)
        )
        for cell in cells
    ]
    lines = lines_of(fill(grid, unlabelled))
    assert {tuple(line[4:6]) for line in lines} == {("-", "-")}
    assert {line[6] for line in lines} == {"-", "reference"}
    assert all(line[8] != "-" for line in lines)  # the agreement


def test_the_difference_is_minus_the_reference_with_its_interval(grid, cells):
    text = lines_of(fill(grid, cells))[0][6]
    mean, low, high = map(float, re.fullmatch(r"(-\d+\.\d\d) \[(-\d+\.\d\d), (-\d+\.\d\d)\]", text).groups())
    assert low < mean < high < 0
    assert mean == pytest.approx(-18, abs=0.3)


def test_a_percentage_of_the_images_has_an_interval_on_request(grid, cells):
    grid = replace(grid, columns=("top1", "top1_interval", "agreement_interval"))
    unlabelled = Cell(cells[1].place, tuple(replace(row, correct={}) for row in cells[1].rows))
    table = fill(grid, [cells[0], unlabelled])
    assert table.header[-2:] == ["top-1, 95 %", "agreement, 95 %"]
    lines = lines_of(table)
    # scipy.stats.binomtest(320, 400).proportion_ci(method="wilson"); the mean is within 0.3 points of 80 %
    assert [float(each) for each in lines[0][5].split(" to ")] == pytest.approx([75.8, 83.6], abs=0.35)
    assert lines[0][5] == lines[0][6]
    assert lines[1][5:] == ["-", "-"]
    assert any("(Wilson)" in note for note in table.notes)


def test_only_what_beats_every_other_is_bold(grid, cells):
    lines = lines_of(fill(grid, cells))
    assert [line[4].startswith("**") for line in lines[:3]] == [False, False, True]
    assert [line[9].startswith("**") for line in lines[:3]] == [False, False, True]
    close = [cell if i != 1 else replace(cells[2], place=cell.place) for i, cell in enumerate(cells)]
    lines = lines_of(fill(grid, close))
    assert not any(line[4].startswith("**") or line[9].startswith("**") for line in lines[:3])
    assert lines[5][4].startswith("**")


@pytest.mark.parametrize("rows", [(), (make_row(FIRST, 0, error="out of memory", metrics={}, correct={}),)])
def test_a_rival_without_a_result_leaves_nobody_the_best(grid, cells, rows):
    assert "**" not in "".join(lines_of(fill(grid, [Cell(FIRST, rows), *cells[1:3]]))[2])


def test_one_seed_has_no_spread_and_says_what_its_interval_is(grid, cells):
    table = fill(replace(grid, seeds=(0,)), [Cell(cell.place, cell.rows[:1]) for cell in cells])
    line = lines_of(table)[0]
    assert line[3] == "1"
    assert "±" not in line[4]
    assert re.fullmatch(r"-\d+\.\d\d \[.*\] ¹", line[6])
    assert "each paired 95 % interval above 0, of other images alone where there is one seed." in " ".join(table.notes)
    assert re.fullmatch(r"-\d+\.\d\d ¹", line[7])
    assert any("¹ one seed" in note for note in table.notes)
    assert "¹" not in markdown(fill(grid, cells))


def test_a_difference_over_fewer_seeds_than_its_line_is_marked(grid, cells):
    for count, mark in ((2, "²"), (1, "¹ ²")):
        table = fill(grid, [*cells[:2], Cell(cells[2].place, cells[2].rows[:count]), *cells[3:]])
        line = table.lines[0].entries
        assert (line[3].text, line[6].mark, line[7].mark) == ("3", mark, mark)
        assert " ² over fewer seeds than the line has: those that Attention Round has too." in " ".join(table.notes)
        assert "$^2$" in latex(table)
    assert "²" not in markdown(fill(grid, cells))


def test_a_difference_that_is_no_number_is_a_dash(grid, cells):
    metrics = cells[0].rows[-1].metrics | {"quantized/sqnr_db": math.nan}
    table = fill(grid, changed(cells, 0, metrics=metrics))
    assert lines_of(table)[0][7] == "-"
    assert table.lines[0].entries[7].fields["difference_db_mean"] is None
    assert lines_of(table)[1][7] != "-"


@pytest.mark.parametrize(("left_out", "unsaid"), [("difference", "of top-1"), ("difference_db", "SQNR")])
def test_a_difference_that_is_not_shown_is_not_explained(grid, cells, left_out, unsaid):
    both = " ".join(fill(grid, cells).notes)
    shown = replace(grid, columns=tuple(name for name in grid.columns if name != left_out))
    one = " ".join(fill(shown, cells).notes)
    assert unsaid in both
    assert unsaid not in one
    first = fill(replace(shown, seeds=(0,)), [Cell(cell.place, cell.rows[:1]) for cell in cells])
    assert "¹ one seed" in " ".join(first.notes)
    assert unsaid not in " ".join(first.notes)


def test_what_failed_stands_in_its_place(grid, cells):
    error = "seed 2 fell | over * and said _" + "so " * 30
    partly = fill(grid, changed(cells, 0, error=error, metrics={}, correct={}))
    assert lines_of(partly)[0][3] == "2 of 3 ‡"
    assert partly.notes[-1] == f"‡ failed: resnet18, W4, nearest, seed 2: {error}"
    wholly = fill(grid, [Cell(FIRST, (make_row(FIRST, 0, error=error, metrics={}, correct={}),)), *cells[1:]])
    line = lines_of(wholly)[0]
    assert line[3] == "0 of 3 ‡"
    assert line[4].startswith(r"failed: seed 2 fell \| over \* and said")
    assert line[4].endswith("…")
    assert set(line[5:]) == {"-"}
    assert wholly.lines[0].about["error"] == error


def test_what_never_ran_is_a_dash(grid, cells):
    table = fill(grid, [Cell(FIRST, ()), *cells[1:]])
    assert set(lines_of(table)[0][3:]) == {"-"}
    nothing = fill(grid, [Cell(cell.place, ()) for cell in cells])
    assert nothing.notes == ["No row yet."]
    assert csv_of(nothing).count("\n") == 1 + len(cells)
    assert latex(nothing)


def test_provenance_stands_below(grid, cells):
    text = markdown(fill(grid, [*cells, cells[0]]))  # a row that stands twice counts once
    assert "`make tables TABLE=rounding` makes this table" in text
    assert "36 rows, 36 min of runs in all, 2026-01-02, on AMD EPYC, 2 cores, 1 thread." in text
    assert "- Revision abc123." in text
    assert "FP32 top-1 %: resnet18 99.00, small_net 99.00." in text
    assert "†" not in text


def test_the_minority_of_revisions_is_marked(grid, cells):
    table = fill(grid, changed(cells, 4, git_revision="def456+", device="H200", num_threads=8))
    assert [i for i, line in enumerate(lines_of(table)) if "†" in line[3]] == [4]
    text = markdown(table)
    assert (
        "More than one revision: abc123 (35 rows), def456+ (1 row); lines with rows of the latter are marked †" in text
    )
    assert "not committed" in text
    assert "AMD EPYC, 2 cores, 1 thread; H200, 8 threads" in text


def test_failed_rows_are_no_rows_of_the_note(grid, cells):
    """They have no threads, and their revision is of no number."""
    fails = {"error": "no", "metrics": {}, "correct": {}, "num_threads": 0, "git_revision": "later", "date": "2027"}
    failed = [Cell(cell.place, tuple(replace(row, **fails) for row in cell.rows)) for cell in cells]
    table = fill(grid, [*cells[:2], *failed[2:]])
    assert table.notes[0].startswith("6 rows, ")
    assert table.notes[0].endswith(" 2026-01-02, on AMD EPYC, 2 cores, 1 thread.")
    assert table.notes[1] == "Revision abc123."
    assert "†" not in markdown(table)
    assert [line.about["num_threads"] for line in table.lines[:3]] == ["1", "1", ""]
    notes = fill(grid, failed).notes
    assert notes[0] == "Every row failed."
    assert len([note for note in notes if note.startswith("‡ failed: ")]) == 36


def test_csv_holds_plain_numbers(grid, cells):
    rows = list(csv.DictReader(io.StringIO(csv_of(fill(grid, cells)))))
    assert len(rows) == len(cells)
    for row in rows:
        float(row["top1_mean"]), float(row["top1_std"]), float(row["seconds_std"])
        assert row["git_revision"] == "abc123"
        assert len(row["config_hashes"].split()) == 3
        assert row["command"] == "make tables TABLE=rounding"
    assert float(rows[0]["difference_low"]) < float(rows[0]["difference_mean"]) < float(rows[0]["difference_high"])
    assert rows[2]["difference_mean"] == ""
    assert rows[2]["best"] == "sqnr_db top1"
    assert rows[0]["images_mean"] == "1024"


def test_fine_tuning_shows_its_labels_and_its_seconds(grid, cells):
    more = cells[0].rows[-1].metrics | {"qat/labels": 10_000, "time/qat_s": 100.0}
    cell = Cell(cells[0].place, tuple(replace(row, metrics=row.metrics | more) for row in cells[0].rows))
    assert lines_of(fill(grid, [cell, *cells[1:]]))[0][-3:] == ["112.8 ± 0.0", "10000", "1024"]


def test_published_numbers_stand_below_their_model_and_bits(grid, cells):
    published = [
        Published("BRECQ", "ptq", 2, 32, None, "ResNet-18", 66.33, None, "BRECQ README"),
        Published("LSQ", "qat", 2, 32, None, "ResNet-18", 66.31, 70.0, "LSQ's page"),
        Published("AdaRound", "ptq", 2, 4, None, "ResNet-18", 62.31, 71.06, "MQBench"),
        Published("MQBench", "fp32", 32, 32, None, "ResNet-18", 71.06, 71.06, "MQBench"),
        Published("MQBench", "fp32", 32, 32, None, "ResNet-50", 76.63, 76.63, "MQBench"),
    ]
    table = fill(grid, cells, published, "make tables TABLE=rounding DATA=imagenet")
    lines = lines_of(table)
    assert lines[6][:6] == ["resnet18", "W2", "BRECQ (published PTQ, BRECQ README)", "-", "66.33", "-"]
    assert lines[7][:6] == ["resnet18", "W2", "LSQ (published QAT, LSQ's page)", "-", "66.31", "3.69"]
    assert set(lines[7][6:]) == {"-"}
    assert len(lines) == len(cells) + 2
    assert "ResNet-18 71.06 (MQBench)." in table.notes[-1]
    rows = list(csv.DictReader(io.StringIO(csv_of(table))))
    assert [row["published"] for row in rows if row["published"]] == ["BRECQ README", "LSQ's page"]
    assert "`make tables TABLE=rounding DATA=imagenet`" in markdown(table)


def test_published_numbers_stay_away_where_bits_are_what_is_compared(grid, cells):
    published = [
        Published("BRECQ", "ptq", 2, 32, None, "ResNet-18", 66.33, None, "BRECQ README"),
        Published("MQBench", "fp32", 32, 32, None, "ResNet-18", 71.06, 71.06, "MQBench"),
    ]
    table = fill(replace(grid, compare="weights", reference="W4"), cells, published)
    assert len(table.lines) == len(cells)
    assert "MQBench" not in markdown(table)


def test_without_reference_there_are_no_differences_but_still_a_best(grid, cells):
    lines = lines_of(fill(replace(grid, reference=None, columns=("top1", "seconds")), cells))
    assert [line[4].startswith("**") for line in lines[:3]] == [False, False, True]


def test_latex_is_well_formed(grid, cells):
    error = r"50% of {all} $x_1$ & #2 \o/ ~ ^ [a] | <b>"
    text = latex(fill(grid, changed(cells, 0, error=error, metrics={}, correct={})))
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    unescaped = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert "%" not in unescaped
    assert "#" not in unescaped
    assert "^" not in unescaped.replace("$^1$", "")
    assert unescaped.count("$") % 2 == 0
    assert unescaped.count("{") == unescaped.count("}")
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 1 + len(cells)
    columns = len(re.search(r"\\begin{tabular}{(l+r+)}", text)[1])
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}
    assert all(ord(letter) < 128 for letter in text)
    assert r"\textbf{" in text
    assert r"small\_net" in text
    assert "$-$18" in text


def test_the_same_rows_give_the_same_bytes(grid, cells):
    one, other = (fill(grid, list(cells)) for _ in range(2))
    assert (markdown(one), csv_of(one), latex(one)) == (markdown(other), csv_of(other), latex(other))
    shuffled = [Cell(cell.place, cell.rows[::-1]) for cell in cells]
    assert lines_of(fill(grid, shuffled)) == lines_of(one)


def test_a_program_reads_what_was_written(grid, cells, tmp_path):
    failed = changed(cells, 0, error="a\nb | \u2028 <c>", metrics={"x": float("inf")}, correct={})
    table = replace(fill(grid, failed), pictures={"rounding_sqnr": "SQNR"})
    table.lines[1].entries[0] = Entry("NaN", fields={"method": "nearest"})  # a label may be the word
    (tmp_path / "rounding.jsonl").write_text(json_lines(table))
    assert read_table(tmp_path / "rounding.jsonl") == table


def test_an_entry_holds_its_numbers(grid, cells):
    entries = fill(grid, cells).lines[0].entries
    top1, difference = entries[4], entries[6]
    assert set(top1.fields) == {"top1_mean", "top1_std"}
    assert f"{top1.value:.2f} ± {top1.fields['top1_std']:.2f}" == top1.shown
    bounds = [f"{difference.fields[f'difference_{end}']:+.2f}" for end in ("low", "high")]
    assert f"{difference.value:+.2f} [{', '.join(bounds)}]" == difference.shown
    assert [entry.value for entry in entries[:4]] == [None, None, None, 3]


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0000004, 93.1234567, -1e-9, 12345678.9, float("inf")])
def test_a_number_has_no_digit_that_another_version_of_scipy_changes(value):
    assert number(value) == number(value * (1 + 1e-9) + 1e-11) == pytest.approx(value, rel=5e-6, abs=5e-7)
    assert len(f"{number(value):.6g}".strip("-").replace(".", "")) <= 6 or value > 1e6
    assert str(number(0.0 * value)) in ("0.0", "nan")


@pytest.mark.parametrize(
    ("text", "printed"), [("a--b---c", "a-{}-b-{}-{}-c"), ("-1 - -2", "$-$1 - $-$2"), ("A-1", "A-1")]
)
def test_latex_makes_neither_dashes_nor_hyphens_of_minus_signs(text, printed):
    assert in_latex(text) == printed
