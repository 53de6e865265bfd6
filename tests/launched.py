"""A task for launchers, in a module that other processes can import: what it does hangs on the seed."""

import os
import signal
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

FAILS, EXITS, DIES = 1, 2, 3


def task(cfg) -> None:
    if cfg.seed == FAILS:
        raise ValueError("one\nand a half")
    if cfg.seed == EXITS:
        raise SystemExit("error: two")
    if cfg.seed == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)  # for the other process to get its share
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "done").write_text(f"{cfg.seed} {os.getpid()} {os.environ['OMP_NUM_THREADS']}")
