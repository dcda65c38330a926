"""Prepares the splits of a source: decode, label, corrupt (`data.regime`), split, summarise, write."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from akgp.data.corruptions import CIFAR10_FLIPS, apply_corruption
from akgp.data.files import DataError
from akgp.data.images import Images
from akgp.data.labels import Label, by_name, class_indices, classes_of, given_labels
from akgp.data.reading import Part, check_size, read_parts
from akgp.data.samples import Source
from akgp.data.sources import open_source
from akgp.data.splitting import stratified_split
from akgp.data.tables import SPLITS, Altered, Summary, write_split
from akgp.params import Data, Regime, Splits

log = logging.getLogger(__name__)


def prepare(
    params: Data, seed: int, directory: Path, progress: Callable[[int], object] = lambda count: None
) -> Summary:
    """Read the source and write {train,calibration,validation,test}.parquet and summary.json.

    Splits are disjoint and stratified by class; the same seed gives the same ones. Test and validation
    splits of the source are used as they are. A regime does not change them, nor any test split.

    Args:
        directory: exists and is empty.
        progress: called with the number of images read since the last call.

    Raises:
        DataError: the source can't be read, an image or a label is bad (with
            `on_bad_rows: error`), image sizes differ, a class is too small for its shares, or the
            images don't suffice for the regime.
    """
    source = open_source(params)
    if "test" in source.parts and params.splits.test is not None:
        raise DataError(f"data.splits.test must be null: {source.name} has a test split of its own")
    if "test" not in source.parts and params.splits.test is None:
        raise DataError(f"data.splits.test must be a share: {source.name} has no test split of its own")
    shares = _shares(params.splits, given=set(source.parts))
    if all(samples.bare for samples in source.parts.values()):  # before any image is read
        given = {name: given_labels(part, source.classes) for name, part in source.parts.items()}
        classes, labels = _classified(source, given)
        if len(classes) > 1:  # else labels may be bad, which are named when they are read
            _check_classes(classes, labels, shares)
    parts, bit_depth = read_parts(source, params, progress)
    for part in parts.values():
        check_size(part.pixels[0], part.origins[0], parts["train"].pixels[0], parts["train"].origins[0])
    classes, labels = _classified(
        source, {name: list(zip(part.labels, part.origins, strict=True)) for name, part in parts.items()}
    )
    _check_classes(classes, labels, shares)
    _warn_of_missing(classes, labels)
    positions = stratified_split(labels["train"].numpy(), shares, seed)
    true = labels["train"]
    if params.regime.alters():
        positions, labels["train"] = _under_regime(positions, true, classes, params, seed)
    return _write(directory, source, bit_depth, classes, parts, labels, positions, true, params.regime)


def _classified(
    source: Source, given: Mapping[str, Sequence[tuple[Label, str]]]
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The names of the classes, and the class of each sample int64 [N], of labels with origins by part."""
    classes = source.classes or classes_of(chain.from_iterable(given.values()))
    known = source.classes is not None
    indices = {
        name: class_indices([label for label, _ in labels], classes, known=known)
        for name, labels in given.items()
    }
    return by_name(classes, source.names), indices


def _check_classes(classes: tuple[str, ...], labels: dict[str, Tensor], shares: dict[str, float]) -> None:
    """Check that every class has images for every split to be drawn.

    Raises:
        DataError: a class has too few; names it.
    """
    if len(classes) < 2:
        raise DataError(f"two classes or more are needed, got {', '.join(classes)} alone")
    counts = {part: torch.bincount(each, minlength=len(classes)) for part, each in labels.items()}
    for part, given in counts.items():
        if part == "train":
            continue
        if (untrained := (counts["train"] == 0) & (given > 0)).any():
            name = classes[int(untrained.int().argmax())]
            raise DataError(
                f"class {name!r} is in the {part} split only: add training images of it, or remove it"
            )
    _check_smallest(counts["train"], classes, shares, "add images")


def _warn_of_missing(classes: tuple[str, ...], labels: dict[str, Tensor]) -> None:
    """Log classes that a given split lacks."""
    for part, each in labels.items():
        counts = torch.bincount(each, minlength=len(classes)).tolist()
        lacking = [name for name, count in zip(classes, counts, strict=True) if not count]
        if lacking:
            log.warning("the %s split has no image of %d classes, such as %s", part, len(lacking), lacking[0])


def _check_smallest(counts: Tensor, classes: tuple[str, ...], shares: dict[str, float], remedy: str) -> None:
    """Raise DataError, with `remedy`, unless the smallest class has an image for the smallest split."""
    smallest = int(counts.argmin())
    images = int(counts[smallest])
    name, share = min(shares.items(), key=lambda item: item[1])
    if images * share < 1 - 1e-9:  # 10 · 0.1 may come out below 1
        drawn = " and ".join(f"data.splits.{each}" for each in shares if each != "train")
        other = f"lower {drawn}" if name == "train" else f"raise data.splits.{name}"
        raise DataError(
            f"class {classes[smallest]!r} has {images} images, too few for one in every split "
            f"({name} takes {share:.3g} of them): {remedy}, or {other}"
        )


