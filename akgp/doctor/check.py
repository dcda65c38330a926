"""A check of `akgp doctor`, as one line."""

from __future__ import annotations

from dataclasses import dataclass

INSTALL = "pip install -c constraints.txt -e '.[pipeline]'"
"""The remedy for a package that is missing."""


@dataclass(frozen=True)
class Check:
    """The result of one check; `remedy` says what to do, and is empty if nothing is wrong."""

    name: str
    found: str
    remedy: str = ""

    def line(self) -> str:
        verdict = "TO DO" if self.remedy else "ok"
        return f"{verdict:<6}{self.name:<11}{self.found}" + (f": {self.remedy}" if self.remedy else "")
