"""`akgp prune --dry-run`: what pruning would do to any network, layer by layer, without a workspace."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from akgp.cli.common import Json, say_json
from akgp.io.terminal import aligned, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from akgp.models.inputs import Example
    from akgp.params import Prune

app = typer.Typer()
IMAGE = 3
"""Sizes of an image: channels, height, width."""


@app.command()
def prune(
    architecture: Annotated[
        str, typer.Argument(help="cifar_resnet20, a name of torchvision's, or your module:function")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="needed: the stage prune is what cuts trained networks")
    ] = False,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="channels,height,width (3,224,224 if not given); repeated for further inputs, which may be "
            "named: image=3,32,32 meta=5",
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="for how many classes it is built")] = 10,
    ratio: Annotated[float | None, typer.Option(help="as prune.ratio; 0.5 if nothing is given")] = None,
    macs: Annotated[float | None, typer.Option(help="as prune.macs")] = None,
    params: Annotated[float | None, typer.Option(help="as prune.params")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="as prune.latency_ms, measured here")] = None,
    speedup: Annotated[float | None, typer.Option(help="as prune.speedup, measured here")] = None,
    runtime: Annotated[str, typer.Option(help="as deploy.runtime")] = "onnxruntime",
    file_bytes: Annotated[str | None, typer.Option("--bytes", help="as prune.bytes")] = None,
    scope: Annotated[str, typer.Option(help="as prune.scope")] = "inside",
    round_to: Annotated[int, typer.Option(help="as prune.round_to")] = 8,
    time_limit: Annotated[float | None, typer.Option(help="as prune.time_limit, seconds")] = None,
    steps: Annotated[int, typer.Option(min=1, max=20, help="as prune.schedule.steps; 1: one cut")] = 1,
    skip: Annotated[list[str] | None, typer.Option(help="as prune.skip; may be repeated")] = None,
    bypass: Annotated[list[str] | None, typer.Option(help="as prune.bypass; may be repeated")] = None,
    layers: Annotated[str, typer.Option(help="as prune.layers, such as '{layer3.*: 0.7}'")] = "{}",
    limits: Annotated[str, typer.Option(help="as prune.limits, such as '{\"*\": {max: 0.8}}'")] = "{}",
    as_json: Json = False,
) -> None:
    """Show for each layer how many filters would stay, and why a layer stays dense.

    The network has random weights: the widths of a budget may differ from a trained one's; those of a ratio
    and the reasons do not.
    """
    if not dry_run:
        raise typer.BadParameter(
            "only --dry-run; in a workspace `akgp stage prune` cuts the trained network",
            param_hint="akgp prune",
        )
    from akgp.params import Deploy, ParamsError, Prune
    from akgp.params.validation import validated

    amount = {
        "ratio": ratio, "macs": macs, "params": params, "bytes": file_bytes, "latency_ms": latency_ms,
        "speedup": speedup,
    }  # fmt: skip
    if all(value is None for value in amount.values()):
        amount["ratio"] = 0.5
    rules = {"layers": _mapping("layers", layers), "limits": _mapping("limits", limits)}
    options: dict[str, Any] = {"scope": scope, "round_to": round_to, "skip": skip or []}
    options |= {"bypass": bypass or [], "time_limit": time_limit}
    if steps > 1:
        options["schedule"] = {"steps": steps}
    try:
        asked = validated(Prune, amount | options | rules)
        validated(Deploy, {"runtime": runtime})
    except ParamsError as error:
        raise typer.BadParameter(str(error).splitlines()[0], param_hint="akgp prune") from None
    _show(architecture, _shapes(inputs or ["3,224,224"]), classes, asked, runtime, as_json)


def _mapping(option: str, text: str) -> Any:
    """The mapping that an option gives in the YAML of params.yaml."""
    from akgp.params.yaml_text import TextError, parse

    try:
        return parse(text.encode())
    except TextError as error:
        raise typer.BadParameter(str(error), param_hint=f"--{option}") from None


def _shapes(inputs: list[str]) -> dict[str, tuple[int, ...]]:
    """The shape of each input, by its name; by its number where they have no names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, text in enumerate(inputs):
        name, _, sizes = text.rpartition("=")
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", sizes, re.ASCII):
            raise typer.BadParameter(f"must be sizes such as 3,224,224, got {text!r}", param_hint="--input")
        shapes[name or str(number)] = tuple(map(int, sizes.split(",")))
    if all(len(shape) != IMAGE for shape in shapes.values()):
        raise typer.BadParameter(
            f"must be channels,height,width such as 3,224,224, got {' '.join(inputs)!r}", param_hint="--input"
        )
    named = [text for text in inputs if "=" in text]
    if named and (len(named) < len(inputs) or len(shapes) < len(inputs)):
        raise typer.BadParameter(
            f"each needs a name of its own or none, got {' '.join(inputs)}", param_hint="--input"
        )
    return shapes


