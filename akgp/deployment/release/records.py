"""What a release and the pointer hold, and their JSON; where they lie is `store`'s."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError, field_validator
from pydantic_core import PydanticCustomError

from akgp.deployment.package import FILES
from akgp.deployment.release.files import ReleaseError
from akgp.params import Section

FIGURES = ("top1", "bytes", "latency_ms")
Read = TypeVar("Read", bound=Section)


class DamagedError(ReleaseError):
    """A file of the releases is missing or is not as it was written; the message names it."""


@dataclass(frozen=True)
class ReleaseCandidate:
    """A network to be released.

    Attributes:
        files: content of each of FILES.
        row: its row of reports/metrics.json: top1 (%), bytes, latency_ms and others.
        test_digest: of the test images it was measured on.
    """

    files: Mapping[str, bytes]
    row: Mapping[str, Any]
    test_digest: str

    @property
    def sha256(self) -> dict[str, str]:
        return {name: hashlib.sha256(self.files[name]).hexdigest() for name in FILES}


class Record(Section):
    """metrics.json of a release."""

    version: str
    released: str  # UTC
    akgp: str  # the version of this package
    int8: dict[str, Any]  # ReleaseCandidate.row
    test_digest: str
    sha256: dict[str, str]  # of each of FILES

    @field_validator("int8")
    @classmethod
    def _figures(cls, row: dict[str, Any]) -> dict[str, Any]:
        """Check the figures that are shown; the other keys differ between versions of this package."""
        for key in FIGURES:
            if type(row.get(key)) not in (int, float):
                context = {"key": key, "got": json.dumps(row.get(key))}
                raise PydanticCustomError("figure", "{key} must be a number, got {got}", context)
        return row


class Pointer(Section):
    """current.json: the release in production, and every one that has been, the present one last."""

    version: str
    history: tuple[str, ...]


def as_json(content: Section) -> bytes:
    """The content of such a file."""
    return (json.dumps(content.model_dump(mode="json"), indent=2) + "\n").encode()


def parsed(model: type[Read], path: str, content: bytes) -> Read:
    """The content of such a file, checked.

    Raises:
        DamagedError: it is not as `as_json` writes it.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DamagedError(f"{path}: damaged: {key + ': ' if key else ''}{first['msg']}") from None
