"""A table of runs that is resumed: written after each run; started again, the missing ones are done.

Each row says on which machine and with which commit it was measured: a table may be begun on one and ended on
another. Several processes may share one.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch
from filelock import FileLock

from akgp.io.atomic import atomic_file
from experiments.machine import described

ROWS, LOCK = "table.json", ".table.lock"
CODE = ("akgp", "experiments", "benchmarks")
Row = dict[str, Any]
Run = TypeVar("Run")
"""A dataclass that says what is done."""


def complete(
    folder: Path, plan: Iterable[Run], measured: Callable[[Run], Row], table: Callable[[list[Row]], str]
) -> None:
    """Do the runs of `plan`, on one thread, that table.json in `folder` does not hold.

    Args:
        measured: gives what is noted of a run beside its own fields.
        table: all rows as Markdown, written to table.md.
    """
    torch.set_num_threads(1)
    about = {"machine": described(), "commit": commit()}  # of what is loaded, whatever is edited meanwhile
    for run in plan:
        if _has(rows_in(folder), run):
            continue
        start = time.perf_counter()
        row = _fields(run) | measured(run)
        row |= {"seconds": round(time.perf_counter() - start, 1)} | about
        print(row, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):
            rows = [*rows_in(folder), row]  # with what others have measured meanwhile
            with atomic_file(folder / ROWS) as beside:
                beside.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
            (folder / "table.md").write_text(table(rows), encoding="utf-8")


def rows_in(folder: Path) -> list[Row]:
    """The rows of a table; none if it has not been begun."""
    file = folder / ROWS
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return rows


def _has(rows: Iterable[Row], run: Run) -> bool:
    return any(_fields(run).items() <= row.items() for row in rows)


def _fields(run: Run) -> Row:
    return asdict(run)  # type: ignore[call-overload]


def commit() -> str:
    """The commit that is checked out, with a + if its code has been changed since."""
    changed = _git("status", "--porcelain", "--", *CODE)
    return _git("rev-parse", "--short", "HEAD").strip() + "+" * bool(changed)


def _git(*arguments: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def spread(values: Sequence[float]) -> str:
    """Mean ± standard error (how many); empty if there are none."""
    if not values:
        return ""
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error} ({len(values)})"


def by_seed(values: Iterable[tuple[int, float]]) -> list[float]:
    """One value for each seed: the mean of those that several machines have measured with it."""
    found: dict[int, list[float]] = {}
    for seed, value in values:
        found.setdefault(seed, []).append(value)
    return [mean(each) for each in found.values()]


def machines(rows: list[Row]) -> str:
    """The machines that the rows were measured on, with their numbers of rows if there are several."""
    counts = Counter(str(row["machine"]) for row in rows)
    return "; ".join(name if len(counts) == 1 else f"{name} ({count})" for name, count in counts.items())


def markdown(about: str, rows: list[Row], plan: Iterable[Run], lines: Iterable[str], **values: object) -> str:
    """A table below `about`, where {done} of {planned} runs of the plan have a row, of these {machines}.

    Args:
        values: what else stands in braces there.
    """
    runs = list(plan)
    known = {"done": sum(_has(rows, run) for run in runs), "planned": len(runs), "machines": machines(rows)}
    return about.format(**known, **values) + "\n".join(lines) + "\n"
