"""The folder of a run on a command line."""

import sys

import pytest

from attnround.cli.recorded import start_on_run


def test_a_folder_may_be_called_as_hydra_calls_those_of_several_runs(tmp_path, monkeypatch):
    (tmp_path / "seed=0").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["verify", "seed=0"])
    with pytest.raises(SystemExit, match=r"error: seed=0/record\.json"):
        start_on_run(lambda: None)
