from __future__ import annotations

from dataclasses import asdict

import torch
from torch import nn

from benchmarks.against_torch_pruning import TOOLS, plan, table


def test_every_network_is_given_to_both_and_a_refusal_stands_in_its_place() -> None:
    runs = list(plan())
    assert len(runs) == len(set(runs)) and {run.tool for run in runs} == set(TOOLS)
    measured = {"macs": 0.25, "processor_seconds": 1.5, "megabytes": 20, "machine": "A"}
    text = table([asdict(runs[0]) | measured, asdict(runs[1]) | measured | {"macs": "it cannot be traced"}])
    assert f"| {runs[0].network} | 0.250 | it cannot be traced | 1.5 | 1.5 | 20 | 20 |" in text


def test_both_halve_the_widths_and_leave_the_classifier() -> None:
    for tool in TOOLS.values():
        dense = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
        )
        smaller = tool(dense, torch.zeros(1, 3, 8, 8))
        assert (smaller[0].out_channels, smaller[4].in_features, smaller[4].out_features) == (16, 16, 10)
