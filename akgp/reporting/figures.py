"""The report's figures as SVG text that takes its colours from the page, light or dark.

They are drawn without pyplot, which keeps global state; the same numbers give the same text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders, replaced by the page's own colours in the SVG; hence unusual ones.
INK = "#010203"
SERIES = tuple(f"#0102{index:02x}" for index in range(16, 22))
LABELLED = 48  # more layers or classes than this are drawn without their names


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Top-1 (%) and loss (nats) an epoch: validation solid, training dashed. Empty if nothing was trained."""
    trained = {name: rows for name, rows in histories.items() if len(rows) > 1}
    if not trained:
        return ""

    from matplotlib.ticker import MaxNLocator

    def draw(axes: list[Axes]) -> None:
        panels = (("top-1, %", "train_top1", "val_top1"), ("loss, nats", "loss", "val_loss"))
        for axis, (label, training, validation) in zip(axes, panels, strict=True):
            for index, (name, rows) in enumerate(trained.items()):
                color = SERIES[index % len(SERIES)]
                for key, style in ((validation, "-"), (training, "--")):
                    points = [(row["epoch"], row[key]) for row in rows if key in row]
                    axis.plot(
                        *zip(*points, strict=True),
                        style,
                        color=color,
                        linewidth=1.6,
                        label=name if key == validation else None,
                    )
            axis.set_xlabel("epoch")
            axis.set_ylabel(label)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes[0])

    return _svg("curves", "Learning curves: top-1 and loss by epoch", draw, panels=2, height=3.2)


def widths(layers: Sequence[Mapping[str, Any]]) -> str:
    """Filters of each layer: dense behind, what is left in front. Empty without layers."""
    if not layers:
        return ""

    def draw(axes: list[Axes]) -> None:
        (axis,) = axes
        places = range(len(layers))
        axis.bar(
            places, [float(row["dense_width"]) for row in layers], color=SERIES[0], alpha=0.3, label="dense"
        )
        axis.bar(
            places, [float(row["pruned_width"]) for row in layers], color=SERIES[0], width=0.5, label="pruned"
        )
        axis.set_ylabel("filters")
        _name(axis, [str(row["name"]) for row in layers], "layer, from input to output")
        _legend(axis)

    return _svg("widths", "Filters of each layer before and after pruning", draw, height=3.4)


def teacher_weights(weights: Sequence[Mapping[str, Any]]) -> str:
    """The teacher's weight in each class: mean, and the 10th to 90th percentile. Empty without rows."""
    if not weights:
        return ""
    many = len(weights) > LABELLED
    rows = sorted(weights, key=lambda row: float(row["mean"])) if many else weights

    def draw(axes: list[Axes]) -> None:
        (axis,) = axes
        places = range(len(rows))
        low, mean, high = ([float(row[key]) for row in rows] for key in ("p10", "mean", "p90"))
        _ranges(axis, places, low, high, mean, ("10th to 90th percentile", "mean"))
        most = max(1.0, *high)  # above 1 the label counts against
        axis.set_ylim(-0.03 * most, 1.03 * most)
        axis.set_ylabel("teacher's weight")
        _name(axis, [str(row["class"]) for row in rows], "classes, by the mean")
        _legend(axis)

    return _svg("weights", "Weight of the teacher against the label, by class", draw, height=3.0)


