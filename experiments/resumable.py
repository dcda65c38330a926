"""A table of runs that is resumed: written after each run; started again, the missing ones are done.

Each row says on which machine and with which commit it was measured: a table may be begun on one and ended on
another.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch

from experiments.machine import described

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
    file = folder / "table.json"
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    about = {"machine": described(), "commit": commit()}  # of what is loaded, whatever is edited meanwhile
    for run in plan:
        asked = asdict(run)  # type: ignore[call-overload]
        if any(asked.items() <= row.items() for row in rows):
            continue
        start = time.perf_counter()
        row = asked | measured(run)
        seconds = round(time.perf_counter() - start, 1)
        rows.append(row | {"seconds": seconds} | about)
        print(rows[-1], flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
        (folder / "table.md").write_text(table(rows), encoding="utf-8")


def commit() -> str:
    """The commit that is checked out, with a + if its code has been changed since."""
    changed = _git("status", "--porcelain", "--", *CODE)
    return _git("rev-parse", "--short", "HEAD").strip() + "+" * bool(changed)


def _git(*arguments: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", check=True)
    return done.stdout


def spread(values: list[float]) -> str:
    """Mean ± standard error (how many)."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error} ({len(values)})"


def machines(rows: list[Row]) -> str:
    """The machines that the rows were measured on, with their numbers of rows if there are several."""
    counts = Counter(str(row["machine"]) for row in rows)
    return "; ".join(name if len(counts) == 1 else f"{name} ({count})" for name, count in counts.items())


def markdown(about: str, rows: list[Row], plan: Iterable[Run], lines: Iterable[str], **values: object) -> str:
    """A table below `about`, where {done} and {planned} are numbers of runs and {machines} their machines.

    Args:
        values: what else stands in braces there.
    """
    known = {"done": len(rows), "planned": len(list(plan)), "machines": machines(rows)}
    return about.format(**known, **values) + "\n".join(lines) + "\n"
