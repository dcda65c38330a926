"""Folders below the workspace for the files of libraries, where the user's home cannot be written.

A container often has no home, or a read-only one. Nothing is created here; AWS credentials and the like are
still read from the home.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

KEPT = {"MPLCONFIGDIR": "matplotlib", "PREFECT_HOME": "prefect", "XDG_CACHE_HOME": "cache"}
"""Variables that set a library's folder, and the folder's name below .akgp."""


def set_up(root: Path) -> None:
    """Set the variables that `substitutes` gives."""
    os.environ |= substitutes(os.environ, root)


def substitutes(environment: Mapping[str, str], root: Path) -> dict[str, str]:
    """The variables to set where the home cannot be written; those that are set already stay.

    Empty where it can be written. Ray keeps its token in the home, unless a variable holds one.
    """
    home = environment.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 (without a home it stays ~)
    if home != "~" and _can_be_written(Path(home)):
        return {}
    folder = root.resolve() / ".akgp"
    wanted = {name: str(folder / place) for name, place in KEPT.items()}
    if "RAY_AUTH_TOKEN_PATH" not in environment:
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if home == "~":
        wanted["HOME"] = str(folder / "home")
    return {name: value for name, value in wanted.items() if not environment.get(name)}


def _can_be_written(folder: Path) -> bool:
    """Whether files can be created in it or, if it does not exist, it can be created."""
    # The nearest that exists decides: a home that is missing may still be creatable.
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
