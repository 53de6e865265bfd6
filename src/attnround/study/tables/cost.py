"""What a run will cost, by what runs like it did."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence

from attnround.experiment.identity import computing, leaves
from attnround.study.row import Row


class Cost:
    """Estimates the seconds of a run by those of the runs of its model that differ from it in the fewest options."""

    def __init__(self, rows: Iterable[Row]):
        self.known = defaultdict(lambda: defaultdict(list))  # model -> options, seed aside -> seconds of each such run
        for row in rows:
            if not row.error and "time/total_s" in row.metrics:
                options = _options(row.config)
                self.known[_model(options)][options].append(row.metrics["time/total_s"])

    def seconds(self, config: dict) -> float | None:
        """None where no run of its model is known. config: as written."""
        wanted = _options(computing(config))
        unlike = [(len(wanted ^ each), seconds) for each, seconds in self.known.get(_model(wanted), {}).items()]
        least = min((count for count, _ in unlike), default=None)
        near = [each for count, seconds in unlike if count == least for each in seconds]
        return sum(near) / len(near) if near else None

    def estimate(self, configs: Sequence[dict], workers: int) -> str:
        """`, about 12 minutes`, where so many run at a time, and how many are like nothing that was run yet."""
        seconds = [self.seconds(each) for each in configs]
        known = [each for each in seconds if each is not None]
        minutes = sum(known) / 60 / workers
        about = f", about {minutes:.0f} minutes" if minutes >= 1.5 else ", about a minute"
        text = about if known else ""
        return text + (f", {len(seconds) - len(known)} of unknown cost" if len(known) < len(seconds) else "")


def _options(config: dict) -> frozenset[tuple[str, str]]:
    """Option -> value, of all groups; the seed costs nothing."""
    return frozenset((key, json.dumps(value)) for key, value in leaves(config) if key != "seed")


def _model(options: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(each for each in options if each[0].startswith("model."))
