"""Modules and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES, FUNCTION, TEST_LINES = 300, 60, 500
FILES = [
    file for part in ("akgp", "flows", "infra", "scripts", "tests", "benchmarks", "experiments")
    for file in sorted((ROOT / part).rglob("*.py"))
]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_and_its_functions_are_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= (TEST_LINES if file.is_relative_to(ROOT / "tests") else LINES)
    if not file.is_relative_to(ROOT / "tests"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                documentation = ast.get_docstring(node, clean=False) or ""
                lines = (node.end_lineno or 0) - node.lineno + 1 - len(documentation.splitlines())
                assert lines <= FUNCTION, f"{node.name} has {lines} lines without its docstring"
