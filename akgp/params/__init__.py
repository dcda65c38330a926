"""The one schema of params.yaml: what every parameter means, its unit and its range.

Sections are frozen pydantic models; the validated section is the object a function
receives. Reading and writing the file is here too; nothing else of the project is
imported, so that validation stays quick.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from akgp.params.yaml_text import TextError, parse

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NAME = "^[a-z0-9][a-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]

CIFAR_RESNETS = {f"cifar_resnet{depth}": depth for depth in (20, 32, 44, 56, 110)}
REMOTE = re.compile(r"^[a-z][a-z0-9+.-]*://")
SCHEMES = ("s3", "abfs", "az", "file", "gcs", "gs", "hdfs", "http", "https", "memory")
"""What fsspec reaches: s3 is tried here, the others need a package of their own, or are for tests."""


def _address(address: str) -> str:
    """A path, or a URL whose scheme is known and spelled as fsspec needs it."""
    scheme, colon, rest = address.partition(":")
    known, named = bool(colon) and scheme.lower() in SCHEMES, rest.removeprefix("//")
    if not address.strip() or "\0" in address:
        raise ValueError(f"must be a path or an s3:// address, got {address!r}")
    if not known and rest.startswith("//"):
        raise ValueError(f"must be a path or an s3:// address, got {address!r}: {scheme}:// is not known")
    if known and (scheme != scheme.lower() or named == rest):
        raise ValueError(f"must begin with {scheme.lower()}://, got {address!r}")
    if known and scheme == "s3" and not named.partition("/")[0]:
        raise ValueError(f"must name a bucket, such as s3://bucket/folder, got {address!r}")
    return address


def _cluster(address: str) -> str:
    """`auto`, or a host and a port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto" and not (host and re.fullmatch(r"[0-9]{1,5}", port) and "://" not in host):
        raise ValueError(f"must be null, auto or host:port, got {address!r}")
    return address


Address = Annotated[str, AfterValidator(_address)]

LONGEST = 100
"""Characters of a value that an error shows."""


RETIRED = {
    "quantize.reduce_range": "weights keep all 8 bits and saturate on no processor any more; remove the line",
}
"""Parameters of earlier versions: why each is gone and what to do."""


class ParamsError(ValueError):
    """params.yaml is not valid; the message has one line for each thing wrong."""


class Section(BaseModel):
    """A group of parameters: immutable, no coercion (`true` is no number), no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Splits(Section):
    """Shares of the images that are kept out of training, stratified by class."""

    calibration: Fraction = Field(
        0.1, description="share of the training images kept for calibration (never trained on)"
    )
    validation: Fraction = Field(
        0.1,
        description="share of the training images on which every choice is made; not taken where the source "
        "has a validation split of its own",
    )
    test: Fraction | None = Field(
        None, description="share of all images; null: the source has a test split of its own"
    )

    @model_validator(mode="after")
    def _leaves_training_images(self) -> Self:
        if self.calibration + self.validation >= 0.9:
            raise ValueError(
                f"calibration + validation must be below 0.9, got {self.calibration} + {self.validation}"
            )
        return self


class Regime(Section):
    """Fewer, unequal or wrong labels, to study what they do; by default nothing is changed.

    Applied to the training side as a whole, before it is split: first the subset, then the long
    tail, then the noise. So train, calibration and validation share it, as a user's would; the test
    split stays as it is, and so does a validation split that the source brings.

    `label_noise` is the share of labels that are *wrong*, exact in each class. Symmetric: a wrong
    label is any other class, all alike. Asymmetric: it is the next class (after the last the first);
    for source cifar10 truck → automobile, bird → airplane, deer → horse, cat ↔ dog (Patrini et al.
    2017), and the share is that of the images of these five classes: .4 makes 20 % of all wrong.
    """

    label_noise: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of wrong labels in each class (asymmetric: each flipped class); 0: none"
    )
    noise: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="symmetric (any other class) | asymmetric (the next; cifar10: like pairs)"
    )
    imbalance: Annotated[float, Field(ge=1, le=1e6)] = Field(
        1.0, description="largest class / smallest, an exponential long tail in class order; 1: as it is"
    )
    subset: Annotated[int, Field(ge=1)] | None = Field(
        None, description="images kept of all but the test split, stratified; null: all"
    )

    def alters(self) -> bool:
        """Whether images or labels differ from the source's."""
        return self.label_noise > 0 or self.imbalance > 1 or self.subset is not None


