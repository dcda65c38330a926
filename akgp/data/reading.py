"""Decodes and labels all samples of a source: bad ones are named or counted, values are scaled alike."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from akgp.data.decoding import BIT_DEPTHS, Decoded, DeeperError, decoded, without_warnings
from akgp.data.files import DataError
from akgp.data.labels import Label, label_of
from akgp.data.samples import Sample, Source
from akgp.params import Data

log = logging.getLogger(__name__)

NAMED_ROWS = 10
"""How many bad rows are named one by one; with `on_bad_rows: skip` all are counted."""
LOOKAHEAD = 1000
"""How many good images are read after a first bad row, to name more bad ones before stopping."""
FEW = 100
"""One image in so many may be an accident."""
DARK = 64
"""The upper eight of 16 bits in colour stay below this if values up to 2^14 were stored unscaled."""


@dataclass(frozen=True)
class Part:
    """The usable samples of a part of a source: pixels uint8 [N, H, W, C], labels and origins."""

    pixels: np.ndarray
    labels: list[Label]
    origins: list[str]
    skipped: int


@dataclass
class Notes:
    """Properties of all images together, known once all are read.

    deep: the highest value of each with more than 8 bits a channel, and its origin.
    upper_of_16: the brightest value of 16-bit colour (see `Decoded`), and its origin.
    framed: origins of images with several frames.
    """

    deep: list[tuple[int, str]] = field(default_factory=list)
    upper_of_16: tuple[int, str] | None = None
    framed: list[str] = field(default_factory=list)

    def add(self, image: Decoded, origin: str) -> None:
        if image.highest is not None:
            self.deep.append((image.highest, origin))
        if image.upper_of_16 is not None:
            brightest = (image.upper_of_16, origin)
            self.upper_of_16 = max(self.upper_of_16 or brightest, brightest)
        if image.frames:
            self.framed.append(origin)


def read_parts(
    source: Source, params: Data, progress: Callable[[int], object]
) -> tuple[dict[str, Part], int]:
    """The samples of each part, and the bit depth of images with more than 8 bits a channel (16 if none).

    One scale applies to all images: the fewest bits that hold every value. They are tried from 8 upwards, and
    all is read again when an image needs more; most sets show that with their first images.

    Raises:
        DataError: an image or a label is bad (with `on_bad_rows: error`), image sizes differ, no image of a
            part or a class is usable, or 16-bit colour would become black.
    """
    bit_depth = BIT_DEPTHS[0]
    while True:
        notes = Notes()
        try:
            with without_warnings():
                read = {
                    name: _read(name, samples, params, source.classes, bit_depth, notes, progress)
                    for name, samples in source.parts.items()
                }
            break
        except DeeperError as error:
            bit_depth = error.bit_depth
    for part, bad in read.values():
        _warn(bad, part.labels)
    if notes.upper_of_16 is not None and notes.upper_of_16[0] < DARK:
        value, origin = notes.upper_of_16
        raise DataError(
            f"{origin}: 16 bits a channel in colour, but the brightest value in all images is at most "
            f"{256 * value + 255}, so they would be black: store 8 bits a channel, or scale to 65535"
        )
    if notes.framed:
        log.warning(
            "%d images have several frames, such as %s: the first is taken",
            len(notes.framed),
            notes.framed[0],
        )
    if notes.deep and bit_depth < BIT_DEPTHS[-1]:
        log.warning("images of more than 8 bits use %d of them: scaled to 8", bit_depth)
    if bit_depth > BIT_DEPTHS[0]:
        _warn_of_bright(notes.deep, bit_depth)
    parts = {name: part for name, (part, _) in read.items()}
    return parts, bit_depth if notes.deep else BIT_DEPTHS[-1]


def _warn_of_bright(deep: list[tuple[int, str]], bit_depth: int) -> None:
    """Log the images, if they are few, for whose sake all others lose two bits or more."""
    limit = 2 ** (bit_depth - 2)
    bright = [origin for value, origin in deep if value >= limit]
    if len(bright) <= len(deep) / FEW:
        log.warning(
            "of %d images of more than 8 bits %d have values of %d or more, such as %s: all others become "
            "dark; has it a dead pixel?", len(deep), len(bright), limit, bright[0],
        )  # fmt: skip


class _BadRows:
    """Messages about the first bad rows, their number, and their number by class.

    stops: whether reading ends soon after the first one.
    """

    def __init__(self, stops: bool) -> None:
        self.stops = stops
        self.good_since = 0
        self.messages: list[str] = []
        self.count = 0
        self.by_label: Counter[Label] = Counter()

    def add(self, origin: str, error: DataError, label: Label | None) -> None:
        self.count += 1
        if label is not None:
            self.by_label[label] += 1
        if len(self.messages) < NAMED_ROWS:
            self.messages.append(f"{origin}: {error}")

    @property
    def ends(self) -> bool:
        """Whether nothing that is read now will be used."""
        return self.stops and self.count > 0

    @property
    def enough(self) -> bool:
        """Whether enough bad rows have been named, or looked for."""
        return self.ends and (self.count == NAMED_ROWS or self.good_since == LOOKAHEAD)

    def error(self, read: int) -> DataError:
        if self.count == 1:
            return DataError(f"{self.messages[0]}; `data.on_bad_rows: skip` would leave it out")
        lines = "\n".join(self.messages)
        return DataError(
            f"{lines}\n{self.count} bad rows among the first {read}; "
            "`data.on_bad_rows: skip` would leave them out"
        )


def _read(
    part: str,
    samples: Iterable[Sample],
    params: Data,
    classes: tuple[str, ...] | None,
    bit_depth: int,
    notes: Notes,
    progress: Callable[[int], object],
) -> tuple[Part, _BadRows]:
    """Decode all samples; count bad ones, or stop after some of them, according to `params.on_bad_rows`."""
    size = (params.image_size, params.image_size) if params.image_size else None
    pixels = bytearray()  # grows in place: a list of arrays, stacked, would take twice the memory
    first: np.ndarray | None = None
    labels: list[Label] = []
    origins: list[str] = []
    bad, read = _BadRows(stops=params.on_bad_rows == "error"), 0
    for sample in samples:
        if bad.enough:
            break
        progress(1)
        read += 1
        label: Label | None = None
        try:
            label = label_of(sample.label, classes)
            if isinstance(sample.content, DataError):
                raise sample.content
            image = decoded(sample.content, params.color, size, bit_depth)
        except DeeperError:  # no bad row: `read_parts` starts again with more bits
            raise
        except DataError as error:
            bad.add(sample.origin, error, label)
            continue
        if bad.ends:
            bad.good_since += 1
            continue
        notes.add(image, sample.origin)
        first = image.pixels if first is None else first
        check_size(image.pixels, sample.origin, first, origins[0] if origins else "")
        pixels += image.pixels.tobytes()
        labels.append(label)
        origins.append(sample.origin)
    if bad.ends:
        raise bad.error(read)
    if first is None:
        why = f"{bad.count} bad ones skipped" + (f", first {bad.messages[0]}" if bad.messages else "")
        raise DataError(f"{params.path or params.source}: no usable images in the {part} part, {why}")
    array = np.frombuffer(pixels, np.uint8).reshape(-1, *first.shape)
    return Part(array, labels, origins, bad.count), bad


def _warn(bad: _BadRows, labels: list[Label]) -> None:
    """Log what is skipped; raise DataError for a class of which nothing is left."""
    for line in bad.messages:
        log.warning("skipped: %s", line)
    if bad.count > len(bad.messages):
        log.warning("skipped: %d more", bad.count - len(bad.messages))
    usable = set(labels)
    for label, count in bad.by_label.items():
        if label not in usable:
            raise DataError(f"class {label!r}: none of its {count} images can be used, see those skipped")


def check_size(image: np.ndarray, origin: str, first: np.ndarray, first_origin: str) -> None:
    """Raise DataError unless both images [H, W, C] have the same size."""
    if image.shape != first.shape:
        sizes = [f"{array.shape[1]}×{array.shape[0]}" for array in (first, image)]
        raise DataError(
            f"data.image_size must be set: {first_origin} has {sizes[0]} pixels, {origin} {sizes[1]}"
        )
