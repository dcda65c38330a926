"""One thing that was looked at, as a line."""

from __future__ import annotations

from dataclasses import dataclass

INSTALL = "pip install -c constraints.txt -e '.[pipeline]'"
"""The remedy for a package that is missing."""


@dataclass(frozen=True)
class Check:
    """One thing looked at; `remedy` says what to do, and is empty if all is well."""

    name: str
    found: str
    remedy: str = ""

    def line(self) -> str:
        verdict = "TO DO" if self.remedy else "ok"
        return f"{verdict:<6}{self.name:<11}{self.found}" + (f": {self.remedy}" if self.remedy else "")
