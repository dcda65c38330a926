"""What a computation raises is one line that a driver can unpickle, with the place in the user's file."""

from __future__ import annotations

import errno
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from akgp import params
from akgp.models import ModelError, create
from akgp.models.spec import Spec
from akgp.orchestration.failures import ComputationError, errors_in_one_line, raise_cause
from akgp.orchestration.train import copy_artifacts
from akgp.workspace import StageError, Task

FAILING = """
import sys
import torch
from torch import nn

class Odd(Exception):
    def __init__(self, one, two):  # cannot be unpickled
        super().__init__(f"{one} of {two}")

def view(x): return x.permute(0, 2, 3, 1).view(-1)
def odd(x): raise Odd("one", "two\\nlines")
def value(x): raise ValueError("not mine")
def file(x): return open("nowhere.txt")
def claims(x): assert x.ndim == 9
def ends(x): sys.exit(3)
def gpu(x): return x.to("cuda:7")
def memory(x): raise MemoryError("no room")

class Net(nn.Module):
    def __init__(self, fails):
        super().__init__()
        self.fails = fails
    def forward(self, x):
        return self.fails(x)
"""


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_failing", raising=False)
    import my_failing  # type: ignore[import-not-found]

    return my_failing


def task(root: Path) -> Task:
    networks = {"mine": {"architecture": "my_failing:Net"}}
    tree = {"networks": networks, "teachers": ["mine"], "student": "mine", "data": {"splits": {"test": 0.25}}}
    return Task("teacher", params.validate(tree), root, "mine")


def line(root: Path, call: Callable[[], object], here: Path | None = None) -> str:
    with pytest.raises(StageError) as raised, errors_in_one_line(task(root), here or root):
        call()
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is raised.type and str(again) == str(raised.value)
    assert "\n" not in str(again)
    return str(again)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("view", "teacher@mine: RuntimeError: view size is not compatible"),
        ("odd", "teacher@mine: Odd: one of two lines; "),
        ("value", "teacher@mine: ValueError: not mine; "),
        ("file", "teacher@mine: FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.txt'; "),
        ("claims", "teacher@mine: AssertionError: "),
        ("ends", "teacher@mine: SystemExit: 3; "),
        ("gpu", "teacher@mine: "),
    ],
)
def test_the_users_own_mistake_names_its_line(name: str, said: str, failing: Any, tmp_path: Path) -> None:
    number = 1 + FAILING.splitlines().index(next(t for t in FAILING.splitlines() if f"def {name}(" in t))
    found = line(tmp_path, lambda: failing.Net(getattr(failing, name))(torch.zeros(2, 3, 4, 4)))
    assert found.startswith(said) and found.endswith(f"; my_failing.py:{number}, in {name}"), found


def test_memory_that_does_not_suffice_names_what_to_lower(failing: Any, tmp_path: Path) -> None:
    assert "lower batch_size" in line(tmp_path, lambda: failing.memory(0))


def test_an_error_of_a_library_names_its_line(tmp_path: Path) -> None:
    found = line(tmp_path, lambda: torch.nn.Linear(3, 4)(torch.zeros(2, 5)))
    assert found.startswith("teacher@mine: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert " in " in found


def test_an_error_about_the_input_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as raised, errors_in_one_line(task(tmp_path), tmp_path):
        create(Spec("nowhere:f", 4, 3))
    assert raised.type is ModelError


def test_a_copy_of_the_workspace_is_called_by_the_users_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy := tmp_path / "copy").mkdir()
    monkeypatch.chdir(copy)
    with pytest.raises(ComputationError) as raised, errors_in_one_line(task(Path("/home/user/pets")), copy):
        create(Spec("nowhere:f", 4, 3))
    assert "cannot be imported from /home/user/pets: ModuleNotFoundError" in str(raised.value)


@pytest.mark.parametrize("file", [None, "model.safetensors"])
def test_a_full_disk_is_said_with_what_resumes(file: str | None) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", file)
    with pytest.raises(StageError) as raised:
        raise_cause("distill", RuntimeError("as Ray raised it"), [full])
    assert str(raised.value) == (
        f"distill: a file can't be read or written ({full}); `dvc repro` resumes from its last epoch"
    )


def test_what_cannot_be_copied_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gone.json").symlink_to("nowhere")
    with pytest.raises(StageError) as raised:
        copy_artifacts(tmp_path / "out", tmp_path / "new")
    assert str(raised.value) == (
        f"{tmp_path}/new: cannot be written ([Errno 2] No such file or directory: "
        f"'{tmp_path}/out/gone.json'); `dvc repro` tries it again"
    )


def test_how_ray_tune_stops_a_trial_is_no_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit), errors_in_one_line(task(tmp_path), tmp_path):
        sys.exit(0)
