"""From a source to prepared splits: decode, label, split, measure, write."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.model_selection import train_test_split
from torch import Tensor

from akgp.data.images import Images
from akgp.data.sources import DataError, Sample, open_source
from akgp.data.tables import SPLITS, Summary, content_digest, write_split
from akgp.params import Data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """Samples that could be used: pixels uint8 [N, H, W, C], their labels as given, their origins."""

    pixels: np.ndarray
    labels: list[Any]
    origins: list[str]
    skipped: int


def prepare(params: Data, seed: int, directory: Path) -> Summary:
    """Read the source and write {train,calibration,validation,test}.parquet and summary.json.

    Splits are disjoint and stratified by class; the same seed gives the same ones.

    Args:
        directory: exists and is empty.

    Raises:
        DataError: the source can't be read, an image or a label is bad (with
            `on_bad_rows: error`), image sizes differ, or a class is too small for its shares.
    """
    source = open_source(params)
    if "test" in source.parts and params.splits.test is not None:
        raise DataError(f"data.splits.test must be null: {source.name} has a test split of its own")
    if "test" not in source.parts and params.splits.test is None:
        raise DataError(f"data.splits.test must be a share: {source.name} has no test split of its own")
    parts = {part: _decode(samples, params) for part, samples in source.parts.items()}
    skipped = sum(part.skipped for part in parts.values())
    sizes = {part.pixels.shape[1:3] for part in parts.values()}
    if len(sizes) > 1:
        raise DataError(f"data.image_size must be set: train and test images are {' and '.join(map(str, sizes))}")
    classes, labels = _classes(parts, source.classes)
    splits = _split(parts, labels, params, seed, classes)
    for name, (images, origins) in splits.items():
        write_split(directory, name, images, origins)
    images = {name: split for name, (split, _) in splits.items()}
    summary = _summary(source.name, classes, images, skipped)
    (directory / "summary.json").write_text(summary.model_dump_json(indent=2) + "\n")
    return summary


def read_image(file: Path, summary: Summary) -> Tensor:
    """One image file as uint8 [1, C, H, W], as the prepared ones are.

    Raises:
        DataError: it is missing or no image.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from None
    image = _open(content, str(file), "L" if summary.channels == 1 else "RGB")
    height, width = summary.image_size
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels.reshape(1, height, width, summary.channels).copy()).permute(0, 3, 1, 2)


def _decode(samples: Iterable[Sample], params: Data) -> Decoded:
    kept: list[np.ndarray] = []
    labels: list[Any] = []
    origins: list[str] = []
    skipped = 0
    for sample in samples:
        try:
            if sample.label is None or (isinstance(sample.label, float) and not sample.label.is_integer()):
                raise DataError(f"{sample.origin}: the label is {sample.label!r}")
            pixels = _pixels(sample, params)
        except DataError as error:
            if params.on_bad_rows == "error":
                raise
            log.warning("skipped: %s", error)
            skipped += 1
            continue
        if kept and pixels.shape != kept[0].shape:
            raise DataError(
                f"data.image_size must be set: {origins[0]} has {_size(kept[0])} pixels, "
                f"{sample.origin} {_size(pixels)}"
            )
        kept.append(pixels)
        labels.append(int(sample.label) if isinstance(sample.label, float) else sample.label)
        origins.append(sample.origin)
    if not kept:
        raise DataError(f"{params.path or params.source}: no usable images")
    return Decoded(np.stack(kept), labels, origins, skipped)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[0]}"


def _pixels(sample: Sample, params: Data) -> np.ndarray:
    mode = "L" if params.color == "gray" else "RGB"
    if isinstance(sample.content, bytes):
        image = _open(sample.content, sample.origin, mode)
    else:
        image = Image.fromarray(sample.content).convert(mode)
    if params.image_size:
        image = image.resize((params.image_size, params.image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _open(content: bytes, origin: str, mode: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{origin}: the image can't be decoded ({error})") from None
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(mode)


def _classes(
    parts: dict[str, Decoded], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Class names, and each part's labels as indices into them.

    Text labels are sorted; integers keep their order and are named by it unless the source has names.
    """
    values = sorted({label for part in parts.values() for label in part.labels}, key=lambda v: (str(type(v)), v))
    if len({type(value) for value in values}) > 1:
        raise DataError(f"labels are of several types, such as {values[0]!r} and {values[-1]!r}")
    if names is None or not set(values) <= set(range(len(names))):
        names, index = tuple(map(str, values)), {value: position for position, value in enumerate(values)}
    else:
        index = {value: value for value in values}
    if len(values) < 2:
        raise DataError(f"at least two classes are needed, got {', '.join(names) or 'none'}")
    return names, {part: torch.tensor([index[label] for label in p.labels]) for part, p in parts.items()}


def _split(
    parts: dict[str, Decoded], labels: dict[str, Tensor], params: Data, seed: int, classes: tuple[str, ...]
) -> dict[str, tuple[Images, list[str]]]:
    """The four splits, of images and origins."""
    rest = np.arange(len(labels["train"]))
    given = labels["train"].numpy()
    chosen: dict[str, np.ndarray] = {}
    shares = {"test": params.splits.test, "calibration": params.splits.calibration,
              "validation": params.splits.validation}
    training_side = len(rest) - round(len(rest) * (params.splits.test or 0))
    for name, share in shares.items():
        if share is None:
            continue
        count = round((len(given) if name == "test" else training_side) * share)
        _check_counts(given[rest], count, len(rest), classes, name)
        rest, chosen[name] = train_test_split(rest, test_size=count, stratify=given[rest], random_state=seed)
    chosen["train"] = rest
    splits = {name: _taken(parts["train"], labels["train"], np.sort(index)) for name, index in chosen.items()}
    if "test" in parts:
        splits["test"] = _taken(parts["test"], labels["test"], np.arange(len(labels["test"])))
    return {name: splits[name] for name in SPLITS}


def _check_counts(labels: np.ndarray, count: int, total: int, classes: tuple[str, ...], name: str) -> None:
    sizes = np.bincount(labels, minlength=len(classes))
    smallest = int(sizes.argmin())
    if sizes[smallest] * min(count, total - count) < total or sizes[smallest] < 2:
        raise DataError(
            f"class {classes[smallest]!r} has {sizes[smallest]} images, too few for a share in every split "
            f"({name}: {count} of {total}): add images, or raise data.splits.{name}"
        )


def _taken(part: Decoded, labels: Tensor, index: np.ndarray) -> tuple[Images, list[str]]:
    pixels = torch.from_numpy(part.pixels[index]).permute(0, 3, 1, 2)
    return Images(pixels, labels[torch.from_numpy(index)]), [part.origins[position] for position in index]


def _summary(source: str, classes: tuple[str, ...], images: dict[str, Images], skipped: int) -> Summary:
    train = images["train"]
    shares = train.pixels.double() / 255
    counts = {name: torch.bincount(split.labels, minlength=len(classes)) for name, split in images.items()}
    return Summary(
        source=source,
        classes=classes,
        image_size=(train.pixels.shape[2], train.pixels.shape[3]),
        channels=train.pixels.shape[1],
        counts={name: tuple(count.tolist()) for name, count in counts.items()},
        mean=tuple(shares.mean((0, 2, 3)).tolist()),
        std=tuple(shares.std((0, 2, 3)).clamp_min(1e-3).tolist()),
        imbalance=float(counts["train"].max() / counts["train"].min().clamp_min(1)),
        skipped=skipped,
        digest=content_digest(images),
    )
