"""The results of a sweep: its table as Parquet, its Pareto front, and how to take a trial over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akgp import params as parameters
from akgp.params import Params
from akgp.stages.workspace import StageError

FOLDER, TABLE, PLOT, BASE = "sweeps", "trials.parquet", "pareto.svg", "params.yaml"


@dataclass(frozen=True)
class Trial:
    """One row of the results: what was tried and what came of it."""

    number: int
    values: dict[str, Any]
    status: str  # finished, stopped (early, by ASHA) or failed
    epochs: int
    val_top1: float | None  # best epoch's, %
    macs: int | None
    params: int | None
    seconds: float
    error: str | None


def best(count: int = 10, root: str | Path = ".") -> list[Trial]:
    """The `count` finished trials of highest validation accuracy, best first."""
    finished = [trial for trial in _read(Path(root)) if trial.status == "finished"]
    return sorted(finished, key=lambda trial: (-(trial.val_top1 or 0), trial.macs or 0))[:count]


def apply(number: int, root: str | Path = ".") -> Params:
    """Write the params.yaml of one trial, so that `dvc repro` reproduces it.

    Raises:
        StageError: there is no trial of this number.
    """
    trials = {trial.number: trial for trial in _read(Path(root))}
    if number not in trials:
        raise StageError(f"sweep: got trial {number}, must be one of 0 to {len(trials) - 1}")
    params = with_values(parameters.load(Path(root) / FOLDER / BASE), trials[number].values)
    beside = Path(root) / ".params.yaml.new"
    beside.write_text(parameters.dump(params))
    beside.replace(Path(root) / "params.yaml")
    return params


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """`params` with the parameters named by dotted keys set, validated again."""
    for key, value in values.items():
        section = key.split(".")[0]
        params = params.model_copy(update={section: parameters.replace(getattr(params, section), key, value)})
    return params


def pareto_front(trials: list[Trial]) -> list[Trial]:
    """The trials that no other beats in both accuracy and MACs, by rising MACs."""
    front: list[Trial] = []
    finished = [trial for trial in trials if trial.status == "finished"]
    for trial in sorted(finished, key=lambda trial: (trial.macs or 0, -(trial.val_top1 or 0))):
        if not front or (trial.val_top1 or 0) > (front[-1].val_top1 or 0):
            front.append(trial)
    return front


def table(trials: list[Trial]) -> str:
    """Trials as aligned text, a line each."""
    keys = sorted({key for trial in trials for key in trial.values})
    rows = [["trial", "val top-1 %", "MACs", *keys, "status"], *(_cells(trial, keys) for trial in trials)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _cells(trial: Trial, keys: list[str]) -> list[str]:
    values = (trial.values.get(key, "") for key in keys)
    return [
        str(trial.number),
        "-" if trial.val_top1 is None else f"{trial.val_top1:.2f}",
        "-" if trial.macs is None else f"{trial.macs:,}",
        *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values),
        trial.status,
    ]


def write(root: Path, trials: list[Trial], params: Params) -> None:
    """Write the table, the params that the trials vary, and the plot; the table last."""
    folder = root / FOLDER
    rows = [vars(trial) | {"values": json.dumps(trial.values)} for trial in trials]
    pq.write_table(pa.Table.from_pylist(rows), folder / f".{TABLE}")
    (folder / BASE).write_text(parameters.dump(params))
    _plot(trials, folder / PLOT)
    (folder / f".{TABLE}").replace(folder / TABLE)


def _read(root: Path) -> list[Trial]:
    file = root / FOLDER / TABLE
    if not file.exists():
        raise StageError(f"{file}: missing; `akgp sweep run` makes it")
    return [Trial(**row | {"values": json.loads(row["values"])}) for row in pq.read_table(file).to_pylist()]


def _plot(trials: list[Trial], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for status, marker in (("finished", "o"), ("stopped", "x")):
        points = _points([trial for trial in trials if trial.status == status])
        axes.scatter(
            [mmacs for _, mmacs, _ in points], [top1 for _, _, top1 in points], marker=marker, label=status
        )
    front = _points(pareto_front(trials))
    axes.plot([mmacs for _, mmacs, _ in front], [top1 for _, _, top1 in front], label="Pareto front")
    for number, mmacs, top1 in front:
        axes.annotate(str(number), (mmacs, top1))
    axes.set(xlabel="MMACs", ylabel="validation top-1, %")
    axes.legend()
    figure.savefig(file)


def _points(trials: list[Trial]) -> list[tuple[int, float, float]]:
    return [(t.number, t.macs / 1e6, t.val_top1) for t in trials if t.macs and t.val_top1 is not None]
