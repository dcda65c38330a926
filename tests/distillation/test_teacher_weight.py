from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from akgp import params
from akgp.distillation import (
    log_prior,
    profile_data,
    teacher_weights,
    weights_by_class,
    wrong_label_probability,
)
from akgp.distillation.strategies import LOSSES, OBJECTIVES
from akgp.distillation.strategies.weighted import WEIGHTS
from akgp.params.strategies import STRATEGIES
from tests.support.distillations import (
    distill,
    world,
)


def test_strategies() -> None:
    logits, labels, wrong = world(noise=0.4)
    found = profile_data(logits, labels)
    for strategy, expected in (("labels", 0.0), ("teacher", 1.0), ("fixed", 0.7)):
        weights = teacher_weights(distill(strategy=strategy, w0=0.7), found, logits, labels)
        assert weights.dtype == torch.float32 and weights.shape == labels.shape
        assert weights.eq(torch.tensor(expected)).all()
    weights = teacher_weights(distill(strategy="akgp", w0=0.7), found, logits, labels)
    doubt = wrong_label_probability(found, logits, labels)
    torch.testing.assert_close(weights.double(), 1 - 0.3 * (1 - doubt), atol=1e-6, rtol=0)
    assert (
        weights.min() >= 0.7 - 1e-6 and weights.max() <= 1 and weights[wrong].mean() > weights[~wrong].mean()
    )
    without = distill(strategy="akgp", w0=0.7, noise_posterior=False)
    assert teacher_weights(without, found, logits, labels).eq(torch.tensor(0.7)).all()
    alone = teacher_weights(distill(strategy="akgp", w0=0.0), found, logits, labels)
    torch.testing.assert_close(alone.double(), doubt, atol=1e-6, rtol=0)


def test_strategies_of_the_schema_are_all_there() -> None:
    assert {*LOSSES, *OBJECTIVES} == set(STRATEGIES) and not set(LOSSES) & set(OBJECTIVES)
    assert {*get_args(params.Distill.model_fields["strategy"].annotation)} == set(STRATEGIES)
    assert set(WEIGHTS) == {name for name, loss in LOSSES.items() if loss.__name__ == "weighted"}


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - set(WEIGHTS)))
def test_strategies_that_weigh_in_every_batch_have_no_weights_before(strategy: str) -> None:
    logits, labels, _ = world(samples=50)
    assert teacher_weights(distill(strategy=strategy), profile_data(logits, labels), logits, labels) is None


def test_weights_refuse_logits_of_other_classes() -> None:
    logits, labels, _ = world(samples=50)
    found = profile_data(logits, labels)
    with pytest.raises(
        ValueError, match=r"logits must be \[N, 10\] and labels \[N\], got \[50, 3\] and \[50\]"
    ):
        teacher_weights(distill(), found, logits[:, :3], labels)


@pytest.mark.parametrize(
    ("changes", "counts", "shifted"),
    [
        ({}, [90, 20, 10], True),
        ({}, [30, 20, 10], False),
        ({"logit_adjustment": "on"}, [30, 20, 10], True),
        ({"logit_adjustment": "off"}, [90, 20, 10], False),
        ({"strategy": "fixed"}, [90, 20, 10], False),
        ({"strategy": "labels", "logit_adjustment": "on"}, [90, 20, 10], True),
        ({"strategy": "dkd", "logit_adjustment": "on"}, [30, 20, 10], True),
    ],
)
def test_logits_are_adjusted_where_classes_are_imbalanced(
    changes: dict[str, Any], counts: list[int], shifted: bool
) -> None:
    logits, labels, _ = world(classes=3, samples=60)
    found = profile_data(logits, labels, train_counts=torch.tensor(counts))
    shift = log_prior(distill(**changes), found)
    assert (shift is not None) == shifted
    if shift is not None:
        torch.testing.assert_close(shift.exp(), torch.tensor(counts) / sum(counts))


def test_weights_by_class() -> None:
    weights, labels = torch.rand(200), torch.randint(3, (200,)) * 2  # classes 0, 2, 4 of 6
    rows = weights_by_class(weights, labels, 6)
    assert [row["class"] for row in rows] == [0, 2, 4] and sum(row["n"] for row in rows) == 200
    for row in rows:
        group = weights[labels == row["class"]].double().numpy()
        assert row["mean"] == pytest.approx(group.mean()) and row["n"] == len(group)
        assert (row["p10"], row["p90"]) == pytest.approx(tuple(np.quantile(group, [0.1, 0.9])))