class Data(Section):
    """Where the images come from and how they are split."""

    source: Literal["digits", "cifar10", "image_folder", "parquet"] = Field(
        "digits", description="digits | cifar10 | image_folder | parquet"
    )
    path: Address | None = Field(
        None, description="directory or s3:// prefix; cifar10 also reads AKGP_CIFAR10, or downloads"
    )
    image_column: str = Field("image", description="parquet: column of image bytes or paths")
    label_column: str = Field("label", description="parquet: column of labels (int or text)")
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = Field(
        None, description="pixels a side, resized to; null: as they are, if all are alike"
    )
    color: Literal["rgb", "gray"] = Field("rgb", description="rgb | gray (one channel)")
    splits: Splits = Field(default_factory=Splits)
    regime: Regime = Field(default_factory=Regime)
    on_bad_rows: Literal["error", "skip"] = Field(
        "error", description="error | skip: corrupt images and bad labels stop the run or are counted"
    )

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source in ("image_folder", "parquet") and not self.path:
            raise ValueError(f"path must be a directory or s3:// prefix for source {self.source!r}")
        if self.source == "digits" and self.path:
            raise ValueError(f"path must be null for source 'digits', which is embedded, got {self.path!r}")
        if self.source == "digits" and self.splits.test is None:
            raise ValueError("splits.test must be a share, such as 0.25, for source 'digits', got null")
        if self.source == "cifar10" and self.splits.test is not None:
            raise ValueError("source 'cifar10' has its own test split: splits.test must be null")
        return self


class Network(Section):
    """A dense network: how it is built and, if it is trained already, from where it is taken."""

    architecture: str = Field(
        description="cifar_resnet20|32|44|56|110, a torchvision classifier, or module:function"
    )
    widths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="cifar_resnet only: channels of its three stages; null: 16, 32, 64"
    )
    weights: str | None = Field(
        None, description="torchvision only: pretrained weights to start from, such as DEFAULT"
    )
    checkpoint: Address | None = Field(
        None, description="a trained network instead of training: safetensors or state dict; path or s3://"
    )

    mean: tuple[float, ...] | None = Field(
        None, description="of each channel of its images, in units of 255; null: that of the training images"
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="standard deviation likewise; a trained network needs those it was trained with"
    )

    @model_validator(mode="after")
    def _fits_architecture(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must both be given, or neither")
        if self.widths is not None and self.architecture not in CIFAR_RESNETS:
            raise ValueError(f"widths is for {', '.join(CIFAR_RESNETS)} only, not {self.architecture!r}")
        if self.widths is not None and len(self.widths) != 3:
            raise ValueError(f"widths must be three numbers, got {list(self.widths)}")
        if self.weights is not None and (self.architecture in CIFAR_RESNETS or ":" in self.architecture):
            raise ValueError(f"weights is for torchvision networks only, not {self.architecture!r}")
        return self


class Augment(Section):
    """Random changes of the training images, made on the device for a whole batch."""

    crop_padding: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="pixels of reflected border before a random crop; 0: none"
    )
    flip: bool = Field(True, description="mirror left-right half of the time")
    cutout: Annotated[int, Field(ge=0, le=512)] = Field(
        0, description="side of a random square set to the mean, pixels; 0: none"
    )


class Training(Section):
    """One training: SGD with Nesterov momentum, warm-up, then decay to zero."""

    epochs: Annotated[int, Field(ge=1)] = Field(20, description="passes over the training split")
    batch_size: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="images a step, over all workers together; null: the square root of the number of "
        "training images, as a power of two, 16 to 128",
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None,
        description="peak value; null: 0.2 · batch_size / 128, and a tenth of that from networks.*.weights",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Nesterov")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        5e-4, description="L2; not applied to norms and biases"
    )
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(1.0, description="linear rise from zero")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="cosine | linear decay")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of each label spread over all classes"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay a step of the averaged weights that are kept; null: none"
    )
    keep: Literal["best", "balanced", "last"] = Field(
        "best",
        description="best | balanced (best by the mean over classes) | last epoch, on validation",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device computes in it, else fp32; fp16: GPU only"
    )
    sync_batch_norm: bool = Field(
        False, description="BatchNorm over the batch of all workers, not each one's own slice; GPUs only"
    )
    channels_last: bool = Field(
        True, description="memory format; not used by a network whose forward cannot take it"
    )
    compile: bool = Field(False, description="torch.compile; pays on long trainings only")
    cuda_graphs: bool = Field(
        False, description="replay the network's kernels: faster where it is small; one GPU, not with compile"
    )
    augment: Augment = Field(default_factory=Augment)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be below epochs ({self.epochs})")
        if self.compile and self.cuda_graphs:
            raise ValueError("compile and cuda_graphs are both true: at most one of them may be")
        return self


