"""The simulation of int8 training: what is rounded, and that rounding adds no bias."""

from __future__ import annotations

import torch
from torch import nn

from experiments.int8_training import (
    BOTH,
    CLIPS,
    DIRECTION,
    EXTREMES,
    LEAST,
    Gradients,
    simulate_int8,
)

HEAVY = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) ** 5
"""Gradients of which a few are much larger than the rest."""


def test_gradients_take_255_values_and_keep_their_mean() -> None:
    torch.manual_seed(0)
    plain = HEAVY.sign() * HEAVY.abs() ** 0.2
    draws = torch.stack([Gradients(EXTREMES)(plain) for _ in range(400)])
    step = plain.abs().max() / 127
    assert len(draws[0].unique()) <= 255
    # A draw's standard deviation is half a step at most.
    torch.testing.assert_close(draws.mean(0), plain, rtol=0, atol=float(5 * step / 2 / 400**0.5))


def test_clipping_keeps_the_direction_and_deviation_slows() -> None:
    torch.manual_seed(0)
    clipped, steps = Gradients(DIRECTION), HEAVY.abs().max() / 127
    clipped(HEAVY)
    angles = {}
    for clip in CLIPS:
        made = (HEAVY / (clip * steps)).round().clamp(-127, 127)
        angles[clip] = float((HEAVY * made).sum() / (HEAVY.norm() * made.norm()))
    assert clipped.clip == max(angles, key=lambda clip: angles[clip])
    slowed = Gradients(BOTH)
    slowed(HEAVY)
    assert LEAST <= slowed.rate < 1
    torch.testing.assert_close(slowed.slowed(torch.ones(2)), torch.full((2,), slowed.rate))


def test_every_layer_is_rounded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.randn(8, 3, 8, 8)
    exact = model(images)
    simulate_int8(model, EXTREMES)
    logits = model(images)
    difference = (logits - exact).abs().max()
    assert 0 < difference < 0.05 * exact.abs().max()
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(len(row.unique()) <= 255 for row in model[0].weight.flatten(1))
