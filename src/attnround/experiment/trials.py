"""The budgets that bits=auto has tried, kept on disk, so that a run which was killed tries none of them twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnround.errors import check_identity
from attnround.files import sealed_json, write_atomically
from attnround.typed import Percent, read_typed

GIVE = "remove it to start anew"
CONTENT = {"identity": str, "trials": [{"budget": float, "mean_bits": float, "agreement": Percent}]}


@dataclass(frozen=True)
class Trials:
    """The file, and the identity of the run that may go on from it: a hash of what decides its result."""

    path: Path
    identity: str

    def write(self, trials: Sequence[dict[str, float]]) -> None:
        """Keep all that were tried so far, in their order."""
        content = {"identity": self.identity, "trials": list(trials)}
        write_atomically(self.path, sealed_json(content, indent=2))

    def read(self) -> list[dict[str, float]]:
        """Those that were tried; none where there is no file yet.

        Raises InputError for a file that is damaged, of something else, or of a run with another config.
        """
        if not self.path.exists():
            return []
        content = read_typed(self.path, CONTENT, "list of budgets that were tried", GIVE)
        check_identity(self.path, content["identity"], self.identity)
        return content["trials"]
