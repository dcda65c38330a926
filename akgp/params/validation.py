"""Validation of a tree of plain values as a section, with a line for each error that names the parameter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from akgp.params.base import NAME, Section

S = TypeVar("S", bound=Section)

LONGEST = 100
"""Characters of a value that an error shows at most."""

RETIRED: dict[str, str | dict[object, str]] = {
    "nightly": "the section is named release now, with the same keys",
    "quantize.reduce_range": "weights keep all 8 bits and saturate on no processor any more; remove the line",
    "quantize.float_layers": "write precision: {LAYER: float}",
    "distill.measure_w0": {True: "write w0_from: branches", False: "remove the line"},
}
"""Parameters of earlier versions: why each was removed and what to do, for some by value."""

RENAMED = {
    "distill.strategy": {"confidence": "ca_mkd", "learned": "amtml_kd", "self": "self_distillation"},
}
"""Values of earlier versions, and their present names."""


class ParamsError(ValueError):
    """params.yaml is not valid; the message has a line for each error."""


def validated(model: type[S], tree: Mapping[str, Any]) -> S:
    """The section that a tree of mappings, lists and scalars describes.

    Raises:
        ParamsError: one line for each parameter that is unknown, missing or not allowed.
    """
    try:  # through JSON: strict, yet a list is a tuple there
        return model.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise ParamsError("\n".join(_lines(error, model))) from None


def _lines(error: ValidationError, model: type[Section]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        if problem["type"] == "default_factory_not_called":
            continue  # it follows from a parameter that is wrong, and has a line
        if problem["type"] == "too_short" and len(problem["input"]) >= problem["ctx"]["min_length"]:
            continue  # likewise: elements that are wrong have lines, and are not counted
        key = ".".join(map(_printable, problem["loc"])).removesuffix(".[key]")
        match problem["type"]:
            case "extra_forbidden":
                yield f"{key}: " + (_retired(key, problem["input"]) or _unknown(key, model))
            case "literal_error" if problem["input"] in RENAMED.get(key, ()):
                old = problem["input"]
                yield f'{key}: got "{old}", now "{RENAMED[key][old]}"'
            case "missing":
                yield f"{key}: missing"
            case "value_error":
                message = str(problem["ctx"]["error"])
                yield f"{key}: {message}" if key else message
            case _:
                allowed = re.sub(r"^(Input|String|Tuple|Dictionary) should", "must", problem["msg"])
                allowed = re.sub(r" after validation, not \d+$", "", allowed)
                allowed = allowed.replace("be an object", "be a mapping")
                allowed = allowed.replace("be a valid array", "be a list, such as [a, b]")
                allowed = allowed.replace(f"match pattern '{NAME}'", "be of a-z, 0-9, _ and -")
                yield f"{key}: got {_shown(problem['input'])}, {allowed}"


def _retired(key: str, value: object) -> str:
    """What to do about a parameter of an earlier version; empty if it is none."""
    remedy = RETIRED.get(key, "")
    if isinstance(remedy, dict):
        texts = [text for known, text in remedy.items() if known is value]
        remedy = " or ".join(texts or remedy.values())
    return remedy and f"retired: {remedy}"


def _unknown(key: str, model: type[Section]) -> str:
    """A message that there is no such parameter, with those of the same or a similar name."""
    named: dict[str, list[str]] = {}
    for known in _keys(model):
        named.setdefault(known.rsplit(".", 1)[-1], []).append(known)
    # By the last part of the name: a right name in a wrong section is the likeliest mistake.
    alike = get_close_matches(key.rsplit(".", 1)[-1], named, n=1, cutoff=0.75)
    meant = named[alike[0]] if alike else []
    section = key.rpartition(".")[0]
    near = [each for each in meant if section and each.startswith(f"{section}.")] or meant
    near.sort(key=lambda each: each.count("."))  # what is nested deeper is meant less often
    if near:
        return f"unknown parameter; did you mean {' or '.join(near[:2])}?"
    parts = section.split(".")
    there = [known for each in named.values() for known in each if _lies_in(known.split("."), parts)]
    leaves = ", ".join(known.rsplit(".", 1)[-1] for known in there)
    return "unknown parameter" + (f"; {section or 'params.yaml'} has {leaves}" if leaves else "")


def _lies_in(known: Sequence[str], section: Sequence[str]) -> bool:
    """Whether a known parameter, with * for names that the user gives, is one of a section's own."""
    section = [part for part in section if part]
    alike = zip(known, section, strict=False)
    return len(known) == len(section) + 1 and all(one in ("*", other) for one, other in alike)


def _keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    """Dotted names of all sections and parameters; * stands for a name that the user gives."""
    for key, field in model.model_fields.items():
        yield prefix + key
        named = "*." if getattr(field.annotation, "__origin__", None) is dict else ""
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Section):
                yield from _keys(part, f"{prefix}{key}.{named}")


def _printable(part: object) -> str:
    text = str(part)
    return text if text.isprintable() else json.dumps(text)


def _shown(value: object) -> str:
    """A value as JSON, its end left out where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
