"""The table and the figure of `akgp sensitivity`: accuracy by the share of each layer that is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from akgp.io.terminal import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""layer, dense_width, and `points`: ratio, pruned_width and top1 (%) of each ratio, in rising order."""
LABELLED = 60
"""More layers than this are drawn without their names."""


def table(rows: Sequence[Row], dense_top1: float) -> str:
    """A line a layer: top-1, % by ratio; what rounding leaves dense is marked by a dash."""
    ratios = [point["ratio"] for point in rows[0]["points"]]
    head = ["layer", "filters", *(f"top-1 at {ratio:g}" for ratio in ratios)]
    cells = [
        [row["layer"], str(row["dense_width"]), *(_cell(row, point) for point in row["points"])]
        for row in rows
    ]
    return aligned([head, *cells]) + f"\ndense: {dense_top1:.2f}"


def blocks_table(blocks: Mapping[str, tuple[float, float]]) -> str:
    """A line a residual block: top-1, %, without it, and the share of the MACs that is then left."""
    cells = [[name, f"{top1:.2f}", f"{macs:.1%}"] for name, (top1, macs) in blocks.items()]
    return aligned([["without", "top-1", "MACs left"], *cells])


def long_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for each layer and ratio: layer, cut_with (names), dense_width, ratio, pruned_width, top1 (%)."""
    return [
        {"layer": row["layer"], "cut_with": " ".join(row["cut_with"]), "dense_width": row["dense_width"]}
        | point
        for row in rows
        for point in row["points"]
    ]


def _cell(row: Row, point: dict[str, float]) -> str:
    return f"{point['top1']:.2f}" if point["pruned_width"] < row["dense_width"] else "-"


def figure(rows: Sequence[Row], dense_top1: float) -> Figure:
    """Top-1 of every layer, in the network's order, a line a ratio."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(max(6.4, 0.16 * len(rows)), 4.8), layout="constrained")
    axes, places = drawn.subplots(), range(len(rows))
    for index, point in enumerate(rows[0]["points"]):
        values = [row["points"][index]["top1"] for row in rows]
        axes.plot(places, values, marker="o", markersize=4, label=f"{point['ratio']:g} removed")
    axes.axhline(dense_top1, color="black", linewidth=1, linestyle="--", label="dense")
    axes.set(xlabel="layer that alone is cut, from input to output", ylabel="top-1, %")
    if len(rows) <= LABELLED:
        axes.set_xticks(list(places), [row["layer"] for row in rows], rotation=90, fontsize=7)
    drawn.legend(loc="outside upper center", ncols=5, frameon=False)
    return drawn
