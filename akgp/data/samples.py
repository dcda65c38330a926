"""What sources give: undecoded samples with their labels and origins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from akgp.data.files import DataError


@dataclass(frozen=True)
class Sample:
    """An image not yet decoded, its label as given, and its origin: the file, and #row in a table.

    content: encoded bytes, pixels (uint8 [H, W] or [H, W, 3]), or why there is neither.
    """

    content: bytes | np.ndarray | DataError
    label: Any
    origin: str


@dataclass(frozen=True)
class Samples:
    """Samples that can be read as often as need be."""

    read: Callable[[], Iterator[Sample]]

    def __iter__(self) -> Iterator[Sample]:
        return self.read()


@dataclass(frozen=True)
class Source:
    """What a source holds.

    parts: samples by 'train' and, if it brings splits of its own, 'validation' and 'test'.
    classes: their names, if the source defines them: labels are then these names or their positions.
    not_taken: files that are no part of it, by their ending.
    """

    parts: dict[str, Samples]
    name: str
    classes: tuple[str, ...] | None = None
    not_taken: Mapping[str, int] = field(default_factory=dict)
