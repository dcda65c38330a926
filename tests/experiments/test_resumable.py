"""Tables of runs: resumed, shared, and what they say of seeds and machines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from experiments import views
from experiments.resumable import complete


def test_a_table_is_resumed_after_the_last_run(tmp_path: Path) -> None:
    runs = [views.Run(20, number, seed) for seed in (0, 1) for number in (None, 5)]
    done: list[views.Run] = []

    def measured(run: views.Run) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(run)
        time.sleep(0.06)
        return {"val_top1": 60.0 + run.seed - (run.views or 0)}

    with pytest.raises(KeyboardInterrupt):
        complete(tmp_path, runs, measured, views.table)
    rows = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [(row["views"], row["seed"]) for row in rows] == [(None, 0), (5, 0), (None, 1)] and done == runs[
        :3
    ]
    done.clear()
    complete(tmp_path, runs, measured, views.table)
    assert done == runs[3:]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    rows = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert all(row["seconds"] >= 0.1 and row["machine"] and row["commit"] for row in rows)
    assert "| 20 | 5 | 55.50 ± 0.50 (2) | 5.00 ± 0.00 (2) |" in text


def test_two_processes_share_a_table(tmp_path: Path) -> None:
    """And a seed that two machines have counts once."""
    first, second, third = (views.Run(20, None, seed) for seed in (0, 1, 2))

    def measured(run: views.Run) -> dict[str, Any]:
        if run == first:  # another process ends its run meanwhile
            complete(tmp_path, [second], measured, views.table)
        return {"val_top1": 60.0 + run.seed}

    complete(tmp_path, [first, second, third], measured, views.table)
    rows = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [row["seed"] for row in rows] == [1, 0, 2]
    again = rows[0] | {"machine": "another", "val_top1": 65.0}
    text = views.table([*rows, again])
    assert "| 20 | asked in the step | 61.67 ± 0.88 (3) |  |" in text
    assert f"Runs of the plan: 3 of {len(list(views.plan()))}." in text
