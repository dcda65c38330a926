"""The rule of sweep.space: every value is valid with some values of the other parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from akgp.params.sweep import Range, Sweep
from akgp.params.validation import ParamsError
from akgp.params.values import number_type, with_values

if TYPE_CHECKING:
    from akgp.params.schema import Params

COMBINATIONS = 2000
"""Most combinations of a sweep's values that are tried to find one in which a value is valid."""


def check_space(params: Params) -> None:
    """Raise ValueError unless every value of the sweep is valid with some values of the others.

    A value is refused only if no trial could have it; single combinations may still be invalid.
    """
    space = {key: _searched_values(params, key, searched) for key, searched in params.sweep.space.items()}
    if not space:
        return
    base = params.model_copy(update={"sweep": Sweep(space={})})
    # First a diagonal through all values: where all of them are valid, as is usual, it needs no search.
    longest = max(map(len, space.values()))
    diagonal = ([values[turn % len(values)] for values in space.values()] for turn in range(longest))
    works = [dict(zip(space, values, strict=True)) for values in diagonal]
    works = [values for values in works if _is_valid(base, values)]
    for key, values in space.items():
        for value in values:
            # By identity: 1, 1.0 and True are equal, and are different values of the schema.
            if not any(tried[key] is value for tried in works):
                others = product(*({**space, key: (value,)}).values())
                _check_value(base, space, key, value, islice(others, COMBINATIONS + 1))


def _check_value(
    base: Params, space: Mapping[str, Any], key: str, value: object, combinations: Iterable[Iterable[Any]]
) -> None:
    """Raise ValueError if all of the combinations were tried and none is valid."""
    line = ""
    for number, combination in enumerate(combinations):
        if number == COMBINATIONS:  # too many to tell: the value is allowed
            return
        try:
            with_values(base, dict(zip(space, combination, strict=True)))
            return
        except ParamsError as error:
            lines = str(error).splitlines()
            line = next((each for each in lines if each.startswith(f"{key}: ")), line or lines[0])
    if not line.startswith(f"{key}: "):
        line = f"{key}: {json.dumps(value)} is valid with no other values of the space: {line}"
    raise ValueError(f"sweep.space: {line}")


def _is_valid(base: Params, values: Mapping[str, Any]) -> bool:
    try:
        with_values(base, values)
    except ParamsError:
        return False
    return True


def _searched_values(params: Params, key: str, searched: Range) -> tuple[Any, ...]:
    """The choices of a searched parameter, or the ends of its interval, in its own type."""
    if not key.startswith(("prune.", "distill.")):
        raise ValueError(f"sweep.space: {key!r} must be a parameter of prune or distill")
    try:
        kind = number_type(params, key)
    except ParamsError as error:
        raise ValueError(f"sweep.space: {error}") from None
    if searched.choices is not None:
        return searched.choices
    ends = (searched.min, searched.max)
    if kind is None:
        raise ValueError(f"sweep.space: {key} is no number: it needs choices, not min and max")
    if kind is int and any(end != int(end or 0) for end in ends):
        got = f"{ends[0]}, {ends[1]}"
        raise ValueError(f"sweep.space: {key} is an integer: min and max must be, too, got {got}")
    return tuple(kind(end or 0) for end in ends)
