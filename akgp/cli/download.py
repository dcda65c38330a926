"""`akgp pack` and `akgp unpack`: an int8 file in fewer bytes for its download."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from akgp.cli.common import Json, is_here, named, note, say_json
from akgp.io.terminal import aligned
from akgp.workspace import Task, Workspace

app = typer.Typer()
HERE = Workspace(Path())


@app.command()
def pack(
    model: Annotated[Path, typer.Argument(help="model.onnx, or its folder")] = HERE.int8,
    output: Annotated[
        Path | None,
        typer.Option(parser=named, metavar="PATH", help="by default model.akgp in this folder"),
    ] = None,
    centroids: Annotated[
        int | None,
        typer.Option(min=2, max=255, help="share weights: at most so many distinct ones in each layer"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an int8 file in the download format; `akgp unpack` restores it bit for bit.

    With --centroids the weights of each layer are first rounded to so many values: fewer bytes, and other
    answers; for models/int8 the accuracy on the validation split is shown, before and after.
    """
    from akgp.data import DataError
    from akgp.deployment import download
    from akgp.deployment.package import model_file, renew_digest
    from akgp.deployment.targets import Int8File
    from akgp.io.atomic import atomic_file
    from akgp.quantization.weight_sharing import share_weights

    file = model_file(model)
    if not file.is_file():
        written = "; `dvc repro` writes it" if model == HERE.int8 else ""
        raise DataError(f"{file}: no such file{written}")
    target = output or Path(file.name).with_suffix(download.SUFFIX)
    Int8File(file).checked()
    if target.resolve() == file.resolve():
        raise typer.BadParameter(f"{target}: is the model itself", param_hint="--output")
    if not target.parent.is_dir():
        raise typer.BadParameter(f"{target.parent}: no such folder", param_hint="--output")
    with tempfile.TemporaryDirectory() as folder:
        shared = file
        if centroids is not None:
            shared = Path(folder) / file.name
            share_weights(file, centroids, shared)
            renew_digest(shared)
        content = shared.read_bytes()
        accuracies = _validated((file, shared)) if shared != file and is_here(model, HERE.int8) else []
    packed = download.pack(content)
    with atomic_file(target) as beside:
        beside.write_bytes(packed)
    sizes = {"model": file.stat().st_size} | download.compressed(content) | {"packed": len(packed)}
    if as_json:
        say_json(file=str(target), bytes=sizes, val_top1=accuracies)
        return
    labels = {"model": str(file), "xz": "by xz", "zstd": "by zstd", "packed": str(target)}
    typer.echo(aligned([[labels[key], f"{size:,} bytes"] for key, size in sizes.items()]))
    if accuracies:
        typer.echo("Top-1 on the validation split: " + " -> ".join(f"{each:.2f} %" for each in accuracies))


@app.command()
def unpack(
    packed: Annotated[Path, typer.Argument(help="a file that `akgp pack` has written")],
    output: Annotated[
        Path | None,
        typer.Option(parser=named, metavar="PATH", help="by default the packed file with the ending .onnx"),
    ] = None,
) -> None:
    """Restore the int8 file from the download format."""
    from akgp.data import DataError
    from akgp.deployment import download
    from akgp.io.atomic import atomic_file

    if not packed.is_file():
        raise DataError(f"{packed}: no such file")
    content = download.unpack(packed.read_bytes(), str(packed))
    target = output or packed.with_suffix(".onnx")
    if target.resolve() == packed.resolve():
        raise typer.BadParameter(f"{target}: is the packed file itself", param_hint="--output")
    if output is None and target.exists() and target.read_bytes() != content:
        raise typer.BadParameter(f"{target} is there, with other content: name a file", param_hint="--output")
    with atomic_file(target) as beside:
        beside.write_bytes(content)
    typer.echo(str(target))


def _validated(files: Sequence[Path]) -> list[float]:
    """Top-1 of files on the workspace's validation split, %; none where that is missing, which is said."""
    from akgp import params
    from akgp.data import DataError
    from akgp.evaluation import accuracy, runtime_logits
    from akgp.stages.normalization import read_source

    try:
        task = Task("quantize", params.load(), Path())
        validation = read_source(task, "validation")
    except (params.ParamsError, DataError) as error:
        note(f"no accuracy: {error}")
        return []
    threads = task.params.ray.cpus_per_worker
    return [accuracy(runtime_logits(each, validation, threads=threads), validation.labels) for each in files]
