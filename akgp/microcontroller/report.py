"""What a library takes, in all and by layer: memory and, if they were counted, instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from akgp.microcontroller.emulator import Emulation
from akgp.microcontroller.source import Program


def figures(made: Program, counts: Mapping[str, Emulation]) -> dict[str, Any]:
    """For reports/details.json: flash, ram and code in bytes, instructions an inference.

    Returns:
        flash (of constants), ram, code and instructions (both by core), and layers: rows as `LayerCost`, with
        their instructions by core.
    """
    layers = [
        asdict(layer) | {"instructions": {core: each.instructions[index] for core, each in counts.items()}}
        for index, layer in enumerate(made.layers)
    ]
    return {
        "flash": made.constants,
        "ram": made.arena,
        "code": {core: each.code for core, each in counts.items()},
        "instructions": {core: sum(each.instructions) for core, each in counts.items()},
        "layers": layers,
    }


def report(made: Program, counts: Mapping[str, Emulation]) -> str:
    """Markdown.

    Args:
        counts: by the core's name.
    """
    lines = [
        "# Flash, RAM and instructions by layer",
        "",
        "Flash: bytes of weights and tables. RAM: bytes of the arena that are in use while a layer runs, "
        f"of {made.arena:,}.",
    ]
    if counts:
        codes = ", ".join(f"{core} {each.code:,}" for core, each in counts.items())
        lines += [
            "",
            "Instructions: counted under emulation (QEMU), of one inference, in thousands. They are no "
            "cycles: those depend on the board, its caches and its flash. "
            f"The kernels' code comes on top of the flash, bytes: {codes}.",
        ]
    heads = ["layer", "", "output", "MACs", "flash", "RAM", *counts]
    lines += ["", _row(heads), _row(["---"] * len(heads))]
    for index, layer in enumerate(made.layers):
        instructions = [f"{each.instructions[index] / 1e3:,.1f}" for each in counts.values()]
        shape = "×".join(map(str, layer.shape))
        costs = [f"{cost:,}" for cost in (layer.macs, layer.flash, layer.ram)]
        lines.append(_row([layer.name, layer.kind, shape, *costs, *instructions]))
    totals = [f"{sum(layer.macs for layer in made.layers):,}", f"{made.constants:,}", f"{made.arena:,}"]
    totals += [f"{sum(each.instructions) / 1e3:,.1f}" for each in counts.values()]
    lines.append(_row(["all", "", "", *totals]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
