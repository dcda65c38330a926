"""Where libraries keep what is theirs, if the user's home cannot be written: below the workspace.

A container often has no home, or a read-only one. Nothing is created here; what is read from the home, such
as AWS credentials, still is.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

KEPT = {"MPLCONFIGDIR": "matplotlib", "PREFECT_HOME": "prefect", "XDG_CACHE_HOME": "cache"}
"""Variables by which libraries are told of another folder, and the folder's name below .akgp."""


def set_up(root: Path) -> None:
    """Set the variables that `substitutes` gives."""
    os.environ |= substitutes(os.environ, root)


def substitutes(environment: Mapping[str, str], root: Path) -> dict[str, str]:
    """What to set where the home cannot be written; what is set already stays. Nothing where it can.

    Ray keeps a token in the home, unless it is given one.
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
    """Whether files can be made in it, or it can be made itself."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
