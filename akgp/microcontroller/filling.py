"""Fills in the templates of C and of other files: `@NAME@` is replaced by the value of NAME."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def filled(template: Path, values: Mapping[str, object]) -> str:
    """The text of a template; a KeyError if it needs a value that is not given."""
    return re.sub(r"@([A-Z_]+)@", lambda place: str(values[place[1]]), template.read_text(encoding="utf-8"))
