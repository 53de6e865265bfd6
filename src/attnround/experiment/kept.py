"""What a run left in its folder to go on from, and whether it is this run that may."""

from pathlib import Path

from attnround.experiment.trials import Trials


def check_kept(folder: Path, identity: str) -> None:
    """Raise InputError where a file of them is damaged, or of another run than this identity says."""
    from attnround.reconstruction import Checkpoint

    Trials(folder / "trials.json", identity).read()
    Checkpoint(folder / "reconstruction.pt", identity).read()
    if (folder / "qat/last.ckpt").exists():
        from attnround.qat.run import read  # needs Lightning

        read(folder / "qat/last.ckpt", identity)
