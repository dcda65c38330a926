"""Where a sweep looks: the values drawn, and that they depend on nothing but what was found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from akgp import params
from akgp.sweep.search import total_trials
from akgp.sweep.space import Exhausted, canonical, draw
from akgp.workspace import StageError

SPACE = {
    "distill.training.epochs": {"min": 2, "max": 40},
    "distill.training.batch_size": {"min": 2, "max": 512, "log": True},
    "distill.w0": {"min": 0, "max": 1},
    "distill.strategy": {"choices": ["akgp", "fixed"]},
}


def searching(space: dict[str, Any], **changes: Any) -> params.Params:
    networks = {"n": {"architecture": "cifar_resnet20"}}
    tree = {"networks": networks, "teachers": ["n"], "student": "n", "sweep": {"space": space}}
    return params.validate(tree | changes)


def test_integers_are_integers_and_other_numbers_are_not() -> None:
    searched = searching(SPACE)
    drawn = [draw(number, {}, searched, ["max"]) for number in range(60)]
    epochs, sizes, w0, strategies = ([values[key] for values in drawn] for key in SPACE)
    assert {type(each) for each in [*epochs, *sizes]} == {int} and {type(each) for each in w0} == {float}
    assert min(epochs) >= 2 and max(epochs) <= 40 and len(set(epochs)) > 20
    assert min(sizes) >= 2 and max(sizes) <= 512
    assert sum(size < 32 for size in sizes) > 20, "of the logarithm half lies below 32"
    assert set(strategies) == {"akgp", "fixed"}


def test_values_that_do_not_go_together_are_not_drawn() -> None:
    """Of these a half: alpha above 1 is for wsld alone, and batches of odd sizes for one worker."""
    space = {
        "distill.strategy": {"choices": ["self_distillation", "wsld"]},
        "distill.alpha": {"min": 0, "max": 4},
        "distill.training.batch_size": {"min": 2, "max": 10},
    }
    searched = searching(space, ray={"workers": 2})
    drawn = [draw(number, {}, searched, ["max"]) for number in range(40)]
    for values in drawn:
        params.with_values(searched, values)
    assert {values["distill.training.batch_size"] % 2 for values in drawn} == {0}
    assert max(values["distill.alpha"] for values in drawn) > 1


def test_a_space_in_which_nothing_goes_together_is_said() -> None:
    """Each value has a partner, but batches that two workers share are one in 509."""
    space = {"distill.training.batch_size": {"min": 509, "max": 1018}}
    batches = {"batch_size": 509}
    searched = searching(space, ray={"workers": 509}, teacher=batches, distill={"training": batches})
    with pytest.raises(StageError, match=r"of 3 combinations drawn none is valid, the last one: distill\."):
        draw(0, {}, searched, ["max"], draws=3)


SMALL: dict[str, Any] = {
    "prune.ratio": {"choices": [0.3, 0.5]},
    "distill.strategy": {"choices": ["fixed", "labels"]},
}


@pytest.mark.parametrize(
    ("space", "count", "said"),
    [
        (SMALL, 4, "its 4 valid combinations have all been tried"),
        ({**SMALL, "distill.training.batch_size": {"min": 7, "max": 10}}, 16, "its 16 valid"),
        (
            {
                "distill.strategy": {"choices": ["wsld", "self_distillation"]},
                "distill.alpha": {"choices": [0.5, 2.0]},
            },
            3,  # alpha above 1 is for wsld alone
            "its 3 valid combinations have all been tried",
        ),
        (
            {"distill.strategy": {"choices": ["labels", "akgp"]}, "distill.w0": {"choices": [0.2, 0.5]}},
            3,  # labels alone have no w0
            "its 3 valid combinations have all been tried",
        ),
        ({"distill.temperature": {"choices": [2, 2.0]}}, 1, "its 1 valid combination has been tried"),
        ({"prune.ratio": {"choices": [0.5]}}, 1, "its 1 valid combination has been tried"),
        ({}, 1, "its 1 valid combination has been tried"),
    ],
)
def test_each_combination_is_tried_once_until_all_are(space: dict[str, Any], count: int, said: str) -> None:
    """Also where good ones attract the draws; the last trial still runs when the next one is drawn."""
    searched = searching(space)
    values: dict[int, dict[str, Any]] = {}
    ended: dict[int, Any] = {}
    for number in range(count):
        values[number] = draw(number, ended, searched, ["max"], tried=values.values())
        params.with_values(searched, values[number])
        if number:
            ended[number - 1] = values[number - 1], [values[number - 1].get("prune.ratio", 0.0)]
    assert len({json.dumps(each) for each in values.values()}) == count
    with pytest.raises(Exhausted) as error:
        draw(count, ended, searched, ["max"], tried=values.values())
    assert str(error.value).startswith(f"sweep.space: {said}")


def accuracy(values: dict[str, Any]) -> float:
    return 90 - 50 * (values["distill.w0"] - 0.2) ** 2 - abs(values["distill.training.epochs"] - 30) / 3


@pytest.mark.parametrize("modes", [["max"], ["max", "min"]])
def test_a_search_interrupted_or_extended_is_that_which_was_not(modes: list[str]) -> None:
    """Also where all that is left of its beginning went through a file, in another order."""

    def searched(count: int, ended: dict[int, Any]) -> dict[int, Any]:
        for number in range(len(ended), count):
            values = draw(number, ended, searching(SPACE), modes)
            objectives = [accuracy(values), float(values["distill.training.batch_size"])]
            ended[number] = (values, objectives[: len(modes)])
        return ended

    whole = searched(24, {})
    begun = json.loads(json.dumps(searched(15, {})))
    restored = {int(number): ended for number, ended in reversed(begun.items())}
    assert {number: list(ended) for number, ended in searched(24, restored).items()} == {
        number: list(ended) for number, ended in whole.items()
    }
    assert len({json.dumps(values) for values, _ in whole.values()}) == 24


def test_earlier_results_are_made_use_of() -> None:
    """After a good many, draws lie nearer to the best than at first."""
    ended: dict[int, Any] = {}
    for number in range(60):
        values = draw(number, ended, searching(SPACE), ["max"])
        ended[number] = (values, [accuracy(values)])
    found = [objectives[0] for _, objectives in ended.values()]
    assert sum(found[-20:]) / 20 > sum(found[:20]) / 20 + 3


def test_a_result_that_is_no_number_is_left_out() -> None:
    values = draw(0, {}, searching(SPACE), ["max"])
    assert draw(1, {0: (values, [float("nan")])}, searching(SPACE), ["max"]) == draw(
        1, {}, searching(SPACE), ["max"]
    )


def test_what_a_trial_sets_itself_does_not_name_the_search() -> None:
    """After `apply`, or with more trials, or more at a time, it is the same search."""
    first = searching(SPACE)
    applied = params.with_values(first, draw(7, {}, first, ["max"]))
    assert applied != first and canonical(applied) == canonical(first)
    more = first.model_copy(update={"sweep": first.sweep.model_copy(update={"trials": 99, "concurrent": 4})})
    assert canonical(more) == canonical(first)
    for other in (
        searching(SPACE, seed=1),
        searching(SPACE, prune={"ratio": 0.4}),
        searching({**SPACE, "distill.w0": {"min": 0, "max": 0.9}}),
        params.with_values(first, {"distill.temperature": 3.0}),
    ):
        assert canonical(other) != canonical(first)


def test_how_many_trials_there_are_to_be() -> None:
    assert total_trials(None, 12, 0) == 12
    assert total_trials(None, 12, 15) == 15, "those of an extension stay"
    assert total_trials(20, 12, 15) == 20 and total_trials(15, 12, 15) == 15 and total_trials(3, 12, 0) == 3
    with pytest.raises(StageError) as error:
        total_trials(4, 12, 15)
    assert str(error.value) == "--trials: got 4, but this sweep has 15 trials: it can only be extended"
