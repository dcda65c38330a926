"""The results of a sweep: its table as Parquet, its Pareto front, and how to take a trial over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akgp import params as parameters
from akgp.params import Params
from akgp.reporting.table import number as short
from akgp.stages.workspace import StageError
from akgp.terminal import aligned_blocks

FOLDER, TABLE, PLOT, BASE = "sweeps", "trials.parquet", "pareto.svg", "params.yaml"


@dataclass(frozen=True)
class Trial:
    """One row of the results: what was tried and what came of it. Accuracies are the kept network's, %.

    latency_ms: of the pruned network in int8 at batch 1; None where it is no objective.
    val_balanced_top1: the mean over classes; None where `val_top1` is the objective.
    compute: in plain trainings of as many epochs, see `akgp.stages.distill.compute_of`.
    """

    number: int
    values: dict[str, Any]
    status: str  # finished, stopped (early, by ASHA) or failed
    epochs: int
    val_top1: float | None
    macs: int | None
    params: int | None
    seconds: float
    error: str | None
    latency_ms: float | None = None
    val_balanced_top1: float | None = None
    compute: float | None = None

    @property
    def accuracy(self) -> float:
        """By which trials are judged, %: the mean over classes where it is the objective; 0 if unknown."""
        return (self.val_top1 if self.val_balanced_top1 is None else self.val_balanced_top1) or 0.0

    @property
    def cost(self) -> float:
        """Latency where it was measured, ms, and MACs otherwise."""
        return self.latency_ms if self.latency_ms is not None else self.macs or 0


FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "val_top1": ("val top-1 %", "{:.2f}".format),
    "val_balanced_top1": ("val balanced top-1 %", "{:.2f}".format),
    "macs": ("MACs", lambda count: short(count).rstrip()),
    "params": ("params", lambda count: short(count).rstrip()),
    "latency_ms": ("int8 ms", "{:.4f}".format),
    "compute": ("compute", "{:.2f}".format),
}
"""What the table shows of a trial: heads and formats. What no trial has is left out."""
COURSE = ("epochs", "seconds", "status", "front")


def best(count: int = 10, root: str | Path = ".") -> list[Trial]:
    """The `count` best finished trials: by validation accuracy, and of equals the cheapest first.

    Where the sweep had two objectives, those on the Pareto front come before the others.
    """
    finished = [trial for trial in _read(Path(root)) if trial.status == "finished"]
    two = parameters.load(Path(root) / FOLDER / BASE).sweep.against is not None
    front = pareto_front(finished) if two else []
    return sorted(finished, key=lambda trial: (trial not in front, -trial.accuracy, trial.cost))[:count]


def apply(number: int, root: str | Path = ".") -> Params:
    """Write the params.yaml of one trial, so that `dvc repro` reproduces it.

    Raises:
        StageError: there is no trial of this number.
    """
    trials = {trial.number: trial for trial in _read(Path(root))}
    if number not in trials:
        raise StageError(f"sweep: got trial {number}, must be one of 0 to {len(trials) - 1}")
    params = parameters.with_values(parameters.load(Path(root) / FOLDER / BASE), trials[number].values)
    beside = Path(root) / ".params.yaml.new"
    beside.write_text(parameters.dump(params), encoding="utf-8")
    beside.replace(Path(root) / "params.yaml")
    return params


def pareto_front(trials: list[Trial]) -> list[Trial]:
    """The finished trials that no other beats in accuracy and cost, by rising cost; of equals the first."""
    front: list[Trial] = []
    finished = [trial for trial in trials if trial.status == "finished"]
    for trial in sorted(finished, key=lambda trial: (trial.cost, -trial.accuracy)):
        if not front or trial.accuracy > front[-1].accuracy:
            front.append(trial)
    return front


def table(trials: list[Trial]) -> str:
    """Trials as aligned text, a line each: figures, a star if on the Pareto front, and searched parameters.

    What is wider than a terminal is continued in further blocks below. A parameter goes by the end of its
    name that tells it from the others. The front is that of `trials`; of those that `best` gives it is that
    of the whole sweep. Where there is a balanced top-1, it is by this that trials were judged.
    """
    keys = sorted({key for trial in trials for key in trial.values})
    figures = [name for name in FIGURES if any(getattr(trial, name) is not None for trial in trials)]
    front = pareto_front(trials)
    heads = ["trial", *(FIGURES[name][0] for name in figures), *COURSE]
    rows = [
        [*heads, *_short_names(keys, heads)],
        *(_cells(trial, figures, keys, trial in front) for trial in trials),
    ]
    return aligned_blocks(rows)


def _short_names(keys: list[str], taken: list[str]) -> list[str]:
    """The shortest end of each dotted name that is no end of another one, nor a head of the table."""
    heads = {head.lower() for head in taken}

    def ends(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]

    every = Counter(end for key in keys for end in ends(key))
    return [next((end for end in ends(key) if every[end] == 1 and end not in heads), key) for key in keys]


def _cells(trial: Trial, figures: list[str], keys: list[str], on_front: bool) -> list[str]:
    values = (trial.values.get(key, "") for key in keys)
    return [
        str(trial.number),
        *(_cell(getattr(trial, name), FIGURES[name][1]) for name in figures),
        str(trial.epochs),
        f"{trial.seconds:.1f}",
        trial.status,
        "*" if on_front else "",
        *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values),
    ]


def _cell(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def write(root: Path, trials: list[Trial], params: Params) -> None:
    """Write the table, the params that the trials vary, and the plot; the table last."""
    folder = root / FOLDER
    rows = [vars(trial) | {"values": json.dumps(trial.values)} for trial in trials]
    pq.write_table(pa.Table.from_pylist(rows), folder / f".{TABLE}")
    (folder / BASE).write_text(parameters.dump(params), encoding="utf-8")
    _plot(trials, folder / PLOT)
    (folder / f".{TABLE}").replace(folder / TABLE)


def _read(root: Path) -> list[Trial]:
    file = root / FOLDER / TABLE
    if not file.exists():
        raise StageError(f"{file}: missing; `akgp sweep run` makes it")
    return [Trial(**row | {"values": json.loads(row["values"])}) for row in pq.read_table(file).to_pylist()]


def _plot(trials: list[Trial], file: Path) -> None:
    from matplotlib.figure import Figure

    timed = any(trial.latency_ms is not None for trial in trials)
    balanced = any(trial.val_balanced_top1 is not None for trial in trials)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for status, marker in (("finished", "o"), ("stopped", "x")):
        points = _points([trial for trial in trials if trial.status == status])
        if not points:
            continue  # nor does the legend name them
        axes.scatter(
            [cost for _, cost, _ in points], [top1 for _, _, top1 in points], marker=marker, label=status
        )
    front = _points(pareto_front(trials))
    axes.plot([cost for _, cost, _ in front], [top1 for _, _, top1 in front], label="Pareto front")
    for number, cost, top1 in front:
        axes.annotate(str(number), (cost, top1))
    axes.set(
        xlabel="int8 latency at batch 1, ms" if timed else "MMACs",
        ylabel=f"validation {'balanced ' if balanced else ''}top-1, %",
    )
    axes.legend()
    figure.savefig(file)


def _points(trials: list[Trial]) -> list[tuple[int, float, float]]:
    """Number, cost (ms or MMACs) and accuracy (%)."""
    return [
        (trial.number, trial.cost / (1 if trial.latency_ms is not None else 1e6), trial.accuracy)
        for trial in trials
        if trial.val_top1 is not None
    ]
