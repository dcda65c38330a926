"""The HTML page of a run.

It formats what it is given; it measures nothing and reads no artifact. The page is one file with its figures
inside: it works offline and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akgp import params as parameters
from akgp.reporting.metrics import Metrics
from akgp.reporting.table import balance_matters, faster, reductions
from akgp.reporting.targets import HEAD, Row, cells, deviation, needs
from akgp.reporting.terms import characteristics, regime, saved, settings
from akgp.reporting.units import latency, number

ROLES = {
    "teacher": "teaches the student",
    "dense": "the student's network before pruning",
    "pruned": "filters removed, not yet recovered",
    "student": "recovered by distillation",
    "int8": "the student in 8-bit integers",
}
ROWS = 48
"""Rows of a table of classes, at most."""


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        metrics: of each network what reports/metrics.json and details.json hold; `int8` may also hold
            integer_convolutions and floating_convolutions, the kernels that onnxruntime chose, and
            floating_operations, those whose result depends on the processor.
        characteristics: what was measured of the data, None if the strategy needs none.
        sentence: the characteristics in words.
        histories: rows an epoch (epoch, loss, train_top1, val_loss, val_top1, ...), by network.
        layers: rows of name, dense_width, pruned_width, reason, rule; values may be text, as from CSV.
        weights: the teacher's weight in each class: rows of class, mean, p10, p90, n.
        summary: of the data: source, classes, image_size, channels, counts by split, imbalance, skipped,
            not_taken, and regime, None or absent where images and labels are the source's.
        warnings: what should be better, and which parameters to change.
        targets: the int8 network in other formats, see akgp.reporting.targets.
        w0: the weight of the teachers, as it was measured; None: it was not.
        budget: what a budget of prune came to: its key, in its unit reached, and predicted if it is a time.
        microcontroller: what its C library takes, see akgp.microcontroller.report.figures; None: not written.
        provenance: machine and versions: label and value, in the order to be shown.
    """

    params: parameters.Params
    metrics: Metrics
    characteristics: Mapping[str, Any] | None
    sentence: str
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    layers: Sequence[Mapping[str, Any]]
    weights: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    provenance: Mapping[str, Any]
    warnings: Sequence[str] = ()
    targets: Sequence[Row] = ()
    w0: float | None = None
    budget: Mapping[str, Any] | None = None
    microcontroller: Mapping[str, Any] | None = None


def write(directory: str | Path, content: Report) -> Path:
    """Write `index.html` into an existing directory; returns its path."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from akgp.reporting import figures

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "counted": "{:,}".format}
    template = environment.from_string(
        files("akgp.reporting").joinpath("template.html.j2").read_text(encoding="utf-8")
    )
    drawn = {
        "curves": figures.learning_curves(content.histories),
        "widths": figures.widths(content.layers),
        "weights": figures.teacher_weights(content.weights),
        "classes": figures.class_characteristics(content.characteristics, content.summary["classes"]),
        "confusion": figures.class_confusion(content.characteristics, content.summary["classes"]),
    }
    page = template.render(
        report=content,
        rows=list(_rows(content.metrics)),
        saved=list(saved(content)),
        settings=list(settings(content.params, sum(content.summary["counts"]["train"]), content.w0)),
        characteristics=list(characteristics(content.characteristics or {}, content.params.distill)),
        splits=[(name, sum(counts), _spread(counts)) for name, counts in content.summary["counts"].items()],
        regime=regime(content.summary.get("regime")),
        weights=_lowest_and_highest(content.weights),
        kernels=_kernels(content.metrics),
        logits=_logits(content.metrics),
        trained_on=_trained_on(content.metrics),
        faster=faster(content.metrics),
        targets=[(cells(row), row["runtime"], row["version"], deviation(row)) for row in content.targets],
        targets_head=HEAD,
        needs=needs(content.microcontroller) if content.microcontroller else "",
        balanced=balance_matters(content.metrics),
        figures={name: Markup(svg) if svg else "" for name, svg in drawn.items()},
        yaml=parameters.dump(content.params),
    )
    file = Path(directory) / "index.html"
    file.write_text(page, encoding="utf-8")
    return file


def _rows(metrics: Metrics) -> Iterator[dict[str, Any]]:
    for name, row in metrics.items():
        yield {
            "name": name,
            "role": ROLES.get(name, ""),
            "latency": latency(row),
            "latency_runtime": "",
            "less": reductions(row, metrics.get("dense")),
            **row,
        }


def _lowest_and_highest(weights: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows; if there are too many, those with the lowest and the highest means."""
    if len(weights) <= ROWS:
        return weights
    ordered = sorted(weights, key=lambda row: float(row["mean"]))
    return [*ordered[: ROWS // 2], *ordered[-ROWS // 2 :]]


def _kernels(metrics: Metrics) -> tuple[int, int] | None:
    int8 = metrics.get("int8", {})
    if "integer_convolutions" not in int8:
        return None
    return int(int8["integer_convolutions"]), int(int8["floating_convolutions"])


def _logits(metrics: Metrics) -> str | None:
    """How far the int8 file gives the same logits on other processors."""
    floating = metrics.get("int8", {}).get("floating_operations")
    if floating is None:
        return None
    if floating:
        return f"{floating} operations stay in floating point: the last bits depend on the processor"
    return "all integer: bit for bit the same wherever onnxruntime runs the file"


def _trained_on(metrics: Metrics) -> str | None:
    """What came of quantization-aware training."""
    qat = metrics.get("int8", {}).get("qat")
    if qat is None:
        return None
    names = {
        "student": "the student as it is",
        "control": "trained on in float",
        "qat": "trained on as int8",
    }
    top1 = ", ".join(f"{names[name]} {value:.2f} %" for name, value in qat["val_top1"].items())
    return f"validation top-1 of int8: {top1}; shipped: {names[qat['shipped']]}"


def _spread(counts: Iterable[int]) -> str:
    counts = list(counts)
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
