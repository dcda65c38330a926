"""prune, quantize and evaluate: the compression of the student's dense network, and its measurement."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from akgp.params.base import Fraction, Section, Share
from akgp.params.device import Device, Size
from akgp.params.training import Training

AMOUNTS = ("ratio", "macs", "params", "bytes", "latency_ms", "speedup", "device")
"""Of these parameters of prune exactly one is given."""
SCHEDULED = ("ratio", "macs", "params", "bytes")
"""Those of which `prune.schedule` can ask for a part: what is measured is known at the end alone."""
Ratio = Annotated[float, Field(ge=0, lt=1)]
Agreement = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["float", "int8", "int4"]


class Limit(Section):
    """The least and the most that may be removed of a layer."""

    min: Ratio = Field(0.0, description="share of its filters that is removed at least")
    max: Share = Field(1.0, description="share of its filters that is removed at most")
    width: Annotated[int, Field(ge=1)] = Field(1, description="filters that stay at least")

    @model_validator(mode="after")
    def _min_below_max(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min must be at most max, got {self.min:g} and {self.max:g}")
        return self


class Recovery(Training):
    """The training between two cuts."""

    epochs: Annotated[int, Field(ge=1)] = Field(
        2, description="passes over the training split after each cut but the last"
    )


class Schedule(Section):
    """Several cuts: after each but the last the student's dense network teaches what is left."""

    steps: Annotated[int, Field(ge=2, le=20)] = Field(
        3, description="cuts; each keeps the same share of what the one before it left"
    )
    recovery: Recovery = Field(
        default_factory=Recovery, description="the training between two cuts, as distill.training"
    )

    @property
    def epochs(self) -> int:
        """Those of all recoveries together."""
        return (self.steps - 1) * self.recovery.epochs


class Prune(Section):
    """Which filters are removed; one of ratio, macs, params, bytes, latency_ms, speedup and device says how
    many.
    """

    criterion: Literal[
        "fpgm", "l1", "l2", "random", "lamp", "bn_scale", "taylor", "obd", "hrank", "knowledge"
    ] = Field(
        "fpgm",
        description="fpgm (geometric median) | l1 | l2 (norms) | random | lamp | bn_scale; by images: taylor "
        "| obd (rise of the labels' loss) | hrank (rank of feature maps) | knowledge (rise of akgp's loss)",
    )
    images: Annotated[int, Field(ge=1)] = Field(
        512, description="training images that taylor, obd, hrank and knowledge look at, at most"
    )
    ratio: Ratio | None = Field(None, description="share of filters to remove in each layer")
    macs: Fraction | None = Field(
        None, description="share of the dense MACs to keep, met within 2 % or as nearly as widths allow"
    )
    params: Fraction | None = Field(
        None, description="share of the dense parameters to keep, met within 2 % or as nearly as widths allow"
    )
    bytes: Size | None = Field(
        None,
        description="of the int8 file at most, such as 500k (512000): met from below within 2 % or as nearly "
        "as widths allow; all layers in int8",
    )
    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="milliseconds of the int8 file for one image, measured on this machine in deploy.runtime "
        "with evaluate.threads; met within 3 % or as nearly as widths allow",
    )
    speedup: Annotated[float, Field(gt=1)] | None = Field(
        None,
        description="times as fast as the dense network in float32 that the int8 file is, likewise measured",
    )
    layers: dict[str, Ratio] = Field(
        default_factory=dict,
        description="the ratio of single layers by name or pattern, such as {layer3.*: 0.7}; 0 leaves them "
        "dense; the others by ratio, macs or params",
    )
    limits: dict[str, Limit] = Field(
        default_factory=dict,
        description="what may be removed of layers at least (min), at most (max), and the filters that stay "
        '(width), such as {"*": {max: 0.8}}',
    )
    device: Device | None = Field(
        None,
        description="flash and ram of a microcontroller, such as {flash: 128k, ram: 48k}: all layers are "
        "narrowed alike until the C library fits",
    )
    scope: Literal["inside", "all"] = Field(
        "inside",
        description="inside: cut inside the residual blocks alone, the summed channels (streams) stay whole; "
        "ratio 0.5 keeps half of the MACs | all: streams too, a quarter; alike in a network without sums",
    )
    round_to: Annotated[int, Field(ge=1, le=128)] = Field(
        8, description="widths are multiples of this; odd widths run slower in int8"
    )
    skip: tuple[str, ...] = Field(
        (), description="qualified names of layers left dense, or of modules whose layers all are"
    )
    bypass: tuple[str, ...] = Field(
        (),
        description="residual blocks removed whole before filters are, by name or pattern, such as "
        "[layer1.2]: only their shortcuts stay, which saves small networks the most time; `akgp sensitivity` "
        "lists them",
    )
    time_limit: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="seconds after which the search for a budget ends with the best so far; null: none, so "
        "that a slow machine finds what a fast one does",
    )
    schedule: Schedule | None = Field(
        None,
        description="several cuts with training between them, such as {steps: 3, recovery: {epochs: 2}}; "
        "each is scored on what was recovered; recovery takes the keys of distill.training; null: one cut",
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [key for key in AMOUNTS if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(AMOUNTS)} must be given, got {', '.join(given) or 'none'}"
            )
        if self.schedule and given[0] not in SCHEDULED:
            raise ValueError(
                f"schedule needs an amount of which a part is known beforehand, {', '.join(SCHEDULED)}, "
                f"got {given[0]}, which has to be measured: give one of these, or schedule: null"
            )
        if self.schedule and self.ratio == 0 and not (self.layers or self.limits):
            raise ValueError("schedule: ratio 0 leaves nothing to cut: it must be null")
        if self.schedule and self.time_limit is not None:
            raise ValueError(
                f"time_limit: {self.time_limit:g}, but with schedule a run that is resumed makes its cuts "
                "again, which must come out alike: it must be null"
            )
        return self


