"""The command `akgp`: parses arguments and calls the library; errors of the user's are one line.

Every command imports what it needs when it runs, so that `akgp --help` and `akgp params check`
stay quick. What the commands do is written elsewhere.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from akgp.cli import console, entry, home
from akgp.io.terminal import as_json as as_json_text
from akgp.io.terminal import wrapped
from akgp.stages.table import STAGES

SUMMARIES = [f"{each.name}: {each.summary}" for each in STAGES.values()]
SINGLE = " and ".join(each.name for each in STAGES.values() if each.networks)
"""The stages that run for one network at a time."""


def _names_of_stages() -> list[str]:
    """For shell completion."""
    return list(STAGES)


def _names_of_recipes() -> list[str]:
    """For shell completion, which must not fail."""
    from akgp import recipes

    return sorted(file.stem for file in recipes.FOLDER.glob("*.yaml"))


def _version(wanted: bool) -> None:
    if wanted:
        from akgp import __version__

        typer.echo(f"akgp {__version__}")
        raise typer.Exit


app = typer.Typer(
    help="Compress an image classifier: prune, distill, quantize.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


params_app = typer.Typer(help="Look at params.yaml.", no_args_is_help=True, rich_markup_mode=None)
recipe_app = typer.Typer(
    help="Whole parameter sets in recipes/.", no_args_is_help=True, rich_markup_mode=None
)
sweep_app = typer.Typer(
    help="Search parameters of prune and distill.", no_args_is_help=True, rich_markup_mode=None
)
release_app = typer.Typer(
    help="Networks in production: now, before, next.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(params_app, name="params")
app.add_typer(recipe_app, name="recipe")
app.add_typer(sweep_app, name="sweep")
app.add_typer(release_app, name="release")

RecipeName = Annotated[str, typer.Argument(autocompletion=_names_of_recipes)]
Json = Annotated[bool, typer.Option("--json", help="one JSON document; see docs/reference/cli.md")]
ParamsFile = Annotated[Path, typer.Option("--params", help="the params file")]


def _note(text: str) -> None:
    """Say on standard error what is worth knowing of the output, if anything."""
    if text:
        entry.complain(text)


def _say_json(**content: Any) -> None:
    typer.echo(as_json_text(content))


def _is_here(folder: Path, place: str) -> bool:
    """Whether `folder` is this workspace's own."""
    return folder.resolve() == Path(place).resolve()


@params_app.command("check")
def params_check(
    file: ParamsFile = Path("params.yaml"),
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing if it is valid")] = False,
) -> None:
    """Validate the whole file, and look at what it names; one line for each thing wrong.

    Files and folders on this disk are always looked at. Without --quiet also stores (s3://) are asked, each
    for a few seconds, and networks of your own, of torchvision and of checkpoints are built.
    """
    from akgp import params, precheck, recipes

    checked = params.load(file)
    recipes.require_complete(file)
    problems = list(precheck.quick(checked, Path()))
    if not quiet and not problems:
        problems = list(precheck.thorough(checked, Path().resolve()))
    if problems:
        raise params.ParamsError("\n".join(f"{file}: {problem}" for problem in problems))
    if not quiet:
        teachers = ", ".join(checked.teachers)
        typer.echo(
            f"{file}: valid; data {checked.data.source}, teachers {teachers}, student {checked.student}"
        )


@recipe_app.command("list")
def recipe_list() -> None:
    """Name the recipes, with a line about each."""
    from akgp import recipes

    found = recipes.available()
    column = min(max(map(len, found)), 24)
    for name, file in found.items():
        typer.echo(wrapped(f"{name:<{column}}  {recipes.description(file)}".rstrip(), hanging=column + 2))


@recipe_app.command("show")
def recipe_show(name: RecipeName) -> None:
    """Print the recipe as the params.yaml that it makes."""
    from akgp import recipes

    typer.echo(recipes.text(name), nl=False)


@recipe_app.command("use")
def recipe_use(
    name: RecipeName,
    file: ParamsFile = Path("params.yaml"),
    force: Annotated[bool, typer.Option("--force", help="although the file has been edited")] = False,
) -> None:
    """Write the recipe, completed and validated, as params.yaml.

    A params.yaml that was edited is kept, unless --force is given.
    """
    from akgp import origin, recipes

    recipes.use(name, file, recipes.FOLDER, force)
    typer.echo(f"{file}: recipe {name}; `make repro` runs it")
    _note(origin.outdated(file.parent, "evaluate"))


@app.command(help="\n\n".join(["Run one stage; `dvc repro` calls this.", *SUMMARIES]))
def stage(
    name: Annotated[str, typer.Argument(help="one of those above", autocompletion=_names_of_stages)],
    network: Annotated[str | None, typer.Option(help=f"{SINGLE}: which of the networks")] = None,
) -> None:
    from akgp.orchestration.run import run_stage

    with entry.resumable():
        run_stage(name, network=network)


