"""The experiment as a Ray Tune run, two trials at a time; killed, it resumes where it was."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.weighting.design import Cell, Design, digest
from experiments.weighting.students import train_students
from experiments.weighting.teachers import ReferenceRun, make

CONCURRENT = 2


@dataclass(frozen=True)
class Trial:
    """The data and networks of a regime, or a cell's students."""

    regime: str
    teacher_seed: int
    cell: Cell | None = None

    def run(self, design: Design, root: Path) -> None:
        torch.set_num_threads(1)
        make(ReferenceRun(design, root, self.regime, self.teacher_seed))
        if self.cell is not None:
            train_students(design, root, self.cell)


def trials(design: Design) -> Iterator[list[Trial]]:
    """All trials in groups, each of which needs what the groups before it have made."""
    cells = list(design.cells())
    seeds = dict.fromkeys(teacher for teacher, _ in design.pairs)
    yield [Trial(regime, seed) for seed in seeds for regime in design.regimes]
    measuring = [cell.student_seed == design.first_student(cell.teacher_seed) for cell in cells]
    for first in (True, False):
        yield [
            Trial(cell.setting.regime, cell.teacher_seed, cell)
            for cell, measures in zip(cells, measuring, strict=True)
            if measures == first
        ]


def run(design: Design, root: Path) -> None:
    """Train all teachers and students below `root`; what exists there is not trained again.

    Raises:
        RuntimeError: trials failed; all others of their group have run.
    """
    from akgp.orchestration.session import session
    from akgp.params import Ray

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with session(Ray(cpus_per_worker=1), CONCURRENT):
        for group in trials(design):
            if group:
                _tune(design, root, group)


def _tune(design: Design, root: Path, group: list[Trial]) -> None:
    from ray import tune

    name = f"trials-{digest([asdict(trial) for trial in group])}"
    storage = root / "tune"

    def trial(config: dict[str, int]) -> None:
        group[config["trial"]].run(design, root)
        tune.report({"done": 1})

    trainable = tune.with_resources(trial, {"CPU": 1})
    if tune.Tuner.can_restore(str(storage / name)):
        tuner = tune.Tuner.restore(
            str(storage / name), trainable, resume_unfinished=True, restart_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(list(range(len(group))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=CONCURRENT),
            run_config=tune.RunConfig(name=name, storage_path=str(storage), verbose=1),
        )
    _require([str(result.error) for result in tuner.fit() if result.error])


def run_alone(design: Design, root: Path, processes: int) -> None:
    """`run` without Ray, for a machine that hasn't got it: `processes` trials at a time."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawned) as pool:
        for group in trials(design):
            futures = [pool.submit(trial.run, design, root) for trial in group]
            errors = [future.exception() for future in tqdm(futures, unit="trial")]
            _require([repr(error) for error in errors if error])


def _require(failed: list[str]) -> None:
    if failed:
        raise RuntimeError(f"{len(failed)} trials failed, the first with: {failed[0]}")