class Qat(Section):
    """Quantization-aware training: the student goes on learning as int8, and in float for comparison."""

    epochs: Annotated[int, Field(ge=1)] = Field(5, description="passes over the training split, of each")
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="at the start, then decay to zero; null: a tenth of distill's peak"
    )


class Download(Section):
    """What weights of 4 bits are for: a small download, or as small a one as predictions allow."""

    bytes: Size | None = Field(None, description="of the file that `akgp pack` writes, at most; such as 50k")
    agreement: Agreement | None = Field(
        None, description="share of calibration images that must be classified as float does"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.bytes is None) == (self.agreement is None):
            raise ValueError("exactly one of bytes and agreement must be given")
        return self


class Quantize(Section):
    """Static int8: unsigned activations a tensor, signed weights a channel."""

    calibration: Literal["auto", "minmax", "averaged", "entropy", "percentile"] = Field(
        "auto",
        description="how activation ranges are chosen: minmax (of all images) | averaged (of every four, on "
        "average) | entropy | percentile; auto: minmax, or averaged where int8 loses much by that",
    )
    images: Annotated[int, Field(ge=1)] = Field(
        512, description="images of the calibration split used, at most"
    )
    equalization: bool = Field(
        True,
        description="balance the ranges of channels between layers, which changes nothing in float; kept "
        "where calibration images that it was not made from say that it gains",
    )
    bias_correction: bool = Field(
        True,
        description="shift biases until the mean outputs of each layer are the float network's; kept where "
        "calibration images that it was not made from say that it gains",
    )
    precision: dict[str, Precision] = Field(
        default_factory=dict,
        description="float | int8 | int4 (16 values, in 8 bits) of layers by name or pattern, the last one "
        "counts, such as {conv1: float}; models/int8/precision.yaml has the plan to edit",
    )
    agreement: Agreement | None = Field(
        None,
        description="share of calibration images that int8 must classify as float does; the layers that gain "
        "most for their bytes or ms stay in float until it holds; null: see precision, bytes, latency_ms",
    )
    bytes: Size | None = Field(
        None,
        description="of the int8 file at most, such as 200k: layers stay in float, those that gain most for "
        "their bytes first, until agreement holds or nothing more fits",
    )
    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="likewise, milliseconds of the int8 file for one image, measured in deploy.runtime with "
        "evaluate.threads: layers that are faster in float come first, then by gain for their time",
    )
    download: Download | None = Field(
        None,
        description="bytes or agreement, such as {agreement: 0.98}: the layers that lose least for what "
        "`akgp pack` saves take 16 values (int4), until it has so few bytes, or as many as agree; null: none",
    )
    qat: Qat | None = Field(
        None,
        description="epochs and learning_rate of quantization-aware training, such as {epochs: 5}: distilled "
        "as in distill, with int8's rounding; shipped only if validation images say that it beats both the "
        "student and one trained on as long in float; null: none",
    )
    license: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="of the weights, such as CC-BY-4.0, written into the file; null: not stated"
    )

    @model_validator(mode="after")
    def _enough_images(self) -> Self:
        if self.images < 2 and (self.seeks_floats or self.download):
            raise ValueError(
                f"images: got {self.images}, but agreement, bytes, latency_ms and download are judged by "
                "others than those that calibrate: must be 2 or more"
            )
        return self

    @property
    def float_because(self) -> str | None:
        """The parameter by which layers may stay in float; None if none can."""
        given = [key for key in ("agreement", "bytes", "latency_ms") if getattr(self, key) is not None]
        return "precision" if "float" in self.precision.values() else next(iter(given), None)

    @property
    def seeks_floats(self) -> bool:
        """Whether budgets say which layers stay in float, beside `precision`."""
        return any(each is not None for each in (self.agreement, self.bytes, self.latency_ms))


class Deploy(Section):
    """Where the int8 file will run."""

    runtime: Literal["onnxruntime", "openvino"] = Field(
        "onnxruntime",
        description="onnxruntime | openvino: for whose kernels the int8 file is laid out, and "
        "in which all is measured: prune.latency_ms, prune.speedup, the report, sweeps, releases",
    )


class Evaluate(Section):
    """Latency protocol; accuracy always uses the whole test split."""

    threads: Annotated[int, Field(ge=1)] = Field(1, description="threads of the timed process")
    warmup_seconds: Annotated[float, Field(ge=0, le=60)] = Field(0.3, description="before timing")
    # Of fewer than six the least and the largest enclose the median less often than 95 times in 100.
    rounds: Annotated[int, Field(ge=6, le=1000)] = Field(
        20, description="interleaved rounds; each times every network once, for 10 ms or more"
    )
    speed_gate: Literal["fail", "warn"] = Field(
        "fail",
        description="fail | warn: int8 slower than its own float network, or the student than the dense one, "
        "fails the stage, its report written, or is a warning in it",
    )
    targets: tuple[Literal["onnx", "openvino", "executorch", "litert", "c"], ...] = Field(
        (),
        description="formats that the int8 network is also written in and measured, each in its own runtime: "
        "onnx | openvino | executorch | litert | c (flash and RAM by layer)",
    )
    cores: tuple[Literal["M0", "M3", "M4F", "M7", "M33", "M55"], ...] = Field(
        (),
        description="of the target c: Cortex processors whose instructions are counted under emulation: "
        "M0 | M3 | M4F | M7 | M33 | M55",
    )
