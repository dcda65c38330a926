"""YAML as params.yaml may hold it: mappings with text as keys, lists and plain scalars, each written once.

All else that YAML allows, and what its versions read differently, is refused with the line number: DVC reads
the same file, and must read the same values. The meaning of the parameters is checked elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

STANDARD = "tag:yaml.org,2002:"
SCALARS = ("str", "int", "float", "bool", "null", "timestamp")
LEADING_ZERO = re.compile(r"[-+]?0[0-9_]")
DIGITS, NODES = 100, 100_000
"""Digits of an integer and nodes after aliases are resolved, at most: more than any parameters need."""


class TextError(ValueError):
    """The text is not valid as parameters; the message is one line with its place."""


def parse(content: bytes) -> Any:
    """The mappings, lists and scalars of a YAML document.

    Raises:
        TextError: it is not UTF-8, no YAML, or more than this module allows.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TextError(f"line {line}: not UTF-8 (byte 0x{content[error.start]:02x})") from None
    yaml = YAML(typ="safe", pure=True)
    try:
        constructor, parser = yaml.get_constructor_parser(text)
        try:
            node = constructor.composer.get_single_node()
            if node is None:
                return None
            _check(node, (), {})
            return constructor.construct_document(node)
        finally:
            parser.dispose()
    except MarkedYAMLError as error:
        raise TextError(_place(error) + f"not valid YAML: {_flat(error.problem or error.context)}") from None
    except YAMLError as error:
        raise TextError(f"not valid YAML: {_flat(error)}") from None
    except RecursionError:
        raise TextError("not valid YAML: nested too deeply") from None


def _check(node: Node, parents: tuple[int, ...], sizes: dict[int, int]) -> int:
    """The number of nodes of a tree, aliases resolved; raise TextError for what is refused."""
    if id(node) in parents:
        raise TextError(f"{_line(node)}an alias (*) refers to what it stands in")
    # Each node once: an alias counts by its size, so that nested aliases cannot multiply the work.
    if id(node) not in sizes:
        inner: list[Node] = []
        if isinstance(node, MappingNode):
            _check_keys(node)
            inner = [each for pair in node.value for each in pair]
        elif isinstance(node, SequenceNode):
            inner = node.value
        elif isinstance(node, ScalarNode):
            _check_scalar(node)
        if not isinstance(node, ScalarNode) and str(node.tag) not in (f"{STANDARD}map", f"{STANDARD}seq"):
            raise TextError(f"{_line(node)}the tag {_short(node.tag)} is not used in parameters")
        sizes[id(node)] = 1 + sum(_check(each, (*parents, id(node)), sizes) for each in inner)
    if sizes[id(node)] > NODES:
        raise TextError(f"{_line(node)}more than {NODES} values once aliases (*) are resolved")
    return sizes[id(node)]


def _check_keys(node: MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        kind = _short(key.tag)
        if not isinstance(key, ScalarNode):
            raise TextError(f"{_line(key)}a key must be text, got a {kind}")
        if kind not in ("str", "merge"):
            kind = {"timestamp": "date"}.get(kind, kind)
            raise TextError(
                f'{_line(key)}a key must be text, got the {kind} {key.value}: write "{key.value}"'
            )
        if key.value in seen and kind == "str":
            raise TextError(f"{_line(key)}{key.value!r} stands here twice")
        seen.add(key.value)


def _check_scalar(node: ScalarNode) -> None:
    kind, value = _short(node.tag), node.value
    if kind not in (*SCALARS, "merge"):
        raise TextError(f"{_line(node)}the tag {kind} is not used in parameters")
    if kind == "int" and LEADING_ZERO.match(value):
        decimal = value.replace("_", "").lstrip("+-0") or "0"
        raise TextError(
            f"{_line(node)}got {value}, an octal number to some programs and a decimal one to others: "
            f"write {decimal}, or 0o{decimal}"
        )
    if kind == "int" and len(value) > DIGITS:
        raise TextError(f"{_line(node)}an integer of {len(value)} digits")
    # Such text cannot be encoded as UTF-8, neither in params.yaml nor in any artifact.
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TextError(f"{_line(node)}text with half of a surrogate pair, which is no letter")


def _short(tag: Any) -> str:
    return str(tag).removeprefix(STANDARD)


def _line(node: Node) -> str:
    return f"line {node.start_mark.line + 1}: "


def _place(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}: " if mark else ""


def _flat(message: object) -> str:
    return " ".join(str(message).split())
