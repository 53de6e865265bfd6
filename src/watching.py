"""How far a list of rows is, by the files that they leave."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnround.results.tables.cost import Cost
    from rows import Planned

POLL_S = 0.5


@contextmanager
def progress(runs: Mapping[str, "Planned"], folder: Path, cost: "Cost") -> Iterator[None]:
    """Say what was run, and how long the rest may take: a bar in a terminal, else a line a row.

    It watches the folder of the rows, so it is the same whoever runs them, and wherever.
    """
    import threading
    import time

    from tqdm import tqdm

    paths = {each: folder / f"{each}.json" for each in runs}
    before = {each: path.stat().st_mtime_ns if path.exists() else 0 for each, path in paths.items()}
    costs = {each: cost.seconds(run.source) or 60.0 for each, run in runs.items()}
    left, over, begun = dict(costs), threading.Event(), time.monotonic()
    silent = not sys.stderr.isatty()
    bar = tqdm(
        total=len(runs), unit="row", disable=silent, bar_format="{l_bar}{bar}| {n}/{total} rows {elapsed}{postfix}"
    )

    def look() -> None:
        for each in [each for each in left if paths[each].exists() and paths[each].stat().st_mtime_ns != before[each]]:
            del left[each]
            done = sum(costs.values()) - sum(left.values())
            minutes = (time.monotonic() - begun) / done * sum(left.values()) / 60
            bar.set_postfix_str(f"about {minutes:.0f} min left", refresh=False)
            bar.update()
            if silent:
                count, said = len(runs) - len(left), " ".join(runs[each].overrides)
                print(f"{count}/{len(runs)}  {said}  about {minutes:.0f} min left", flush=True)

    def watch() -> None:
        while not over.wait(POLL_S):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        look()
        bar.close()
