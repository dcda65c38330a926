"""How many threads a worker has, and how they wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from akgp import params
from akgp.orchestration.session import WAITING, openmp
from akgp.orchestration.worker import prepare
from akgp.recipes import available
from akgp.workspace import Task


@pytest.fixture
def no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in WAITING:
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_thread_unless_asked_for_more(threads: None, tmp_path: Path) -> None:
    recipe = params.load(available()["digits"])
    for ray, expected in ((params.Ray(), 1), (params.Ray(cpus_per_worker=2), 2)):
        prepare(Task("teacher", recipe.model_copy(update={"ray": ray}), tmp_path))
        assert torch.get_num_threads() == expected


def test_idle_threads_sleep(no_policy: None) -> None:
    assert openmp() == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.parametrize("key, value", [
    ("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "300000"), ("KMP_BLOCKTIME", "200"),
])  # fmt: skip
def test_the_environment_of_the_command_wins(
    key: str, value: str, no_policy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(key, value)
    assert openmp() == {key: value}
