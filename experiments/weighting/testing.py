"""The test split, opened for all students at once: `trials.parquet`, a row each."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from akgp import artifacts
from akgp.training import evaluate
from experiments.weighting.design import Cell, Design
from experiments.weighting.learning import device
from experiments.weighting.students import ROW, STUDENT, folder_of
from experiments.weighting.teachers import DENSE, ReferenceRun

TESTED = "test.json"
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("regime", "teacher", "strategy", "device")),
        ("w", pa.float64()),
        ("student_seed", pa.int64()),
        ("teacher_seed", pa.int64()),
        *(
            (name, pa.float64())
            for name in (
                "compute", "val_top1", "test_top1", "dense_test_top1", "train_top1", "w_raw", "w_error",
                "noise_rate", "noise_rate_low", "memorisation_gap", "seconds",
            )
        ),
    ]
)  # fmt: skip


def test(design: Design, root: Path, partial: bool, processes: int = 1) -> list[dict[str, Any]]:
    """The rows of all students with their accuracy on the test split; what was tested is not again.

    Beside it that of the network of which the student is a half, `dense_test_top1`.

    Args:
        partial: leave out the cells that are not whole.
        processes: cells at a time.

    Raises:
        SystemExit: students are missing.
    """
    whole = [
        cell
        for cell in design.cells()
        if all((folder_of(root, cell, arm) / ROW).exists() for arm in design.arms_of(cell.setting))
    ]
    missing = len(list(design.cells())) - len(whole)
    if missing and not partial:
        raise SystemExit(f"{missing} cells are not trained: the test split stays closed; resume with `run`")
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(tested, design, root, cell) for cell in whole]
        return [row for future in tqdm(futures, unit="cell") for row in future.result()]


def tested(design: Design, root: Path, cell: Cell) -> list[dict[str, Any]]:
    """The rows of one cell."""
    torch.set_num_threads(1)
    at = ReferenceRun(design, root, cell.setting.regime, cell.teacher_seed)
    images = at.batches(at.split("test")).to(device())
    dense = evaluate(at.network(DENSE).to(device()), images).top1
    rows = []
    for arm in design.arms_of(cell.setting):
        trained = folder_of(root, cell, arm)
        if not (trained / TESTED).exists():
            student = artifacts.load(trained / STUDENT).to(device())
            loss, top1, _ = evaluate(student, images)
            (trained / TESTED).write_text(
                json.dumps({"test_loss": loss, "test_top1": top1}), encoding="utf-8"
            )
        row = json.loads((trained / ROW).read_text(encoding="utf-8")) | json.loads(
            (trained / TESTED).read_text(encoding="utf-8")
        )
        rows.append(row | {"dense_test_top1": dense})
    return rows


def write(rows: list[dict[str, Any]], design: Design, file: Path) -> None:
    """Write the rows, and those that `file` has of other cells: each may be trained on another machine.

    Raises:
        SystemExit: `file` holds another design's rows.
    """
    kept: list[dict[str, Any]] = []
    if file.exists():
        earlier = pq.read_table(file)
        if (earlier.schema.metadata or {}).get(b"design") != design.digest.encode():
            raise SystemExit(f"{file}: its trials are not of this design; move it away")
        new = {_cell(row) for row in rows}
        kept = [row for row in earlier.to_pylist() if _cell(row) not in new]
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({"design": design.digest})
    pq.write_table(pa.Table.from_pylist([*kept, *rows], schema=schema), file)


def _cell(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("regime", "teacher", "teacher_seed", "student_seed"))
