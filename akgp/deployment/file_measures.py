"""What mixed precision measures of a file: its bytes as it is deployed and as a download, and its time."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

from akgp.data import Preprocessing
from akgp.deployment.download import pack
from akgp.deployment.package import MODEL, write_metadata
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

    def deployed(file: Path) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / MODEL
            shutil.copyfile(file, copy)
            write_metadata(copy, preprocessing, license)
            return copy.read_bytes()

    shape = (preprocessing.channels, *preprocessing.image_size)
    return Measures(
        bytes=lambda file: len(deployed(file)),
        packed=lambda file: len(pack(deployed(file))),
        milliseconds=partial(shortest_ms, shape=shape, runtime=runtime, threads=threads),
    )
