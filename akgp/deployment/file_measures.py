"""What mixed precision measures of a file: its bytes as it is deployed and as a download, and its time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from akgp.data import Preprocessing
from akgp.deployment.download import pack
from akgp.deployment.package import MODEL, align, write_metadata
from akgp.deployment.shortest import shortest_ms
from akgp.quantization import Measures
from akgp.runtimes import Runtime, require_installed


def file_measures(
    preprocessing: Preprocessing, license: str | None, runtime: Runtime, threads: int
) -> Measures:
    """Measures of files that will be deployed with this metadata and run in this runtime.

    Raises:
        GraphError: the runtime is not installed.
    """
    require_installed(runtime)

    shape = (preprocessing.channels, *preprocessing.image_size)

    @contextmanager
    def deployed(file: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / MODEL
            shutil.copyfile(file, copy)
            align(copy, runtime)
            write_metadata(copy, preprocessing, license)
            yield copy

    def content(file: Path) -> bytes:
        with deployed(file) as copy:
            return copy.read_bytes()

    def milliseconds(files: Sequence[Path]) -> list[float]:
        with ExitStack() as copies:
            return shortest_ms(
                [copies.enter_context(deployed(each)) for each in files], shape, runtime, threads
            )

    return Measures(
        bytes=lambda file: len(content(file)),
        packed=lambda file: len(pack(content(file))),
        milliseconds=milliseconds,
    )
