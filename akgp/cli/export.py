"""`akgp export`: the int8 network for other runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from akgp.workspace import Workspace

app = typer.Typer()
HERE = Workspace(Path())


def _c(model: Path, output: Path, name: str, cores: list[str]) -> str:
    from akgp.microcontroller.export import export as write

    made = write(model, output, name, cores)
    return (
        f"{output}/src/{name}.c, .h: {made.constants:,} bytes of constants in flash, {made.arena:,} of RAM\n"
        f"by layer: {output}/REPORT.md"
    )


TARGETS: Mapping[str, Callable[[Path, Path, str, list[str]], str]] = {"c": _c}
"""By name: writes to a folder and returns what to say about it."""


@app.command()
def export(
    to: Annotated[str, typer.Option(help=f"one of {', '.join(TARGETS)}")],
    output: Annotated[Path, typer.Option(help="folder to write to; files there are replaced")],
    model: Annotated[Path, typer.Argument(help="folder of model.onnx, or the file")] = HERE.int8,
    name: Annotated[str, typer.Option(help="c: prefix of names in C")] = "network",
    cores: Annotated[
        str, typer.Option(help="c: count instructions under emulation, of M0, M3, M4F, M7, M33, M55")
    ] = "",
) -> None:
    """Write the int8 network for another runtime: the same integers, scales and weights.

    c: a C99 library for microcontrollers, without floating point, whose logits equal the file's bit for bit.
    """
    if to not in TARGETS:
        raise typer.BadParameter(f"{to}: must be one of {', '.join(TARGETS)}", param_hint="--to")
    chosen = [core.strip() for core in cores.split(",") if core.strip()]
    typer.echo(TARGETS[to](model, output, name, chosen))
