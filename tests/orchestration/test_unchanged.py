"""A params.yaml that is edited while a stage computes: DVC must not record the new values for old results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from akgp import params
from akgp.orchestration.unchanged import require_unchanged
from akgp.stages.table import STAGES
from akgp.workspace import StageError, Task

SETTINGS = """\
seed: 0
data: {source: digits, splits: {test: 0.25}}
networks: {net: {architecture: cifar_resnet20}, big: {architecture: cifar_resnet56}}
teachers: [net, big]
student: net
teacher: {epochs: 2, batch_size: 64}
prune: {ratio: 0.5}
ray: {workers: 1}
"""


def task(root: Path, stage: str) -> Task:
    (root / "params.yaml").write_text(SETTINGS)
    network = "big" if STAGES[stage].networks else None
    return Task(stage, params.load(root / "params.yaml"), root, network)


@pytest.mark.parametrize(
    ("stage", "old", "new", "said"),
    [
        ("teacher", "epochs: 2", "epochs: 3", "teacher.epochs: 2, now 3"),
        ("teacher", "resnet56", "resnet32", "networks.big.architecture: cifar_resnet56, now cifar_resnet32"),
        ("teacher", ", big: {architecture: cifar_resnet56}", "", "networks.big: {…}, now not there"),
        ("prune", "{ratio: 0.5}", "{macs: 0.5}", "prune.ratio: 0.5, now null; prune.macs: null, now 0.5"),
        ("prune", "0.5}", "0.5, layers: {a: 0.7}}", "prune.layers.a: not there, now 0.7"),
        ("data", "seed: 0", "seed: 1", "seed: 0, now 1"),
    ],
)
def test_a_changed_parameter_of_the_stage_is_named(
    stage: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    given = task(tmp_path, stage)
    require_unchanged(given, STAGES[stage])
    edited = SETTINGS.replace(old, new)
    (tmp_path / "params.yaml").write_text(edited.replace("[net, big]", "[net]"))
    with pytest.raises(StageError) as raised:
        require_unchanged(given, STAGES[stage])
    assert str(raised.value) == (
        f"params.yaml has changed while {given.label} was computed ({said}): run it again"
    )


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        ("teacher", "ratio: 0.5", "ratio: 0.4"),
        ("teacher", "resnet20", "resnet32"),  # another network's
        ("teacher", "workers: 1", "workers: 2"),
        ("prune", "epochs: 2", "epochs: 3"),
        ("data", "seed: 0", "seed: 0  # as ever"),
    ],
)
def test_what_the_stage_does_not_depend_on_may_change(stage: str, old: str, new: str, tmp_path: Path) -> None:
    given = task(tmp_path, stage)
    (tmp_path / "params.yaml").write_text(SETTINGS.replace(old, new))
    require_unchanged(given, STAGES[stage])


# Edits the file when the stage begins to write.
EDITED = """
import sys
from pathlib import Path
from akgp.orchestration.run import run_stage
def hook(event, args):
    if event == "os.mkdir" and str(args[0]).endswith(".prepared.new"):
        file = Path("params.yaml")
        file.write_text(file.read_text().replace("seed: 0", "seed: 1"))
sys.addaudithook(hook)
run_stage("data")
"""


def test_a_stage_fails_whose_parameters_are_edited_while_it_computes(tmp_path: Path) -> None:
    task(tmp_path, "data")
    done = subprocess.run([sys.executable, "-c", EDITED], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "params.yaml has changed while data was computed (seed: 0, now 1): run it again"
    )
