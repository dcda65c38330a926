"""The results of a sweep: its table as Parquet, its Pareto front, and applying a trial's parameters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akgp import params as parameters
from akgp import recipes
from akgp.io.atomic import atomic_file
from akgp.io.errors import first_line
from akgp.io.terminal import aligned_blocks
from akgp.params import Params, ParamsError
from akgp.reporting.units import number as short
from akgp.workspace import StageError

FOLDER, TABLE, PLOT, BASE = "sweeps", "trials.parquet", "pareto.svg", "params.yaml"


@dataclass(frozen=True)
class Trial:
    """One row of the results: a trial's values and outcome. Accuracies are those of the network it keeps, %.

    latency_ms: of the pruned network in int8 at batch 1; None if it is not an objective.
    val_balanced_top1: the mean over classes; None if `val_top1` is the objective.
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
        """The accuracy that is the objective, %: the mean over classes, or top-1; 0 if unknown."""
        return (self.val_top1 if self.val_balanced_top1 is None else self.val_balanced_top1) or 0.0

    @property
    def cost(self) -> float:
        """Latency, ms, if it was measured; otherwise MACs."""
        return self.latency_ms if self.latency_ms is not None else self.macs or 0


@dataclass(frozen=True)
class Dense:
    """The student's dense network, the reference of the trials.

    accuracy: on the validation split, %, by the metric of the objective.
    latency_ms: in int8 at batch 1; None if not measured.
    """

    accuracy: float
    macs: int
    latency_ms: float | None = None


FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "val_top1": ("val top-1 %", "{:.2f}".format),
    "val_balanced_top1": ("val balanced top-1 %", "{:.2f}".format),
    "macs": ("MACs", lambda count: short(count).rstrip()),
    "params": ("params", lambda count: short(count).rstrip()),
    "latency_ms": ("int8 ms", "{:.4f}".format),
    "compute": ("compute", "{:.2f}".format),
}
"""Columns of the table: heads and formats. Columns that are empty for all trials are omitted."""
RUN_COLUMNS = ("epochs", "seconds", "status", "front")
SHARES = {"prune.ratio": "ratio removed", "prune.macs": "MACs kept", "prune.params": "params kept"}
"""Heads of those searched parameters that are shares: of what goes, or of what stays."""


def best(count: int = 10, root: str | Path = ".") -> list[Trial]:
    """The `count` best finished trials by validation accuracy; of equals the cheapest first.

    Where the sweep had two objectives, those on the Pareto front come before the others.

    Raises:
        StageError: there is no sweep, or one of its files is damaged.
    """
    finished = [trial for trial in read_trials(Path(root)) if trial.status == "finished"]
    front = pareto_front(finished) if read_base(Path(root)).sweep.against else []
    return sorted(finished, key=lambda trial: (trial not in front, -trial.accuracy, trial.cost))[:count]


def apply(number: int, root: str | Path = ".", *, force: bool = False) -> Params:
    """Write the params.yaml of one trial, so that `dvc repro` reproduces it.

    Args:
        force: overwrite a params.yaml that has been edited since the sweep.

    Raises:
        StageError: there is no trial of this number, no sweep, or one of its files is damaged.
        ParamsError: params.yaml has been edited: it is neither the sweep's nor a trial's, nor a recipe.
    """
    root = Path(root)
    trials = {trial.number: trial for trial in read_trials(root)}
    if number not in trials:
        last = max(trials, default=0)
        if number < last:  # of an interrupted sweep
            raise StageError(f"sweep: trial {number} has not ended; `akgp sweep run` resumes it")
        raise StageError(f"sweep: got trial {number}, must be one of 0 to {last}")
    base, file = read_base(root), root / "params.yaml"
    params = parameters.with_values(base, trials[number].values)
    recipes.write(
        parameters.dump(params),
        file,
        f"akgp sweep apply {number}",
        root / recipes.FOLDER,
        force=force or _is_of_sweep(file, base, trials.values()),
    )
    return params


def _is_of_sweep(file: Path, base: Params, trials: Iterable[Trial]) -> bool:
    """Whether a params file holds exactly the parameters of the sweep or of one of its trials."""
    try:
        current, text = parameters.load(file), file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    # The user's comments would be lost.
    if _comments(text) - _comments(parameters.dump(current)):
        return False
    return current == base or any(current == _params_of(base, trial) for trial in trials)


def _params_of(base: Params, trial: Trial) -> Params | None:
    try:
        return parameters.with_values(base, trial.values)
    except ParamsError:  # of a trial that failed by its values
        return None


def _comments(text: str) -> set[str]:
    return {comment.strip() for line in text.splitlines() if (comment := line.partition("#")[2])}


