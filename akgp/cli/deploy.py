"""`akgp verify` and `akgp bench`: networks in the runtimes that they are deployed with."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akgp.cli.common import Json, say_json
from akgp.io.terminal import wrapped
from akgp.workspace import Workspace

if TYPE_CHECKING:
    from akgp.deployment.targets import Int8File
    from akgp.runtimes import Runtime

app = typer.Typer()
HERE = Workspace(Path())
MODEL = "int8 file or folder, releases, or a place of releases; local or s3://"
Model = Annotated[str, typer.Argument(help=MODEL)]


@app.command()
def verify(
    model: Model = str(HERE.int8),
    against: Annotated[
        str | None,
        typer.Option(help="another file, or a runtime to run this one in: default onnxruntime"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a runtime's logits of all test images with the exact integer arithmetic of an int8 file.

    Where they differ, the first layer that does is named, and the status is 1.
    """
    from akgp.deployment.agreement import oracle
    from akgp.deployment.measurement import differing
    from akgp.deployment.model_files import located, split_for
    from akgp.deployment.targets import Int8File
    from akgp.runtimes import RUNTIMES

    with tempfile.TemporaryDirectory() as scratch:
        source = Int8File(located(model, Path(scratch))).checked()
        file, runtime = _other(source, against, Path(scratch))
        images = split_for(source.path, Path())
        exact = oracle(source, images)
        agreement, _ = differing(source, exact, images, file, runtime, given=against not in RUNTIMES)
    if as_json:
        row = vars(agreement) | {"exact": agreement.exact, "floating": dict(exact.floating)}
        say_json(model=model, against=against, runtime=runtime.name, version=runtime.version, **row)
    else:
        which = f"{runtime.name} {runtime.version}"
        if agreement.exact:
            text = f"{which}: the logits of all {agreement.images:,} test images are exact, bit for bit"
        else:
            text = (
                f"{which}: the logits of {agreement.images - agreement.equal:,} of {agreement.images:,} test "
                f"images differ, by up to {agreement.largest:.3g}; {agreement.same_class:,} have the same "
                f"class; {agreement.first}"
            )
        typer.echo(wrapped(text))
        if exact.floating:
            kinds = ", ".join(f"{count} {kind}" for kind, count in exact.floating.items())
            typer.echo(wrapped(f"In floating point, so that no bits are promised: {kinds}"))
    raise typer.Exit(0 if agreement.exact else 1)


def _other(source: Int8File, against: str | None, scratch: Path) -> tuple[Path, Runtime]:
    """The file to compare, and its runtime; written here for a runtime of another format."""
    from akgp.data import DataError
    from akgp.deployment.package import model_file
    from akgp.deployment.targets import target_of
    from akgp.runtimes import RUNTIMES, require_installed, runtime_for

    runtime = RUNTIMES.get(against or "onnxruntime")
    if runtime is None:
        assert against is not None
        file = model_file(Path(against))
        if not file.is_file():
            raise DataError(f"--against {against}: no such file, and no runtime: {', '.join(RUNTIMES)}")
        return file, runtime_for(file)
    require_installed(runtime)
    if source.path.suffix in runtime.suffixes:
        return source.path, runtime
    return target_of(runtime).write(source, scratch), runtime


@app.command()
def bench(
    models: Annotated[
        list[str], typer.Argument(help="files or folders; the others are compared with the first")
    ],
    runtime: Annotated[
        list[str] | None, typer.Option(help="time every file in it; may be repeated; default: the file's own")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="of each runtime, and cores that are used")] = 1,
    rounds: Annotated[int, typer.Option(min=6, max=1000, help="each times every file once")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="of the input, the order and the intervals")] = 0,
    as_json: Json = False,
) -> None:
    """Time networks against each other on this machine, at batch 1.

    No verdict is given where the 95 % interval of a ratio contains 1.
    """
    from akgp.deployment.bench import bench, image_shape, table
    from akgp.deployment.model_files import located
    from akgp.params import Evaluate

    params = Evaluate(threads=threads, rounds=rounds)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / str(index) for index in range(len(models))]
        for folder in folders:
            folder.mkdir()
        files = [located(model, folder) for model, folder in zip(models, folders, strict=True)]
        # As they were named: what a place of releases or a store has is a scratch file here.
        rows = bench(files, runtime or (), image_shape(files[0]), params, seed, models)
    if as_json:
        timed = [asdict(row) | {"verdict": row.verdict} for row in rows]
        say_json(threads=threads, rounds=rounds, seed=seed, timed=timed)
    else:
        typer.echo(table(rows, params))