@app.command()
def report(
    folder: Annotated[Path, typer.Option("--reports", help="where evaluate wrote")] = Path("reports"),
    as_json: Json = False,
) -> None:
    """Print the table of the last evaluation, the report's file, and what went less well than it should."""
    from akgp import origin
    from akgp.reporting.metrics import DETAILS, METRICS, read_details, read_metrics
    from akgp.reporting.table import results

    rows = read_metrics(folder / METRICS)
    old = origin.outdated(Path(), "evaluate") if _is_here(folder, "reports") else ""
    if as_json:
        details = read_details(folder / DETAILS)
        _say_json(
            networks=rows,
            data=details.get("data"),
            warnings=details.get("warnings", []),
            outdated=old or None,
            report=str(folder / "index.html"),
        )
    else:
        typer.echo(results(folder))
        _note(old)


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(help="image files, folders, patterns; - for standard input: an image, or names"),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="folder of model.onnx and preprocessing.json; or releases (nightly.releases), or a place of "
            "releases, local or s3://, for the network in production"
        ),
    ] = "models/int8",
    top: Annotated[int, typer.Option(min=1, help="classes shown for each image")] = 3,
    as_json: Json = False,
) -> None:
    """Classify images with the compressed network: the likeliest classes, in percent.

    A file that is no image is named on standard error; the others are classified, and the status is 1.
    """
    from akgp import origin
    from akgp.deployment.image_files import image_files
    from akgp.deployment.predict import Classifier, Prediction, model_folder, predictions

    found: list[Prediction] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder, version = model_folder(model, Path(scratch))
        classify = Classifier(folder)
        if _is_here(folder, "models/int8"):
            _note(origin.outdated(Path(), "quantize"))
        given = image_files(images, sys.stdin.buffer, Path(scratch))
        for note in given.notes():
            entry.complain(note)
        for each in predictions(classify, given):
            found.append(each)
            if each.error:
                entry.complain(each.error)
            elif not as_json:
                typer.echo(each.line(top))
    if as_json:
        _say_json(
            model=model,
            release=version,
            predictions=[each.as_row(top) for each in found if not each.error],
            failed=[{"file": each.file, "error": each.error} for each in found if each.error],
        )
    raise typer.Exit(1 if any(each.error for each in found) else 0)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and workspace: a line for each, with what to do about it."""
    from akgp import doctor as checks

    found = checks.examine(Path())
    if as_json:
        _say_json(checks=[{**vars(check), "ok": not check.remedy} for check in found])
    else:
        for check in found:
            typer.echo(wrapped(check.line(), hanging=17))
    raise typer.Exit(1 if any(check.remedy for check in found) else 0)


@sweep_app.command("run")
def sweep_run(
    trials: Annotated[
        int | None, typer.Option(min=1, help="extend the sweep to so many in all; by default sweep.trials")
    ] = None,
) -> None:
    """Search: every trial prunes, distills and is judged on the validation split.

    A sweep that was interrupted is resumed.
    """
    from akgp import sweep

    with entry.resumable():
        found = sweep.run(trials=trials)
    typer.echo(sweep.table(found))
    for trial in found:
        if trial.error:
            typer.echo(wrapped(f"trial {trial.number} failed: {trial.error}", hanging=4), err=True)
    raise typer.Exit(0 if any(trial.status == "finished" for trial in found) else 1)


@sweep_app.command("best")
def sweep_best(
    count: Annotated[int, typer.Argument(min=1, help="how many")] = 10, as_json: Json = False
) -> None:
    """Show the best finished trials.

    They are ranked by validation accuracy; if sweep.against names a second objective, those on the Pareto
    front come first.
    """
    from akgp import sweep

    trials = sweep.best(count)
    if as_json:
        front = sweep.pareto_front(trials)
        _say_json(trials=[vars(trial) | {"front": trial in front} for trial in trials])
    else:
        typer.echo(sweep.table(trials))


@sweep_app.command("apply")
def sweep_apply(
    number: Annotated[int, typer.Argument(min=0, help="the trial's number")],
    force: Annotated[bool, typer.Option("--force", help="although the file has been edited")] = False,
) -> None:
    """Write a trial's parameters as params.yaml, for `dvc repro`.

    A params.yaml that was edited since the sweep is kept, unless --force is given.
    """
    from akgp import sweep

    sweep.apply(number, force=force)
    typer.echo(f"params.yaml: trial {number}; `make repro` runs it")


@release_app.command("list")
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
            said = f"{row['top1']:.2f} %  {row['bytes']:,} bytes  {row['latency_ms']:.3f} ms"
            said += f"  of {source or 'unknown data'}"
        except release.ReleaseError as error:
            rows[-1]["error"] = said = str(error)
        if not as_json:
            typer.echo(wrapped(f"{'*' if version == current else ' '} {version}  {said}", hanging=4))
    if as_json:
        _say_json(releases=where, production=current, versions=rows)


@release_app.command("show")
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
        _say_json(**content, place=f"{where}/{record.version}")
    else:
        typer.echo(f"{where}/{record.version}")
        for line in as_json_text(content).splitlines():
            typer.echo(wrapped(line, hanging=6))


@release_app.command("promote")
def release_promote(
    force: Annotated[bool, typer.Option("--force", help="although the gate rejects it")] = False,
    as_json: Json = False,
) -> None:
    """Put models/int8 into production if it passes the gate (nightly.* in params.yaml)."""
    from akgp import origin, params
    from akgp.deployment import release

    checked = params.load()
    _note(origin.outdated(Path(), "evaluate"))
    review = release.review(Path(), checked)
    promote, version = review.decision.promote or (force and review.rejected), review.production
    if not as_json:
        typer.echo(review.text())
    if promote:
        version = release.promote(release.place(Path(), checked), review.network)
    if as_json:
        _say_json(promoted=promote, production=version, reasons=review.decision.reasons, rows=review.rows)
    elif promote:
        typer.echo(f"in production: {version}")
    raise typer.Exit(1 if review.rejected and not promote else 0)


@release_app.command("rollback")
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
        _say_json(production=production)
    else:
        typer.echo(f"in production: {production}")


def main() -> None:
    """Entry point: run the command; `entry.run` says how it ends."""
    console.set_up()
    home.set_up(Path())
    logging.basicConfig(level=logging.WARNING, format="akgp: %(message)s")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of third parties: ours go through logging
    entry.run(lambda: app(prog_name="akgp"))


if __name__ == "__main__":
    main()
