"""sweeps/pareto.svg: the accuracy of all trials over their cost, the Pareto front, and the dense network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float]
"""Cost (int8 latency in ms, or MACs) and validation accuracy (%)."""

STATUSES = {"finished": "o", "stopped": "x"}
D = 0.75  # about √½: diagonal labels are as far from their point as the others
SIDES = ((-D, D), (D, -D), (0, 1), (0, -1), (1, 0), (-1, 0), (D, D), (-D, -D))  # a front rises to the right
DISTANCES = (12, 18, 26, 36, 48, 64)
"""Of a label's centre from its point, in points; beyond the first a line connects the two."""
CLEARANCE = 4
"""Half the side of the square that is kept free around a point, in points."""


def pareto(
    points: Mapping[str, Sequence[Point]],
    front: Mapping[int, Point],
    dense: Point | None,
    *,
    timed: bool,
    balanced: bool,
) -> Figure:
    """The figure; trials on the front carry their numbers, and no label covers another or a point.

    Args:
        points: by status.
        front: by trial number.
        dense: the student's dense network, if known.
        timed: costs are latencies, not MACs.
        balanced: accuracies are means over the classes.
    """
    # SVG has 72 dots per inch, so that the sizes of text measured here are those of the file.
    figure = Figure(figsize=(6.4, 4.4), dpi=72, layout="constrained")
    axes, scale = figure.subplots(), 1 if timed else 1e6
    axes.margins(0.08)
    drawn: list[Point] = []
    for status, marker in STATUSES.items():
        if shown := points.get(status):  # a status without trials is not in the legend
            axes.scatter(*_scaled(shown, scale), marker=marker, label=status)
            drawn += shown
    if front:
        axes.plot(
            *_scaled(front.values(), scale),
            color="C3",
            linewidth=1,
            marker="o",
            markersize=9,
            markerfacecolor="none",  # a ring, so that a front of one trial is seen too
            label="Pareto front",
        )
    if dense:
        axes.scatter(*_scaled([dense], scale), marker="D", color="black", label="dense network")
        drawn.append(dense)
    accuracy = f"validation {'balanced ' if balanced else ''}top-1, %"
    axes.set(xlabel="int8 latency at batch 1, ms" if timed else "MMACs", ylabel=accuracy)
    if drawn:
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed for the layout as it is now
    _label(
        axes,
        {str(number): (cost / scale, top1) for number, (cost, top1) in front.items()},
        [(cost / scale, top1) for cost, top1 in drawn],
    )
    return figure


def _scaled(points: Iterable[Point], scale: float) -> tuple[list[float], list[float]]:
    return [cost / scale for cost, _ in points], [top1 for _, top1 in points]


def _label(axes: Axes, labels: dict[str, Point], points: Sequence[Point]) -> None:
    """Put each label as near to its point as there is free space; omit one that fits nowhere."""
    taken = [_around(axes, point) for point in points]
    for text, point in labels.items():
        for label in _placements(axes, text, point):
            label.get_window_extent()  # lays the label out; its box includes the line, which may cross others
            box = Text.get_window_extent(label).padded(1)  # the text alone
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def _placements(axes: Axes, text: str, point: Point) -> Iterator[Annotation]:
    for distance, (right, up) in product(DISTANCES, SIDES):
        yield axes.annotate(
            text,
            point,
            xytext=(distance * right, distance * up),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "gray", "shrinkA": 0, "shrinkB": 4}
            if distance > DISTANCES[0]
            else None,
        )


def _around(axes: Axes, point: Point) -> Bbox:
    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - CLEARANCE, y - CLEARANCE, x + CLEARANCE, y + CLEARANCE)
