"""What makes a sweep another one: the parameters that its trials depend on, and whether they have changed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akgp import params as parameters
from akgp.orchestration.digest import parameter
from akgp.outdated_results import changes, listed
from akgp.params import Params, ParamsError, with_values
from akgp.stages.table import STAGES
from akgp.sweep.results import read_base, read_trials

SEARCHED = tuple(STAGES[name] for name in ("prune", "distill"))
"""The stages that a trial runs."""


def keys_of_search(params: Params) -> list[str]:
    """The parameters, dotted, that a search depends on beside its inputs."""
    # What is timed depends on these sections too, but only if latency is an objective.
    measured = ("quantize", "evaluate") if params.sweep.against == "latency" else ()
    keys = (key for stage in SEARCHED for key in stage.keys)
    # A trial of two workers is another one, as a job is (`Stage.keys_of`).
    return list(dict.fromkeys([*keys, "sweep", "ray.workers", *measured]))


def outdated(root: str | Path = ".") -> str:
    """A sentence if the last sweep's trials are of other parameters than params.yaml now holds; else empty.

    What trials set, how many there are, and how many run at a time make no difference. Also empty where
    params.yaml is not valid, which `akgp params check` reports.

    Raises:
        StageError: there is no sweep, or one of its files is damaged.
    """
    root = Path(root)
    trials, base = read_trials(root), read_base(root)
    try:
        present = parameters.load(root / "params.yaml")
    except ParamsError:
        return ""
    values = trials[0].values if trials else {}
    then, now = _compared(base, values), _compared(present, values)
    changed = [line for key in then if key in now for line in changes(key, then[key], now[key])]
    if base.sweep.space.keys() != present.sweep.space.keys():
        changed.append("sweep.space")
    if not changed:
        return ""
    return (
        f"these trials are of other parameters than params.yaml now holds: {listed(changed)}; "
        "`akgp sweep run` searches with the latter"
    )


def _compared(params: Params, values: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a sweep another one, its inputs' parameters included: values by dotted names.

    Args:
        values: of one trial; set before, so that it doesn't matter which trial was applied.
    """
    with contextlib.suppress(ParamsError):  # which other parameters must have caused: they are named
        params = with_values(params, values)
    counts = {"trials": 1, "concurrent": 1}
    params = params.model_copy(update={"sweep": params.sweep.model_copy(update=counts)})
    networks = (f"networks.{name}" for name in (*params.teachers, params.student))
    keys = ("seed", "data", *networks, "teacher", *keys_of_search(params))
    return {key: parameter(params, key) for key in keys}
