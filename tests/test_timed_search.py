"""A limit of time ends a search with the best so far, and says so; what takes long is shown."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from akgp.budgets.file_bytes import prune_to_file_bytes
from akgp.pruning import Pruned, PruningError, Reached, int8_bytes, prune
from akgp.pruning.module_progress import module_progress
from akgp.timed_search import counted, doing, ended, search, watched

EXAMPLE = torch.zeros(1, 3, 8, 8)


def test_a_search_ends_and_an_outer_one_goes_on() -> None:
    assert ended() is None
    with search() as outer:
        with search(1e-9) as inner:
            assert inner is outer and ended() == "the search ended after 1e-09 s (time_limit)"
        assert ended() is None
        doing("this")
        counted(2, 3, "parts")
        assert str(outer) == "this, 2 of 3 parts"
        doing("that")
        assert str(outer) == "that"


def test_the_modules_of_a_network_that_ran_are_counted() -> None:
    twice = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 4, 1), twice, nn.Conv2d(4, 4, 1), twice)
    with search() as current:
        doing("running")
        with module_progress(network):
            network[:2](EXAMPLE)
            assert str(current) == "running, 2 of 3 modules"
            network(EXAMPLE)
        assert str(current) == "running, 3 of 3 modules"
        doing("running again")
        network(EXAMPLE)
        assert str(current) == "running again"


def test_a_budget_has_the_nearest_so_far() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(3 if not i else 16, 16, 3, padding=1) for i in range(4)), nn.Flatten())
    exact = prune(model, EXAMPLE, macs=0.5, round_to=4)
    with search(1e-9):
        early = prune(model, EXAMPLE, macs=0.5, round_to=4)
    assert exact.budget is not None and (exact.budget.reached, exact.budget.why) == (0.5, None)
    assert early.budget is not None and 0.5 < early.budget.reached < 0.6
    assert early.budget.why is not None
    assert early.budget.why.startswith("the search ended after 1e-09 s (time_limit)")


def test_a_file_is_the_first_that_fits() -> None:
    cuts = []

    def cut(values: int) -> Pruned:
        cuts.append(values)
        model = nn.Linear(max(1, values // 2), 1, bias=False)
        return Pruned(model, [], Reached("bytes", values, int8_bytes(model), None))

    with search(1e-9):
        made = prune_to_file_bytes(cut, int8_bytes, nn.Linear(20_000, 1, bias=False), 10_000)
    assert len(cuts) == 1
    assert made.budget is not None and made.budget.why == "the search ended after 1e-09 s (time_limit)"


def test_what_takes_long_is_shown_and_errors_arrive() -> None:
    go = threading.Event()

    def compute() -> int:
        doing("waiting")
        go.wait()
        return 3

    running = watched(compute, every=0.01)
    assert any(next(running).startswith("waiting, ") for _ in range(1000))
    go.set()
    with pytest.raises(StopIteration) as end:
        while True:
            next(running)
    assert end.value.value == 3

    def fail() -> None:
        raise PruningError("no")

    with pytest.raises(PruningError, match="no"):
        next(watched(fail, every=60))
