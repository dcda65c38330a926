"""The base class of the sections of params.yaml, and types with a rule of their own."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NAME = "^[a-z0-9][a-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]

REMOTE = re.compile(r"^[a-z][a-z0-9+.-]*://")
SCHEMES = ("s3", "abfs", "az", "file", "gcs", "gs", "hdfs", "http", "https", "memory")
"""Schemes that fsspec knows. s3 is tested here; the others need a package of their own or are for tests."""


class Section(BaseModel):
    """A group of parameters: immutable, no coercion (`true` is no number), no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _address(address: str) -> str:
    """A path, or a URL whose scheme is known and spelled as fsspec needs it, without a slash at its end.

    By one `s3://bucket/runs/` and a name are joined to `runs//name`, by others to `runs/name`: two places.
    """
    scheme, colon, rest = address.partition(":")
    known, named = bool(colon) and scheme.lower() in SCHEMES, rest.removeprefix("//")
    if not address.strip() or "\0" in address:
        raise ValueError(f"must be a path or an s3:// address, got {address!r}")
    # Without "//" an unknown scheme is a path with a colon in it, which file systems allow.
    if not known and rest.startswith("//"):
        raise ValueError(f"must be a path or an s3:// address, got {address!r}: {scheme}:// is not known")
    if known and (scheme != scheme.lower() or named == rest):
        raise ValueError(f"must begin with {scheme.lower()}://, got {address!r}")
    if known and "::" in rest:  # by which fsspec chains file systems: another folder would be opened
        raise ValueError(f"must not hold '::', got {address!r}")
    if known and scheme == "s3" and not named.partition("/")[0]:
        raise ValueError(f"must name a bucket, such as s3://bucket/folder, got {address!r}")
    return address.rstrip("/") if named.strip("/") and known else address


Address = Annotated[str, AfterValidator(_address)]
