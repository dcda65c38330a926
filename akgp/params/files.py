"""params.yaml read and written: each parameter with its meaning as a comment."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from akgp.params.base import Section
from akgp.params.schema import Params
from akgp.params.validation import ParamsError, validated
from akgp.params.yaml_text import TextError, parse


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate a whole params file.

    Raises:
        ParamsError: the file is missing, is no YAML mapping, or breaks the schema.
    """
    path = Path(path)
    try:
        tree = read_yaml(path)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `akgp recipe use digits` writes one") from None
    if not isinstance(tree, dict):
        raise ParamsError(f"{path}: must be a mapping of parameters")
    try:
        return validate(tree)
    except ParamsError as error:
        raise ParamsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def read_yaml(path: Path) -> Any:
    """The mappings, lists and scalars of a YAML file, see `akgp.params.yaml_text`.

    Raises:
        FileNotFoundError: there is none.
        ParamsError: it cannot be read, or is not valid; the message names it.
    """
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror})") from None
    except TextError as error:
        raise ParamsError(f"{path}: {error}") from None


def validate(tree: Mapping[str, Any]) -> Params:
    """Params from plain mappings, lists and scalars.

    Raises:
        ParamsError: one line for each parameter that is unknown, missing or not allowed.
    """
    return validated(Params, tree)


def dump(params: Params) -> str:
    """params.yaml as text: every parameter, its meaning as a comment."""
    tree = params.model_dump(mode="json")
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(_commented(params, tree), text)
    return "# Written by `akgp recipe use`; `akgp params check` validates it.\n" + text.getvalue()


def _commented(section: Section, tree: dict[str, Any]) -> CommentedMap:
    node = CommentedMap()
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        block = isinstance(value, dict) and any(isinstance(each, Section) for each in value.values())
        if isinstance(value, Section):
            node[key] = _commented(value, tree[key])
        elif block:
            node[key] = CommentedMap(
                (name, _commented(item, tree[key][name])) for name, item in value.items()
            )
        else:
            node[key] = _flow(tree[key])
        if field.description and not isinstance(value, Section) and not block:
            node.yaml_add_eol_comment(field.description, key, column=44)
    return node


def _flow(value: Any) -> Any:
    if not isinstance(value, (list, dict)):
        return value
    node = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    node.fa.set_flow_style()  # on one line, so that the comment stands beside it
    return node
