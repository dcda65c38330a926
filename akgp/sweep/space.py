"""Draws the values of the next trial: Optuna's TPE over sweep.space of params.yaml.

A draw is a function of the ended trials and of the trial's number. There is no sampler state to be saved, so
a search that was interrupted or extended draws what an undisturbed one would have drawn from the same
results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from akgp.io.errors import first_line
from akgp.params import Params, ParamsError, Range, Sweep, number_type, with_values
from akgp.workspace import StageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DRAWS = 1000
"""Largest number of combinations that are drawn to find a valid one."""

Ended = Mapping[int, tuple[Mapping[str, Any], Sequence[float]]]
"""Trials that ended with a result: number -> (values, objectives)."""


def draw(
    number: int, ended: Ended, params: Params, modes: Sequence[str], draws: int = DRAWS
) -> dict[str, Any]:
    """The values of trial `number` by dotted names, valid together with the other parameters.

    TPE serves one objective and two, for which NSGA-II would need hundreds of trials.

    Args:
        modes: `max` or `min` for each objective.
        draws: the largest number of combinations to draw.

    Raises:
        StageError: none of `draws` combinations is valid.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searched = distributions(params)
    # SeedSequence mixes both numbers: a sum would give trial 1 of seed 0 the draws of trial 0 of seed 1.
    (seed,) = np.random.SeedSequence([params.seed, number]).generate_state(1)
    study = optuna.create_study(
        directions=["maximize" if mode == "max" else "minimize" for mode in modes],
        sampler=optuna.samplers.TPESampler(seed=int(seed)),
    )
    for _, (values, objectives) in sorted(ended.items()):
        if all(map(math.isfinite, objectives)):  # of a training that diverged; Optuna refuses NaN
            study.add_trial(
                optuna.create_trial(
                    params=dict(values), distributions=searched, values=[float(each) for each in objectives]
                )
            )
    base = params.model_copy(update={"sweep": Sweep(space={})})  # its space is already validated
    for _ in range(draws):
        drawn = study.ask(searched)
        try:
            with_values(base, drawn.params)
            return dict(drawn.params)
        except ParamsError as error:
            refused = f"the last one: {first_line(error)}"
            study.tell(drawn, state=optuna.trial.TrialState.FAIL)
    raise StageError(f"sweep.space: of {draws} combinations drawn none is valid, {refused}")


def distributions(params: Params) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each searched parameter; an interval of an integer one holds integers."""
    return {
        key: _distribution(number_type(params, key), searched) for key, searched in params.sweep.space.items()
    }


def _distribution(kind: type | None, searched: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if searched.choices is not None:
        return CategoricalDistribution(searched.choices)
    assert searched.min is not None and searched.max is not None
    if kind is int:
        return IntDistribution(int(searched.min), int(searched.max), log=searched.log)
    return FloatDistribution(searched.min, searched.max, log=searched.log)


def canonical(params: Params) -> Params:
    """The parameters that identify a search: params with the same canonical form describe the same trials.

    Parameters that trials set do not count, nor do the number of trials and how many run at a time. So a
    sweep can be continued after one of its trials was applied, or with more trials.
    """
    tree = params.model_copy(update={"sweep": params.sweep.model_copy(update={"trials": 1, "concurrent": 1})})
    # Searched parameters get the values of a fixed draw, whatever they are in params.yaml.
    return with_values(tree, draw(0, {}, tree, ["max"])) if params.sweep.space else tree
