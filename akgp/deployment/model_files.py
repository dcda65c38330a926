"""The int8 file that a command names, and the test images as it takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from akgp import params
from akgp.data import DataError, Images, IndexedSource, Preprocessing, read_split, read_summary
from akgp.deployment.package import MODEL, model_file, read_preprocessing
from akgp.deployment.predict import model_folder
from akgp.deployment.release.files import read
from akgp.workspace import Workspace


def located(model: str, scratch: Path) -> Path:
    """The model's file: of a package, of the release in production at a place of releases, or itself.

    Args:
        model: a file, local or s3://; or as `model_folder` takes it.
        scratch: receives what is downloaded.

    Raises:
        DataError: there is no such file; ReleaseError: it cannot be downloaded.
    """
    if params.REMOTE.match(model) and model.endswith(Path(MODEL).suffix):
        try:
            content = read(model)
        except FileNotFoundError:
            raise DataError(f"{model}: no such file") from None
        (scratch / MODEL).write_bytes(content)
        return scratch / MODEL
    file = model_file(model_folder(model, scratch)[0])
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    return file


def split_for(file: Path, root: Path) -> IndexedSource:
    """The test split of a workspace in the normalization of a model's file, labels by its classes' positions.

    Raises:
        DataError: no images are prepared here, or the network takes others.
    """
    expected, data = read_preprocessing(file), Workspace(root).data
    summary = read_summary(data)
    takes, given = _shape(expected), _shape(summary)
    if takes != given:
        raise DataError(f"{file}: takes images of {takes}, the test split in {data} holds {given}")
    if expected.bit_depth != summary.bit_depth:
        raise DataError(
            f"{file}: takes images of {expected.bit_depth} bits a channel, the test split in {data} has been "
            f"scaled from {summary.bit_depth}"
        )
    images = read_split(data, "test")
    return as_known(images, summary.classes, expected)


def as_known(images: Images, classes: Sequence[str], expected: Preprocessing) -> IndexedSource:
    """Images as a network takes them, their labels the positions of its outputs; -1 where it lacks the class.

    Args:
        classes: names of the images' labels.
    """
    position = {name: index for index, name in enumerate(expected.classes)}
    labels = torch.tensor([position.get(name, -1) for name in classes])[images.labels]
    return IndexedSource(images.pixels, labels, expected.mean, expected.std)


def _shape(images: Preprocessing) -> tuple[int, ...]:
    return (images.channels, *images.image_size)
