"""The command `akgp`: parses arguments and calls the library; errors of the user's are one line.

Every command imports what it needs when it runs, so that `akgp --help` and `akgp params check`
stay quick. What the commands do is written elsewhere.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from akgp import console, home

app = typer.Typer(
    help="Compress an image classifier: prune, distill, quantize.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
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

_received: list[int] = []  # signals to end

ParamsFile = Annotated[Path, typer.Option("--params", help="the params file")]


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
    for name, file in found.items():
        typer.echo(f"{name:<{max(map(len, found))}}  {recipes.description(file)}".rstrip())


@recipe_app.command("show")
def recipe_show(name: str) -> None:
    """Print the recipe as the params.yaml that it makes."""
    from akgp import recipes

    typer.echo(recipes.text(name), nl=False)


@recipe_app.command("use")
def recipe_use(name: str, file: ParamsFile = Path("params.yaml")) -> None:
    """Write the recipe, completed and validated, as params.yaml."""
    from akgp import recipes

    recipes.use(name, file)
    typer.echo(f"{file}: recipe {name}; `make repro` runs it")


@app.command()
def stage(
    name: Annotated[
        str, typer.Argument(help="data, network_files, teacher, folds, prune, distill, quantize or evaluate")
    ],
    network: Annotated[str | None, typer.Option(help="teacher and folds: which of the networks")] = None,
) -> None:
    """Run one stage; `dvc repro` calls this."""
    from akgp import stages

    stages.run(name, network=network)


@app.command()
def report(
    folder: Annotated[Path, typer.Option("--reports", help="where evaluate wrote")] = Path("reports"),
) -> None:
    """Print the table of the last evaluation and the report's file."""
    from akgp import report as page

    typer.echo(page.table(page.read_metrics(folder / "metrics.json")))
    typer.echo(f"\nReport: {folder / 'index.html'}")


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="image files")],
    model: Annotated[Path, typer.Option(help="folder of model.onnx and preprocessing.json")] = Path(
        "models/int8"
    ),
    top: Annotated[int, typer.Option(min=1, help="classes shown for each image")] = 3,
) -> None:
    """Classify images with the compressed network: the likeliest classes, in percent."""
    from akgp.predict import Classifier

    classify = Classifier(model)
    for image in images:
        guesses = ", ".join(f"{name} {100 * share:.1f} %" for name, share in classify(image)[:top])
        typer.echo(f"{image}: {guesses}")


@app.command()
def doctor() -> None:
    """Check this machine and workspace: a line for each, with what to do about it."""
    from akgp import doctor as checks

    found = checks.examine(Path())
    for check in found:
        typer.echo(check.line())
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

    found = sweep.run(trials=trials)
    typer.echo(sweep.table(found))
    for trial in found:
        if trial.error:
            typer.echo(f"trial {trial.number} failed: {trial.error}", err=True)
    raise typer.Exit(0 if any(trial.status == "finished" for trial in found) else 1)


@sweep_app.command("best")
def sweep_best(count: Annotated[int, typer.Argument(min=1, help="how many")] = 10) -> None:
    """Show the best finished trials.

    They are ranked by validation accuracy; if sweep.against names a second objective, those on the Pareto
    front come first.
    """
    from akgp import sweep

    typer.echo(sweep.table(sweep.best(count)))


@sweep_app.command("apply")
def sweep_apply(number: Annotated[int, typer.Argument(min=0, help="the trial's number")]) -> None:
    """Write a trial's parameters as params.yaml, for `dvc repro`."""
    from akgp import sweep

    sweep.apply(number)
    typer.echo(f"params.yaml: trial {number}; `make repro` runs it")


@release_app.command("list")
def release_list() -> None:
    """Name all releases, oldest first; the one in production has a star."""
    from akgp import params, release

    where = release.place(Path(), params.load())
    for version in release.releases(where):
        mark = "*" if version == release.current(where) else " "
        try:
            row = release.show(where, version).int8
            said = f"{row['top1']:.2f} %  {row['bytes']:,} bytes  {row['latency_ms']:.3f} ms"
        except release.ReleaseError as error:
            said = str(error)
        typer.echo(f"{mark} {version}  {said}")


@release_app.command("show")
def release_show(
    version: Annotated[str | None, typer.Argument(help="by default the one in production")] = None,
) -> None:
    """Print what is known of a release, after comparing its files with their digests."""
    from akgp import params, release

    where = release.place(Path(), params.load())
    record = release.show(where, version)
    release.load(where, record.version)
    typer.echo(f"{where}/{record.version}\n{record.model_dump_json(indent=2)}")


@release_app.command("promote")
def release_promote(
    force: Annotated[bool, typer.Option("--force", help="although the gate rejects it")] = False,
) -> None:
    """Put models/int8 into production if it passes the gate (nightly.* in params.yaml)."""
    from akgp import params, release

    checked = params.load()
    review = release.review(Path(), checked)
    typer.echo(review.text())
    if not (review.decision.promote or (force and review.rejected)):
        raise typer.Exit(1 if review.rejected else 0)
    typer.echo(f"in production: {release.promote(release.place(Path(), checked), review.network)}")


@release_app.command("rollback")
def release_rollback(
    version: Annotated[str | None, typer.Argument(help="by default the one before the present one")] = None,
) -> None:
    """Put an earlier release into production again."""
    from akgp import params, release

    where = release.place(Path(), params.load())
    typer.echo(f"in production: {release.rollback(where, version)}")


def main() -> None:
    """Entry point: run the command; an error of the user's is one line on stderr and status 1.

    AKGP_TRACEBACK=1 shows where an error came from.
    """
    console.set_up()
    home.set_up(Path())
    logging.basicConfig(level=logging.WARNING, format="akgp: %(message)s")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of third parties: ours go through logging
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except SystemExit:
        if _received:  # libraries turn the exit into an interruption of their own
            sys.exit(128 + _received[0])
        raise
    except (ValueError, OSError) as error:
        if os.environ.get("AKGP_TRACEBACK") or not is_for_the_user(error):
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"akgp: {line}", file=sys.stderr)
        sys.exit(1)


def is_for_the_user(error: Exception) -> bool:
    """Whether `error` is about the input: of a type of ours, or a ValueError raised in our own code.

    A file that the system refuses counts too, since the message names it.
    """
    if isinstance(error, OSError):
        return error.filename is not None
    if type(error).__module__.startswith("akgp."):
        return True
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].startswith("akgp.") and frames[-1] != __name__


def _terminated(signum: int, _frame: object) -> NoReturn:
    _received.append(signum)
    sys.exit(128 + signum)  # unwinds, so that Ray is stopped and half-written folders go


if __name__ == "__main__":
    main()
