"""The page's lists of terms: what pruning was to save, what was done to the data, settings, measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from akgp import params as parameters
from akgp.params.device import bytes_of
from akgp.params.training_defaults import dense_training, student_training
from akgp.reporting.layouts import dense_layouts

if TYPE_CHECKING:
    from akgp.reporting.page import Report

REACHED = {
    "macs": "{:.1%} of the MACs kept",
    "params": "{:.1%} of the parameters kept",
    "bytes": "an int8 file of {:,.0f} bytes",
    "latency_ms": "{:.3g} ms in int8",
    "speedup": "int8 {:.3g} times as fast as dense float",
}
"""What a budget came to, by its key."""


def saved(content: Report) -> Iterator[tuple[str, str]]:
    """What pruning was to achieve and what it achieved, in filters, MACs and parameters."""
    prune = content.params.prune
    wanted = {
        "ratio": "{:.1%} of the filters of each layer removed",
        "macs": "{:.1%} of the MACs kept",
        "params": "{:.1%} of the parameters kept",
        "bytes": "an int8 file of {} bytes at most",
        "latency_ms": "{:g} ms in int8",
        "speedup": "int8 {:g} times as fast as dense float",
        "device": "to fit {}",
    }
    asked = {key: getattr(prune, key) for key in wanted}
    if prune.bytes is not None:  # may be 500k
        asked["bytes"] = f"{bytes_of(prune.bytes):,}"
    yield "asked for", "".join(wanted[key].format(value) for key, value in asked.items() if value is not None)
    if content.budget:
        predicted = content.budget.get("predicted")
        said = "" if predicted is None else f" ({predicted:.3g} predicted)"
        yield "reached by pruning", REACHED[content.budget["key"]].format(content.budget["reached"]) + said
    if prune.bytes is not None and "int8" in content.metrics:
        yield "int8 file", f"{content.metrics['int8']['bytes']:,} bytes"
    dense_filters = sum(int(row["dense_width"]) for row in content.layers)
    if dense_filters:
        removed = 1 - sum(int(row["pruned_width"]) for row in content.layers) / dense_filters
        yield (
            "filters removed",
            f"{removed:.1%} (widths are multiples of {prune.round_to}; some layers stay dense)",
        )
    if layouts := dense_layouts(content.layers):
        yield "dense layouts", layouts
    for key, value in prune.model_dump(include={"bypass", "layers", "limits"}, exclude_defaults=True).items():
        yield key, json.dumps(value)
    dense, pruned = content.metrics.get("dense"), content.metrics.get("pruned")
    if dense and pruned:
        for key, label in (("macs", "MACs removed"), ("params", "parameters removed")):
            yield label, f"{1 - pruned[key] / dense[key]:.1%}"


def regime(applied: Mapping[str, Any] | None) -> str:
    """What a corruption of the training images or labels did, in a line; empty without one."""
    if applied is None:
        return ""
    asked, parts = applied["asked"], []
    if asked["subset"] is not None:
        parts.append(f"subset of {asked['subset']:,} images")
    if asked["imbalance"] > 1:
        parts.append(
            f"exponential long tail {asked['imbalance']:g} : 1, {sum(applied['kept']):,} images left"
        )
    if asked["label_noise"]:
        wrong = ", ".join(f"{count:,} in {name}" for name, count in applied["changed"].items())
        of = "" if asked["noise"] == "symmetric" else " of the flipped classes"
        parts.append(f"{asked['noise']} label noise, {asked['label_noise']:.3g}{of} (wrong: {wrong})")
    return "; ".join(parts) + "; the test split is as it was"


def settings(params: parameters.Params, images: int, w0: float | None) -> Iterator[tuple[str, str]]:
    """The parameters that a reader wants first; the whole file is further down the page.

    Args:
        images: of the training split.
        w0: as it was measured; None: it was not.
    """
    names = dict.fromkeys((*params.teachers, params.student))
    yield "networks", ", ".join(f"{name} ({params.networks[name].architecture})" for name in names)
    yield "teaches", ", ".join(params.teachers)
    yield "is pruned", params.student
    dense = params.networks[params.student]
    if dense.trained:
        yield "dense network", f"trained before: {dense.checkpoint}"
    else:
        yield "dense training", _training(dense_training(params, params.student, images))
    yield "pruning criterion", params.prune.criterion
    yield (
        "distillation",
        f"{params.distill.strategy}, {_w0(params.distill, w0)}temperature {params.distill.temperature:g}",
    )
    yield "recovery", _training(student_training(params, images))
    yield (
        "quantization",
        f"static int8, {params.quantize.calibration} ranges, {params.quantize.images} images at most",
    )
    yield "seed", str(params.seed)


def characteristics(profile: Mapping[str, Any], distill: parameters.Distill) -> Iterator[tuple[str, str]]:
    """What was measured of the teacher and the labels, with units, and what it changed."""
    if not profile:
        return
    yield (
        "teacher's accuracy",
        f"{100 * profile['accuracy']:.1f} % of {profile['samples']:,} calibration images",
    )
    yield (
        "teacher's calibration",
        f"expected calibration error {100 * profile['ece']:.1f} %, confidence minus accuracy "
        f"{100 * profile['overconfidence']:+.1f} points, "
        f"calibrated by temperature {profile['temperature']:.2f}",
    )
    if profile["noise_rate"] is not None:
        rate, low = 100 * profile["noise_rate"], 100 * profile["noise_rate_low"]
        corrected = "; corrected above 5 %" if _doubts(distill) else ""
        yield "wrong labels", f"{rate:.1f} % by estimate, at least {low:.1f} %{corrected}"
    if profile["memorisation_gap"] is not None:
        yield (
            "memorisation gap",
            f"Brier score {profile['memorisation_gap']:+.3f}, training minus calibration images",
        )
    yield "imbalance", f"{profile['imbalance']:.2f}, largest class over smallest{_adjusted(distill)}"


def _doubts(distill: parameters.Distill) -> bool:
    """Whether labels that are probably wrong count less."""
    return distill.noise_posterior and "noise_posterior" in distill.facts.reads


def _adjusted(distill: parameters.Distill) -> str:
    if distill.logit_adjustment == "on":
        return "; logits are adjusted"
    automatic = distill.logit_adjustment == "auto" and distill.facts.adaptive
    return "; logits are adjusted above 3" if automatic else ""


def _w0(distill: parameters.Distill, measured: float | None) -> str:
    if "w0" not in distill.facts.reads:
        return ""
    if distill.training.augment.mixed_share == 1:
        return "by the teacher alone, as all images are mixed, "
    if measured is None:
        return f"w0 {distill.w0_or_default:g}, "
    return f"w0 {measured:.2f} by the {'branches' if distill.w0_source == 'branches' else 'answers'}, "


def _training(training: parameters.Training) -> str:
    return (
        f"{training.epochs} epochs, batch {training.batch_size}, learning rate {training.learning_rate:g} "
        f"({training.schedule})"
    )
