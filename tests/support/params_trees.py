"""What the tests of params share."""

from __future__ import annotations

from typing import Any


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
