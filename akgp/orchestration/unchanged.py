"""The parameters of a stage when it has computed: still those of its start, or DVC must not record it.

DVC reads params.yaml again when a stage has ended, and would record another value than was computed with.
"""

from __future__ import annotations

from akgp import params as parameters
from akgp.io.terminal import first_of
from akgp.stages.table import Stage
from akgp.workspace import StageError, Task

SHOWN = 4  # a recipe differs from another one in dozens


def require_unchanged(task: Task, stage: Stage) -> None:
    """Raise StageError if params.yaml now holds another value of a parameter that the stage depends on.

    Raises:
        ParamsError: it is not valid any more.
    """
    # Not `keys_of`: the number of workers is no parameter in dvc.yaml, and may be changed for the next stage.
    keys = tuple(f"{key.format(network=task.network)}." for key in stage.keys)
    then, now = (
        params.model_dump(mode="json") for params in (task.params, parameters.load(task.root / "params.yaml"))
    )
    changed = [
        f"{name}: {parameters.shown(before)}, now {parameters.shown(after)}"
        for name, before, after in parameters.differences("", then, now)
        if f"{name}.".startswith(keys)
    ]
    if changed:
        raise StageError(
            f"params.yaml has changed while {task.label} was computed ({first_of(changed, SHOWN, '; ')}): "
            "run it again"
        )
