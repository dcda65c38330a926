"""`akgp sweep run`: checks the inputs, runs the trials, and writes the table, also of an interrupted search.

With accuracy as the only objective ASHA stops trials early. With two objectives it can't: it ranks trials by
one figure, and by accuracy it would stop the small networks.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akgp import artifacts
from akgp import params as parameters
from akgp.data import Summary, read_summary
from akgp.distillation.profile.classes import IMBALANCED
from akgp.orchestration.capacity import worker_resources
from akgp.orchestration.cluster import require_shared
from akgp.orchestration.digest import code_of, digest
from akgp.orchestration.session import session
from akgp.orchestration.workspace_lock import workspace_lock
from akgp.params import ParamsError, with_values
from akgp.stages import network_files
from akgp.stages.module_names import check_module_names
from akgp.sweep.identity import SEARCHED, keys_of_search
from akgp.sweep.latency import dense_latency_ms, latencies_ms
from akgp.sweep.results import FOLDER, Dense, Trial, write
from akgp.sweep.space import canonical
from akgp.sweep.trial import BALANCED, DENSE_MACS, TOP1, shared, trial
from akgp.workspace import METRICS, StageError, Task, Workspace, require

if TYPE_CHECKING:
    from ray.tune.schedulers import ASHAScheduler

    from akgp.sweep.tuning import Ended

log = logging.getLogger(__name__)

CODE = ("akgp.sweep.trial", "akgp.sweep.space", "akgp.sweep.tuning")
EPOCHS = "distill.training.epochs"
NAMING = ("prune.skip", "prune.bypass", "prune.layers", "prune.limits", "distill.heads")
"""Parameters that name modules of the network."""


def run(root: str | Path = ".", trials: int | None = None) -> list[Trial]:
    """Run, resume or extend the sweep that params.yaml describes; write its table and Pareto plot.

    Args:
        trials: number of trials in all; None: `sweep.trials`, or as many as there are if these are more.

    Raises:
        StageError: the workspace is held, an input is missing, the cluster is too small for
            what the sweep needs, or there are more trials already.
        KeyboardInterrupt: by the user; the next call resumes.
    """
    workspace = Workspace(Path(root).resolve())
    params = parameters.load(workspace.root / "params.yaml")
    task = Task("sweep", params, workspace.root)
    made = {stage.output(task) for stage in SEARCHED}
    inputs = [path for stage in SEARCHED for path in stage.inputs(task) if path not in made]
    require(*inputs)
    network_files.check(params, workspace.root)
    _check_module_names(task)
    folder = workspace.root / FOLDER
    folder.mkdir(exist_ok=True)
    shared = Task("sweep", canonical(params), workspace.root)
    path = folder / digest(shared, keys_of_search(params), inputs, code_of(*CODE))
    with workspace_lock(workspace, "sweep"):
        try:
            with session(params.ray, params.ray.workers, params.sweep.concurrent):
                if params.ray.address is not None:
                    require_shared(task)
                _search(task, str(path), trials)
        finally:  # what an interrupted search has finished is worth seeing, too
            rows = _write_ended(task, str(path))
    return rows


def _check_module_names(task: Task) -> None:
    """Raise StageError if a choice names modules that the student's dense network does not have."""
    params, space = task.params, task.params.sweep.space
    searched = {key: space[key].choices or () for key in NAMING if key in space}
    if not searched:
        return
    model = artifacts.load(task.workspace.dense(params.student))
    for key, choices in searched.items():
        for choice in choices:
            with contextlib.suppress(ParamsError):  # valid with other values of the space alone
                tried = with_values(params, {key: choice})
                try:
                    check_module_names(model, params.student, tried)
                except StageError as error:
                    raise StageError(f"sweep.space: {error}") from None


def dense(task: Task, metrics_of_trials: Sequence[Mapping[str, Any]]) -> Dense | None:
    """The student's dense network as reference; None if it has no metrics, or no trial has counted it.

    Args:
        metrics_of_trials: the metrics of the trials, which count and time it together with their networks.
    """
    metric = objective(read_summary(task.workspace.data)).removeprefix("kept_")
    file = task.workspace.dense(task.params.student) / METRICS
    metrics = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    macs = [metrics[DENSE_MACS] for metrics in metrics_of_trials if DENSE_MACS in metrics]
    return (
        Dense(metrics[metric], macs[0], dense_latency_ms(metrics_of_trials))
        if macs and metric in metrics
        else None
    )