class Prune(Section):
    """How many filters go and which; exactly one of ratio, macs and params says how many."""

    criterion: Literal["fpgm", "l1", "l2", "random"] = Field(
        "fpgm", description="fpgm (geometric median) | l1 | l2 (norms) | random"
    )
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="share of filters removed in each layer"
    )
    macs: Fraction | None = Field(None, description="share of the dense MACs to keep, met within 2 %")
    params: Fraction | None = Field(None, description="share of the dense parameters to keep, met within 2 %")
    round_to: Annotated[int, Field(ge=1, le=128)] = Field(
        8, description="widths are multiples of this; odd widths run slower in int8"
    )
    skip: tuple[str, ...] = Field((), description="qualified names of modules left dense")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [key for key in ("ratio", "macs", "params") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of ratio, macs, params must be a number, got {', '.join(given) or 'none'}"
            )
        return self


W0 = 0.3
"""w0 of the student's own dense network as a teacher, and of another before it is asked."""


class Distill(Section):
    """Recovery of the pruned student from its teachers and the true labels."""

    strategy: Literal[
        "labels", "teacher", "fixed", "annealed", "wsld", "dkd", "confidence", "learned", "self", "akgp"
    ] = Field(
        "akgp",
        description="labels | teacher | fixed | annealed | wsld | dkd | confidence, learned (several "
        "teachers) | self | akgp",
    )
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(2.0, description="softens the logits")
    logit_std: bool = Field(
        False, description="standardise the logits of teacher and student before they are softened"
    )
    w0: Share | None = Field(
        None,
        description="teacher's weight: of every sample (fixed), of one whose label is right (akgp); null: "
        "0.3, and with akgp, if another network than the student's teaches, what its answers are worth",
    )
    measure_w0: bool = Field(
        False,
        description="akgp: measure w0 on the way by two branches, from w0 as a guess; 1.3 times the training",
    )
    alpha: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description="wsld, dkd (on the label), confidence, learned, self: factor of the teacher; "
        "null: 2.5, 1, 1, 1, 0.3",
    )
    beta: Annotated[float, Field(ge=0, le=100)] = Field(
        8.0, description="dkd: factor of the teacher on the other classes"
    )
    heads: tuple[str, ...] = Field(
        (), description="self: modules whose feature maps get a head; []: layer1, layer2, … but the last"
    )
    noise_posterior: bool = Field(
        True, description="akgp: trust the teacher more where a label is probably wrong"
    )
    logit_adjustment: Literal["auto", "on", "off"] = Field(
        "auto",
        description="shift by the log class prior, keep best is balanced then; auto: akgp alone, if "
        "imbalance exceeds 3",
    )
    training: Training = Field(default_factory=Training)

    @property
    def w0_or_default(self) -> float:
        return W0 if self.w0 is None else self.w0

    @property
    def measures_w0(self) -> bool:
        """Whether `measure_w0` has a say: with the other strategies it has none."""
        return self.measure_w0 and self.strategy == "akgp"

    @model_validator(mode="after")
    def _fits_strategy(self) -> Self:
        if self.measures_w0 and self.training.epochs < 2:
            raise ValueError("measure_w0 needs training.epochs of 2 or more, got 1")
        if self.strategy == "self" and self.training.cuda_graphs:
            raise ValueError("training.cuda_graphs hides what strategy self looks at: it must be false")
        if self.strategy == "self" and self.alpha is not None and self.alpha > 1:
            raise ValueError(f"alpha must be in [0, 1] for strategy 'self', got {self.alpha:g}")
        return self


