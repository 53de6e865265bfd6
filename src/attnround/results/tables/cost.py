"""What a run will cost, by what runs like it did."""

from collections.abc import Iterable, Sequence

from attnround.results.row import Row


class Cost:
    """Estimates the seconds of a run by the rows of the runs of its model that are most alike in their overrides."""

    def __init__(self, rows: Iterable[Row]):
        self.known = [(_said(row.command.split()), row.metrics["time/total_s"]) for row in rows if not row.error]

    def seconds(self, overrides: Sequence[str]) -> float | None:
        """None where no run of its model is known."""
        wanted = _said(overrides)
        unlike = [(len(wanted ^ said), seconds) for said, seconds in self.known if _model(said) == _model(wanted)]
        least = min((count for count, _ in unlike), default=None)
        near = [seconds for count, seconds in unlike if count == least]
        return sum(near) / len(near) if near else None

    def told(self, jobs: Sequence[Sequence[str]], workers: int) -> str:
        """`, about 12 minutes`, where so many run at a time, and how many are like nothing that was run yet."""
        seconds = [self.seconds(overrides) for overrides in jobs]
        known = [each for each in seconds if each is not None]
        told = f", about {sum(known) / 60 / workers:.0f} minutes" if known else ""
        return told + (f", {len(seconds) - len(known)} of unknown cost" if len(known) < len(seconds) else "")


def _said(overrides: Iterable[str]) -> set[str]:
    """Overrides but for the seed, which costs nothing."""
    return {each for each in overrides if "=" in each and not each.startswith("seed=")}


def _model(said: set[str]) -> set[str]:
    return {each for each in said if each.startswith(("model=", "model.name="))}
