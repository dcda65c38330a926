"""The exported networks as text: a line for each format, and where its runtime differs from the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from akgp.io.terminal import aligned, wrapped
from akgp.reporting.units import number

Row = Mapping[str, Any]
"""target, runtime, version, top1 (%), agreement (images, equal, same_class, largest, first), bytes,
latency_ms, against_float and against_dense (median, low, high); None: not measured."""
HEAD = ("", "top-1", "as oracle", "on disk", "latency", "× float", "× dense")


def targets_table(rows: Sequence[Row]) -> str:
    """Aligned text of at most 80 columns."""
    images = rows[0]["agreement"]["images"]
    note = (
        f"On {images:,} test images. As oracle: all logits of an image are those of the exact integer "
        "arithmetic, bit for bit. Times as fast, at batch 1, as the same operations, and as the dense "
        "network, in float32 in the same runtime; ?: the 95 % interval contains 1."
    )
    deviations = (f"{row['target']}: {text}" for row in rows if (text := deviation(row)))
    notes = [wrapped(note), *(wrapped(text, hanging=4) for text in deviations)]
    return "\n".join([aligned([HEAD, *map(cells, rows)]), *notes])


def cells(row: Row) -> list[str]:
    """The cells below HEAD."""
    agreement = row["agreement"]
    exact = agreement["equal"] == agreement["images"]
    return [
        row["target"],
        f"{row['top1']:.2f} %",
        "all" if exact else f"{100 * agreement['equal'] / agreement['images']:.2f} %",
        f"{number(row['bytes'])}B",
        "" if row["latency_ms"] is None else f"{row['latency_ms']:.3f} ms",
        *map(_ratio, (row["against_float"], row["against_dense"])),
    ]


def deviation(row: Row) -> str:
    """How far a runtime is off, and the first layer that is; empty if it is exact."""
    agreement = row["agreement"]
    if agreement["equal"] == agreement["images"]:
        return ""
    return (
        f"{agreement['same_class']:,} of {agreement['images']:,} classes are the oracle's, logits differ by "
        f"up to {agreement['largest']:.3g}; {agreement['first']}"
    )


def needs(microcontroller: Mapping[str, Any]) -> str:
    """What the C library takes, in a sentence.

    Args:
        microcontroller: see akgp.microcontroller.report.figures.
    """
    counted = microcontroller["instructions"]
    each = ", ".join(f"{core} {count / 1e6:.2f} M" for core, count in counted.items())
    return (
        f"On a microcontroller: {microcontroller['flash']:,} bytes of flash for constants, "
        f"{microcontroller['ram']:,} of RAM"
        + (f"; instructions an inference, counted under emulation: {each}" if each else "")
        + "."
    )


def _ratio(ratio: Mapping[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f}{'?' if ratio['low'] <= 1 <= ratio['high'] else ' '}"