def class_characteristics(characteristics: Mapping[str, Any] | None, classes: Sequence[str]) -> str:
    """The training images of each class, and the share of labels that look wrong: from its lower bound up.

    The second panel is drawn where that share is known for some class. More classes than can be named are
    drawn as sorted curves. Empty without characteristics.
    """
    if characteristics is None:
        return ""
    rates, lows = characteristics["noise_rate_by_class"], characteristics["noise_rate_by_class_low"]
    known = [k for k, rate in enumerate(rates) if rate is not None]
    counts, many = list(characteristics["class_counts"]), len(classes) > LABELLED
    if many:
        counts.sort(reverse=True)
        known.sort(key=lambda k: -rates[k])

    def draw(axes: list[Axes]) -> None:
        if many:
            axes[0].fill_between(range(len(counts)), counts, color=SERIES[0], alpha=0.6, step="mid")
        else:
            axes[0].bar(range(len(counts)), counts, color=SERIES[0], alpha=0.6)
        axes[0].set_ylabel("training images")
        for labels in axes[1:]:
            wrong, low = [100 * rates[k] for k in known], [100 * lows[k] for k in known]
            _ranges(labels, range(len(known)) if many else known, low, wrong, wrong)
            labels.set_ylim(bottom=0)
            labels.set_ylabel("labelled otherwise, %")
        for axis in axes:
            _name(axis, list(classes), "classes, most first", room=60 // len(axes))

    title = "Training images and doubtful labels of each class"
    return _svg("classes", title, draw, panels=2 if known else 1, height=3.0)


def class_confusion(characteristics: Mapping[str, Any] | None, classes: Sequence[str]) -> str:
    """Overlapping classes, and estimated wrong labels: a square for each pair off the diagonal.

    The second panel is drawn where labels look wrong. Empty without characteristics and with more classes
    than can be named.
    """
    if characteristics is None or characteristics["overlap"] is None or len(classes) > LABELLED:
        return ""
    panels = {"the teacher answers": ("probability of", characteristics["overlap"])}
    if characteristics["doubtful"]:
        common = characteristics["noise_rate"]
        rates = [common if rate is None else rate for rate in characteristics["noise_rate_by_class"]]
        rows = zip(rates, characteristics["confusion"], strict=True)
        wrong = [[rate * share for share in row] for rate, row in rows]
        panels["true class"] = ("wrong label, probability", wrong)

    def draw(axes: list[Axes]) -> None:
        for axis, (rows, (columns, matrix)) in zip(axes, panels.items(), strict=True):
            _squares(axis, matrix, classes)
            axis.set_ylabel(rows)
            axis.set_xlabel(columns)

    height = 1.6 + 0.2 * len(classes)
    return _svg(
        "confusion",
        "Classes that overlap, and labels that look wrong",
        draw,
        panels=len(panels),
        height=height,
    )


def _squares(axis: Axes, matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> None:
    """A Hinton diagram without its diagonal: the area of a square is the share of the largest value."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    places = [(i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    largest = max((matrix[i][j] for i, j in places), default=0.0)
    sides = {(i, j): (matrix[i][j] / largest) ** 0.5 for i, j in places if matrix[i][j] > 0}
    squares = [Rectangle((j - side / 2, i - side / 2), side, side) for (i, j), side in sides.items()]
    axis.add_collection(PatchCollection(squares, color=SERIES[0], linewidth=0))
    axis.set(xlim=(-0.6, len(classes) - 0.4), ylim=(len(classes) - 0.4, -0.6), aspect="equal")
    axis.set_title(f"largest: {100 * largest:.0f} %", fontsize=9, loc="left")
    axis.set_xticks(range(len(classes)), classes, rotation=90 if sum(map(len, classes)) > 20 else 0)
    axis.set_yticks(range(len(classes)), classes)
    axis.grid(False)


def _ranges(
    axis: Axes, places: Sequence[int], low: list[float], high: list[float], mark: list[float],
    names: tuple[str, str] = ("", ""),
) -> None:  # fmt: skip
    """A bar from low to high and a mark at each place; bands and a line where there are too many for that."""
    if len(places) > LABELLED:
        axis.fill_between(places, low, high, color=SERIES[1], alpha=0.3, linewidth=0, label=names[0])
        axis.plot(places, mark, color=SERIES[1], linewidth=1.6, label=names[1])
        return
    axis.vlines(places, low, high, color=SERIES[1], alpha=0.45, linewidth=5, label=names[0])
    axis.plot(places, mark, "o", color=SERIES[1], markersize=5, label=names[1])


def _legend(axis: Axes) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)


def _name(axis: Axes, names: list[str], otherwise: str, room: int = 60) -> None:
    """Write names below the places, vertically if together they exceed `room` characters."""
    if len(names) > LABELLED:
        axis.set_xlabel(otherwise)
        return
    upright = sum(map(len, names)) > room
    axis.set_xticks(range(len(names)), names, rotation=90 if upright else 0)


def _svg(salt: str, title: str, draw: Callable[[list[Axes]], None], *, panels: int = 1, height: float) -> str:
    """Draw on `panels` axes side by side, `height` inches high; returns an <svg> element."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: it can be searched, and needs no embedded font
        "svg.hashsalt": salt,  # ids from this, not at random: they are unique on the page and stay the same
        "text.parse_math": False,  # a class may have a $ in its name
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": INK,
        "grid.alpha": 0.15,
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has its own fonts
        figure = Figure(figsize=(8.4, height), layout="constrained")
        draw([figure.add_subplot(1, panels, panel + 1) for panel in range(panels)])
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML header, which has no place in HTML
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Without a size it takes the width of the page; its viewBox keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1).replace(INK, "currentColor")
    for index, color in enumerate(SERIES):
        svg = svg.replace(color, f"var(--series-{index})")
    return svg
