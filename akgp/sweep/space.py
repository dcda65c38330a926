"""Draws the values of the next trial: Optuna's TPE over sweep.space of params.yaml.

A draw is a function of the trials so far and of the trial's number. There is no sampler state to be saved, so
a search that was interrupted or extended draws what an undisturbed one would have drawn from the same
results.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np

from akgp.io.errors import first_line
from akgp.params import Params, ParamsError, Range, Sweep, number_type, with_values
from akgp.params.strategies import reading
from akgp.workspace import StageError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

DRAWS = 1000
"""Largest number of combinations that are drawn to find a valid one."""
REPEATS = 20
"""Draws of tried values after which those that are left are gone through: TPE prefers what was good."""
COMBINATIONS = 100_000
"""Largest number of combinations that are gone through: seconds, where hardly any is valid."""

Ended = Mapping[int, tuple[Mapping[str, Any], Sequence[float]]]
"""Trials that ended with a result: number -> (values, objectives)."""


class Exhausted(StageError):
    """All valid combinations of the space have been tried."""


def draw(
    number: int,
    ended: Ended,
    params: Params,
    modes: Sequence[str],
    draws: int = DRAWS,
    tried: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The values of trial `number` by dotted names: not tried, and valid together with the other parameters.

    TPE serves one objective and two, for which NSGA-II would need hundreds of trials.

    Args:
        modes: `max` or `min` for each objective.
        draws: the largest number of combinations to draw.
        tried: the values of all trials so far, those that run or failed included.

    Raises:
        StageError: none of `draws` combinations is valid.
        Exhausted: the space is finite, and all that is valid has been tried.
    """
    from optuna.trial import TrialState

    searched, study = distributions(params), _study(number, ended, params, modes)
    base = params.model_copy(update={"sweep": Sweep(space={})})  # its space is already validated
    known, repeats, refused = _meanings(base, tried), 0, ""
    for _ in range(draws):
        drawn = study.ask(searched)
        values = _plain(drawn.params, params)
        try:
            if _meaning(base, values) not in known:
                return values
            repeats += 1
            if repeats == REPEATS:
                break
        except ParamsError as error:
            refused = first_line(error)
        study.tell(drawn, state=TrialState.FAIL)
    if repeats:
        return _first_untried(searched, params, base, known)
    raise StageError(f"sweep.space: of {draws} combinations drawn none is valid, the last one: {refused}")


def _first_untried(
    searched: Mapping[str, BaseDistribution], params: Params, base: Params, known: set[str]
) -> dict[str, Any]:
    """The first valid combination, in the order of the space, that is not `known`."""
    for combination in islice(product(*map(_values, searched.values())), COMBINATIONS):
        values = _plain(dict(zip(searched, combination, strict=True)), params)
        with contextlib.suppress(ParamsError):
            if _meaning(base, values) not in known:
                return values
    count = "1 valid combination has" if len(known) == 1 else f"{len(known)} valid combinations have all"
    raise Exhausted(f"sweep.space: its {count} been tried")


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    """All values; of an interval of reals, of which draws do not repeat, its ends."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    assert isinstance(distribution, FloatDistribution)
    return distribution.low, distribution.high


def _meanings(base: Params, tried: Iterable[Mapping[str, Any]]) -> set[str]:
    known = set()
    for values in tried:
        with contextlib.suppress(ParamsError):  # they were valid in an earlier release
            known.add(_meaning(base, values))
    return known


def _meaning(base: Params, values: Mapping[str, Any]) -> str:
    """A text that is the same for the same trial alone: what its strategy does not read does not count.

    Raises:
        ParamsError: the values are not valid together.
    """
    tree = with_values(base, values)
    distill = tree.distill
    unread = {key for key in type(distill).model_fields if reading(key) and key not in distill.facts.reads}
    return tree.model_dump_json(exclude={"distill": unread})


def _text(value: Any) -> str:
    """A text that is the same for the same value alone: 1, 1.0 and True, which are equal, differ."""
    return json.dumps(value, sort_keys=True)


def _plain(values: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Values of Optuna's, to which each choice is its text: it has no lists, and takes 1 for True."""
    space = params.sweep.space
    return {key: json.loads(value) if space[key].choices else value for key, value in values.items()}


def _optunas(values: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """The reverse of `_plain`."""
    space = params.sweep.space
    return {key: _text(value) if space[key].choices else value for key, value in values.items()}


def _study(number: int, ended: Ended, params: Params, modes: Sequence[str]) -> Study:
    """Optuna's study of the trials that ended, its sampler seeded by the number of the next one."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # SeedSequence mixes both numbers: a sum would give trial 1 of seed 0 the draws of trial 0 of seed 1.
    (seed,) = np.random.SeedSequence([params.seed, number]).generate_state(1)
    study = optuna.create_study(
        directions=["maximize" if mode == "max" else "minimize" for mode in modes],
        sampler=optuna.samplers.TPESampler(seed=int(seed)),
    )
    searched = distributions(params)
    for _, (values, objectives) in sorted(ended.items()):
        if all(map(math.isfinite, objectives)):  # of a training that diverged; Optuna refuses NaN
            study.add_trial(
                optuna.create_trial(
                    params=_optunas(values, params),
                    distributions=searched,
                    values=[float(each) for each in objectives],
                )
            )
    return study


def distributions(params: Params) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each searched parameter; an interval of an integer one holds integers.

    Choices are texts, see `_plain`.
    """
    return {
        key: _distribution(number_type(params, key), searched) for key, searched in params.sweep.space.items()
    }


def _distribution(kind: type | None, searched: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if searched.choices is not None:
        return CategoricalDistribution([_text(choice) for choice in searched.choices])
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
