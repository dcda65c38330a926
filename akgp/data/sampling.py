"""Some labelled images of a source without a prepared data set, to judge a network on them."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from akgp.data.batches import IndexedSource
from akgp.data.decoding import BIT_DEPTHS
from akgp.data.files import DataError
from akgp.data.images import Images
from akgp.data.labels import Label, by_name, class_indices, classes_of, given_labels, label_of
from akgp.data.prepare import mean_std
from akgp.data.reading import read_parts
from akgp.data.samples import Sample, Samples
from akgp.data.sources import open_source
from akgp.params import Data

log = logging.getLogger(__name__)

PARTS = ("test", "validation", "train")
"""Of those that a source has, the first is taken."""


def sampled(params: Data, count: int, seed: int) -> tuple[Images, tuple[str, ...]]:
    """`count` images at most, drawn by the seed from a part of the source, and the names of its classes.

    Every image of the part is read once, and those drawn are decoded; of the other parts the labels.

    Raises:
        DataError: as `read_parts`.
    """
    source = open_source(params)
    name = next(each for each in PARTS if each in source.parts)
    skip = params.on_bad_rows == "skip"
    chosen, labels = _drawn(source.parts[name], count, random.Random(seed), skip=skip)
    for part, samples in source.parts.items() if source.classes is None else ():
        if part != name:  # it may have classes of which there is no image among those drawn from
            labels |= dict(given_labels(samples, None))
    classes = source.classes or classes_of(labels.items())
    parts, bit_depth = read_parts(
        replace(source, parts={name: Samples(lambda: iter(chosen))}), params, lambda _: None
    )
    if bit_depth < BIT_DEPTHS[-1]:
        log.warning("scaled by the images that were drawn: the network may have been trained on darker ones")
    pixels = torch.tensor(parts[name].pixels).permute(0, 3, 1, 2).contiguous()
    labels_of = class_indices(parts[name].labels, classes, known=bool(source.classes))
    return Images(pixels, labels_of), by_name(classes, source.names)


def _drawn(
    samples: Iterable[Sample], count: int, generator: random.Random, *, skip: bool
) -> tuple[list[Sample], dict[Label, str]]:
    """`count` samples, each as likely (Vitter 1985, algorithm R); all labels, with an origin of each.

    Args:
        skip: leave out what has no label, instead of raising DataError.
    """
    chosen: list[Sample] = []
    labels: dict[Label, str] = {}
    number = 0
    for sample in samples:
        try:
            labels.setdefault(label_of(sample.label, None), sample.origin)
        except DataError as error:
            if skip:
                continue
            raise DataError(f"{sample.origin}: {error}") from None
        place = number if number < count else generator.randrange(number + 1)
        if place < count:
            chosen[place : place + 1] = [sample]
        number += 1
    return chosen, labels


def normalized(images: Images, mean: Sequence[float] | None, std: Sequence[float] | None) -> IndexedSource:
    """The images by a mean and standard deviation of each channel, in units of 255; None: their own.

    Raises:
        DataError: there are not as many numbers as channels.
    """
    own, channels = mean_std(images.pixels), images.pixels.shape[1]
    used = [list(given) if given else each.tolist() for given, each in zip((mean, std), own, strict=True)]
    for key, values in zip(("mean", "std"), used, strict=True):
        if len(values) != channels:
            raise DataError(f"{key} must be {channels} number(s), one a channel, got {values}")
    return IndexedSource.of(images, *used)
