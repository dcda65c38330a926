"""`akgp recipe`: list, show and use whole parameter sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from akgp.cli.common import ParamsFile, note
from akgp.io.terminal import wrapped

app = typer.Typer(help="Whole parameter sets in recipes/.", no_args_is_help=True, rich_markup_mode=None)


def _names_of_recipes() -> list[str]:
    """For shell completion, which must not fail."""
    from akgp import recipes

    return sorted(file.stem for file in recipes.FOLDER.glob("*.yaml"))


RecipeName = Annotated[str, typer.Argument(autocompletion=_names_of_recipes)]


@app.command("list")
def recipe_list() -> None:
    """Name the recipes, with a line about each."""
    from akgp import recipes

    found = recipes.available()
    column = min(max(map(len, found)), 24)
    for name, file in found.items():
        typer.echo(wrapped(f"{name:<{column}}  {recipes.description(file)}".rstrip(), hanging=column + 2))


@app.command("show")
def recipe_show(name: RecipeName) -> None:
    """Print the recipe as the params.yaml that it makes."""
    from akgp import recipes

    typer.echo(recipes.text(name), nl=False)


@app.command("use")
def recipe_use(
    name: RecipeName,
    file: ParamsFile = Path("params.yaml"),
    force: Annotated[bool, typer.Option("--force", help="although the file has been edited")] = False,
) -> None:
    """Write the recipe, completed and validated, as params.yaml.

    A params.yaml that was edited is kept, unless --force is given.
    """
    from akgp import outdated_results, recipes

    recipes.use(name, file, recipes.FOLDER, force)
    typer.echo(f"{file}: recipe {name}; `make repro` runs it")
    note(outdated_results.outdated(file.parent, "evaluate"))