def total_trials(requested: int | None, default: int, existing: int) -> int:
    """The number of trials in all: as requested; otherwise the default, but no fewer than exist.

    Raises:
        StageError: fewer are requested than exist.
    """
    if requested is not None and requested < existing:
        raise StageError(
            f"--trials: got {requested}, but this sweep has {existing} trials: it can only be extended"
        )
    return requested or max(default, existing)


def _search(task: Task, path: str, trials: int | None) -> None:
    """Run the trials."""
    from ray import tune

    from akgp.sweep.progress import Progress
    from akgp.sweep.tuning import Objectives, run, snapshot

    params, sweep = task.params, task.params.sweep
    metric = objective(read_summary(task.workspace.data))
    against = () if sweep.against is None else (sweep.against,)
    search = snapshot(path, params, Objectives((metric, *against), ("max", "min")[: 1 + len(against)]))
    trials = total_trials(trials, sweep.trials, len(search.values))
    resources: dict[str, float] = dict(worker_resources(params.ray))
    if params.ray.workers > 1:  # the trial only waits for its workers, which ask for theirs themselves
        resources = {"node:__internal_head__": 1e-4}
    # The reference lies in a list, as Tune would resolve a bare one, before `prepare` has made it readable.
    trainable = tune.with_parameters(trial, task=task, common=[shared(task)])
    with Progress.shown(trials, sweep.concurrent, lambda values: _epochs(params, values), metric):
        run(
            tune.with_resources(trainable, resources),
            search,
            trials,
            path,
            concurrent=sweep.concurrent,
            scheduler=None if against else _asha(params),
            callbacks=[Progress()],
            reuse_actors=params.ray.workers == 1,  # a process takes seconds to start and import torch
            max_failures=params.ray.max_failures if params.ray.address else 0,
        )
    if search.exhausted:
        log.warning("%s: the sweep ends after %d of %d trials", search.exhausted, len(search.values), trials)


def _write_ended(task: Task, path: str) -> list[Trial]:
    """Write the table and the plot of the trials that have ended by Ray Tune's last snapshot, if any have."""
    from akgp.sweep.tuning import ended

    if results := ended(path):
        rows = _rows(results, task.params, objective(read_summary(task.workspace.data)))
        write(task.root, rows, task.params, dense(task, [each.metrics for each in results]))
        return rows
    return []


def objective(summary: Summary) -> str:
    """The metric by which a sweep's trials are compared: BALANCED where `akgp` adjusts logits, else TOP1.

    By top-1 on a validation split with the same long tail, a student that is trained to predict as if
    classes were equally frequent would lose to one that neglects the rare ones.
    """
    return BALANCED if summary.imbalance > IMBALANCED else TOP1


def _asha(params: parameters.Params) -> ASHAScheduler:
    from ray.tune.schedulers import ASHAScheduler

    searched = params.sweep.space.get(EPOCHS)
    longest = params.distill.training.epochs
    if searched:
        longest = int(searched.max or max(each for each in searched.choices or () if isinstance(each, int)))
    return ASHAScheduler(
        time_attr="epoch",
        max_t=longest + 1,  # beyond any trial: one that finishes must not count as stopped
        grace_period=min(params.sweep.grace_epochs, longest),
    )


def _epochs(params: parameters.Params, values: dict[str, Any]) -> int:
    """The number of epochs of a trial with these values, even if they are not valid together."""
    return int(values.get(EPOCHS, params.distill.training.epochs))


def _rows(results: list[Ended], params: parameters.Params, metric: str) -> list[Trial]:
    """The results as rows, by number: Tune's list changes its order when it is restored."""
    results = sorted(results, key=lambda result: result.number)
    latencies = latencies_ms([result.metrics for result in results])
    return [
        _row(result, latency_ms, params, metric)
        for result, latency_ms in zip(results, latencies, strict=True)
    ]


def _row(result: Ended, latency_ms: float | None, params: parameters.Params, metric: str) -> Trial:
    values, metrics = result.values, result.metrics
    epochs = int(metrics.get("epoch", 0))
    # ASHA ends a trial without an error, so only its epochs tell that it was stopped.
    status = "failed" if result.error else "finished" if epochs >= _epochs(params, values) else "stopped"
    return Trial(
        number=result.number,
        values=values,
        status=status,
        epochs=epochs,
        val_top1=metrics.get(TOP1),
        macs=metrics.get("macs"),
        params=metrics.get("params"),
        seconds=float(metrics.get("time_total_s", 0.0)),
        error=str(result.error).strip().splitlines()[-1] if result.error else None,
        latency_ms=latency_ms,
        val_balanced_top1=metrics.get(BALANCED) if metric == BALANCED else None,
        compute=metrics.get("compute"),
    )
