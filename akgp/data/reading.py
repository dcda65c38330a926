"""All samples of a source decoded and labelled: what is bad is named or counted, values are scaled alike."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from akgp.data.decoding import BIT_DEPTHS, Decoded, DeeperError, decoded, quietly
from akgp.data.files import DataError
from akgp.data.labels import Label, label_of
from akgp.data.samples import Sample, Source
from akgp.params import Data

log = logging.getLogger(__name__)

SAID = 10
"""Bad rows that are named one by one; with `on_bad_rows: skip` all are counted."""
LOOKED_FURTHER = 1000
"""Images that are read after a first bad row, to name more of them."""
DARK = 64
"""Of 16 bits in colour the upper eight stay below this where values up to 2^14 were stored unscaled."""


@dataclass(frozen=True)
class Part:
    """Samples that could be used: pixels uint8 [N, H, W, C], their labels, their origins."""

    pixels: np.ndarray
    labels: list[Label]
    origins: list[str]
    skipped: int


@dataclass
class Notes:
    """What is known only once all images are read: whether any held more than 8 bits, in gray or in colour.

    upper_of_16: origin and value of the brightest in colour; framed: images with several frames.
    """

    deep: bool = False
    upper_of_16: tuple[int, str] | None = None
    framed: list[str] = field(default_factory=list)

    def add(self, image: Decoded, origin: str) -> None:
        self.deep |= image.deep
        if image.upper_of_16 is not None:
            brightest = (image.upper_of_16, origin)
            self.upper_of_16 = max(self.upper_of_16 or brightest, brightest)
        if image.frames:
            self.framed.append(origin)


def read_parts(
    source: Source, params: Data, progress: Callable[[int], object]
) -> tuple[dict[str, Part], int]:
    """The samples of each part, and the bits a channel that images of more than 8 bits hold: 16 without any.

    One scale is for all images: the fewest bits that hold every value. It is tried from 8 upwards, and
    everything is read again where an image needs more; most sets show that with their first images.

    Raises:
        DataError: an image or a label is bad (with `on_bad_rows: error`), image sizes differ, no image of a
            part or a class is usable, or colour of 16 bits would become black.
    """
    bit_depth = BIT_DEPTHS[0]
    while True:
        notes = Notes()
        try:
            with quietly():
                parts = {
                    name: _read(samples, params, source.classes, bit_depth, notes, progress)
                    for name, samples in source.parts.items()
                }
            break
        except DeeperError as error:
            bit_depth = error.bit_depth
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
    return parts, bit_depth if notes.deep else BIT_DEPTHS[-1]


class _BadRows:
    """The first of them in words, how many there are, and how many of each class."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.count = 0
        self.of: Counter[Label] = Counter()

    def add(self, origin: str, error: DataError, label: Label | None) -> None:
        self.count += 1
        if label is not None:
            self.of[label] += 1
        if len(self.said) < SAID:
            self.said.append(f"{origin}: {error}")

    def error(self, read: int) -> DataError:
        if self.count == 1:
            return DataError(f"{self.said[0]}; `data.on_bad_rows: skip` would leave it out")
        lines = "\n".join(self.said)
        return DataError(
            f"{lines}\n{self.count} bad rows among the first {read}; "
            "`data.on_bad_rows: skip` would leave them out"
        )


def _read(
    samples: Iterable[Sample],
    params: Data,
    classes: tuple[str, ...] | None,
    bit_depth: int,
    notes: Notes,
    progress: Callable[[int], object],
) -> Part:
    """Decode all samples; bad ones are counted, or they stop it once some are known, as `params` say."""
    size = (params.image_size, params.image_size) if params.image_size else None
    stops = params.on_bad_rows == "error"
    pixels = bytearray()  # grows in place: a list of arrays, stacked, would take twice the memory
    first: np.ndarray | None = None
    labels: list[Label] = []
    origins: list[str] = []
    bad, read, further = _BadRows(), 0, 0
    for sample in samples:
        progress(1)
        read += 1
        label: Label | None = None
        try:
            label = label_of(sample.label, classes)
            if isinstance(sample.content, DataError):
                raise sample.content
            image = decoded(sample.content, params.color, size, bit_depth)
        except DeeperError:
            raise
        except DataError as error:
            bad.add(sample.origin, error, label)
            if stops and bad.count == SAID:
                break
            continue
        if stops and bad.count:
            further += 1
            if further == LOOKED_FURTHER:
                break
            continue
        notes.add(image, sample.origin)
        first = image.pixels if first is None else first
        check_size(image.pixels, sample.origin, first, origins[0] if origins else "")
        pixels += image.pixels.tobytes()
        labels.append(label)
        origins.append(sample.origin)
    if stops and bad.count:
        raise bad.error(read)
    if first is None:
        raise DataError(f"{params.path or params.source}: no usable images, {bad.count} bad ones skipped")
    _say(bad, labels)
    return Part(np.frombuffer(pixels, np.uint8).reshape(-1, *first.shape), labels, origins, bad.count)


def _say(bad: _BadRows, labels: list[Label]) -> None:
    """Name what is skipped; a class of which nothing is left is an error."""
    for line in bad.said:
        log.warning("skipped: %s", line)
    if bad.count > len(bad.said):
        log.warning("skipped: %d more", bad.count - len(bad.said))
    known = set(labels)
    for label, count in bad.of.items():
        if label not in known:
            raise DataError(f"class {label!r}: none of its {count} images can be used, see those skipped")


def check_size(image: np.ndarray, origin: str, first: np.ndarray, first_origin: str) -> None:
    """Raise DataError unless both images [H, W, C] are of one size."""
    if image.shape != first.shape:
        sizes = [f"{array.shape[1]}×{array.shape[0]}" for array in (first, image)]
        raise DataError(
            f"data.image_size must be set: {first_origin} has {sizes[0]} pixels, {origin} {sizes[1]}"
        )
