from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from akgp.data.augmentation import augmented, draw
from akgp.data.batches import IndexedSource
from akgp.data.normalization import normalize
from akgp.params import Augment

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def changed(pixels: Tensor, params: Augment) -> Tensor:
    size = (pixels.shape[2], pixels.shape[3])
    return augmented(pixels, params, draw(params, len(pixels), size, torch.Generator().manual_seed(0)))


def random_images(count: int, height: int = 8, width: int = 8) -> IndexedSource:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return IndexedSource(pixels, torch.arange(count) % 5, MEAN, STD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": torch.rand(4, 3, 2, 2)}, r"pixels must be uint8 \[N, C, H, W\], .* got torch.float32"),
        ({"pixels": torch.zeros(4, 2, 2, dtype=torch.uint8)}, r"got torch.uint8 \[4, 2, 2\]"),
        ({"labels": torch.arange(4, dtype=torch.int32)}, r"labels must be int64 \[4\], .* got torch.int32"),
        ({"labels": torch.arange(3)}, r"labels must be int64 \[4\], .* got torch.int64 \[3\]"),
        ({"mean": (0.5,)}, r"mean must be 3 numbers, one a channel, in units of 255: .* got \(0.5,\)"),
        ({"mean": 0.5}, "mean must be 3 numbers, one a channel, .* got 0.5"),
        ({"mean": (125, 123, 114)}, r"mean must be .* in units of 255: from 0 to 1, got \(125, 123, 114\)"),
        ({"std": (0.5, 0.5, 0)}, r"std must be 3 numbers, .*: above 0 to 1, got \(0.5, 0.5, 0\)"),
    ],
)
def test_what_is_no_set_of_images_is_refused(changes: dict[str, Any], message: str) -> None:
    source = random_images(4, 2, 2)
    with pytest.raises(ValueError, match=message):
        IndexedSource(**vars(source) | changes)


def test_normalize() -> None:
    pixels = random_images(4).pixels
    expected = (pixels.numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    for channels_last in (False, True):
        found = normalize(pixels, MEAN, STD, channels_last=channels_last)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("pad", "flip"), [(2, False), (0, True), (3, True), (9, False)])
def test_crops_and_mirrors_are_numpys(pad: int, flip: bool) -> None:
    """Each image is exactly one crop of its padded self; every offset occurs, and half are mirrored."""
    pixels = random_images(300, 6, 8).pixels
    params = Augment(crop_padding=pad, flip=flip)
    found = changed(pixels, params).numpy()
    rows, columns, mirrored = set(), set(), 0
    for image, result in zip(pixels.numpy(), found, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        matches = [
            (row, column, mirror)
            for row in range(2 * pad + 1)
            for column in range(2 * pad + 1)
            for mirror in ((False, True) if flip else (False,))
            if (padded[:, row : row + 6, column : column + 8][:, :, :: -1 if mirror else 1] == result).all()
        ]
        assert matches
        rows.add(matches[0][0])
        columns.add(matches[0][1])
        mirrored += matches[0][2]
    if pad < 6:  # a wider border repeats itself
        assert rows == columns == set(range(2 * pad + 1))
    assert 110 < mirrored < 190 if flip else mirrored == 0  # 150 ± 4.6 standard deviations


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_is_one_square_of_the_mean(side: int) -> None:
    pixels = random_images(200, 6, 8).pixels
    params = Augment(crop_padding=0, flip=False, cutout=side)
    found = changed(pixels, params).numpy()
    fill = np.round(pixels.numpy().mean((0, 2, 3))).astype(np.uint8)
    centres = set()
    for image, result in zip(pixels.numpy(), found, strict=True):
        matches = []
        for row in range(6):
            for column in range(8):
                top, left = row - side // 2, column - side // 2
                expected = image.copy()
                expected[:, max(top, 0) : top + side, max(left, 0) : left + side] = fill[:, None, None]
                if (expected == result).all():
                    matches.append((row, column))
        assert matches
        centres.add(matches[0])
    assert len(centres) > 35  # of 48


def test_nothing_asked_for_changes_nothing() -> None:
    pixels = random_images(9).pixels
    still = Augment(crop_padding=0, flip=False, cutout=0)
    assert torch.equal(changed(pixels, still), pixels)


def epoch(images: IndexedSource, **options: Any) -> list[Any]:
    given = {"batch_size": 12, "augment": Augment(cutout=3), "seed": 1, "epoch": 0}
    return list(images.epoch(**(given | options)))


def test_an_epoch_is_whole_batches_of_each_image_once() -> None:
    images = random_images(53)
    batches = epoch(images, augment=None)
    order = torch.cat([batch.index for batch in batches])
    assert [len(batch.index) for batch in batches] == [12] * 4 and len(order.unique()) == 48
    for batch in batches:
        assert torch.equal(batch.labels, images.labels[batch.index])
        torch.testing.assert_close(batch.inputs, normalize(images.pixels[batch.index], MEAN, STD))
    assert [len(batch.index) for batch in epoch(random_images(7))] == [7]


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    images = random_images(53)
    first, again = epoch(images), epoch(images)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.index, other.index) and torch.equal(one.inputs, other.inputs)
    for changed in (epoch(images, epoch=1), epoch(images, seed=2)):
        assert not torch.equal(first[0].index, changed[0].index)


@pytest.mark.parametrize("count", [53, 10])
def test_workers_share_the_batches_of_one(count: int) -> None:
    images = random_images(count)
    alone = epoch(images) if count > 12 else epoch(images, batch_size=9)
    workers = [epoch(images, rank=rank, world=3) for rank in range(3)]
    for whole, *shares in zip(alone, *workers, strict=True):
        for key in ("index", "inputs", "labels"):
            assert torch.equal(torch.cat([getattr(share, key) for share in shares]), getattr(whole, key)), key
        assert len({len(share.index) for share in shares}) == 1


def test_too_few_images_for_the_workers() -> None:
    with pytest.raises(ValueError, match=r"2 training images are too few for 3 workers: lower ray\.workers"):
        epoch(random_images(2), world=3)


@pytest.mark.parametrize("world", [1, 2, 3, 60])
def test_evaluation_sees_each_image_once(world: int) -> None:
    images = random_images(53)
    batches = [
        batch for rank in range(world) for batch in images.ordered(batch_size=8, rank=rank, world=world)
    ]
    assert all(1 <= len(batch.index) <= 8 for batch in batches)
    assert torch.cat([batch.index for batch in batches]).sort().values.tolist() == list(range(53))
    for batch in batches:
        assert torch.equal(batch.labels, images.labels[batch.index])
        torch.testing.assert_close(batch.inputs, normalize(images.pixels[batch.index], MEAN, STD))