class Quantize(Section):
    """Static post-training int8: unsigned activations a tensor, signed weights a channel."""

    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax", description="how activation ranges are chosen: minmax | entropy | percentile"
    )
    images: Annotated[int, Field(ge=1)] = Field(
        512, description="images of the calibration split used, at most"
    )
    license: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="of the weights, such as CC-BY-4.0, written into the file; null: not stated"
    )


class Evaluate(Section):
    """Latency protocol; accuracy always uses the whole test split."""

    threads: Annotated[int, Field(ge=1)] = Field(1, description="threads of the timed process")
    warmup_seconds: Annotated[float, Field(ge=0, le=60)] = Field(0.3, description="before timing")
    rounds: Annotated[int, Field(ge=3, le=1000)] = Field(
        20, description="interleaved rounds; each times every network once, for 10 ms or more"
    )


class Ray(Section):
    """Where the stages compute. Not part of what they compute: changing it re-runs nothing."""

    address: Annotated[str, AfterValidator(_cluster)] | None = Field(
        None, description="null: a local Ray, started and stopped; auto or host:port: that cluster"
    )
    workers: Annotated[int, Field(ge=1)] = Field(1, description="data-parallel workers a stage")
    cpus_per_worker: Annotated[int, Field(ge=1)] = Field(
        1, description="CPU cores a worker, and threads; more pay for large networks on an idle machine"
    )
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = Field(0, description="GPUs a worker: 0 or 1")
    min_workers: Annotated[int, Field(ge=1)] | None = Field(
        None, description="of a cluster: go on with as few while nodes are missing; null: wait for `workers`"
    )
    max_failures: Annotated[int, Field(ge=0)] = Field(
        3,
        description="of a cluster: how often a stage or trial goes on by itself after a lost worker or node",
    )
    storage: Address = Field("runs", description="checkpoints: a directory or s3:// prefix all nodes reach")

    @model_validator(mode="after")
    def _elastic_on_a_cluster(self) -> Self:
        if self.min_workers is not None and self.address is None:
            raise ValueError("min_workers is for a cluster: it must be null if address is")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be at most workers ({self.workers})")
        return self

    def counts(self) -> range:
        """The numbers of workers that a training may have."""
        return range(self.min_workers or self.workers, self.workers + 1)


class Range(Section):
    """A searched parameter: an interval or a list of choices."""

    min: float | None = Field(None, description="lowest value")
    max: float | None = Field(None, description="highest value")
    log: bool = Field(False, description="search the logarithm")
    choices: tuple[bool | int | float | str, ...] | None = Field(None, description="or these values")

    @model_validator(mode="after")
    def _interval_or_choices(self) -> Self:
        interval = self.min is not None and self.max is not None
        if interval == (self.choices is not None) or (self.min is None) != (self.max is None):
            raise ValueError("must have either min and max, or choices")
        if self.choices is not None and not self.choices:
            raise ValueError("choices must not be empty")
        if self.min is not None and self.max is not None:
            if self.min >= self.max:
                raise ValueError(f"min ({self.min}) must be below max ({self.max})")
            if self.log and self.min <= 0:
                raise ValueError(f"log needs min above 0, got {self.min}")
        return self


class Sweep(Section):
    """`akgp sweep run`: a search over parameters of prune and distill.

    The objective is validation accuracy, the mean over classes where the imbalance exceeds 3; `against` adds
    a second one, to be kept small. Then no trial is stopped early: by accuracy alone ASHA would stop the
    small networks first.
    """

    trials: Annotated[int, Field(ge=1)] = Field(12, description="trials in all")
    concurrent: Annotated[int, Field(ge=1)] = Field(1, description="trials at a time")
    against: Literal["macs", "latency"] | None = Field(
        None,
        description="second objective: macs | latency (int8, ms, as evaluate times it); null: accuracy alone",
    )
    grace_epochs: Annotated[int, Field(ge=1)] = Field(
        2, description="epochs every trial gets before ASHA may stop it; with two objectives it stops none"
    )
    space: dict[str, Range] = Field(
        default_factory=lambda: {
            "prune.ratio": Range(min=0.3, max=0.7),
            "distill.strategy": Range(choices=("akgp", "fixed")),
            "distill.w0": Range(min=0.0, max=1.0),
            "distill.temperature": Range(min=1.0, max=6.0, log=True),
        },
        description="searched parameters by dotted name, under prune or distill",
    )


