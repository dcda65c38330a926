"""Augmentations of whole batches against torchvision's of one image, and against their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from akgp.data import trivial_augment
from akgp.data.augmentation import augmented, draw
from akgp.data.batches import IndexedSource
from akgp.data.mixing import mixed_pixels
from akgp.params import Augment

STILL = {"crop_padding": 0, "flip": False}


def random_pixels(count: int, height: int = 12, width: int = 16, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def drawn(params: Augment, pixels: Tensor, seed: int = 0) -> dict[str, Tensor]:
    height, width = pixels.shape[2:]
    return draw(params, len(pixels), (height, width), torch.Generator().manual_seed(seed))


def affine(image: Tensor, **changes: Any) -> Tensor:
    given: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | changes
    return tv.affine(image, interpolation=InterpolationMode.BILINEAR, **given)


def sheared(image: Tensor, s: float, axis: int) -> Tensor:
    shear = [0.0, 0.0]
    shear[axis] = math.degrees(math.atan(0.99 * s))
    return affine(image, shear=shear, center=[0, 0])


REFERENCES: dict[str, Any] = {
    "identity": lambda x, s: x,
    "shear_x": lambda x, s: sheared(x, s, 0),
    "shear_y": lambda x, s: sheared(x, s, 1),
    "translate_x": lambda x, s: affine(x, translate=[-32 * s, 0]),
    "translate_y": lambda x, s: affine(x, translate=[0, -32 * s]),
    "rotate": lambda x, s: affine(x, angle=-135 * s),
    "brightness": lambda x, s: tv.adjust_brightness(x, 1 + 0.99 * s),
    "color": lambda x, s: tv.adjust_saturation(x, 1 + 0.99 * s),
    "contrast": lambda x, s: tv.adjust_contrast(x, 1 + 0.99 * s),
    "sharpness": lambda x, s: tv.adjust_sharpness(x, 1 + 0.99 * s),
    "posterize": lambda x, s: tv.posterize(x, 8 - round(6 * abs(s))),
    "solarize": lambda x, s: tv.solarize(x, 255 * (1 - abs(s))),
    "autocontrast": lambda x, s: tv.autocontrast(x),
    "equalize": lambda x, s: tv.equalize(x),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", REFERENCES)
def test_operations_are_torchvisions(name: str, channels: int) -> None:
    """Image by image, also where other operations are chosen around them; a rounding apart."""
    pixels = random_pixels(8, channels=channels)
    strength = torch.tensor([-1.0, -0.7, -0.31, -0.1, 0.1, 0.25, 0.625, 1.0])
    number = list(trivial_augment.OPERATIONS).index(name)
    every = {"operation": torch.full((8,), number), "strength": strength}
    before = pixels.clone()
    changed = trivial_augment.apply(pixels, every)
    for image, result, s in zip(pixels, changed, strength.tolist(), strict=True):
        apart = (REFERENCES[name](image, s).int() - result.int()).abs()
        assert apart.max() <= 1, (name, s, apart.max())
    some = every | {"operation": torch.where(torch.arange(8) % 2 == 0, number, 0)}
    odd = trivial_augment.apply(pixels, some)
    assert torch.equal(odd[::2], changed[::2]) and torch.equal(odd[1::2], pixels[1::2])
    assert torch.equal(pixels, before) and list(REFERENCES) == list(trivial_augment.OPERATIONS)


def test_a_policy_draws_every_operation_alike() -> None:
    counts = trivial_augment.draw(7000, torch.Generator().manual_seed(0))["operation"].bincount()
    assert len(counts) == 14 and counts.min() > 400 and counts.max() < 600  # 500 ± 4.6 standard deviations


@pytest.mark.parametrize("flip", [False, True])
def test_resized_crops_are_torchvisions(flip: bool) -> None:
    """A box of whole pixels: crop, resize to the whole, and mirror."""
    pixels = random_pixels(4, 12, 16)
    boxes = torch.tensor([[0, 0, 12, 16], [2, 3, 6, 8], [5, 1, 4, 10], [6, 8, 6, 8]])
    draws = {"crop": boxes.float()} | ({"mirrored": torch.tensor([True, False] * 2)} if flip else {})
    results = augmented(pixels, Augment(resized_crop=0.2, **STILL), draws)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        expected = tv.resized_crop(pixels[i], top, left, height, width, [12, 16], antialias=False)
        expected = expected.flip(-1) if flip and i % 2 == 0 else expected
        inner = (slice(None), slice(2, -2), slice(2, -2))  # at its border ours also sees what is outside
        assert (expected[inner].int() - results[i][inner].int()).abs().max() <= 1


def test_boxes_of_resized_crops_have_the_areas_and_ratios_asked_for() -> None:
    pixels = random_pixels(1, 100, 100).expand(2000, -1, -1, -1)
    top, left, height, width = drawn(Augment(resized_crop=0.3), pixels)["crop"].T
    area = height * width / 10_000
    assert 0.25 < area.min() < 0.31 and area.max() <= 1 and 0.55 < area.mean() < 0.67
    assert (
        top.min() >= 0
        and left.min() >= 0
        and (top + height).max() <= 100.01
        and (left + width).max() <= 100.01
    )
    inside = (height < 99) & (width < 99)
    assert (width / height)[inside].min() >= 0.749 and (width / height)[inside].max() <= 1.334


def test_jitter_is_brightness_contrast_and_saturation() -> None:
    pixels, params = random_pixels(6), Augment(color_jitter=0.4, **STILL)
    draws = drawn(params, pixels)
    assert draws["jitter"].min() >= 0.6 and draws["jitter"].max() <= 1.4
    for image, result, factors in zip(pixels, augmented(pixels, params, draws), draws["jitter"], strict=True):
        bright, contrast, color = factors.tolist()
        expected = tv.adjust_contrast(tv.adjust_brightness(image, bright), contrast)
        assert (tv.adjust_saturation(expected, color).int() - result.int()).abs().max() <= 1


def test_erasing_fills_a_rectangle_of_a_share_of_the_images() -> None:
    pixels, params = random_pixels(400, 20, 20), Augment(erasing=0.5, **STILL)
    results = augmented(pixels, params, drawn(params, pixels))
    fill = pixels.float().mean((0, 2, 3)).round()[:, None, None]
    erased = 0
    for image, result in zip(pixels, results, strict=True):
        changed = (image != result).any(0)
        if changed.any():
            erased += 1
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            box = result[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (box == fill).all() and 0.01 * 400 <= box[0].numel() <= 0.4 * 400
    assert 160 < erased < 240


def source(count: int = 24) -> IndexedSource:
    return IndexedSource(random_pixels(count, 8, 8), torch.arange(count) % 5, (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("params", "expected"), [({"mixup": 0.4}, {"mixup"}), ({"cutmix": 1.0}, {"cutmix"}),
                             ({"mixup": 1.0, "cutmix": 1.0, "mix_share": 0.5}, {"mixup", "cutmix", "none"})],
)  # fmt: skip
def test_images_are_mixed_with_their_predecessors(params: dict[str, float], expected: set[str]) -> None:
    pixels, found = random_pixels(200, 8, 10), []
    results, shares = mixed_pixels(pixels, Augment(**params), torch.Generator().manual_seed(0))
    for i, (result, share) in enumerate(zip(results.numpy(), shares.tolist(), strict=True)):
        own, other = pixels[i].numpy(), pixels[i - 1].numpy()
        if share == 1:
            assert (result == own).all()
            found.append("none")
        elif np.abs(share * own + (1 - share) * other - result).max() <= 0.51:
            found.append("mixup")
        else:
            pasted = (result == other).all(0)
            rows, columns = np.nonzero(pasted.any(1))[0], np.nonzero(pasted.any(0))[0]
            area = (rows.max() + 1 - rows.min()) * (columns.max() + 1 - columns.min())
            assert (result == np.where(pasted, other, own)).all() and area == pasted.sum()
            assert share == pytest.approx(1 - area / 80, abs=1e-6)
            found.append("cutmix")
    # A pasted rectangle may be empty, a λ of Beta(0.4, 0.4) next to 1.
    assert set(found) - {"none"} == expected - {"none"}
    assert abs(found.count("none") - (100 if "none" in expected else 0)) < 45


def test_mixed_batches_carry_both_labels_and_are_alike_for_any_number_of_workers() -> None:
    options: dict[str, Any] = {
        "batch_size": 8,
        "seed": 1,
        "epoch": 0,
        "augment": Augment(mixup=1.0, policy="trivial"),
    }
    images = source()
    whole = list(images.epoch(**options))
    halves = [list(images.epoch(**options, rank=rank, world=2)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert batch.mixed is not None
        assert torch.equal(batch.mixed.labels, batch.labels.roll(1)) and (batch.mixed.share < 1).all()
        assert torch.equal(batch.inputs, torch.cat([first.inputs, second.inputs]))
        assert torch.equal(batch.mixed.share, torch.cat([each.mixed.share for each in (first, second)]))
        taken = batch.take(torch.tensor([3, 0]))
        assert taken.mixed is not None and torch.equal(taken.mixed.share, batch.mixed.share[[3, 0]])
    assert all(batch.mixed is None for batch in images.epoch(**options | {"augment": Augment()}))
