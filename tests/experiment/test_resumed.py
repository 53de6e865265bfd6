import dataclasses

import pytest

from attnround.experiment.record import Run

RUN = Run(task="quantize", choices={}, seed=0, resume=True, config={}, identity="it", output_dir=None, root=None)


@pytest.mark.parametrize("checkpoint", [None, "reconstruction.pt", "qat"])
def test_a_run_goes_on_only_from_a_checkpoint(tmp_path, checkpoint):
    run = dataclasses.replace(RUN, output_dir=tmp_path)
    (tmp_path / "layers.csv").write_text("of a run that was killed early")
    (tmp_path / ".record.json.0.part").touch()
    if checkpoint:
        (tmp_path / checkpoint).mkdir()
    assert run.goes_on == bool(checkpoint)
    run.clear()
    assert (tmp_path / "layers.csv").exists() == bool(checkpoint)
    assert not list(tmp_path.glob(".*.part"))
    assert not dataclasses.replace(run, resume=False).goes_on
