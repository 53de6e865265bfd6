"""Which rows this process is at work on, so that another one that shares their folder begins with others."""

import contextlib
from pathlib import Path

from attnround.files import locked


class Claims:
    """A file beside the rows for each that this process is at work on: locked, so that it bars nothing once it died."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.held: dict[str, contextlib.ExitStack] = {}  # config hash -> its lock

    def take(self, config_hash: str) -> bool:
        """Claim a row; False where another process has. A disk that knows no locks lets all have it."""
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(locked(self._path(config_hash), wait=False))
            except BlockingIOError:
                return False
            except OSError:
                return True
            self.held[config_hash] = lock.pop_all()
        return True

    def leave(self, config_hash: str) -> None:
        """Its row is written, or will not be."""
        lock = self.held.pop(config_hash, None)
        if lock:
            self._path(config_hash).unlink(missing_ok=True)
            lock.close()

    def close(self) -> None:
        """Whatever is still claimed is run no more."""
        for each in list(self.held):
            self.leave(each)

    def _path(self, config_hash: str) -> Path:
        return self.folder / f".{config_hash}.claim"
