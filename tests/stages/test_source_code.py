"""Which files a computation comes from: small packages with a known answer, and akgp itself, changed."""

from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from akgp import artifacts, params
from akgp.data import prepare
from akgp.models import cifar_resnet
from akgp.orchestration.digest import code_of, digest
from akgp.stages import prune
from akgp.stages.source_code import ROOT, source_files
from akgp.stages.table import STAGES
from akgp.workspace import Task

PACKAGE = {
    "akgp/__init__.py": '"""Nothing."""\n__version__ = "1"\n',
    "akgp/params/__init__.py": "from akgp.params.schema import Params\n",
    "akgp/params/schema.py": "Params = 1\n",
    "akgp/params/rules.py": "from akgp.params import Params\n",
    "akgp/orchestration/__init__.py": "",
    "akgp/orchestration/job.py": "import akgp.start\n",
    "akgp/start.py": "",
    "akgp/facade/__init__.py": "from akgp.facade.one import one, other as uno\n"
    "from akgp.facade.two import two\n"
    '__all__ = ["one", "two"]\n',
    "akgp/facade/one.py": "one = other = 1\nTEMPLATE = 'page'\n",
    "akgp/facade/two.py": 'from . import three\nfrom ..facade import one\nPAGE = "page.html"\n',
    "akgp/facade/three.py": "",
    "akgp/facade/page.html": "",
    "akgp/facade/page": "",
    "akgp/active/__init__.py": "import akgp.start\nprint('it runs')\n",
    "akgp/active/part.py": "",
}
FACADE = ["facade/one.py", "facade/page.html", "facade/three.py", "facade/two.py"]


def closure(root: Path, text: str) -> list[str]:
    """The files of akgp, by their paths in it, that a module of this text comes from."""
    for name, content in PACKAGE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "akgp" / "asked.py").write_text(text)
    files = [str(file.relative_to(root / "akgp")) for file in source_files("akgp.asked", root=root)]
    files.remove("asked.py")
    return files


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("import os, numpy", []),
        ("import akgp.facade.three", ["facade/three.py"]),
        ("from akgp.facade import one", ["facade/one.py"]),
        ("from akgp.facade import uno", ["facade/one.py"]),
        ("from akgp.facade import two", FACADE),
        ("from akgp import facade", FACADE),
        ("from akgp.facade import three", ["facade/three.py"]),
        ("from akgp import __version__", ["__init__.py"]),
        ("from akgp.active import part", ["active/__init__.py", "active/part.py", "start.py"]),
        ("def f():\n    with x:\n        import akgp.start", ["start.py"]),
        ("try:\n    pass\nexcept E:\n    import akgp.start", ["start.py"]),
        ("match x:\n    case 1:\n        import akgp.start", ["start.py"]),
        ("if TYPE_CHECKING:\n    import akgp.facade\nelse:\n    import akgp.start", ["start.py"]),
        ("import akgp.params\nfrom akgp.params import Params", []),
        ("from akgp.params import rules", ["params/rules.py"]),
        ("from akgp.orchestration import job", []),
    ],
)  # fmt: skip
def test_the_imports_of_a_module_are_followed(text: str, files: list[str], tmp_path: Path) -> None:
    assert closure(tmp_path, text) == files


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    closure(tmp_path, "")
    with pytest.raises(ModuleNotFoundError, match=r"^akgp\.gone: no such module in "):
        source_files("akgp.gone", root=tmp_path)


@pytest.mark.slow
def test_whatever_runs_when_a_network_is_pruned_is_among_its_files(tmp_path: Path) -> None:
    """Against the interpreter's own account of the functions that it calls."""
    task = Task("prune", small(), tmp_path)
    task.workspace.data.mkdir(parents=True)
    prepare(task.params.data, 0, task.workspace.data)
    artifacts.save(cifar_resnet(20, (8, 16, 24), 10, 1), task.workspace.dense("net"))
    called = set()

    def called_from(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            called.add(Path(frame.f_code.co_filename))

    (tmp_path / "out").mkdir()
    threading.setprofile(called_from)  # of the thread, too, in which it prunes
    sys.setprofile(called_from)
    try:
        for _ in prune.compute(task, tmp_path / "out", None):
            pass
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    ours = {file for file in called if file.is_relative_to(ROOT / "akgp")}
    assert ROOT / "akgp/pruning/criteria.py" in ours
    assert ours - set(source_files("akgp.stages.prune")) <= set((ROOT / "akgp/params").iterdir())


def small() -> params.Params:
    return params.validate(
        {
            "data": {"color": "gray", "splits": {"test": 0.25}},
            "networks": {"net": {"architecture": "cifar_resnet20"}},
            "teachers": ["net"],
            "student": "net",
            "prune": {"ratio": 0.5},
        }
    )


@pytest.fixture(scope="module")
def code() -> dict[str, list[Path]]:
    """Of each stage that is a job the files that its name is made of."""
    return {name: code_of(stage.module) for name, stage in STAGES.items() if stage.runs != "here"}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("reporting/page.py", {"evaluate"}),
        ("reporting/template.html.j2", {"evaluate"}),
        ("evaluation/cost.py", {"prune", "distill", "quantize", "evaluate"}),
        ("quantization/ptq.py", {"prune", "quantize", "evaluate"}),
        ("pruning/budget.py", {"prune"}),
        ("training/loop.py", {"teacher", "folds", "prune", "distill", "quantize"}),
        ("params/training_defaults.py", {"teacher", "folds", "prune", "distill", "quantize", "evaluate"}),
        ("data/parquet.py", set()),
        ("params/strategies.py", {"prune", "distill", "quantize"}),
        ("params/compression.py", set()),
        ("orchestration/progress.py", set()),
        ("orchestration/worker.py", {"teacher", "folds", "prune", "distill", "quantize", "evaluate"}),
        ("stages/table.py", set()),
        ("stages/dry_run.py", set()),
    ],
)
def test_a_file_belongs_to_the_jobs_that_it_can_change(
    file: str, stages: set[str], code: dict[str, list[Path]]
) -> None:
    path = ROOT / "akgp" / file
    assert path.is_file()
    assert {name for name, files in code.items() if path in files} == stages


def test_a_job_has_another_name_once_its_code_has_changed(tmp_path: Path) -> None:
    """An interrupted one is not resumed by other code, but by the same code, whatever the report's is."""
    shutil.copytree(ROOT / "akgp", tmp_path / "akgp", ignore=shutil.ignore_patterns("__pycache__"))
    task, stage = Task("prune", small(), tmp_path), STAGES["prune"]

    def name() -> str:
        return digest(task, stage.keys_of(task), [], code_of(stage.module, root=tmp_path))

    before = name()
    (tmp_path / "akgp/reporting/page.py").write_text("changed = True")
    assert name() == before
    (tmp_path / "akgp/evaluation/cost.py").write_text("changed = True")
    assert name() != before
