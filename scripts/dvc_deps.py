"""The code that each stage in dvc.yaml depends on: checked, or with --write put right.

A stage's `deps` that begin with akgp/ are those of akgp.stages.source_code; the others are written by hand. A
folder stands for its files where the stage depends on all of them.

usage: python -m scripts.dvc_deps [--write]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from akgp.stages.source_code import ROOT, only_imports, source_files
from akgp.stages.table import STAGES

FILE = ROOT / "dvc.yaml"
DEPS = re.compile(
    r"^(  (?P<stage>\w+):\n(?:    .*\n)*?    deps:\n)(?P<code>(?:      - akgp/.*\n)*)", re.MULTILINE
)


@cache
def code_deps(name: str) -> list[str]:
    """The files and folders of akgp that the stage of this name depends on, sorted."""
    return sorted(_folded(ROOT / "akgp", set(source_files(STAGES[name].module))))


def _folded(folder: Path, files: set[Path]) -> Iterator[str]:
    """Those of `files` that lie below `folder`; a folder below it that has no others as one."""
    for path in folder.iterdir():
        if path in files:
            yield path.relative_to(ROOT).as_posix()
        elif path.is_dir() and (parts := list(_folded(path, files))):
            whole = all(file in files for file in path.rglob("*") if _counts(file))
            yield from [path.relative_to(ROOT).as_posix()] if whole else parts


def _counts(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts and not only_imports(file)


def rewritten(text: str) -> str:
    """The text of dvc.yaml with the code of every stage."""

    def put(match: re.Match[str]) -> str:
        return match[1] + "".join(f"      - {dep}\n" for dep in code_deps(match["stage"]))

    return DEPS.sub(put, text)


def differences(text: str) -> list[str]:
    """A line for each dependency on code that the text of dvc.yaml lacks, or has for nothing."""
    found = []
    for match in DEPS.finditer(text):
        stage, listed = match["stage"], match["code"].replace("      - ", "").splitlines()
        needed = code_deps(stage)
        found += [f"{stage}: {dep} is missing" for dep in needed if dep not in listed]
        found += [f"{stage}: {dep} is not imported" for dep in listed if dep not in needed]
    return found


def main() -> int:
    text = FILE.read_text(encoding="utf-8")
    if "--write" in sys.argv[1:]:
        FILE.write_text(rewritten(text), encoding="utf-8")
        return 0
    found = differences(text)
    print("\n".join(f"dvc.yaml: {line}" for line in found) or "dvc.yaml: names the code of every stage")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