def _example(shapes: Mapping[str, tuple[int, ...]]) -> Example:
    import torch

    tensors = {name: torch.zeros(1, *shape) for name, shape in shapes.items()}
    if "0" not in tensors:
        return tensors
    return tensors["0"] if len(tensors) == 1 else tuple(tensors.values())


def _show(
    architecture: str,
    shapes: Mapping[str, tuple[int, ...]],
    classes: int,
    asked: Prune,
    runtime: str,
    as_json: bool,
) -> None:
    import torch

    from akgp.budgets import Deployed, prune_by_params
    from akgp.evaluation import count
    from akgp.models import Inputs, Spec, create, first_outputs
    from akgp.pruning import layers_table
    from akgp.timed_search import watched

    torch.manual_seed(0)
    channels = next(shape[0] for shape in shapes.values() if len(shape) == IMAGE)
    model = create(Spec(architecture, classes, channels)).eval()
    example = _example(shapes)
    first_outputs(model, Inputs.of(model, example))
    before, steps = count(model, example), asked.schedule.steps if asked.schedule else 1
    network, pruned, macs = model, None, list[int]()
    for step in range(1, steps + 1):
        cut = partial(
            prune_by_params, asked, network, example, seed=0, deployed=Deployed(runtime), after=pruned,
            done=step / steps,
        )  # fmt: skip
        pruned = shown(watched(cut, every=0.5 if sys.stderr.isatty() else 10))
        network = pruned.model
        macs.append(count(network, example).macs)
    assert pruned is not None
    after = count(network, example)
    rows = layers_table(pruned)
    if as_json:
        budget = vars(pruned.budget) if pruned.budget else None
        say_json(
            layers=rows, dense=vars(before), pruned=vars(after), budget=budget, macs_by_cut=macs,
            part_ms=pruned.part_ms,
        )  # fmt: skip
        return
    typer.echo(_table(rows))
    if pruned.part_ms:
        dense_ms, kept_ms = (sum(each) for each in zip(*pruned.part_ms.values(), strict=True))
        typer.echo(f"ms by kernels, sums of activations included: {dense_ms:.3f} -> {kept_ms:.3f}")
    for label, dense, kept in (
        ("parameters", before.params, after.params), ("MACs", before.macs, after.macs),
    ):  # fmt: skip
        typer.echo(f"{label}: {kept:,} of {dense:,} kept ({kept / dense:.1%})")
    if steps > 1:
        typer.echo("MACs after each cut: " + ", ".join(f"{each / before.macs:.1%}" for each in macs))
    if pruned.budget:
        typer.echo(str(pruned.budget))


def _table(rows: list[dict[str, Any]]) -> str:
    """Widths and, of a budget of time, milliseconds; further columns where a row has any."""
    columns = {"name": "layer", "dense_width": "dense", "pruned_width": "pruned"}
    if "dense_ms" in rows[0]:
        columns |= {"dense_ms": "dense, ms", "pruned_ms": "pruned, ms"}
    texts = {"reason": "stays dense because", "rule": "bound by", "layout": "zeros in place because"}
    columns |= {
        key: title for key, title in texts.items() if key == "reason" or any(row[key] for row in rows)
    }
    left = frozenset(number for number, key in enumerate(columns) if key in texts or key == "name")
    return aligned([list(columns.values()), *([_cell(row[key]) for key in columns] for row in rows)], left)


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
