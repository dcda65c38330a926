from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from akgp import params
from tests.support.params_trees import schema_fields, tree

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        # unknown and missing
        ({"colour": 1}, ["colour: unknown parameter; did you mean data.color?"]),
        (
            {"distill__temprature": 2.0},
            ["distill.temprature: unknown parameter; did you mean distill.temperature?"],
        ),
        (
            {"distill__epochs": 5},
            ["distill.epochs: unknown parameter; did you mean distill.training.epochs?"],
        ),
        (
            {"networks__net__epochs": 5},
            [
                "networks.net.epochs: unknown parameter; did you mean teacher.epochs or "
                "distill.training.epochs?"
            ],
        ),
        ({"teacher__mean": [0.5]}, ["teacher.mean: unknown parameter; did you mean networks.*.mean?"]),
        (
            {"networks__net__depth": 20},
            [
                "networks.net.depth: unknown parameter; networks.net has seed, architecture, widths, "
                "weights, checkpoint, finetune, mean, std"
            ],
        ),
        ({"prune__skip": "fc"}, ['prune.skip: got "fc", must be a list, such as [a, b]']),
        (
            {"quantize__images": 1, "quantize__agreement": 0.9},
            [
                "quantize: images: got 1, but agreement, bytes, latency_ms and download are judged by others "
                "than those that calibrate: must be 2 or more"
            ],
        ),
        (
            {"nightly": {"max_drop": 1.0}},
            ["nightly: retired: the section is named release now, with the same keys"],
        ),
        (
            {"quantize__reduce_range": False},
            [
                "quantize.reduce_range: retired: weights keep all 8 bits and saturate on no processor any "
                "more; remove the line"
            ],
        ),
        ({"distill__measure_w0": True}, ["distill.measure_w0: retired: write w0_from: branches"]),
        ({"distill__measure_w0": False}, ["distill.measure_w0: retired: remove the line"]),
        (
            {"distill__measure_w0": 2},
            ["distill.measure_w0: retired: write w0_from: branches or remove the line"],
        ),
        ({"distill__strategy": "self"}, ['distill.strategy: got "self", now "self_distillation"']),
        ({"distill__strategy": "learned"}, ['distill.strategy: got "learned", now "amtml_kd"']),
        ({"distill__strategy": "confidence"}, ['distill.strategy: got "confidence", now "ca_mkd"']),
        (
            {"sweep__space": {"distill.strategy": {"choices": ["akgp", "self"]}}},
            ['sweep.space: distill.strategy: got "self", now "self_distillation"'],
        ),
        # wrong types: nothing is converted
        ({"distill__temperature": True}, ["distill.temperature: got true, must be a valid number"]),
        ({"distill__temperature": "2"}, ['distill.temperature: got "2", must be a valid number']),
        ({"teacher__epochs": 2.5}, ["teacher.epochs: got 2.5, must be a valid integer"]),
        ({"teacher__epochs": True}, ["teacher.epochs: got true, must be a valid integer"]),
        ({"teacher__channels_last": 1}, ["teacher.channels_last: got 1, must be a valid boolean"]),
        ({"student": 7}, ["student: got 7, must be a valid string"]),
        ({"networks__Net": {"architecture": "x"}}, ['networks.Net: got "Net", must be of a-z, 0-9, _ and -']),
        ({"teachers": []}, ["teachers: got [], must have at least 1 item"]),
        ({"teachers": [1]}, ["teachers.0: got 1, must be a valid string"]),
        (
            {"networks__resnet20": {"architecture": "cifar_resnet20", "mean": [123.0], "std": [0.2]}},
            ["networks.resnet20.mean.0: got 123.0, must be less than or equal to 1"],
        ),
        (
            {"networks__resnet20": {"architecture": "cifar_resnet18"}},
            [
                "networks.resnet20: architecture must be one of cifar_resnet8, cifar_resnet14, "
                "cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56, cifar_resnet110, got "
                "'cifar_resnet18'"
            ],
        ),
        # ranges
        ({"prune__ratio": 1.2}, ["prune.ratio: got 1.2, must be less than 1"]),
        ({"prune__ratio": -0.1}, ["prune.ratio: got -0.1, must be greater than or equal to 0"]),
        ({"distill__temperature": 0.0}, ["distill.temperature: got 0.0, must be greater than 0"]),
        (
            {"distill__strategy": "dkd", "distill__training": {"augment": {"mixup": 0.2}}},
            [
                "distill: training.augment.mixup and cutmix leave mixed images to the teacher: they need a "
                "strategy of teacher, fixed, annealed, wttm, dist, akgp, without w0_from: branches, got 'dkd'"
            ],
        ),
        (
            {"networks__resnet20": {"architecture": "cifar_resnet20", "finetune": True}},
            ["networks.resnet20: finetune needs a checkpoint to start from, got null"],
        ),
        (
            {"networks__resnet20": {"architecture": "resnet18", "weights": "DEFAULT", "checkpoint": "a.pt"}},
            ["networks.resnet20: checkpoint and weights are both given: at most one of them may be"],
        ),
        ({"distill__w0": 2.01}, ["distill.w0: got 2.01, must be less than or equal to 2"]),
        ({"distill__w0": 1.01}, ["distill: w0 must be in [0, 1] for strategy 'akgp', got 1.01"]),
        ({"teacher__momentum": 1.0}, ["teacher.momentum: got 1.0, must be less than 1"]),
        ({"ray__gpus_per_worker": 2}, ["ray.gpus_per_worker: got 2, must be less than or equal to 1"]),
        ({"seed": -1}, ["seed: got -1, must be greater than or equal to 0"]),
        (
            {"teacher__learning_rate": float("nan")},
            ["teacher.learning_rate: got NaN, must be a finite number"],
        ),
        # choices are named
        (
            {"data__source": "imagenet"},
            ["data.source: got \"imagenet\", must be 'digits', 'cifar10', 'image_folder' or 'parquet'"],
        ),
        (
            {"distill__strategy": "AKGP"},
            [
                "distill.strategy: got \"AKGP\", must be 'labels', 'teacher', 'fixed', 'annealed', 'wsld', "
                "'dkd', 'wttm', 'dist', 'ca_mkd', 'amtml_kd', 'self_distillation' or 'akgp'"
            ],
        ),
        # every fault has its own line
        (
            {"seed": -1, "prune__ratio": 1.2, "x": 0},
            [
                "seed: got -1, must be greater than or equal to 0",
                "prune.ratio: got 1.2, must be less than 1",
                "x: unknown parameter; params.yaml has " + ", ".join(params.Params.model_fields),
            ],
        ),
    ],
)
def test_fault_names_key_value_and_what_is_allowed(changes: dict[str, Any], lines: list[str]) -> None:
    with pytest.raises(params.ParamsError) as error:
        params.validate(tree(**changes))
    assert sorted(str(error.value).splitlines()) == sorted(lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ["nett"]}, "teachers: 'nett' is not among networks (net)"),
        (
            {"evaluate__targets": ["onnx"], "evaluate__cores": ["M4F"]},
            "evaluate.cores: instructions are counted of the target c alone: evaluate.targets must name it, "
            "got onnx",
        ),
        (
            {"quantize__agreement": 0.99, "evaluate__targets": ["openvino"]},
            "evaluate.targets: openvino cannot be written of a network with layers in float: remove "
            "quantize.agreement, or the targets",
        ),
        ({"student": "other"}, "student: 'other' is not among networks (net)"),
        ({"teachers": ["net", "net"]}, "teachers: each name once, got net, net"),
        (
            {
                "networks": {name: {"architecture": "cifar_resnet8"} for name in ("net", "twin")},
                "teachers": ["net", "twin"],
            },
            "networks.net and networks.twin are alike, so that they would be one network: give one of them a "
            "seed of its own (networks.twin.seed), or name it once",
        ),
        (
            {"prune__ratio": 0.5, "prune__macs": 0.4},
            "exactly one of ratio, macs, params, bytes, latency_ms, speedup, device must be given, got ratio",
        ),
        (
            {"prune__criterion": "l1"},
            "exactly one of ratio, macs, params, bytes, latency_ms, speedup, device must be given, got none",
        ),
        ({"data__source": "parquet"}, "path must be a directory or s3:// prefix for source 'parquet'"),
        (
            {"data__path": "somewhere"},
            "path must be null for source 'digits', which is embedded, got 'somewhere'",
        ),
        ({"data__source": "cifar10", "data__splits__test": 0.2}, "source 'cifar10' has its own test split"),
        (
            {"data__splits__test": 0.25, "data__splits__calibration": 0.5, "data__splits__validation": 0.4},
            "calibration + validation must be below 0.9, got 0.5 + 0.4",
        ),
        (
            {"teacher__epochs": 3, "teacher__warmup_epochs": 3.0},
            "warmup_epochs (3.0) must be below epochs (3)",
        ),
        (
            {"folds": 5, "distill__strategy": "labels"},
            "folds: 5, but distill.strategy 'labels' asks no teacher: folds must be null",
        ),
        (
            {"folds": 5, "distill__w0": None, "distill__training__augment__cutmix": 1.0},
            "folds: 5, but distill.training.augment mixes images, one of which the teacher has seen",
        ),
        (
            {"distill__w0": 0.4, "distill__training__augment__mixup": 0.2},
            "distill: w0 weighs images that are not mixed, and there are none: training.augment.mix_share",
        ),
        ({"networks__net__widths": [16, 32]}, "widths must be three numbers, got [16, 32]"),
        (
            {"networks__net__weights": "DEFAULT"},
            "weights is for torchvision networks only, not 'cifar_resnet20'",
        ),
        (
            {"networks__net__architecture": "resnet18", "networks__net__widths": [1, 2, 3]},
            "widths is for cifar_resnet8, cifar_resnet14, cifar_resnet20",
        ),
        (
            {"networks__net__architecture": "resnet18", "data__color": "gray", "data__splits__test": 0.2},
            "networks.net.architecture: 'resnet18' takes three channels: data.color must be rgb",
        ),
        (
            {"ray__workers": 3, "teacher__batch_size": 128},
            "teacher.batch_size: 128 must be divisible by ray.workers (3)",
        ),
        (
            {"distill__training__precision": "fp16"},
            "distill.training.precision: fp16 needs ray.gpus_per_worker 1",
        ),
        (
            {"distill__training__cuda_graphs": True, "ray__gpus_per_worker": 1, "ray__workers": 2},
            "distill.training.cuda_graphs: needs ray.workers 1 and ray.gpus_per_worker 1",
        ),
        ({"teacher__cuda_graphs": True, "teacher__compile": True}, "compile and cuda_graphs are both true"),
        (
            {
                "distill__training__cuda_graphs": True,
                "distill__strategy": "self_distillation",
                "ray__gpus_per_worker": 1,
            },
            "training.cuda_graphs hides what strategy self_distillation looks at: it must be false",
        ),
        (
            {"teacher__sync_batch_norm": True, "ray__workers": 2},
            "teacher.sync_batch_norm: several workers need ray.gpus_per_worker 1",
        ),
        (
            {"sweep__space": {"teacher.epochs": {"choices": [1]}}},
            "sweep.space: 'teacher.epochs' must be a parameter of prune or distill",
        ),
        (
            {"sweep__space": {"prune.ratio": {"min": 0.5, "max": 1.2}}},
            "prune.ratio: got 1.2, must be less than 1",
        ),
        ({"sweep__space": {"distill.colour": {"choices": [1]}}}, "distill.colour is not a parameter"),
        (
            {"sweep__against": "speed"},
            "sweep.against: got \"speed\", must be 'macs' or 'latency'",
        ),
        (
            {"sweep__against": "latency", "sweep__space": {"distill.w0": {"choices": [0.1]}}},
            "sweep.against: parameters of prune alone change 'latency': sweep.space must name one, such as "
            "prune.ratio, got distill.w0",
        ),
        (
            {"sweep__space": {"prune.ratio": {"choices": [0.5, [1]]}}},
            "sweep.space: prune.ratio: got [1], must be a valid number",
        ),
        (
            {"sweep__space": {"prune.ratio": {"choices": [0.5, None]}}},
            "sweep.space: prune.ratio: null is valid with no other values of the space: prune: exactly one",
        ),
        ({"sweep__space": {"prune.ratio": {"min": 0.5}}}, "must have either min and max, or choices"),
        ({"sweep__space": {"prune.ratio": {"min": 0.5, "max": 0.4}}}, "min (0.5) must be below max (0.4)"),
    ],
)
def test_combinations_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(params.ParamsError, match=re.escape(message)) as error:
        params.validate(tree(**changes))
    section = next(iter(changes)).split("__")[0]
    assert str(error.value).startswith((section, message)), error.value


