"""Classify image files with a finished int8 network and the preprocessing that was saved with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akgp import params
from akgp.data import DataError, read_image
from akgp.data.normalization import normalize
from akgp.deployment import release
from akgp.deployment.image_files import ImageFiles
from akgp.deployment.package import model_file, read_preprocessing
from akgp.runtimes import GraphError, Runtime, runtime_for

CONFIGURED = "releases"
"""Name that stands for the place in release.releases."""


class Classifier:
    """A quantized network and its preprocessing: image file → (class, probability), likeliest first."""

    def __init__(self, model: Path, runtime: Runtime | None = None) -> None:
        """Read an int8 file, as the quantize stage writes it.

        Args:
            model: the file, or the folder of `model.onnx`. A file without metadata, as earlier versions
                wrote it, needs `preprocessing.json` beside.
            runtime: None: the one for this kind of file.

        Raises:
            DataError: a file is missing or not what quantize writes.
        """
        file = model_file(model)
        if not file.exists():
            read_preprocessing(file)  # the first thing to say is what is missing first
            raise DataError(f"{file}: no such file; `dvc repro` writes it")
        try:
            self.network = (runtime or runtime_for(file)).load(file, threads=0)
        except GraphError as error:
            raise DataError(f"{error}; `dvc repro quantize` writes it again") from error
        self.expected = read_preprocessing(file)

    def __call__(self, image: Path) -> list[tuple[str, float]]:
        """All classes with their probabilities (softmax), in falling order.

        Raises:
            DataError: the file is missing or no image; GraphError: the runtime cannot run the network.
        """
        import torch

        pixels = read_image(image, self.expected)
        inputs = normalize(pixels, self.expected.mean, self.expected.std)
        try:
            logits = self.network.run(inputs.numpy())
        except GraphError as error:
            raise GraphError(f"{image}: {error}") from error
        if logits.shape[1:] != (len(self.expected.classes),):
            raise GraphError(
                f"{image}: the network gives {list(logits.shape[1:])} logits for "
                f"{len(self.expected.classes)} classes"
            )
        # In float64, and a stable order: equal logits are listed by class.
        shares = torch.from_numpy(logits)[0].double().softmax(0)
        order = shares.argsort(descending=True, stable=True).tolist()
        return [(self.expected.classes[index], float(shares[index])) for index in order]


@dataclass(frozen=True)
class Prediction:
    """The classes of one file with their probabilities, likeliest first; or an error."""

    file: str
    classes: list[tuple[str, float]]
    error: str = ""

    def line(self, top: int) -> str:
        return f"{self.file}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in self.classes[:top])

    def as_row(self, top: int) -> dict[str, Any]:
        named = [{"class": name, "probability": p} for name, p in self.classes[:top]]
        return {"file": self.file, "classes": named}


def predictions(classify: Classifier, given: ImageFiles) -> Iterator[Prediction]:
    """A prediction for each file; a file that is no image gives one with an error."""
    for name in given.empty:
        yield Prediction(name, [], f"{name}: no images here")
    for name, file in given.files:
        shown = name.encode(errors="surrogateescape").decode(errors="replace")  # not all are UTF-8
        try:
            yield Prediction(shown, classify(file))
        except (DataError, GraphError) as error:
            message = str(error).replace(str(file), name)
            yield Prediction(shown, [], message.encode(errors="surrogateescape").decode(errors="replace"))


def model_folder(model: str, scratch: Path) -> tuple[Path, str | None]:
    """The package that a command names, and the version if it is a release.

    Args:
        model: a package; or a place of releases, local or s3://, of which the one in production is taken;
            CONFIGURED, unless there is such a folder here, for that of params.yaml.
        scratch: receives the release's files, after they have been compared with their digests.

    Raises:
        ReleaseError: no release is in production there, or it is damaged; ParamsError: of params.yaml.
    """
    where = model
    if not params.REMOTE.match(model) and not (Path(model) / release.POINTER).exists():
        if model != CONFIGURED:
            return Path(model), None
        where = release.place(Path(), params.load())
    return scratch, release.fetch(where, scratch)
