"""Activation ranges by the average image instead of the most extreme one, where int8 has lost too much.

One image in hundreds can drive activations many times as far as the others do. A range that holds it leaves
few of the 256 steps to the rest: an EfficientNet-B0 that classified 91 % of its images as in float, with
ranges of 64 images, came to 13 % with those of 512.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from akgp.params import Quantize
from akgp.quantization.judging import UNJUDGED, Judgement, divergences, halves, judged
from akgp.quantization.observing import log_probabilities
from akgp.quantization.ptq import prepare, quantize

LOST = 0.02
"""Divergence from the float network's predictions, nats, from which on other ranges are tried."""


def average_ranges(
    fp32_path: str | Path, inputs: Tensor | NDArray[np.float32], params: Quantize, int8_path: str | Path
) -> Judgement | None:
    """Quantize again with `calibration: averaged`, if int8 has lost; the file is replaced if it gains.

    Args:
        fp32_path: the float graph that `quantize` was given.
        inputs: float32 [N, C, H, W], normalised calibration images; every other one judges.
        params: as `quantize` was given.
        int8_path: the int8 graph that `quantize` wrote.

    Returns:
        None if it has lost no more than LOST: nothing was tried.
    """
    import onnx

    _, judging = halves(inputs)
    if not len(judging):
        return UNJUDGED
    with tempfile.TemporaryDirectory() as folder:
        prepared, averaged = Path(folder) / "prepared.onnx", Path(folder) / "averaged.onnx"
        prepare(fp32_path, prepared)
        floating, before = onnx.load(str(prepared)), onnx.load(str(int8_path))
        wanted, found = (log_probabilities(each, judging) for each in (floating, before))
        if divergences(wanted, found).mean() <= LOST:
            return None
        quantize(fp32_path, inputs, params.model_copy(update={"calibration": "averaged"}), averaged)
        judgement = judged(floating, before, onnx.load(str(averaged)), judging)
        if judgement.kept:
            shutil.copyfile(averaged, int8_path)
    return judgement