def test_a_training_of_any_length_has_a_warm_up() -> None:
    epochs = (1, 2, 3, 4, 20)
    assert [params.Training(epochs=each).warmup for each in epochs] == [0.25, 0.5, 0.75, 1, 1]
    assert params.Training(epochs=20, warmup_epochs=3).warmup == 3


def test_missing_sections_are_defaults_but_networks_must_be_named() -> None:
    assert params.validate(tree()).distill.temperature == 2.0
    with pytest.raises(params.ParamsError) as error:
        params.validate({})
    assert str(error.value).splitlines() == ["networks: missing", "teachers: missing", "student: missing"]


def test_every_field_has_a_description() -> None:
    fields = dict(schema_fields())
    sections = {path[:-1] for path in fields}
    assert ("prune", "schedule", "recovery", "epochs") in fields
    assert [path for path, field in fields.items() if not field.description and path not in sections] == []


def test_nothing_can_be_changed() -> None:
    checked = params.validate(tree())
    with pytest.raises(ValueError, match="frozen"):
        checked.seed = 1  # type: ignore[misc]


def test_values_are_set_together_and_validated_as_a_whole() -> None:
    """Whatever their order; and rules between sections are asked, too."""
    own = params.validate(tree(distill__strategy="self_distillation", ray__workers=2))
    together = {"distill.alpha": 2.5, "distill.strategy": "wsld", "distill.training.learning_rate": 0.05}
    for values in (together, dict(reversed(together.items()))):
        changed = params.with_values(own, values)
        assert (changed.distill.alpha, changed.distill.strategy) == (2.5, "wsld")
        assert changed.distill.training.learning_rate == 0.05
        assert changed.model_copy(update={"distill": own.distill}) == own
    for values, line in (
        (
            {"distill.alpha": 2.5},
            "distill: alpha must be in [0, 1] for strategy 'self_distillation', got 2.5",
        ),
        (
            {"distill.training.batch_size": 65},
            "distill.training.batch_size: 65 must be divisible by ray.workers (2)",
        ),
        (
            {"ray.address": "auto", "ray.workers": 8, "ray.min_workers": 4, "teacher.batch_size": None},
            "ray.min_workers: 4 to 8 workers share a batch evenly only if teacher.batch_size is a multiple "
            "of 840: raise min_workers, or give that",
        ),
        ({"distill.temperature": True}, "distill.temperature: got true, must be a valid number"),
        ({"distill.training": 1}, "distill.training is not a parameter, but a section"),
        ({"distill.colour": 1}, "distill.colour is not a parameter"),
    ):
        with pytest.raises(params.ParamsError) as error:
            params.with_values(own, values)
        assert str(error.value) == line


