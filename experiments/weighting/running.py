"""The grid as a Ray Tune run, two trials at a time; killed, it goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from ray import tune

from akgp.params import Ray
from akgp.stages.ray import session
from experiments.weighting.design import REGIMES, SETTINGS, Cell, Setting, arms, cells, digest
from experiments.weighting.students import train_students
from experiments.weighting.teachers import bench, make

CONCURRENT = 2
Config = dict[str, Any]


def run(folder: Path) -> None:
    """Train all teachers and students below `folder`; what exists there is not trained again.

    Raises:
        RuntimeError: trials failed; all others have run.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(tune.with_parameters(trial, folder=folder), {"CPU": 1})
    asked = list(trials())
    name = f"grid-{digest([[asdict(arm) for arm in arms(setting)] for setting in SETTINGS], asked)}"
    storage = folder / "tune"
    with session(Ray(cpus_per_worker=1), CONCURRENT):
        if tune.Tuner.can_restore(str(storage / name)):
            tuner = tune.Tuner.restore(
                str(storage / name), trainable, resume_unfinished=True, restart_errored=True
            )
        else:
            tuner = tune.Tuner(
                trainable,
                param_space={"trial": tune.grid_search(asked)},
                tune_config=tune.TuneConfig(max_concurrent_trials=CONCURRENT),
                run_config=tune.RunConfig(name=name, storage_path=str(storage), verbose=1),
            )
        failed = [result.error for result in tuner.fit() if result.error]
    if failed:
        raise RuntimeError(f"{len(failed)} trials failed, the first with: {failed[0]}")


def trials() -> Iterator[Config]:
    """All trials in order: a teacher seed's networks, regime by regime, before the first that need them."""
    known: set[int] = set()
    for cell in cells():
        if cell.teacher_seed not in known:
            known.add(cell.teacher_seed)
            yield from ({"regime": regime, "teacher_seed": cell.teacher_seed} for regime in REGIMES)
        yield {
            "regime": cell.setting.regime,
            "teacher_seed": cell.teacher_seed,
            "teacher": cell.setting.teacher,
            "student_seed": cell.student_seed,
        }


def trial(config: dict[str, Config], folder: Path) -> None:
    """Data, teachers and pruned student of a regime, or on top of them all students of a cell."""
    torch.set_num_threads(1)
    asked = config["trial"]
    regime, seed = asked["regime"], asked["teacher_seed"]
    at = bench(folder, regime, seed)
    with FileLock(f"{at.folder}.lock"):
        make(at, regime)
    if "teacher" in asked:
        setting = Setting(regime, asked["teacher"])
        train_students(folder, Cell(setting, seed, asked["student_seed"]))
    tune.report({"done": 1})
