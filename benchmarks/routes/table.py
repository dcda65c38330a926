"""The rows as Markdown: a table a network, and whether the goals are met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt

from experiments.resumable import Row, machines

ABOUT = """# Every route from a network to a runtime

`AKGP_CIFAR10=DIR python -m benchmarks.routes`, see the head of that file. akgp's rows are one int8
file, written in five formats; beside them the quantizers of onnxruntime (its defaults, and per
channel), NNCF 3.4 and torchao 0.18 by their defaults, from the same network and 256 calibration images
(64 where nothing is trained). {machines}, busy with other work.

- *as the oracle*: images of which all logits are bit for bit those of the exact integer arithmetic.
  *class as float*: of which the class is the float student's.
- *smaller*: than the dense network's float ONNX file. C: bytes of constants in flash; its logits are
  those of the library compiled for this machine.
- *ms*: batch 1, one thread, CPU time, medians of 20 interleaved rounds. *× dense*: how many times as
  fast as the dense network in float32 in onnxruntime and in the way's own runtime, medians of the
  ratios within a round with 95 % intervals. The same file timed twice came out {low:.2f} to {high:.2f}
  times as fast (nine rows in ten).
- Images are CIFAR-10-J75's. **Trained**: half ResNet-20 (`prune: {{ratio: 0.5, scope: all}}`, trained
  on 5,000 images: [runtimes](../../runtimes/README.md)), ResNet-20 at half of the MACs
  ([cifar10-quick](../../cifar10-quick/README.md)) and with two blocks bypassed
  ([cifar10-small](../../cifar10-small/README.md)), on the first 2,000 test images; MobileNetV3-small
  and EfficientNet-B0, not pruned ([mobile](../../mobile/table.md)), and their halves (`ratio: 0.5`, six
  epochs of distillation), on 2,000 held-out training images at 64×64. **The others are not trained**:
  initialized, with BatchNorm statistics of images, and without half of each layer's filters. They have no
  accuracy: only the agreement says something, on 128 images at 64×64.
"""
HEAD = (
    "way", "top-1, %", "as the oracle", "class as float, %", "bytes", "smaller", "ms",
    "× dense, onnxruntime", "× dense, same runtime",
)  # fmt: skip
DENSE, STUDENT, ONNX, OPENVINO = "dense, float", "student, float", "akgp, onnxruntime", "akgp, OpenVINO"
SMALLER, FASTER, FASTER_OPENVINO = 8.0, 2.5, 3.0
"""The goals, against the dense network in float."""


def table(rows: list[Row]) -> str:
    """Markdown: a table for each network, in the order in which they were measured, and the goals."""
    again = sorted(row["a_a"]["median"] for row in rows if "a_a" in row) or [1.0]
    cut = len(again) // 20
    text = [ABOUT.format(machines=machines(rows), low=again[cut], high=again[-1 - cut])]
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        text += [f"## {network}", "", _line(HEAD), _line(["---"] * len(HEAD))]
        text += [_line(cells(row, mine)) for row in mine]
        text.append("")
    return "\n".join([*text, "## Goals", "", *goals(rows), ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cells(row: Row, of_network: list[Row]) -> list[str]:
    """The cells below HEAD; of a refusal its message."""
    if "refused" in row:
        return [row["way"], f"refused: {row['refused']}".replace("|", "¦"), *[""] * (len(HEAD) - 2)]
    dense = next((each["bytes"] for each in of_network if each["way"] == DENSE), None)
    return [
        row["way"],
        f"{row['top1']:.2f}" if "top1" in row else "not trained",
        f"{row['exact']:,} of {row['images']:,}" if "exact" in row else "",
        f"{100 * row['as_float'] / row['images']:.2f}",
        f"{row['bytes']:,}" + (f", RAM {row['ram']:,}" if "ram" in row else ""),
        f"{dense / row['bytes']:.1f}" if dense else "",
        f"{row['ms']:.3f}" if "ms" in row else "",
        *(_ratio(row.get(key)) for key in ("times", "times_same")),
    ]


def _ratio(ratio: Row | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else ""


def goals(rows: list[Row]) -> Iterator[str]:
    """A line for each network of which all is measured: what it came to, and which goals it missed."""
    for network in dict.fromkeys(row["network"] for row in rows):
        ways = {row["way"]: row for row in rows if row["network"] == network and "refused" not in row}
        if {DENSE, STUDENT, ONNX, OPENVINO} <= set(ways):
            yield f"- {network}: {'; '.join(_against_goals(ways))}."


def _against_goals(ways: dict[str, Row]) -> Iterator[str]:
    dense, student, int8 = (ways[name] for name in (DENSE, STUDENT, ONNX))
    measured = (
        (dense["bytes"] / int8["bytes"], SMALLER, "smaller"),
        (int8["times"]["median"], FASTER, "as fast in onnxruntime"),
        (ways[OPENVINO]["times_same"]["median"], FASTER_OPENVINO, "as fast in OpenVINO"),
    )
    for value, goal, what in measured:
        yield f"{value:.2f} times {what} (goal {goal:g}: {'met' if value >= goal else '**missed**'})"
    if "top1" in int8:
        for name, other in (("float student", student), ("dense", dense)):
            share = other["top1"] / 100
            error = 100 * sqrt(share * (1 - share) / other["images"])
            lost = other["top1"] - int8["top1"]
            yield (
                f"{lost:+.2f} points lost against the {name} (standard error {error:.2f}: "
                f"{'met' if lost <= error else '**missed**'})"
            )