def test_one_amount_replaces_another() -> None:
    checked = params.validate(tree(prune__macs=0.4))
    assert params.with_values(checked, {"prune.ratio": 0.3}).prune == params.Prune(ratio=0.3)
    assert params.with_values(checked, {"prune.criterion": "l1"}).prune.macs == 0.4
    with pytest.raises(params.ParamsError, match="got ratio, macs"):
        params.with_values(checked, {"prune.ratio": 0.3, "prune.macs": 0.3})


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({}, "answers"),
        ({"w0": None}, "answers"),
        ({"w0": 0.4}, "fixed"),
        ({"w0": 0.4, "w0_from": "answers"}, "answers"),
        ({"w0": 0.4, "w0_from": "branches"}, "branches"),
        ({"w0_from": "fixed"}, "fixed"),
        ({"w0_from": "branches", "strategy": "fixed"}, "fixed"),
    ],
    ids=str,
)
def test_a_number_for_w0_is_meant_unless_it_is_said_to_be_a_guess(given: dict[str, Any], source: str) -> None:
    distill = params.validate(tree(distill=given)).distill
    assert distill.w0_source == source
    assert distill.asks_for_w0 == (source == "answers" or (source == "branches" and distill.w0 is None))
    complete = distill.model_dump(mode="json")
    assert params.validate(tree(distill=complete)).distill == distill
    if given in ({}, {"w0": 0.4}):  # in a complete file too, w0 is all that need be changed
        other = params.validate(tree(distill=complete | {"w0": 0.4 if distill.w0 is None else None})).distill
        assert {source, other.w0_source} == {"answers", "fixed"}


