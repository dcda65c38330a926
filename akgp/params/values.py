"""Parameters set, and compared, by their dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from akgp.params.compression import AMOUNTS
from akgp.params.validation import ParamsError, validated

if TYPE_CHECKING:
    from akgp.params.schema import Params

ABSENT = object()
"""In a difference: only the other tree has this name."""


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """`params` with the parameters of these dotted names set together, then validated once, as a whole.

    Where one of prune's amounts is set, those not named are cleared; where w0 is, it is
    not a guess: `w0_from: answers` makes way for it.

    Raises:
        ParamsError: no such parameter, a value that isn't allowed, or values that don't go together.
    """
    tree = params.model_dump(mode="json")
    # One amount stands for the others: setting prune.macs must not leave prune.ratio beside it.
    if any(key == f"prune.{amount}" for key in values for amount in AMOUNTS):
        tree["prune"] |= dict.fromkeys(AMOUNTS)
    if "distill.w0" in values and tree["distill"]["w0_from"] == "answers":
        tree["distill"]["w0_from"] = None  # which follows from w0
    for key, value in values.items():
        number_type(params, key)
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return validated(type(params), tree)


def number_type(params: Params, key: str) -> type[int] | type[float] | None:
    """The type of the number that a parameter holds; None if it holds none.

    Raises:
        ParamsError: there is no such parameter.
    """
    annotation: Any = type(params)
    for part in key.split("."):
        fields = getattr(annotation, "model_fields", {})
        if part not in fields:
            raise ParamsError(f"{key} is not a parameter")
        annotation = fields[part].annotation
    if getattr(annotation, "model_fields", {}):
        raise ParamsError(f"{key} is not a parameter, but a section")
    types = {getattr(each, "__origin__", each) for each in (get_args(annotation) or (annotation,))}
    return int if int in types else float if float in types else None


def differences(key: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The name and both values of each parameter at or below `key` that differs between two plain trees."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*then, *now)):
            below = f"{key}.{name}" if key else name
            yield from differences(below, then.get(name, ABSENT), now.get(name, ABSENT))
    elif then != now:
        yield key, then, now


def shown(value: Any) -> str:
    """A value of `differences` in a sentence, briefly."""
    if value is ABSENT:
        return "not there"
    if isinstance(value, Mapping):
        return "{…}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
