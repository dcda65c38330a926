"""`akgp export`: the int8 network for other runtimes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from akgp.cli.common import Json, is_here, named, say_json
from akgp.cli.deploy import HERE, Model

if TYPE_CHECKING:
    from akgp.data import IndexedSource
    from akgp.deployment.targets import Int8File, Target
    from akgp.params import Params
    from akgp.reporting.targets import Row

app = typer.Typer()
NAME = "network"
"""The usual prefix of names in C."""
C = "c"
"""The target that is source code: no runtime runs it, and its exactness is proven when it is written."""


@app.command()
def export(
    model: Model = str(HERE.int8),
    to: Annotated[
        str, typer.Option(help="of onnx, openvino, executorch, litert, c: separated by commas")
    ] = "onnx",
    output: Annotated[
        Path, typer.Option(parser=named, metavar="PATH", help="folder to write to; files there are replaced")
    ] = Path("exported"),
    check: Annotated[
        bool, typer.Option(help="run and time each on the test images of this workspace")
    ] = True,
    name: Annotated[str, typer.Option(help="c: prefix of names in C")] = NAME,
    cores: Annotated[
        str, typer.Option(help="c: count instructions under emulation, of M0, M3, M4F, M7, M33, M55")
    ] = "",
    flash: Annotated[
        str | None, typer.Option(help="c: refuse if it takes more, such as 128k; default: prune.device")
    ] = None,
    ram: Annotated[str | None, typer.Option(help="c: likewise of RAM, such as 48k")] = None,
    as_json: Json = False,
) -> None:
    """Write the int8 network for other runtimes: the same integers, scales and weights; and measure each.

    The table says how many test images' logits are exact in each runtime, and which layer is not.

    c: a C99 library for microcontrollers, without floating point, whose logits equal the file's bit for bit.
    """
    from akgp.deployment.model_files import located
    from akgp.deployment.targets import TARGETS, Int8File, chosen
    from akgp.microcontroller.export import check_options
    from akgp.reporting.targets import targets_table

    names = _listed(to)
    if not names:
        raise typer.BadParameter(f"{to!r}: name at least one target", param_hint="--to")
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output}: is a file, must be a folder", param_hint="--output")
    for each in names:
        if each not in (*TARGETS, C):
            raise typer.BadParameter(f"{each}: must be one of {', '.join([*TARGETS, C])}", param_hint="--to")
    targets = chosen([each for each in names if each != C])
    for option, given in (("--name", name != NAME), ("--cores", cores), ("--flash", flash), ("--ram", ram)):
        if given and C not in names:
            raise typer.BadParameter(f"is for the target {C} alone, got --to {to}", param_hint=option)
    check_options(name, _listed(cores))
    with tempfile.TemporaryDirectory() as scratch:
        source = Int8File(located(model, Path(scratch))).checked()
        _ = source.description  # refuses what cannot be exported before anything is written
        if output.resolve() == source.path.parent.resolve():
            raise typer.BadParameter(f"{output}: is the model's own folder", param_hint="--output")
        images = _images(source) if check and targets else None  # before anything is written, too
        if C in names:
            _require_fit(source, flash, ram, model)
        written = _written(source, targets, Path(scratch) / "written")
        said = [_c(source.path, output, name, _listed(cores))] if C in names else []
        _put(written, output)
        files = {target.name: output / target.file for target in targets}
        if any(file.suffix != ".onnx" for file in files.values()):
            _write_preprocessing(source.path, output)
        rows = [] if images is None else _measured(source, targets, files, images, Path(scratch))
    if as_json:
        listed = [{"target": target, "file": str(file)} for target, file in files.items()]
        say_json(model=model, files=listed, measured=rows, c=said or None)
        return
    for line in (*said, *map(str, files.values()), *([targets_table(rows)] if rows else [])):
        typer.echo(line)


def _written(source: Int8File, targets: list[Target], folder: Path) -> Path:
    """All targets in a new folder, to be moved together: one that is refused leaves the user's as it was."""
    folder.mkdir()
    for target in targets:
        target.write(source, folder)
    return folder


def _put(written: Path, output: Path) -> None:
    from akgp.io.atomic import atomic_file

    output.mkdir(parents=True, exist_ok=True)
    for file in written.iterdir():
        with atomic_file(output / file.name) as beside:
            shutil.copyfile(file, beside)


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _require_fit(source: Int8File, flash: str | None, ram: str | None, model: str) -> None:
    """Raise QuantizationError unless C fits the device of the options, or else this workspace's."""
    from akgp import params
    from akgp.microcontroller.device import need
    from akgp.params.validation import validated
    from akgp.quantization import QuantizationError

    here = is_here(Path(model), HERE.int8) and Path("params.yaml").exists()
    device = params.load().prune.device if here else None
    if flash or ram:
        given = device.model_dump() if device else {}
        device = validated(
            params.Device, given | ({"flash": flash} if flash else {}) | ({"ram": ram} if ram else {})
        )
    if device and (said := need(source.description).excess(device.flash_bytes, device.ram_bytes)):
        raise QuantizationError(f"{model}: does not fit: it needs {said}")


def _c(model: Path, output: Path, name: str, cores: list[str]) -> str:
    from akgp.microcontroller.export import export as write

    made, _ = write(model, output, name, cores)
    return (
        f"{output}/src/{name}.c, .h: {made.constants:,} bytes of constants in flash, {made.arena:,} of RAM\n"
        f"by layer: {output}/REPORT.md"
    )


def _write_preprocessing(model: Path, output: Path) -> None:
    """Write it beside files that cannot hold it; say so if the model has none."""
    from akgp.data import DataError
    from akgp.deployment.package import PREPROCESSING, write_preprocessing

    try:
        write_preprocessing(output, model)
    except DataError as error:
        (output / PREPROCESSING).unlink(missing_ok=True)  # of another model
        typer.echo(f"{output}: without preprocessing.json: {error}", err=True)


def _images(source: Int8File) -> IndexedSource:
    """The test images of this workspace."""
    from akgp.data import DataError
    from akgp.deployment.model_files import split_for

    try:
        return split_for(source.path, Path())
    except DataError as error:
        raise DataError(f"{error}; --no-check writes the files without running them") from error


def _measured(
    source: Int8File, targets: list[Target], files: dict[str, Path], images: IndexedSource, scratch: Path
) -> list[Row]:
    """A row for each target, on the test images of this workspace."""
    from akgp import params
    from akgp.deployment.agreement import oracle
    from akgp.deployment.measurement import measure

    settings = params.load()
    exact, dense = oracle(source, images), _dense(source, settings, scratch)
    seed = settings.seed
    return [
        measure(source, each, files[each.name], images, exact, settings.evaluate, seed, dense).as_row()
        for each in targets
    ]


def _dense(source: Int8File, settings: Params, scratch: Path) -> Int8File | None:
    """The dense network of this workspace, to compare speed with; None if there is none."""
    from akgp import artifacts
    from akgp.deployment.timing_twin import timing_twin

    folder = HERE.dense(settings.student)
    if not (folder / artifacts.SPEC).exists():
        return None
    return timing_twin(artifacts.load(folder), source.description.input.shape, scratch)
