"""Rules across the sections of params.yaml: a function each, which raises ValueError."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from akgp.params.network import CIFAR_RESNETS
from akgp.params.space import check_space
from akgp.params.training import LARGEST_BATCH

if TYPE_CHECKING:
    from akgp.params.schema import Params


def names_are_networks(params: Params) -> None:
    for key, names in (("teachers", params.teachers), ("student", (params.student,))):
        for name in names:
            if name not in params.networks:
                raise ValueError(f"{key}: {name!r} is not among networks ({', '.join(params.networks)})")


def each_teacher_once(params: Params) -> None:
    if len(set(params.teachers)) != len(params.teachers):
        raise ValueError(f"teachers: each name once, got {', '.join(params.teachers)}")


def networks_differ(params: Params) -> None:
    """Two that are trained alike are one network, trained twice: as an ensemble they are worth no more."""
    names = tuple(dict.fromkeys((*params.teachers, params.student)))
    made = []
    for name in names:
        network = params.networks[name]
        seed = None if network.trained else params.seed_of(name)
        made.append((name, network.model_copy(update={"seed": seed})))
    for number, (name, network) in enumerate(made):
        for other, earlier in made[:number]:
            if network == earlier:
                raise ValueError(
                    f"networks.{other} and networks.{name} are alike, so that they would be one network: "
                    f"give one of them a seed of its own (networks.{name}.seed), or name it once"
                )


def folds_are_trained(params: Params) -> None:
    """A trained network has seen all images: it has no folds."""
    for name in params.teachers if params.folds else ():
        if params.networks[name].trained:
            raise ValueError(
                f"folds: {params.folds}, but networks.{name}.checkpoint is trained already, on all images: "
                "folds must be null, or teachers networks without a checkpoint"
            )


def folds_have_their_teachers(params: Params) -> None:
    """Their networks would be trained for nothing."""
    if params.folds and not params.distill.facts.teachers:
        raise ValueError(
            f"folds: {params.folds}, but distill.strategy {params.distill.strategy!r} asks no teacher: folds "
            "must be null, or the strategy another one"
        )


def folds_are_not_mixed(params: Params) -> None:
    """Half of a mixed image would be of another fold than the other, and its teacher have seen it."""
    if params.folds and params.distill.training.augment.mixes:
        raise ValueError(
            f"folds: {params.folds}, but distill.training.augment mixes images, one of which the teacher has "
            "seen: folds must be null, or mixup and cutmix 0"
        )


def normalization_fits_color(params: Params) -> None:
    channels = 1 if params.data.color == "gray" else 3
    for name, network in params.networks.items():
        for key, values in (("mean", network.mean), ("std", network.std)):
            if values is not None and len(values) != channels:
                raise ValueError(
                    f"networks.{name}.{key}: must be {channels} number(s), one a channel of data.color "
                    f"{params.data.color!r}, got {list(values)}"
                )


def torchvision_sees_color(params: Params) -> None:
    for name, network in params.networks.items():
        torchvision = network.architecture not in CIFAR_RESNETS and ":" not in network.architecture
        if torchvision and params.data.color == "gray":
            raise ValueError(
                f"networks.{name}.architecture: {network.architecture!r} takes three channels: "
                "data.color must be rgb"
            )


def trainings_fit_workers(params: Params) -> None:
    ray = params.ray
    for section, training in (("teacher", params.teacher), ("distill.training", params.distill.training)):
        for workers in ray.counts():
            if training.batch_size is not None and training.batch_size % workers:
                raise ValueError(
                    f"{section}.batch_size: {training.batch_size} must be divisible by "
                    f"ray.workers ({workers})"
                )
        together = math.lcm(*ray.counts())
        if training.batch_size is None and len(ray.counts()) > 1 and together > LARGEST_BATCH:
            raise ValueError(
                f"ray.min_workers: {ray.min_workers} to {ray.workers} workers share a batch evenly only if "
                f"{section}.batch_size is a multiple of {together:,}: raise min_workers, or give that"
            )
        if training.precision == "fp16" and not ray.gpus_per_worker:
            raise ValueError(f"{section}.precision: fp16 needs ray.gpus_per_worker 1")
        if training.cuda_graphs and (ray.workers > 1 or not ray.gpus_per_worker):
            raise ValueError(f"{section}.cuda_graphs: needs ray.workers 1 and ray.gpus_per_worker 1")
        if training.sync_batch_norm and ray.workers > 1 and not ray.gpus_per_worker:
            raise ValueError(f"{section}.sync_batch_norm: several workers need ray.gpus_per_worker 1")
    if (schedule := params.prune.schedule) and not ray.gpus_per_worker:  # by one worker
        for key, given in (("precision: fp16", "fp16"), ("cuda_graphs:", True)):
            if getattr(schedule.recovery, key.partition(":")[0]) == given:
                raise ValueError(f"prune.schedule.recovery.{key} needs ray.gpus_per_worker 1")


def strategy_has_its_teachers(params: Params) -> None:
    if len(params.teachers) < params.distill.facts.teachers:
        raise ValueError(
            f"distill.strategy: {params.distill.strategy!r} weighs teachers against each other: teachers "
            f"must name two or more networks, got {', '.join(params.teachers)}"
        )


def targets_take_int8(params: Params) -> None:
    """Exports are written from integers: they refuse a file in which layers stay in float."""
    key, targets = params.quantize.float_because, params.evaluate.targets
    if targets and key:
        raise ValueError(
            f"evaluate.targets: {', '.join(targets)} cannot be written of a network with layers in float: "
            f"remove quantize.{key}, or the targets"
        )


def cores_have_their_target(params: Params) -> None:
    if params.evaluate.cores and "c" not in params.evaluate.targets:
        raise ValueError(
            f"evaluate.cores: instructions are counted of the target c alone: evaluate.targets must name it, "
            f"got {', '.join(params.evaluate.targets) or 'none'}"
        )


def sweep_changes_what_it_is_against(params: Params) -> None:
    sweep = params.sweep
    if sweep.against and not any(key.startswith("prune.") for key in sweep.space):
        raise ValueError(
            f"sweep.against: parameters of prune alone change {sweep.against!r}: sweep.space must "
            f"name one, such as prune.ratio, got {', '.join(sweep.space) or 'none'}"
        )


RULES: tuple[Callable[[Params], None], ...] = (
    names_are_networks,
    each_teacher_once,
    networks_differ,
    folds_are_trained,
    folds_have_their_teachers,
    folds_are_not_mixed,
    normalization_fits_color,
    torchvision_sees_color,
    trainings_fit_workers,
    strategy_has_its_teachers,
    targets_take_int8,
    cores_have_their_target,
    check_space,
    sweep_changes_what_it_is_against,
)
"""In this order: the later ones rely on the earlier ones."""
