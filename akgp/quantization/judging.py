"""Decides by calibration images whether a change of an int8 graph is kept.

The divergence KL(float ‖ int8) of the predictions must fall, on images that the change was not made from, by
more than the standard error of the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.quantization.checking import as_array
from akgp.quantization.observing import Floats, log_probabilities

if TYPE_CHECKING:
    from onnx import ModelProto

IMAGES = 64
"""Images that a change is made from: half of the calibration images, at most so many."""


@dataclass(frozen=True)
class Judgement:
    """What calibration images say of a change that they did not take part in.

    before, after: mean KL(float ‖ int8) of the predictions, nats; NaN without images to judge by.
    kept: whether the changed graph was better, by more than the standard error of the difference.
    """

    before: float
    after: float
    kept: bool


UNJUDGED = Judgement(float("nan"), float("nan"), False)
"""Of a change that was not made, as there are no images to judge it by."""


def halves(inputs: Tensor | NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Every other image, up to IMAGES, to make a change from; and the rest to judge it by."""
    images = as_array(inputs)
    return images[::2][:IMAGES], images[1::2]


def judged(floating: ModelProto, before: ModelProto, after: ModelProto, images: Floats) -> Judgement:
    """Compare two int8 graphs with the float graph that both stand for, on one image or more.

    Of a single image no standard error is known, so that nothing is kept.
    """
    wanted = log_probabilities(floating, images)
    first, second = (divergences(wanted, log_probabilities(each, images)) for each in (before, after))
    gain = first - second
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    kept = bool(gain.mean() > error)
    return Judgement(float(first.mean()), float(second.mean()), kept)


def divergences(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(wanted ‖ found) of each image, nats; both log probabilities [N, classes]."""
    return (np.exp(wanted) * (wanted - found)).sum(1)
