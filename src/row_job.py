"""A job of a table: one run, and the row that it leaves whatever happens."""

import contextlib
import json
import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from entry import carry_out, in_a_line, run_of

KEPT_FOR_RESUME = ("reconstruction.pt", "qat")  # a row that was not finished is run anew: so that its seconds are true


def leave_row(cfg: DictConfig, folder: str) -> None:
    """Run, and write the run's row into `folder`; where it fails, its error. What it prints goes into its own log."""
    import shutil

    from attnround.results.row import failed_row, row_of, write_row

    run = run_of(cfg)
    command = " ".join(["python src/train.py", *HydraConfig.get().overrides.task])
    try:
        with (run.output_dir / "stderr.log").open("w") as log, contextlib.redirect_stderr(log):  # no bars: no terminal
            carry_out(cfg, run)
        row = row_of(json.loads((run.output_dir / "record.json").read_text()), run.source, command)
    except Exception as error:  # whatever it is, the other rows go on
        logging.getLogger(__name__).exception("failed")
        row = failed_row(run, command, in_a_line(error) or type(error).__name__)
    write_row(row, Path(folder))
    for name in KEPT_FOR_RESUME:
        path = run.output_dir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
