"""Findings on what should be better, and the parameters to change: sentences, from accuracies alone.

The bounds are wide: a finding is meant to be acted upon, so differences that may be chance are left out.
An accuracy over n test images has the binomial standard error √(p(1 − p)/n); two networks are compared as if
they were tested on different images, which overstates the error of their difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from akgp.params import Params
from akgp.params.device import bytes_of

LEARNT = 0.1
"""Share of the accuracy beyond chance below which a network is near chance: 19 % with 10 balanced classes.

The answers of such a network hold next to nothing for a student.
"""
CERTAIN, LIKELY = 3.0, 2.0  # standard errors above chance, and between two networks
LOST = 3.0
"""Points below dense. At half of the filters FPGM's authors lose less than 1 point, and here were lost 1.6
(ResNet-20) and 1.8 (ResNet-32, both CIFAR-10): about twice that is more than pruning need cost."""
LOST_BY_INT8 = 1.0
"""Points below the student; 8 bits otherwise cost no measurable accuracy."""


def findings(
    metrics: Mapping[str, Mapping[str, Any]], test_counts: Sequence[int], params: Params
) -> Iterator[str]:
    """A sentence for each finding.

    Args:
        metrics: by network, as in reports/metrics.json.
        test_counts: images of each class in the test split.
    """
    images = sum(test_counts)
    if not images:
        return
    poor = [
        name
        for name in ("teacher", "dense")
        if name in metrics and is_near_chance(metrics[name]["top1"], test_counts)
    ]
    chance = f"{chance_of(test_counts):.1f} % is what always naming the largest class gives"
    if "dense" in poor:
        yield (
            f"dense is near chance: {metrics['dense']['top1']:.1f} %, and {chance}. "
            + _training_of_dense(params, params.student)
        )
    if "teacher" in poor and (params.another_teaches or "dense" not in poor):
        named = ", ".join(params.teachers)
        yield (
            f"the teacher ({named}) is near chance: {metrics['teacher']['top1']:.1f} %, and {chance}. "
            + _training_of_dense(params, *params.teachers)
        )
    if poor:
        return  # all else follows from that
    yield from _losses(metrics, images, params)
    yield from _larger(metrics, params)


def _losses(metrics: Mapping[str, Mapping[str, Any]], images: int, params: Params) -> Iterator[str]:
    top1 = {name: float(row["top1"]) for name, row in metrics.items()}

    def lost(better: str, worse: str, allowed: float) -> str:
        """The loss in words; empty if it does not exceed both `allowed` and its error."""
        if better not in top1 or worse not in top1:
            return ""
        loss, error = top1[better] - top1[worse], difference_error(top1[better], top1[worse], images)
        return f"{loss:.1f} ± {error:.1f} points" if loss > max(allowed, LIKELY * error) else ""

    if params.another_teaches and (said := lost("dense", "teacher", 0.0)):
        yield (
            f"the teacher ({', '.join(params.teachers)}) is {said} below the student's own dense network: "
            f"name better ones in teachers, or {params.student} itself"
        )
    if said := lost("dense", "student", LOST):
        epochs = params.distill.training.epochs
        yield (
            f"the student lost {said} against dense: raise distill.training.epochs (now {epochs}), or "
            f"remove less: {_less_pruning(params)}"
        )
    if said := lost("student", "int8", LOST_BY_INT8):
        other = "entropy" if params.quantize.calibration != "entropy" else "minmax"
        yield (
            f"int8 lost {said} against the student: try quantize.calibration: {other} (now "
            f"{params.quantize.calibration}), raise quantize.images (now {params.quantize.images}) and "
            "data.splits.calibration, or keep layers in float by quantize.agreement: 0.99"
        )


def is_near_chance(top1: float, test_counts: Sequence[int]) -> bool:
    """Whether an accuracy (%) is within error of chance, or knows less than LEARNT of the rest."""
    chance, images = chance_of(test_counts) / 100, sum(test_counts)
    error = math.sqrt(chance * (1 - chance) / images)
    return top1 / 100 <= chance + max(CERTAIN * error, LEARNT * (1 - chance))


def chance_of(test_counts: Sequence[int]) -> float:
    """Accuracy, %, of always predicting the largest class; for balanced classes that of guessing."""
    return 100 * max(test_counts) / sum(test_counts)


def difference_error(one: float, other: float, images: int) -> float:
    """Standard error of the difference of two accuracies (%), as if of independent images; points.

    p is replaced by (p + ½/n)/(1 + 1/n), so that 100 % of few images still has an error.
    """
    # Half a success and half a failure are added to the n images.
    shares = [(accuracy / 100 * images + 0.5) / (images + 1) for accuracy in (one, other)]
    return 100 * math.sqrt(sum(p * (1 - p) for p in shares) / images)


def _training_of_dense(params: Params, *names: str) -> str:
    """Which parameters to change where dense networks have learnt too little."""
    said = []
    if not all(params.networks[name].trained for name in names):
        rate = params.teacher.learning_rate
        now = "" if rate is None else f" (now {rate:g})"
        said.append(
            f"Raise teacher.epochs (now {params.teacher.epochs}) or lower teacher.learning_rate{now}, and "
            "look at the labels"
        )
    if taken := [name for name in names if params.networks[name].trained]:
        said.append(
            f"networks.{taken[0]}.checkpoint may want another normalisation, colour, size or order of classes"
        )
    return "; ".join(said)


def _larger(metrics: Mapping[str, Mapping[str, Any]], params: Params) -> Iterator[str]:
    """Whether the int8 file is above prune.bytes, which counts all layers in int8."""
    real = metrics.get("int8", {}).get("bytes", 0)
    asked = math.inf if params.prune.bytes is None else bytes_of(params.prune.bytes)
    if real > asked:
        yield (
            f"the int8 file has {real:,} bytes, more than prune.bytes ({asked:,}), which counts neither "
            "layers in float nor what bias correction adds: lower it by the difference"
        )


def _less_pruning(params: Params) -> str:
    prune = params.prune
    if prune.ratio is not None:
        return f"lower prune.ratio (now {prune.ratio:g} of the filters removed)"
    if prune.macs is not None:
        return f"raise prune.macs (now {prune.macs:g} of the MACs kept)"
    if prune.bytes is not None:
        return f"raise prune.bytes (now {prune.bytes})"
    if prune.device is not None:
        return f"take a larger prune.device (now {prune.device})"
    if prune.latency_ms is not None:
        return f"raise prune.latency_ms (now {prune.latency_ms:g})"
    if prune.speedup is not None:
        return f"lower prune.speedup (now {prune.speedup:g})"
    return f"raise prune.params (now {prune.params:g} of the parameters kept)"
