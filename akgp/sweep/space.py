"""What is searched, and where the next trial looks: Optuna's TPE over params.yaml's sweep.space.

A draw is a function of the trials that have ended and of the trial's number. There is no state of a sampler
to be saved, so a search that was interrupted or extended draws what an undisturbed one would have drawn from
the same results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from akgp.params import Params, ParamsError, Range, Sweep, number_type, with_values
from akgp.workspace import StageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DRAWS = 1000
"""So many combinations are drawn at most to find one whose values go together."""

Ended = Mapping[int, tuple[Mapping[str, Any], Sequence[float]]]
"""Of the trials that have ended with a result, by number: their values and their objectives."""


def draw(
    number: int, ended: Ended, params: Params, modes: Sequence[str], draws: int = DRAWS
) -> dict[str, Any]:
    """The values of trial `number` by dotted names, valid together with the other parameters.

    TPE is for one objective and for two (for which NSGA-II would need hundreds of trials).

    Args:
        modes: of each objective, whether it is to be large (`max`) or small (`min`).
        draws: how many combinations are drawn at most.

    Raises:
        StageError: of `draws` combinations none is valid.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searched = distributions(params.sweep.space)
    (seed,) = np.random.SeedSequence([params.seed, number]).generate_state(1)
    study = optuna.create_study(
        directions=["maximize" if mode == "max" else "minimize" for mode in modes],
        sampler=optuna.samplers.TPESampler(seed=int(seed)),
    )
    for _, (values, objectives) in sorted(ended.items()):
        if all(map(math.isfinite, objectives)):
            study.add_trial(
                optuna.create_trial(
                    params=dict(values), distributions=searched, values=[float(each) for each in objectives]
                )
            )
    base = params.model_copy(update={"sweep": Sweep(space={})})  # its space is valid already
    for _ in range(draws):
        drawn = study.ask(searched)
        try:
            with_values(base, drawn.params)
            return dict(drawn.params)
        except ParamsError as error:
            refused = f"the last one: {str(error).splitlines()[0]}"
            study.tell(drawn, state=optuna.trial.TrialState.FAIL)
    raise StageError(f"sweep.space: of {draws} combinations drawn none is valid, {refused}")


def distributions(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each searched parameter; an interval of an integer one holds integers."""
    return {key: _distribution(key, searched) for key, searched in space.items()}


def _distribution(key: str, searched: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if searched.choices is not None:
        return CategoricalDistribution(searched.choices)
    assert searched.min is not None and searched.max is not None
    if number_type(key) is int:
        return IntDistribution(int(searched.min), int(searched.max), log=searched.log)
    return FloatDistribution(searched.min, searched.max, log=searched.log)


def canonical(params: Params) -> Params:
    """What names a search: two params.yaml of one canonical form describe the same trials.

    What a trial sets itself does not count, nor how many trials there are, nor how many run at a time.
    """
    tree = params.model_copy(update={"sweep": params.sweep.model_copy(update={"trials": 1, "concurrent": 1})})
    return with_values(tree, draw(0, {}, tree, ["max"])) if params.sweep.space else tree
