import dataclasses

import pytest

from attnround.experiment.record import Run

RUN = Run(task="quantize", choices={}, seed=0, resume=True, config={}, identity="it", output_dir=None, root=None)


@pytest.mark.parametrize("checkpoint", [None, "reconstruction.pt", "qat/last.ckpt"])
def test_a_run_goes_on_only_from_a_checkpoint(tmp_path, checkpoint):
    run = dataclasses.replace(RUN, output_dir=tmp_path)
    (tmp_path / "layers.csv").write_text("of a run that was killed early")
    (tmp_path / ".record.json.0.part").touch()
    if checkpoint:
        (tmp_path / checkpoint).parent.mkdir(exist_ok=True)
        (tmp_path / checkpoint).touch()
    assert run.goes_on == bool(checkpoint)
    run.clear()
    assert (tmp_path / "layers.csv").exists() == bool(checkpoint)
    assert not list(tmp_path.glob(".*.part"))
    assert not dataclasses.replace(run, resume=False).goes_on


def test_what_no_run_wrote_and_what_this_one_reads_stays(tmp_path):
    left = {"record.json", "quantized.onnx", "verify_CPU.json", "qat/last.ckpt"}
    others = {"model.safetensors", "quantized.py", "verify.py", "qat/mine.py", "allocation.json"}
    (tmp_path / "qat").mkdir()
    for name in left | others:
        (tmp_path / name).touch()
    config = {"bits": {"path": str(tmp_path / "allocation.json")}}
    dataclasses.replace(RUN, resume=False, config=config, output_dir=tmp_path).clear()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == others
