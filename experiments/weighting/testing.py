"""The test split, opened for all students at once: `trials.parquet`, a row each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from akgp import artifacts
from akgp.training import evaluate
from experiments.weighting.design import Cell, arms, cells
from experiments.weighting.students import ROW, STUDENT, folder_of
from experiments.weighting.teachers import bench

TESTED = "test.json"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("regime", "teacher", "strategy")),
        ("w", pa.float64()),
        ("student_seed", pa.int64()),
        ("teacher_seed", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                "compute", "val_top1", "test_top1", "train_top1", "w_raw", "w_error", "noise_rate",
                "noise_rate_low", "memorisation_gap", "seconds",
            )
        ),
    ]
)  # fmt: skip


def _trained(folder: Path, cell: Cell) -> bool:
    return all(folder_of(folder, cell, arm).exists() for arm in arms(cell.setting))


def test(folder: Path, partial: bool) -> list[dict[str, Any]]:
    """The rows of all students with their accuracy on the test split; what was tested is not again.

    Args:
        partial: leave out the cells that are not whole.

    Raises:
        SystemExit: students are missing.
    """
    whole = [
        cell
        for cell in cells()
        if all((folder_of(folder, cell, arm) / ROW).exists() for arm in arms(cell.setting))
    ]
    missing = len(list(cells())) - len(whole)
    if missing and not partial:
        raise SystemExit(f"{missing} cells are not trained: the test split stays closed; go on with `run`")
    rows = []
    for cell in tqdm(whole, unit="cell"):
        at = bench(folder, cell.setting.regime, cell.teacher_seed)
        summary, images = at.summary, at.split("test")
        for arm in arms(cell.setting):
            trained = folder_of(folder, cell, arm)
            if not (trained / TESTED).exists():
                student = artifacts.load(trained / STUDENT)
                loss, top1 = evaluate(student, images, mean=summary.mean, std=summary.std)
                (trained / TESTED).write_text(json.dumps({"test_loss": loss, "test_top1": top1}))
            rows.append(json.loads((trained / ROW).read_text()) | json.loads((trained / TESTED).read_text()))
    return rows


def write(rows: list[dict[str, Any]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)
