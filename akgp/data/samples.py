"""The samples of a source: not yet decoded, with their labels and origins."""

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
    """An iterable of samples that can be read several times.

    bare: the same ones with empty contents, where these need not be read for it.
    """

    read: Callable[[], Iterator[Sample]]
    bare: Callable[[], Iterator[Sample]] | None = None

    def __iter__(self) -> Iterator[Sample]:
        return self.read()


@dataclass(frozen=True)
class Source:
    """The contents of a source.

    parts: samples of 'train' and, if the source has such splits, 'validation' and 'test'.
    classes: names, if the source defines them; labels are then these names or their positions.
    not_taken: number of files that are not part of it, by ending.
    names: of the classes that are numbers, by number, of which some may have no image; empty: the numbers.
    """

    parts: dict[str, Samples]
    name: str
    classes: tuple[str, ...] | None = None
    not_taken: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