class Nightly(Section):
    """Releases, and the gate that a new int8 network must pass. Not part of what any stage computes."""

    releases: Address = Field(
        "releases", description="where released networks are kept: a directory or s3:// prefix"
    )
    max_drop: Annotated[float, Field(ge=0, le=100)] = Field(
        0.5, description="points of top-1 that a new network may be worse than the one in production"
    )
    max_bytes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="largest model.onnx that is promoted, bytes; null: any"
    )
    max_latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="longest inference at batch 1 that is promoted, ms, as evaluate times it; null: any"
    )
    on_reject: Literal["keep", "fail"] = Field(
        "keep", description="keep | fail: the old network stays, and with fail the flow ends as failed"
    )


class Params(Section):
    """Everything in params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of splits, weights and batches")
    data: Data = Field(default_factory=lambda: Data(splits=Splits(test=0.25)))
    networks: dict[Name, Network] = Field(
        description="the dense networks, by name; all of them are trained", min_length=1
    )
    teachers: tuple[str, ...] = Field(description="networks that teach", min_length=1)
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="cross-fitting: an image is taught by a network trained without its fold; 5 or more; "
        "null: off",
    )
    student: str = Field(description="network that is pruned")
    teacher: Training = Field(default_factory=Training, description="training of the dense networks")
    prune: Prune = Field(default_factory=lambda: Prune(ratio=0.5))
    distill: Distill = Field(default_factory=Distill)
    quantize: Quantize = Field(default_factory=Quantize)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    ray: Ray = Field(default_factory=Ray)
    sweep: Sweep = Field(default_factory=Sweep)
    nightly: Nightly = Field(default_factory=Nightly)

    @property
    def another_teaches(self) -> bool:
        """Whether anyone but the student's own dense network does."""
        return self.teachers != (self.student,)

    @model_validator(mode="after")
    def _combination(self) -> Self:
        for key, names in (("teachers", self.teachers), ("student", (self.student,))):
            for name in names:
                if name not in self.networks:
                    raise ValueError(f"{key}: {name!r} is not among networks ({', '.join(self.networks)})")
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError(f"teachers: each name once, got {', '.join(self.teachers)}")
        for name in self.teachers if self.folds else ():
            if self.networks[name].checkpoint:
                raise ValueError(
                    f"folds: {self.folds}, but networks.{name}.checkpoint is trained already, on all images: "
                    "folds must be null, or teachers networks without a checkpoint"
                )
        channels = 1 if self.data.color == "gray" else 3
        for name, network in self.networks.items():
            for key, values in (("mean", network.mean), ("std", network.std)):
                if values is not None and len(values) != channels:
                    raise ValueError(
                        f"networks.{name}.{key}: must be {channels} number(s), one a channel of data.color "
                        f"{self.data.color!r}, got {list(values)}"
                    )
            torchvision = network.architecture not in CIFAR_RESNETS and ":" not in network.architecture
            if torchvision and self.data.color == "gray":
                raise ValueError(
                    f"networks.{name}.architecture: {network.architecture!r} takes three channels: "
                    "data.color must be rgb"
                )
        for section, training in (("teacher", self.teacher), ("distill.training", self.distill.training)):
            for workers in self.ray.counts():
                if training.batch_size is not None and training.batch_size % workers:
                    raise ValueError(
                        f"{section}.batch_size: {training.batch_size} must be divisible by "
                        f"ray.workers ({workers})"
                    )
            if training.precision == "fp16" and not self.ray.gpus_per_worker:
                raise ValueError(f"{section}.precision: fp16 needs ray.gpus_per_worker 1")
            if training.cuda_graphs and (self.ray.workers > 1 or not self.ray.gpus_per_worker):
                raise ValueError(f"{section}.cuda_graphs: needs ray.workers 1 and ray.gpus_per_worker 1")
            if training.sync_batch_norm and self.ray.workers > 1 and not self.ray.gpus_per_worker:
                raise ValueError(f"{section}.sync_batch_norm: several workers need ray.gpus_per_worker 1")
        several = self.distill.strategy in ("confidence", "learned")
        if several and len(self.teachers) < 2:
            raise ValueError(
                f"distill.strategy: {self.distill.strategy!r} weighs teachers against each other: teachers "
                f"must name two or more networks, got {', '.join(self.teachers)}"
            )
        _check_space(self)
        if self.sweep.against and not any(key.startswith("prune.") for key in self.sweep.space):
            raise ValueError(
                f"sweep.against: parameters of prune alone change {self.sweep.against!r}: sweep.space must "
                f"name one, such as prune.ratio, got {', '.join(self.sweep.space) or 'none'}"
            )
        return self


