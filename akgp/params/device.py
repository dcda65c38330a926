"""prune.device: the memory of a microcontroller, as a budget for the C library."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from akgp.params.base import Section

UNITS = {"": 1, "k": 1024, "M": 1024**2}
SIZE = re.compile(r"([1-9]\d*)([kM]?)")


def bytes_of(size: int | str) -> int:
    """131072 and 128k are the same number of bytes."""
    match = SIZE.fullmatch(str(size))
    if match is None:
        raise ValueError(f"must be a number of bytes such as 131072 or 128k, got {size!r}")
    return int(match[1]) * UNITS[match[2]]


def _size(size: Any) -> int | str:
    bytes_of(size)
    checked: int | str = size
    return checked


Size = Annotated[Any, AfterValidator(_size)]  # not int | str, of which pydantic would report both
"""An int or a str, as it was written, so that it is written back like that."""


class Device(Section):
    """What a network may take; the program around it is not counted."""

    flash: Size | None = Field(
        None, description="bytes, or such as 128k: of weights, tables and kernels; null: any"
    )
    ram: Size | None = Field(None, description="likewise, of activations and stack; null: any")

    @property
    def flash_bytes(self) -> int | None:
        return None if self.flash is None else bytes_of(self.flash)

    @property
    def ram_bytes(self) -> int | None:
        return None if self.ram is None else bytes_of(self.ram)

    def __str__(self) -> str:
        given = {"flash": self.flash, "RAM": self.ram}
        return " and ".join(f"{size} of {name}" for name, size in given.items() if size is not None)

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.flash is None and self.ram is None:
            raise ValueError("flash or ram must be given, such as flash: 128k")
        return self
