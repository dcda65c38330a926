"""The search: Ray Tune with Optuna's sampler, stopped early by ASHA, resumed where it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from akgp import params as parameters
from akgp.stages import sources
from akgp.stages.cluster import require_shared
from akgp.stages.ray import session
from akgp.stages.teachers import teaching
from akgp.stages.trials import one_worker, tuned
from akgp.stages.workspace import Task, Workspace, digest, held, require
from akgp.sweep.results import FOLDER, Trial, with_values, write
from akgp.sweep.trial import METRIC, shared_lesson, trial


def run(root: str | Path = ".") -> list[Trial]:
    """Run (or go on with) the sweep that params.yaml describes; write its table and Pareto plot.

    Raises:
        StageError: the workspace is held, an input is missing, or the cluster is too small for
            what the sweep asks.
    """
    workspace = Workspace(Path(root).resolve())
    params = parameters.load(workspace.root / "params.yaml")
    task = Task("sweep", params, workspace.root)
    inputs = [workspace.data, workspace.dense(params.student), *teaching(task)]
    require(*inputs)
    sources.check(params, workspace.root)
    folder = workspace.root / FOLDER
    folder.mkdir(exist_ok=True)
    name = digest(task, inputs, ("seed", "prune", "distill", "teachers", "folds", "student", "sweep"))
    with held(workspace, "sweep"), session(params.ray, params.ray.workers * params.sweep.concurrent):
        if params.ray.address is not None:
            require_shared(task)
        trials = _tuned(task, folder, name)
    write(workspace.root, trials, params)
    return trials


def _tuned(task: Task, folder: Path, name: str) -> list[Trial]:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from akgp.sweep.progress import Progress

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep, epochs = task.params.sweep, task.params.distill.training.epochs
    resources = one_worker(task.params.ray)
    if task.params.ray.workers > 1:  # the trial only waits for its workers, which ask for theirs themselves
        resources = {"node:__internal_head__": 1e-4}
    # In a list, or Tune would hand over what it refers to, before `prepare` has made it readable.
    trainable = tune.with_parameters(trial, task=task, lessons=[shared_lesson(task)])
    with tqdm(total=sweep.trials, desc="sweep", unit="trial") as bar:
        Progress.bar = bar
        results = tuned(
            tune.with_resources(trainable, resources),
            name,
            str(folder),
            space={key: _domain(searched) for key, searched in sweep.space.items()},
            config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                num_samples=sweep.trials,
                max_concurrent_trials=sweep.concurrent,
                search_alg=OptunaSearch(metric=METRIC, mode="max", seed=task.params.seed),
                scheduler=ASHAScheduler(
                    time_attr="epoch",
                    max_t=epochs + 1,  # a finished trial ends by itself
                    grace_period=min(sweep.grace_epochs, epochs),
                ),
            ),
            callback=Progress(),
        )
    return [_row(number, result, task.params) for number, result in enumerate(results)]


def _domain(searched: parameters.Range) -> Any:
    from ray import tune

    if searched.choices is not None:
        return tune.choice(list(searched.choices))
    return (tune.loguniform if searched.log else tune.uniform)(searched.min, searched.max)


def _row(number: int, result: Any, params: parameters.Params) -> Trial:
    metrics = result.metrics or {}
    seen = int(metrics.get("epoch", 0))
    epochs = with_values(params, result.config or {}).distill.training.epochs
    status = "failed" if result.error else "finished" if seen >= epochs else "stopped"
    return Trial(
        number=number,
        values=dict(result.config or {}),
        status=status,
        epochs=seen,
        val_top1=metrics.get(METRIC),
        macs=metrics.get("macs"),
        params=metrics.get("params"),
        seconds=float(metrics.get("time_total_s", 0.0)),
        error=str(result.error).strip().splitlines()[-1] if result.error else None,
    )