AMOUNTS = ("ratio", "macs", "params")
COMBINATIONS = 2000
"""So many combinations of a sweep's values are validated at most, to find one in which a value works."""


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """`params` with the parameters of these dotted names set together, then validated once, as a whole.

    Where one of prune's three amounts is set, those not named are cleared.

    Raises:
        ParamsError: no such parameter, a value that isn't allowed, or values that don't go together.
    """
    tree = params.model_dump(mode="json")
    if any(key == f"prune.{amount}" for key in values for amount in AMOUNTS):
        tree["prune"] |= dict.fromkeys(AMOUNTS)
    for key, value in values.items():
        number_type(key)
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return validate(tree)


def number_type(key: str) -> type[int] | type[float] | None:
    """What the parameter of a dotted name holds: an integer, another number, or None, no number.

    Raises:
        ParamsError: there is no such parameter.
    """
    annotation: Any = Params
    for part in key.split("."):
        fields = getattr(annotation, "model_fields", {})
        if part not in fields:
            raise ParamsError(f"{key} is not a parameter")
        annotation = fields[part].annotation
    if getattr(annotation, "model_fields", {}):
        raise ParamsError(f"{key} is not a parameter, but a section")
    types = {getattr(each, "__origin__", each) for each in (get_args(annotation) or (annotation,))}
    return int if int in types else float if float in types else None


def _check_space(params: Params) -> None:
    """Raise ValueError unless every value of the sweep goes together with some of the others.

    So a value is refused only if no trial could have it; combinations that are not valid may remain.
    """
    space = {key: _searched_values(key, searched) for key, searched in params.sweep.space.items()}
    if not space:
        return
    base = params.model_copy(update={"sweep": Sweep(space={})})
    longest = max(map(len, space.values()))
    diagonal = ([values[turn % len(values)] for values in space.values()] for turn in range(longest))
    works = [dict(zip(space, values, strict=True)) for values in diagonal]
    works = [values for values in works if _is_valid(base, values)]
    for key, values in space.items():
        for value in values:
            if not any(tried[key] is value for tried in works):
                others = product(*({**space, key: (value,)}).values())
                _check_value(base, space, key, value, islice(others, COMBINATIONS + 1))


def _check_value(
    base: Params, space: Mapping[str, Any], key: str, value: object, combinations: Iterable[Iterable[Any]]
) -> None:
    """Raise ValueError if all of the combinations were tried and none is valid."""
    line = ""
    for number, combination in enumerate(combinations):
        if number == COMBINATIONS:
            return
        try:
            with_values(base, dict(zip(space, combination, strict=True)))
            return
        except ParamsError as error:
            lines = str(error).splitlines()
            line = next((each for each in lines if each.startswith(f"{key}: ")), line or lines[0])
    if not line.startswith(f"{key}: "):
        line = f"{key}: {json.dumps(value)} is valid with no other values of the space: {line}"
    raise ValueError(f"sweep.space: {line}")


def _is_valid(base: Params, values: Mapping[str, Any]) -> bool:
    try:
        with_values(base, values)
    except ParamsError:
        return False
    return True


