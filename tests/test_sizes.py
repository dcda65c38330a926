"""Modules and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES, FUNCTION, TEST_LINES = 300, 60, 500
FILES = [
    file for part in ("akgp", "flows", "infra", "scripts", "tests", "benchmarks", "experiments")
    for file in sorted((ROOT / part).rglob("*.py"))
]  # fmt: skip


def test_modules_are_short() -> None:
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    long = {file: n for file, n in lines.items() if n > (TEST_LINES if of_tests(file) else LINES)}
    assert not long


def test_functions_are_short() -> None:
    long = {}
    for file in FILES:
        for node in ast.walk(ast.parse("" if of_tests(file) else file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                documentation = ast.get_docstring(node, clean=False) or ""
                lines = (node.end_lineno or 0) - node.lineno + 1 - len(documentation.splitlines())
                if lines > FUNCTION:
                    long[file, node.name] = lines
    assert not long, "lines without the docstring"


def of_tests(file: Path) -> bool:
    return file.is_relative_to(ROOT / "tests")