def pareto_front(trials: list[Trial]) -> list[Trial]:
    """The finished trials that none dominates in accuracy and cost, by rising cost; of equals the first."""
    front: list[Trial] = []
    finished = [trial for trial in trials if trial.status == "finished"]
    for trial in sorted(finished, key=lambda trial: (trial.cost, -trial.accuracy)):
        if not front or trial.accuracy > front[-1].accuracy:
            front.append(trial)
    return front


def table(trials: list[Trial]) -> str:
    """Trials as aligned text, a line each: figures, a star if on the Pareto front, and searched parameters.

    Columns beyond the terminal's width follow in further blocks below. A parameter is shown by the shortest
    unique end of its name, or as `SHARES` says. The front is that of `trials`; for those that `best` returns
    it is the front of the whole sweep. A balanced top-1, if there is one, is the objective.
    """
    keys = sorted({key for trial in trials for key in trial.values})
    figures = [name for name in FIGURES if any(getattr(trial, name) is not None for trial in trials)]
    front = pareto_front(trials)
    heads = ["trial", *(FIGURES[name][0] for name in figures), *RUN_COLUMNS]
    rows = [
        [*heads, *_parameter_heads(keys, heads)],
        *(_cells(trial, figures, keys, trial in front) for trial in trials),
    ]
    return aligned_blocks(rows)


def _parameter_heads(keys: list[str], taken: list[str]) -> list[str]:
    """`SHARES`; of other dotted names the shortest end that is not another one's, nor a head of the table."""
    heads = {head.lower() for head in taken}

    def ends(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]

    uses = Counter(end for key in keys for end in ends(key))
    return [
        SHARES.get(key) or next((end for end in ends(key) if uses[end] == 1 and end not in heads), key)
        for key in keys
    ]


def _cells(trial: Trial, figures: list[str], keys: list[str], on_front: bool) -> list[str]:
    values = (trial.values.get(key, "") for key in keys)
    return [
        str(trial.number),
        *(_cell(getattr(trial, name), FIGURES[name][1]) for name in figures),
        str(trial.epochs),
        f"{trial.seconds:.1f}",
        trial.status,
        "*" if on_front else "",
        *map(_shown, values),
    ]


def _shown(value: Any) -> str:
    """A parameter's value as in params.yaml, but numbers rounded."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def write(root: Path, trials: list[Trial], params: Params, dense: Dense | None = None) -> None:
    """Write the table, the params that the trials vary, and the plot.

    All are made before the first is moved into place: one that cannot be leaves those of the sweep before.

    Args:
        dense: the reference to draw; None: unknown.
    """
    folder = root / FOLDER
    rows = [vars(trial) | {"values": json.dumps(trial.values)} for trial in trials]
    with (
        atomic_file(folder / TABLE) as new_table,
        atomic_file(folder / BASE) as new_base,
        atomic_file(folder / PLOT) as new_plot,
    ):
        pq.write_table(pa.Table.from_pylist(rows), new_table)
        new_base.write_text(parameters.dump(params), encoding="utf-8")
        _draw(trials, dense, new_plot)


def read_trials(root: Path) -> list[Trial]:
    """The trials of the last sweep, by number.

    Raises:
        StageError: there is no sweep, or its table is damaged.
    """
    file = root / FOLDER / TABLE
    if not file.exists():
        raise StageError(f"{file}: missing; `akgp sweep run` makes it")
    try:
        rows = pq.read_table(file).to_pylist()
        return [Trial(**row | {"values": json.loads(row["values"])}) for row in rows]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        raise StageError(f"{file}: damaged; `akgp sweep run` writes it again") from None


def read_base(root: Path) -> Params:
    """The parameters that the last sweep's trials vary.

    Raises:
        StageError: their file is missing or damaged.
    """
    file = root / FOLDER / BASE
    try:
        return parameters.load(file)
    except ParamsError as error:
        reason = first_line(error).removeprefix(f"{file}: ")
        state = f"damaged ({reason})" if file.exists() else "missing"
        raise StageError(f"{file}: {state}; `akgp sweep run` writes it again") from None


def _point(trial: Trial) -> tuple[float, float]:
    return trial.cost, trial.accuracy


def _draw(trials: list[Trial], dense: Dense | None, file: Path) -> None:
    from akgp.sweep.plot import STATUSES, pareto

    timed = any(trial.latency_ms is not None for trial in trials)
    balanced = any(trial.val_balanced_top1 is not None for trial in trials)
    known = [trial for trial in trials if trial.val_top1 is not None]
    points = {status: [_point(trial) for trial in known if trial.status == status] for status in STATUSES}
    front = {trial.number: _point(trial) for trial in pareto_front(known)}
    cost = None if dense is None else dense.latency_ms if timed else dense.macs
    reference = None if dense is None or cost is None else (cost, dense.accuracy)
    figure = pareto(points, front, reference, timed=timed, balanced=balanced)
    figure.savefig(file, format="svg")  # whatever the name while it is written