def _searched_values(key: str, searched: Range) -> tuple[Any, ...]:
    """The choices of a searched parameter, or the ends of its interval, in its own type."""
    if not key.startswith(("prune.", "distill.")):
        raise ValueError(f"sweep.space: {key!r} must be a parameter of prune or distill")
    try:
        kind = number_type(key)
    except ParamsError as error:
        raise ValueError(f"sweep.space: {error}") from None
    if searched.choices is not None:
        return searched.choices
    ends = (searched.min, searched.max)
    if kind is None:
        raise ValueError(f"sweep.space: {key} is no number: it needs choices, not min and max")
    if kind is int and any(end != int(end or 0) for end in ends):
        got = f"{ends[0]}, {ends[1]}"
        raise ValueError(f"sweep.space: {key} is an integer: min and max must be, too, got {got}")
    return tuple(kind(end or 0) for end in ends)


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate a whole params file.

    Raises:
        ParamsError: the file is missing, is no YAML mapping, or breaks the schema.
    """
    path = Path(path)
    try:
        tree = parse(path.read_bytes())
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `akgp recipe use digits` writes one") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror})") from None
    except TextError as error:
        raise ParamsError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise ParamsError(f"{path}: must be a mapping of parameters")
    try:
        return validate(tree)
    except ParamsError as error:
        raise ParamsError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


def validate(tree: Mapping[str, Any]) -> Params:
    """Params from plain mappings, lists and scalars.

    Raises:
        ParamsError: one line for each parameter that is unknown, missing or not allowed.
    """
    return _validated(Params, tree, "")


def _validated(model: type[Section], tree: Mapping[str, Any], prefix: str) -> Any:
    try:  # through JSON: strict, yet a list is a tuple there
        return model.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise ParamsError("\n".join(_lines(error, prefix))) from None


def _lines(error: ValidationError, prefix: str) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = (prefix + ".".join(map(_printable, problem["loc"]))).removesuffix(".[key]")
        match problem["type"]:
            case "extra_forbidden":
                yield f"{key}: " + (f"retired: {RETIRED[key]}" if key in RETIRED else _unknown(key))
            case "missing":
                yield f"{key}: missing"
            case "value_error":
                message = str(problem["ctx"]["error"])
                yield f"{key}: {message}" if key and key != prefix else prefix + message
            case _:
                allowed = re.sub(r"^(Input|String|Tuple|Dictionary) should", "must", problem["msg"])
                allowed = re.sub(r" after validation, not \d+$", "", allowed)
                allowed = allowed.replace(f"match pattern '{NAME}'", "be of a-z, 0-9, _ and -")
                yield f"{key}: got {_shown(problem['input'])}, {allowed}"


def _unknown(key: str) -> str:
    """That there is no such parameter, and which ones of the same or a similar name there are."""
    named: dict[str, list[str]] = {}
    for known in _keys(Params):
        named.setdefault(known.rsplit(".", 1)[-1], []).append(known)
    alike = get_close_matches(key.rsplit(".", 1)[-1], named, n=1, cutoff=0.75)
    meant = named[alike[0]] if alike else []
    section = key.rpartition(".")[0]
    near = [each for each in meant if section and each.startswith(f"{section}.")] or meant
    return "unknown parameter" + (f"; did you mean {' or '.join(near[:2])}?" if near else "")


def _keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    """Dotted names of all sections and parameters; * stands for a name that the user gives."""
    for key, field in model.model_fields.items():
        yield prefix + key
        named = "*." if getattr(field.annotation, "__origin__", None) is dict else ""
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Section):
                yield from _keys(part, f"{prefix}{key}.{named}")


def _printable(part: object) -> str:
    text = str(part)
    return text if text.isprintable() else json.dumps(text)


def _shown(value: object) -> str:
    """A value as JSON, its end left out where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def dump(params: Params) -> str:
    """params.yaml as text: every parameter, its meaning as a comment."""
    tree = params.model_dump(mode="json")
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(_commented(params, tree), text)
    return "# Written by `akgp recipe use`; `akgp params check` validates it.\n" + text.getvalue()


def _commented(section: Section, tree: dict[str, Any]) -> CommentedMap:
    node = CommentedMap()
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            node[key] = _commented(value, tree[key])
        elif isinstance(value, dict):
            node[key] = CommentedMap(
                (name, _commented(item, tree[key][name])) for name, item in value.items()
            )
        else:
            node[key] = _flow(tree[key])
        if field.description and not isinstance(value, (Section, dict)):
            node.yaml_add_eol_comment(field.description, key, column=44)
    return node


def _flow(value: Any) -> Any:
    from ruamel.yaml.comments import CommentedSeq

    if not isinstance(value, list):
        return value
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence
