"""Lists of runs as processes: these are real; the entry is a script that does as its overrides say."""

import json
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
from tests.study.test_row import row

from attnround.cli.rows import run_rows
from attnround.errors import InputError
from attnround.study import runner
from attnround.study.claims import Claims
from attnround.study.runner import BEGUN, Planned, Workers, run_all
from attnround.study.tables.cost import Cost

ENTRY = """
import json, os, pathlib, signal, sys, time
kind, place = sys.argv[1], pathlib.Path(sys.argv[2])
if kind == "fails":
    sys.exit("a warning\\nerror: one and a half")
if kind.startswith("dies"):
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "raises":
    raise ValueError("one line\\nand another")
if kind == "silent":
    sys.exit(3)
if kind.startswith("meets"):  # each waits for the other to begin, which takes two processes at once
    (place.parent / kind).touch()
    for _ in range(90_000):
        if len(list(place.parent.glob("meets?"))) == 2:
            break
        time.sleep(0.02)
(place / "qat").mkdir()
(place / "reconstruction.pt").touch()
record = {"config_hash": place.name.split("-")[0], "choices": {}, "seed": 0, "date": ""}
record |= {"num_threads": int(os.environ["OMP_NUM_THREADS"]), "metrics": {"quantized/top1": 90.0}, "device": "cpu"}
record |= {"evaluation": {"correct": {}}, "processor": str(os.getpid()), "git_revision": "", "versions": {}}
(place / "record.json").write_text(json.dumps(record))
"""


def folder_of(kind: str, runs: Path) -> Path:
    (found,) = runs.glob(f"{kind}-*")
    return found


def planned(kind: str) -> Planned:
    return Planned("table", (kind,), kind, {"seed": 0, "paths": {}}, {})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run these kinds; kind -> its row."""
    (tmp_path / "entry.py").write_text(ENTRY)
    monkeypatch.setattr(
        runner, "command", lambda overrides, place: [sys.executable, str(tmp_path / "entry.py"), *overrides, str(place)]
    )

    def run(kinds, workers=Workers()):  # noqa: B008
        rows = []
        run_all(map(planned, kinds), tmp_path / "runs", workers, rows.append, root=tmp_path)
        return dict(zip([row.command.rsplit(" ", 1)[-1] for row in rows], rows, strict=True))

    return run


ALL = ["one", "fails", "dies", "silent", "raises", "two"]


@pytest.mark.parametrize("workers", [Workers(), Workers(2)], ids=["one after another", "two at a time"])
def test_a_run_that_fails_or_dies_stops_no_other(run, workers, tmp_path):
    rows = run(ALL, workers)
    assert {kind for kind, row in rows.items() if row.error is None} == {"one", "two"}
    assert rows["fails"].error == "one and a half"
    assert rows["raises"].error == "ValueError: one line"
    assert rows["dies"].error.startswith("its process died (SIGKILL), for want of memory perhaps: ")
    assert rows["silent"].error.startswith("exit status 3 without a word")
    assert [each.name for each in folder_of("one", tmp_path / "runs").iterdir() if each.suffix != ".log"] == [
        "record.json"
    ]


def test_the_exit_status_of_each_is_its_own(run, monkeypatch):
    read = forkserver.read_signed

    def slowly(sentinel):  # while one thread reads the status of a process, the other starts its next one
        time.sleep(0.1)
        return read(sentinel)

    monkeypatch.setattr(forkserver, "read_signed", slowly)
    rows = run([f"dies{number}" for number in range(8)], Workers(2))
    assert all("SIGKILL" in row.error for row in rows.values())


def test_two_processes_share_the_machine(run, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(runner, "num_cores", lambda: 6)
    rows = run(["meets1", "meets2"], Workers(2))
    assert {row.num_threads for row in rows.values()} == {3}
    assert len({row.device for row in rows.values()}) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run(["three"])["three"].num_threads == 1


def test_what_ended_while_nobody_waited_is_not_run_again(run, tmp_path):
    first = run(["one"])["one"].device
    assert run(["one"])["one"].device != first  # its row was written: who asks again wants it anew
    place = folder_of("one", tmp_path / "runs")  # the earlier one is gone
    last = json.loads((place / "record.json").read_text())["processor"]
    orphan = place.with_name("one-elsewhere-1")
    place.rename(orphan)
    (orphan / BEGUN).touch()  # as a killed parent leaves it
    assert run(["one"])["one"].device == last
    assert not (orphan / BEGUN).exists()
    (orphan / BEGUN).touch()
    ended = (orphan / "record.json").read_text()
    (orphan / "record.json").write_text(json.dumps(json.loads(ended) | {"sources": {"bits.path": "another file's"}}))
    assert run(["one"])["one"].device != last  # of a file that has changed since
    (orphan / "record.json").write_text("{")  # a run that was killed as well, or is still at work
    assert run(["one"])["one"].device != last
    assert orphan.exists()


def test_what_another_process_has_made_by_now_is_not_run(tmp_path, run):
    first, rows = run(["one"])["one"], []
    run_all([planned("two")], tmp_path / "runs", Workers(), rows.append, elsewhere=lambda each: first)
    assert rows == [first]
    assert not list((tmp_path / "runs").glob("two-*"))


def test_what_another_process_is_at_work_on_is_run_behind_all_others(tmp_path, run):
    first, rows, asked = run(["one"])["one"], [], []

    def claim(each):
        asked.append(each.config_hash)
        return each.config_hash == "two"

    def elsewhere(each):  # the other process has made it meanwhile
        return first if each.config_hash == "one" and len(asked) > 3 else None

    kinds = map(planned, ["one", "fails", "two"])
    run_all(kinds, tmp_path / "runs", Workers(), rows.append, elsewhere=elsewhere, claim=claim, root=tmp_path)
    assert asked == ["one", "fails", "two", "one", "fails"]
    assert sorted(row.command.rsplit(" ", 1)[-1] for row in rows) == ["fails", "one", "two"]
    assert any(row is first for row in rows)


def test_a_claim_is_one_processs_until_its_row_is_written_or_it_dies(tmp_path):
    ours = Claims(tmp_path)
    words = "import sys, pathlib; from attnround.study.claims import Claims; claims = Claims(pathlib.Path(sys.argv[1]))"
    words += "; print(claims.take('b'), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", words, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        assert (ours.take("a"), ours.take("b")) == (True, False)
        assert not Claims(tmp_path).take("a")
        ours.leave("a")
        assert Claims(tmp_path).take("a")
        other.kill()
    assert ours.take("b")
    ours.close()
    assert not (tmp_path / ".b.claim").exists()


def test_rows_of_a_table_are_claimed_until_they_are_written(tmp_path, monkeypatch):
    each, found = planned("one"), row(config_hash="one")

    def run_all(runs, outputs, workers, write, logged, elsewhere, claim, root):
        assert claim(each)
        assert not Claims(tmp_path).take("one")
        write(found)
        assert not list(tmp_path.glob(".*"))

    monkeypatch.setattr(runner, "run_all", run_all)
    run_rows({"one": each}, tmp_path, tmp_path, Cost([]), Workers())
    assert (tmp_path / "one.json").exists()


def test_no_runs_start_nothing(run):
    assert run([]) == {}


@pytest.mark.slow
def test_submitit_on_this_machine(run):
    rows = run(ALL, Workers(cluster="local", parameters={"timeout_min": 5}))
    assert {kind for kind, row in rows.items() if row.error is None} == {"one", "two"}
    assert rows["fails"].error == "one and a half"
    assert "SIGKILL" in rows["dies"].error


def test_submitits_own_error_is_one_line(run):
    with pytest.raises(InputError, match="submitit, cluster local: "):
        run(["one"], Workers(cluster="local", parameters={"timeout_minutes": 5}))


def test_the_command_is_the_ordinary_entry(tmp_path):
    words = runner.command(["quantizer=gptq"], tmp_path / "it's, a = place")
    assert words[:5] == [sys.executable, "-m", "attnround.cli", "train", "quantizer=gptq"]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides(words[5:])
    assert Path(override.value()) == tmp_path / "it's, a = place"
