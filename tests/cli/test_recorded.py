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


@pytest.mark.parametrize(("takes", "said"), [((), ""), ((".onnx", ".xml"), ", or a file that ends in .onnx or .xml")])
def test_a_file_in_the_folders_place_is_told_what_is_taken(tmp_path, monkeypatch, takes, said):
    (tmp_path / "quantized.pt2").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["verify", "quantized.pt2"])
    with pytest.raises(SystemExit, match=rf"quantized\.pt2 is a file: give the folder of a finished run{said}$"):
        start_on_run(lambda: None, takes)
