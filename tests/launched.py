"""A task for launchers, in a module that other processes can import: what it does hangs on the seed."""

import os
import signal
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

FAILS, EXITS, DIES = 1, 2, 3
MEET = (8, 9)  # each waits for the other to begin, which takes two processes at once


def task(cfg) -> None:
    if cfg.seed == FAILS:
        raise ValueError("one\nand a half")
    if cfg.seed == EXITS:
        raise SystemExit("error: two")
    if cfg.seed == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.seed in MEET:
        meet(cfg.seed, folder.parents[1])
    (folder / "done").write_text(f"{cfg.seed} {os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def meet(seed: int, folder: Path) -> None:
    """Leave a mark in the folder, and wait until the marks of all are there; half an hour is given up as a hang."""
    (folder / str(seed)).touch()
    for _ in range(90_000):
        if all((folder / str(each)).exists() for each in MEET):
            return
        time.sleep(0.02)
    raise TimeoutError(f"seed {seed} ran alone")
