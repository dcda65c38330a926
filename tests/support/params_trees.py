"""What the tests of params share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from akgp.params import Params, Section


def tree(**changes: Any) -> dict[str, Any]:
    """The smallest valid tree, with values set by dotted names (__ for the dot)."""
    smallest: dict[str, Any] = {
        "networks": {"net": {"architecture": "cifar_resnet20"}},
        "teachers": ["net"],
        "student": "net",
    }
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = smallest
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return smallest


def schema_fields(
    section: type[Section] = Params, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every parameter with its path; * stands for a name that the user gives."""
    for key, field in section.model_fields.items():
        yield (*path, key), field
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                name = ("*",) if get_origin(field.annotation) is dict else ()
                yield from schema_fields(kind, (*path, key, *name))
