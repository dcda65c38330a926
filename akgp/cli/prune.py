"""`akgp prune --dry-run`: what pruning would do to any network, layer by layer, without a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from akgp.cli.common import Json, say_json
from akgp.io.terminal import aligned

if TYPE_CHECKING:
    from akgp.params import Prune

app = typer.Typer()


@app.command()
def prune(
    architecture: Annotated[
        str, typer.Argument(help="cifar_resnet20, a name of torchvision's, or your module:function")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="needed: the stage prune is what cuts trained networks")
    ] = False,
    image: Annotated[str, typer.Option("--input", help="channels, height, width")] = "3,224,224",
    classes: Annotated[int, typer.Option(min=2, help="for how many classes it is built")] = 10,
    ratio: Annotated[float | None, typer.Option(help="as prune.ratio; 0.5 if nothing is given")] = None,
    macs: Annotated[float | None, typer.Option(help="as prune.macs")] = None,
    params: Annotated[float | None, typer.Option(help="as prune.params")] = None,
    scope: Annotated[str, typer.Option(help="as prune.scope")] = "inside",
    round_to: Annotated[int, typer.Option(help="as prune.round_to")] = 8,
    skip: Annotated[list[str] | None, typer.Option(help="as prune.skip; may be repeated")] = None,
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
    from pydantic import ValidationError

    from akgp.params import Prune

    amount = {"ratio": ratio, "macs": macs, "params": params}
    if all(value is None for value in amount.values()):
        amount["ratio"] = 0.5
    try:
        asked = Prune.model_validate(
            amount | {"scope": scope, "round_to": round_to, "skip": tuple(skip or ())}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise typer.BadParameter(first["msg"], param_hint=".".join(map(str, first["loc"]))) from None
    _show(architecture, _sizes(image), classes, asked, as_json)


def _sizes(image: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(each) for each in image.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"must be channels,height,width such as 3,224,224, got {image!r}", param_hint="--input"
        ) from None
    return channels, height, width


def _show(architecture: str, sizes: tuple[int, int, int], classes: int, asked: Prune, as_json: bool) -> None:
    import torch

    from akgp.evaluation import count
    from akgp.models import build
    from akgp.params import Network
    from akgp.pruning import layers_table
    from akgp.stages.prune import pruned_as

    torch.manual_seed(0)
    network = Network(architecture=architecture)
    model = build(network, num_classes=classes, in_channels=sizes[0], image_size=sizes[1:]).eval()
    example = torch.zeros(1, *sizes)
    pruned = pruned_as(asked, model, example, seed=0)
    before, after = count(model, example), count(pruned.model, example)
    rows = layers_table(pruned.layers)
    if as_json:
        say_json(layers=rows, dense=vars(before), pruned=vars(after))
        return
    head = ["layer", "dense", "pruned", "stays dense because"]
    cells = [[row["name"], str(row["dense_width"]), str(row["pruned_width"]), row["reason"]] for row in rows]
    typer.echo(aligned([head, *cells], frozenset({0, 3})))
    for label, dense, kept in (
        ("parameters", before.params, after.params), ("MACs", before.macs, after.macs),
    ):  # fmt: skip
        typer.echo(f"{label}: {kept:,} of {dense:,} kept ({kept / dense:.1%})")
