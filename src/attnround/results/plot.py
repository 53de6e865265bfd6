"""Pictures, in colours that colour-blind readers can tell apart (Okabe and Ito) and that print well."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"


def draw_layers(rows: Sequence[dict], path: Path, title: str) -> None:
    """Bits of each layer as bars; below, the signal-to-noise ratio of its output, for nearest and as reconstructed.

    rows: dicts with name, bits, nearest_output_sqnr_db, output_sqnr_db.
    """
    places = range(len(rows))
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(max(6.0, 0.28 * len(rows) + 2), 6), height_ratios=[1, 1.3], layout="constrained"
    )
    top.bar(places, [row["bits"] for row in rows], color=GREY, width=0.7)
    for place, row in zip(places, rows, strict=True):
        top.annotate(str(row["bits"]), (place, row["bits"]), ha="center", va="bottom", fontsize=8)
    top.set(ylabel="weight bits", ylim=(0, 9), title=title)
    bottom.plot(places, [row["nearest_output_sqnr_db"] for row in rows], "o--", color=ORANGE, label="nearest")
    bottom.plot(places, [row["output_sqnr_db"] for row in rows], "s-", color=BLUE, label="reconstructed")
    bottom.set(ylabel="layer output SQNR, dB")
    bottom.set_xticks(list(places), [row["name"] for row in rows], rotation=90, fontsize=8)
    bottom.grid(axis="y", alpha=0.3)
    bottom.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
