"""Ray Tune trials, resumed where they were interrupted; those of a sweep are in akgp.sweep.tuning."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from akgp.io.storage import opened
from akgp.orchestration.checkpoints import drop_damaged

if TYPE_CHECKING:
    from ray.tune import Callback, ResultGrid, TuneConfig

log = logging.getLogger(__name__)


def run_tuner(
    trial: Callable[[dict[str, Any]], None],
    name: str,
    storage: str,
    *,
    space: dict[str, Any],
    config: TuneConfig,
    callback: Callback,
    retry_failed: bool = False,
    max_failures: int = 0,
) -> ResultGrid:
    """Run the trials of the experiment `name`; if it was killed before, resume the unfinished ones.

    A trial is resumed from its last checkpoint. One that fails does not end the others.

    Args:
        trial: with its resources.
        storage: the directory or URL below which the experiment is kept.
        retry_failed: resume the trials that failed too.
        max_failures: how often a trial that fails is resumed at once. Ray Tune does not tell a lost node
            from an error of the computation, which is repeated as often.
    """
    from ray import tune

    quiet()
    path = f"{storage}/{name}"
    if resumable(path) and tune.Tuner.can_restore(path):
        return tune.Tuner.restore(path, trial, resume_unfinished=True, resume_errored=retry_failed).fit()
    return tune.Tuner(
        trial,
        param_space=space,
        tune_config=config,
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,  # no tables: the progress bar shows the trials
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    ).fit()


def quiet() -> None:
    """Silence Ray Tune's log: errors are in the results."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def resumable(path: str) -> bool:
    """Whether the experiment has a complete snapshot; incomplete ones are removed.

    Ray Tune does not write snapshots atomically: after a kill in the middle it could never resume.
    """
    drop_damaged(path)
    filesystem, folder = opened(path)
    # Named by the time of the run: the newest complete one is the state to resume.
    files = sorted(filesystem.find(folder, maxdepth=1), reverse=True)
    for snapshot in [file for file in files if PurePosixPath(file).match("experiment_state-*.json")]:
        if _holds_trials(filesystem.cat_file(snapshot)):
            return True
        log.warning("%s is damaged: trials start again", snapshot)
        filesystem.rm_file(snapshot)
    return False


def _holds_trials(snapshot: bytes) -> bool:
    try:
        content = json.loads(snapshot)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("trial_data"), list)