def test_a_w0_that_is_set_is_no_guess_but_for_branches() -> None:
    for given, source in (({}, "fixed"), ({"w0_from": "branches"}, "branches")):
        checked = params.validate(tree(distill=given))
        assert params.with_values(checked, {"distill.w0": 0.6}).distill.w0_source == source
    guess = params.with_values(checked, {"distill.w0": 0.6, "distill.w0_from": "answers"})
    assert guess.distill.w0_source == "answers"


OWN_OR_WSLD = {"choices": ["self_distillation", "wsld"]}


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ({"distill.alpha": {"choices": [0.3, 2.5]}, "distill.strategy": OWN_OR_WSLD}, ""),
        ({"distill.strategy": OWN_OR_WSLD, "distill.alpha": {"min": 0.5, "max": 3}}, ""),
        (
            {
                "distill.alpha": {"choices": [0.3, 2.5]},
                "distill.strategy": {"choices": ["self_distillation"]},
            },
            "distill.alpha: 2.5 is valid with no other values of the space: distill: alpha must be in "
            "[0, 1] for strategy 'self_distillation', got 2.5",
        ),
        (
            {"prune.ratio": {"min": 0.1, "max": 0.5}, "prune.macs": {"min": 0.2, "max": 0.5}},
            "prune.ratio: 0.1 is valid with no other values of the space: prune: exactly one of ratio, "
            "macs, params, bytes, latency_ms, speedup, device must be given, got ratio, macs",
        ),
        (
            {"distill.strategy": {"choices": ["akgp", "amtml_kd"]}},
            "distill.strategy: 'amtml_kd' weighs teachers against each other: teachers must name two or more "
            "networks, got net",
        ),
        ({"distill.training.epochs": {"min": 2, "max": 6}}, ""),
        (
            {"distill.training.warmup_epochs": {"min": 1, "max": 40}},
            "distill.training.warmup_epochs: 40.0 is valid with no other values of the space: "
            "distill.training: warmup_epochs (40.0) must be below epochs (20)",
        ),
        (
            {"distill.training.epochs": {"min": 2.5, "max": 6}},
            "distill.training.epochs is an integer: min and max must be, too, got 2.5, 6.0",
        ),
        (
            {"distill.noise_posterior": {"min": 0, "max": 1}},
            "distill.noise_posterior is no number: it needs choices, not min and max",
        ),
        (
            {"prune.criterion": {"min": 0, "max": 1}},
            "prune.criterion is no number: it needs choices, not min and max",
        ),
        (
            {"distill.noise_posterior": {"choices": [True, 1]}},
            "distill.noise_posterior: got 1, must be a valid boolean",
        ),
        ({"distill.training": {"choices": [1]}}, "distill.training is not a parameter, but a section"),
    ],
)
def test_of_a_space_what_no_trial_could_have_is_refused(space: dict[str, Any], line: str) -> None:
    if not line:
        params.validate(tree(sweep__space=space))
        return
    with pytest.raises(params.ParamsError) as error:
        params.validate(tree(sweep__space=space))
    assert str(error.value) == f"sweep.space: {line}"


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_recipes_are_valid_and_described(file: Path) -> None:
    assert file.read_text().startswith("# ")
    checked = params.load(file)
    assert params.validate(YAML().load(params.dump(checked))) == checked