def _shares(splits: Splits, given: Collection[str]) -> dict[str, float]:
    """Shares of the source's training part that become each split; they sum to 1.

    Args:
        given: splits that the source has already: no share is taken for them.
    """
    # The shares of calibration and validation are of what is left without the test split.
    training = 1 - (0 if "test" in given else splits.test or 0)
    shares = {"calibration": training * splits.calibration, "validation": training * splits.validation}
    if "validation" in given:
        del shares["validation"]
    shares["train"] = training - sum(shares.values())
    return shares | ({} if "test" in given or splits.test is None else {"test": splits.test})


def _under_regime(
    positions: dict[str, np.ndarray], true: Tensor, classes: tuple[str, ...], params: Data, seed: int
) -> tuple[dict[str, np.ndarray], Tensor]:
    """Positions of the splits, and labels [N] of the training part's images, under the regime.

    A test split drawn from the part stays as it is. All other images are corrupted and split again,
    stratified by the noisy labels, as a user would know no others.

    Args:
        positions: of the splits without a regime.
        true: [N] labels of all images of the training part.

    Raises:
        DataError: too few images for the subset, for every split, or for one wrong label.
    """
    regime, labels = params.regime, true.numpy().copy()
    not_test = np.sort(np.concatenate([index for name, index in positions.items() if name != "test"]))
    kept, noisy = apply_corruption(
        labels[not_test], classes, regime, CIFAR10_FLIPS if params.source == "cifar10" else None, seed
    )
    kept = not_test[kept]  # positions among these -> positions in the part
    # By true labels, or a class might not be trained on, and by noisy ones, by which the splits are drawn.
    fewest = np.minimum(*(np.bincount(each, minlength=len(classes)) for each in (labels[kept], noisy)))
    remedies = {
        "raise data.regime.subset": regime.subset is not None,
        "lower data.regime.imbalance": regime.imbalance > 1,
        "lower data.regime.label_noise": regime.label_noise > 0,
    }
    remedy = ", ".join(text for text, applies in remedies.items() if applies)
    shares = _shares(params.splits, given={"test"} | ({"validation"} - positions.keys()))
    _check_smallest(torch.from_numpy(fewest), classes, shares, remedy)
    labels[kept] = noisy
    redrawn = {name: kept[index] for name, index in stratified_split(noisy, shares, seed).items()}
    return {name: redrawn.get(name, index) for name, index in positions.items()}, torch.from_numpy(labels)


def _write(
    directory: Path, source: Source, bit_depth: int, classes: tuple[str, ...], parts: dict[str, Part],
    labels: dict[str, Tensor], positions: dict[str, np.ndarray], true: Tensor, regime: Regime,
) -> Summary:  # fmt: skip
    """Write the splits one after another, so that only one is in memory twice, then their summary.

    `true`: labels of the training part before any noise; `positions`: of the splits drawn from that part.
    """
    counts: dict[str, tuple[int, ...]] = {}
    kept = torch.zeros(len(classes), dtype=torch.int64)
    changed: dict[str, int] = {}
    digest = hashlib.sha256()
    mean = std = torch.zeros(0)
    for name in SPLITS:
        part = "train" if name in positions else name
        index = positions[name] if name in positions else np.arange(len(labels[name]))
        pixels = torch.from_numpy(parts[part].pixels[index]).permute(0, 3, 1, 2)
        chosen = torch.from_numpy(index)
        images = Images(pixels, labels[part][chosen])
        origins = [parts[part].origins[position] for position in index]
        clean = true[chosen] if part == "train" else images.labels
        write_split(directory, name, images, origins, clean if regime.label_noise else None)
        if name != "test":
            if part == "train":  # a split of the source is as it was
                kept += torch.bincount(clean, minlength=len(classes))
            changed[name] = int((images.labels != clean).sum())
        counts[name] = tuple(torch.bincount(images.labels, minlength=len(classes)).tolist())
        if name == "train":
            mean, std = mean_std(pixels)
        for block in images.pixels.split(1024):  # contiguous copies of a block at a time
            digest.update(block.contiguous().numpy().data)
        digest.update(images.labels.numpy().data)
    _, channels, height, width = pixels.shape
    summary = Summary(
        source=source.name,
        classes=classes,
        image_size=(height, width),
        channels=channels,
        counts=counts,
        mean=tuple(mean.tolist()),
        std=tuple(std.clamp_min(1e-3).tolist()),  # a constant channel would be divided by 0
        imbalance=max(counts["train"]) / min(counts["train"]),
        skipped=sum(part.skipped for part in parts.values()),
        digest=digest.hexdigest(),
        regime=Altered(asked=regime, kept=tuple(kept.tolist()), changed=changed) if regime.alters() else None,
        bit_depth=bit_depth,
        not_taken=dict(source.not_taken),
    )
    text = summary.model_dump_json(indent=2, exclude={"regime"} if summary.regime is None else None)
    (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
    return summary


def mean_std(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of `pixels` uint8 [N, C, H, W], in units of 255: [C] each.

    From histograms: exact, and without a floating-point copy of the images.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    channels = pixels.unbind(1)  # [N, H, W] each
    counts = torch.stack([torch.bincount(each.flatten(), minlength=256) for each in channels]).double()
    total = counts.sum(1, keepdim=True)
    mean = (counts * values).sum(1, keepdim=True) / total
    variance = (counts * (values - mean) ** 2).sum(1, keepdim=True) / total
    return mean[:, 0], variance.sqrt()[:, 0]
