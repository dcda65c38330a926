"""Parameters that are set, and change nothing beside the others: what `akgp params check` says of them."""

from __future__ import annotations

from collections.abc import Iterator

from akgp.params.base import Section
from akgp.params.schema import Params
from akgp.params.strategies import reading
from akgp.params.training import Training

LOOKING = ("taylor", "obd", "hrank", "knowledge")
"""The criteria that look at images."""


def without_effect(params: Params) -> list[str]:
    """A line for each."""
    lines = (*_of_distill(params), *_of_prune(params), *_of_trainings(params), *_of_data(params))
    return [f"{key} has no effect {why}" for key, why in lines]


def _of_distill(params: Params) -> Iterator[tuple[str, str]]:
    distill = params.distill
    given = [key for key in ("w0", "alpha", "beta", "heads") if getattr(distill, key) not in (None, ())]
    given += [key for key in ("temperature", "logit_std", "noise_posterior") if _set(distill, key)]
    given += ["w0_from"] if distill.w0_from == "branches" else []
    for key in given:
        if key not in distill.facts.reads:
            readers = ", ".join(reading(key))
            yield f"distill.{key}", f"with strategy {distill.strategy}, only with {readers}"
    if (distill.teacher_views or 0) > (epochs := distill.training.epochs):
        yield "distill.teacher_views", f"above distill.training.epochs ({epochs}): each shows one view"


def _of_prune(params: Params) -> Iterator[tuple[str, str]]:
    prune = params.prune
    if _set(prune, "images") and prune.criterion not in LOOKING:
        yield "prune.images", f"with criterion {prune.criterion}, only with {', '.join(LOOKING)}"
    if prune.time_limit is not None and prune.ratio is not None:
        yield "prune.time_limit", "with ratio, which needs no search"


def _of_trainings(params: Params) -> Iterator[tuple[str, str]]:
    trainings: dict[str, Training] = {"teacher": params.teacher, "distill.training": params.distill.training}
    if schedule := params.prune.schedule:
        trainings["prune.schedule.recovery"] = schedule.recovery
    for section, training in trainings.items():
        if _set(training.augment, "mix_share") and not training.augment.mixes:
            yield f"{section}.augment.mix_share", "without mixup or cutmix"
    if params.distill.training.label_smoothing and params.distill.strategy == "teacher":
        yield "distill.training.label_smoothing", "with strategy teacher, which learns from no label"


def _of_data(params: Params) -> Iterator[tuple[str, str]]:
    if _set(params.data.regime, "noise") and not params.data.regime.label_noise:
        yield "data.regime.noise", "without label_noise"
    for key in ("image_column", "label_column"):
        if _set(params.data, key) and params.data.source != "parquet":
            yield f"data.{key}", f"with source {params.data.source}, only with parquet"


def _set(section: Section, key: str) -> bool:
    """Whether a parameter is other than its default: complete files state all."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)
