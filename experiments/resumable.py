"""A table of runs that is resumed: written after each run; started again, the missing ones are done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

import torch

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
    for run in plan:
        asked = asdict(run)  # type: ignore[call-overload]
        if any(asked.items() <= row.items() for row in rows):
            continue
        start = time.perf_counter()
        rows.append(asked | measured(run) | {"seconds": round(time.perf_counter() - start, 1)})
        print(rows[-1], flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
        (folder / "table.md").write_text(table(rows), encoding="utf-8")


def spread(values: list[float]) -> str:
    """Mean ± standard error (how many)."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error} ({len(values)})"


def markdown(about: str, rows: list[Row], plan: Iterable[Run], lines: Iterable[str]) -> str:
    """A table below `about`, in which {done} and {planned} are the numbers of runs."""
    return about.format(done=len(rows), planned=len(list(plan))) + "\n".join(lines) + "\n"
