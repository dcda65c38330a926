"""The results as text of at most 80 columns: a line for each network, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from akgp.io.terminal import aligned, wrapped
from akgp.reporting.metrics import DETAILS, Metrics, read_details, read_metrics
from akgp.reporting.targets import needs, targets_table
from akgp.reporting.units import number
from akgp.workspace import METRICS

COUNTS = ("params", "macs", "bytes")
HEADS = {"params": "params", "macs": "MACs", "bytes": "on disk"}


def table(metrics: Metrics, data: Mapping[str, Any] | None = None) -> str:
    """The metrics as aligned text, a line for each network, reductions against the dense one.

    Args:
        data: as in details.json; None: nothing is said of the images.
    """
    balanced = balance_matters(metrics)  # one more column then has to fit into 80
    head = ["", "top-1"] + (["balanced"] if balanced else [])
    head += [cell for key in COUNTS for cell in ([HEADS[key]] if balanced else [HEADS[key], ""])]
    lines = [[*head, "latency"]]
    for name, row in metrics.items():
        less = reductions(row, metrics.get("dense"), "{:+.0f}%" if balanced else None)
        cells = [name, f"{row['top1']:.2f} %"]
        cells += [f"{row['balanced_top1']:.2f} %"] if balanced else []
        for key in COUNTS:
            value = number(row[key]) + ("B" if key == "bytes" else "")
            if balanced:
                cells.append(f"{value.rstrip()} {less[key]:<4}")
            else:
                cells += [value, less[key]]
        lines.append([*cells, _milliseconds(row)])
    notes = " ".join(filter(None, (_notes(metrics, data, balanced), faster(metrics))))
    return f"{aligned(lines)}\n{wrapped(notes)}"


def results(folder: Path) -> str:
    """The table of what evaluate wrote to `folder`, the page's path, and the warnings at the end.

    Raises:
        ReportError: as `read_metrics`.
    """
    details = read_details(folder / DETAILS)
    shown = [table(read_metrics(folder / METRICS), details.get("data"))]
    if others := details.get("targets"):
        shown.append(targets_table(others))
        if taken := details.get("microcontroller"):
            shown.append(wrapped(needs(taken)))
    if (folder / "index.html").exists():
        shown.append(f"Report: {folder / 'index.html'}")
    return "\n".join(filter(None, (*shown, warned(details.get("warnings", [])))))


def warned(warnings: Iterable[str]) -> str:
    """A paragraph for each warning."""
    return "\n".join(wrapped(f"Warning: {warning}", hanging=4) for warning in warnings)


def _notes(metrics: Metrics, data: Mapping[str, Any] | None, balanced: bool) -> str:
    runtimes = dict.fromkeys(row["latency_runtime"] for row in metrics.values() if "latency_runtime" in row)
    timed = [
        f"{name} {row['latency_low_ms']:.3f}–{row['latency_high_ms']:.3f}"
        for name, row in metrics.items()
        if "latency_low_ms" in row and "latency_high_ms" in row
    ]
    parts = [f"Latency: {'; '.join(runtimes) or 'not measured'}, median at batch 1."]
    if timed:
        parts.append(f"Its 95 % intervals, ms: {', '.join(timed)}.")
    tested = f" ({data['test']:,} images of {data['source']})" if data else ""
    parts.append(
        f"Top-1 on the test split{tested}." + (" Balanced: its mean over classes." if balanced else "")
    )
    return " ".join([*parts, "Reductions against dense."])


def balance_matters(metrics: Metrics) -> bool:
    """Whether top-1 and its mean over the classes of the test split are half a point apart somewhere."""
    return any(abs(row["top1"] - row.get("balanced_top1", row["top1"])) >= 0.5 for row in metrics.values())


def faster(metrics: Metrics) -> str:
    """How many times faster than dense the student and the int8 network run; empty if not measured."""
    parts = [
        f"{name} runs {row['times_faster']:.2f} times as fast as dense "
        f"({row['times_faster_low']:.2f} to {row['times_faster_high']:.2f})"
        for name, row in metrics.items()
        if name in ("student", "int8") and "times_faster" in row
    ]
    return f"{', '.join(parts)}: 95 % intervals." if parts else ""


def reductions(
    row: Mapping[str, Any], dense: Mapping[str, Any] | None, form: str | None = None
) -> dict[str, str]:
    """Change of params, macs and bytes against the dense network in percent; empty where there is none.

    Args:
        form: of a percentage; None: with one decimal, as far as three digits hold it.
    """
    changes = {key: 100 * (row[key] / dense[key] - 1) if dense else 0 for key in COUNTS}
    return {
        key: (form or ("{:+.0f} %" if abs(change) >= 99.95 else "{:+.1f} %")).format(change).replace("-", "−")
        if change
        else ""
        for key, change in changes.items()
    }


def _milliseconds(row: Mapping[str, Any]) -> str:
    if "latency_ms" not in row:
        return "-"
    return f"{row['latency_ms']:.{3 if row['latency_ms'] < 10 else 1}f} ms"
