"""Sweeps: the table, the Pareto front, taking a trial over; and a real search, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from akgp import params, stages, sweep
from akgp.stages.workspace import StageError
from akgp.sweep import results
from akgp.sweep.results import Trial

AKGP = str(Path(sys.executable).with_name("akgp"))


def trial(
    number: int, val_top1: float | None, macs: int | None, status: str = "finished", **values: Any
) -> Trial:
    return Trial(number, values, status, 3, val_top1, macs, macs, 1.0, "boom" if status == "failed" else None)


TRIALS = [
    trial(0, 90.0, 500, **{"prune.ratio": 0.5}),
    trial(1, 92.0, 700, **{"prune.ratio": 0.3}),
    trial(2, 91.0, 800, **{"prune.ratio": 0.2}),  # beaten by 1 in both
    trial(3, 95.0, 900, status="stopped"),
    trial(4, None, None, status="failed"),
    trial(5, 92.0, 650, **{"prune.ratio": 0.35, "distill.temperature": 4.0, "distill.strategy": "fixed"}),
]


def base() -> params.Params:
    return params.validate(
        {"networks": {"n": {"architecture": "cifar_resnet20"}}, "teachers": ["n"], "student": "n"}
    )


def test_front_is_what_no_finished_trial_beats() -> None:
    finished = [each for each in TRIALS if each.status == "finished"]

    def beaten(one: Trial) -> bool:
        return any(
            (o.val_top1 >= one.val_top1 and o.macs <= one.macs)  # type: ignore[operator]
            and (o.val_top1, o.macs) != (one.val_top1, one.macs)
            for o in finished
        )

    expected = {one.number for one in finished if not beaten(one)}
    front = sweep.pareto_front(TRIALS)
    assert {one.number for one in front} == expected == {0, 5}
    assert [one.macs for one in front] == [500, 650]


def test_results_are_written_read_and_ranked(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, TRIALS, base())
    assert [one.number for one in sweep.best(2, tmp_path)] == [5, 1]  # a tie goes to the smaller network
    assert pq.read_table(tmp_path / "sweeps" / "trials.parquet").num_rows == len(TRIALS)
    assert (tmp_path / "sweeps" / "pareto.svg").read_text().startswith("<?xml")
    text = sweep.table(TRIALS)
    assert text.splitlines()[0].split()[:4] == ["trial", "val", "top-1", "%"]
    assert "92.00" in text and "failed" in text


def test_apply_writes_the_trials_params_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    results.write(tmp_path, TRIALS, base())
    sweep.apply(5, tmp_path)
    applied = params.load(tmp_path / "params.yaml")
    assert (applied.prune.ratio, applied.distill.temperature, applied.distill.strategy) == (
        0.35,
        4.0,
        "fixed",
    )
    assert applied.model_copy(update={"prune": base().prune, "distill": base().distill}) == base()
    with pytest.raises(StageError, match="got trial 9, must be one of 0 to 5"):
        sweep.apply(9, tmp_path)


def test_nothing_to_show_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"trials.parquet: missing; `akgp sweep run` makes it"):
        sweep.best(1, tmp_path)


def workspace(root: Path, **changes: Any) -> None:
    training = {
        "epochs": 4,
        "batch_size": 64,
        "learning_rate": 0.1,
        "augment": {"crop_padding": 1, "flip": False},
    }
    tree = {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"small": {"architecture": "cifar_resnet20", "widths": [8, 8, 16]}},
        "teachers": ["small"],
        "student": "small",
        "teacher": training,
        "prune": {"ratio": 0.5, "round_to": 4},
        "distill": {"training": training},
        "ray": {"cpus_per_worker": 1},
        "sweep": {
            "trials": 4,
            "concurrent": 2,
            "grace_epochs": 4,
            "space": {
                "prune.ratio": {"min": 0.2, "max": 0.6},
                "distill.w0": {"choices": [0.0, 0.7]},
                "distill.temperature": {"min": 1, "max": 6, "log": True},
            },
        },
    } | changes
    (root / "params.yaml").write_text(params.dump(params.validate(tree)))
    for stage in ("data", "teacher"):
        stages.run(stage, network="small" if stage == "teacher" else None, root=root)


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [AKGP, "sweep", "run"], cwd=root, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_a_search_is_killed_resumed_and_its_best_trial_reproduced(tmp_path: Path) -> None:
    workspace(tmp_path)
    killed = start(tmp_path)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("sweeps/*/*/checkpoint_*/state.pt")):
        assert killed.poll() is None and time.monotonic() < deadline, "no trial began"
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "sweeps" / "trials.parquet").exists()
    time.sleep(5)  # its workers end

    resumed = start(tmp_path)
    output, errors = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, errors
    assert not [
        line for line in errors.replace("\r", "\n").splitlines() if line.strip() and "sweep" not in line
    ]
    trials = sweep.best(10, tmp_path)
    assert len(trials) == 4 and {one.status for one in trials} == {"finished"}
    assert len(output.splitlines()) == 5

    chosen = trials[0]
    sweep.apply(chosen.number, tmp_path)
    for stage in ("prune", "distill"):
        stages.run(stage, root=tmp_path)
    metrics = json.loads((tmp_path / "models" / "student" / "metrics.json").read_text())
    assert metrics["val_top1"] == chosen.val_top1


@pytest.mark.slow
def test_trials_of_two_workers_follow_each_other(tmp_path: Path) -> None:
    """A trial gets the workers of the one before, also where that was stopped early."""
    space = {"distill.training.learning_rate": {"choices": [0.1, 10.0]}}
    training = {"epochs": 3, "batch_size": 64, "learning_rate": 0.1, "precision": "fp32"}
    workspace(
        tmp_path,
        distill={"training": training},
        ray={"cpus_per_worker": 1, "workers": 2},
        sweep={"trials": 3, "concurrent": 1, "grace_epochs": 1, "space": space},
    )
    trials = sweep.run(tmp_path)
    assert len(trials) == 3
    assert {one.status for one in trials} == {"finished", "stopped"}
    assert all(one.val_top1 and one.macs and one.epochs for one in trials)
