"""`akgp release`: list, show, promote and roll back releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from akgp.cli.common import Json, note, say_json
from akgp.io.terminal import as_json as as_json_text
from akgp.io.terminal import wrapped
from akgp.workspace import GateError

app = typer.Typer(
    help="Networks in production: now, before, next.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def release_list(as_json: Json = False) -> None:
    """Name all releases, oldest first; the one in production has a star."""
    from akgp import params
    from akgp.deployment import release

    where = release.place(Path(), params.load())
    current, rows = release.current(where), []
    for version in release.releases(where):
        rows.append({"version": version, "production": version == current, "data": None})
        rows[-1] |= {"int8": None, "error": None}
        try:
            rows[-1]["int8"] = row = dict(release.show(where, version).int8)
            rows[-1]["data"] = source = release.source(where, version)
            summary = f"{row['top1']:.2f} %  {row['bytes']:,} bytes  {row['latency_ms']:.3f} ms"
            summary += f"  of {source or 'unknown data'}"
        except release.ReleaseError as error:
            rows[-1]["error"] = summary = str(error)
        if not as_json:
            typer.echo(wrapped(f"{'*' if version == current else ' '} {version}  {summary}", hanging=4))
    if as_json:
        say_json(releases=where, production=current, versions=rows)


@app.command("show")
def release_show(
    version: Annotated[str | None, typer.Argument(help="by default the one in production")] = None,
    as_json: Json = False,
) -> None:
    """Print what is known of a release, after comparing its files with their digests."""
    from akgp import params
    from akgp.deployment import release

    where = release.place(Path(), params.load())
    record = release.show(where, version)
    release.load(where, record.version)
    content = record.model_dump(mode="json") | {"data": release.source(where, record.version)}
    if as_json:
        say_json(**content, place=f"{where}/{record.version}")
    else:
        typer.echo(f"{where}/{record.version}")
        for line in as_json_text(content).splitlines():
            typer.echo(wrapped(line, hanging=6))


@app.command("promote")
def release_promote(
    force: Annotated[
        bool,
        typer.Option("--force", help="although the gate rejects it, or the one in production is damaged"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put models/int8 into production if it passes the gate (release.* in params.yaml)."""
    from akgp import outdated_results, params
    from akgp.deployment import release

    checked = params.load()
    note(outdated_results.outdated(Path(), "evaluate"))
    review = release.review(Path(), checked, force=force)
    decision = review.decision
    if not as_json:
        typer.echo(review.text())
    version = release.carry_out(release.place(Path(), checked), review)
    if as_json:
        say_json(promoted=decision.promote, production=version, reasons=decision.reasons, rows=review.rows)
    elif decision.promote:
        typer.echo(f"in production: {version}")
    raise typer.Exit(GateError.status if review.rejected else 0)


@app.command("rollback")
def release_rollback(
    version: Annotated[str | None, typer.Argument(help="by default the one before the present one")] = None,
    as_json: Json = False,
) -> None:
    """Put an earlier release into production again."""
    from akgp import params
    from akgp.deployment import release

    where = release.place(Path(), params.load())
    production = release.rollback(where, version)
    if as_json:
        say_json(production=production)
    else:
        typer.echo(f"in production: {production}")
