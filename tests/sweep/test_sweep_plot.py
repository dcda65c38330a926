"""sweeps/pareto.svg: labels that do not overlap, the dense network, and a legend of what is shown."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from akgp import data, params
from akgp.sweep import results
from akgp.sweep.plot import Point, pareto
from akgp.sweep.results import Dense, Trial
from akgp.sweep.search import dense
from akgp.workspace import Task

SETTINGS = {"networks": {"n": {"architecture": "cifar_resnet20"}}, "teachers": ["n"], "student": "n"}
DENSE = (40.6e6, 86.0)


def scattered(seed: int) -> tuple[list[Point], dict[int, Point]]:
    draw = random.Random(seed)
    points = [(draw.uniform(5e6, 30e6), draw.uniform(70, 85)) for _ in range(20)]
    unbeaten = [
        number
        for number, (cost, top1) in enumerate(points)
        if not any(other[0] < cost and other[1] > top1 for other in points)
    ]
    return points, {number: points[number] for number in unbeaten}


def crowded() -> tuple[list[Point], dict[int, Point]]:
    points = [(10e6 + number * 2e5, 80 + number * 0.05) for number in range(20)]
    return points, dict(enumerate(points))


def drawn(figure: Figure) -> tuple[list[Annotation], list[str]]:
    """The labels, and what the legend names."""
    (axes,) = figure.axes
    named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [each for each in axes.texts if isinstance(each, Annotation)], named


@pytest.mark.parametrize("case", [*map(scattered, range(4)), crowded()])
def test_labels_cover_neither_each_other_nor_a_point(case: tuple[list[Point], dict[int, Point]]) -> None:
    points, front = case
    figure = pareto({"finished": points}, front, DENSE, timed=False, balanced=False)
    figure.canvas.draw()
    labels, named = drawn(figure)
    assert sorted(label.get_text() for label in labels) == sorted(map(str, front))
    assert named == ["finished", "Pareto front", "dense network"]
    boxes = [Text.get_window_extent(label) for label in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    (axes,) = figure.axes
    for cost, top1 in [*points, DENSE]:
        place = axes.transData.transform((cost / 1e6, top1))
        assert not any(box.contains(*place) for box in boxes)
    for label in labels:
        assert axes.bbox.fully_containsx(Text.get_window_extent(label).x0)


def test_the_legend_names_what_is_shown(tmp_path: Path) -> None:
    empty = pareto({"finished": [], "stopped": []}, {}, None, timed=False, balanced=False)
    assert drawn(empty) == ([], []) and not empty.legends
    stopped = pareto({"finished": [], "stopped": [(1e6, 50.0)]}, {}, None, timed=True, balanced=False)
    assert drawn(stopped)[1] == ["stopped"]


@pytest.mark.parametrize("timed", [False, True])
def test_the_dense_network_is_drawn_where_its_cost_is_known(tmp_path: Path, timed: bool) -> None:
    (tmp_path / "sweeps").mkdir()
    trials = [
        Trial(n, {}, "finished", 2, 80.0 + n, n * 10**6, 5, 1.0, None, latency_ms=n / 10 if timed else None)
        for n in range(1, 4)
    ]
    for latency_ms, there in ((None, not timed), (0.7, True)):
        results.write(tmp_path, trials, params.validate(SETTINGS), Dense(86.0, 40_600_000, latency_ms))
        plot = (tmp_path / "sweeps" / "pareto.svg").read_text(encoding="utf-8")
        assert ("<!-- dense network -->" in plot) == there


@pytest.mark.parametrize(("imbalance", "top1"), [(1.0, 90.0), (9.0, 80.0)])
def test_what_is_known_of_the_dense_network(tmp_path: Path, imbalance: float, top1: float) -> None:
    """Its accuracy is that by which trials are judged: on a long tail the mean over classes."""
    task = Task("sweep", params.validate(SETTINGS), tmp_path)
    summary = data.Summary(
        source="digits", classes=("a", "b"), image_size=(8, 8), channels=1, counts={}, mean=(0.5,),
        std=(0.2,), imbalance=imbalance, skipped=0, digest="",
    )  # fmt: skip
    for folder in (task.workspace.data, task.workspace.dense("n")):
        folder.mkdir(parents=True)
    (task.workspace.data / "summary.json").write_text(summary.model_dump_json())
    (folder / "metrics.json").write_text(json.dumps({"val_top1": 90.0, "val_balanced_top1": 80.0}))
    found = [{}, {"dense_macs": 7, "macs": 3, "params": 1, "latency": 0.5, "dense_latency_ms": 2.0}]
    assert dense(task, found) == Dense(top1, 7, 2.0)
    assert dense(task, [{"dense_macs": 7}, {}]) == Dense(top1, 7, None)
    assert dense(task, [{}]) is None
    (folder / "metrics.json").unlink()
    assert dense(task, found) is None
