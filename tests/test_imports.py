"""Imports point down, and the library needs none of the programs that orchestrate it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLANCE = 12
"""Modules of a package that need no map."""
ORCHESTRATORS = {"ray", "dvc", "prefect"}

# What each part imports of the project, beside itself.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "params": set(),
    "timed_search": set(),
    "workspace": set(),
    "io": {"params"},
    "data": {"io", "params"},
    "models": {"data", "io", "params"},
    "artifacts": {"io", "models"},
    "runtimes": {"io"},
    "evaluation": {"data", "models", "params", "runtimes"},
    "training": {"data", "models", "params"},
    "pruning": {"evaluation", "io", "models", "params", "timed_search"},
    "distillation": {"data", "evaluation", "models", "params", "training"},
    "quantization": {"io", "models", "params", "runtimes"},
    "reporting": {"io", "params", "workspace"},
    "deployment": {
        "data",
        "evaluation",
        "io",
        "params",
        "quantization",
        "reporting",
        "runtimes",
        "timed_search",
        "workspace",
    },
    "microcontroller": {"data", "deployment", "io", "quantization"},
    "budgets": {"deployment", "microcontroller", "models", "params", "pruning", "runtimes", "timed_search"},
    "stages": {
        "artifacts",
        "budgets",
        "data",
        "deployment",
        "distillation",
        "evaluation",
        "io",
        "microcontroller",
        "models",
        "params",
        "pruning",
        "quantization",
        "reporting",
        "runtimes",
        "timed_search",
        "training",
        "workspace",
    },
    "orchestration": {"io", "models", "params", "stages", "workspace"},
    "recipes": {"io", "orchestration", "params", "workspace"},
    "outdated_results": {"io", "params", "reporting", "stages", "workspace"},
    "sweep": {
        "artifacts",
        "data",
        "deployment",
        "distillation",
        "evaluation",
        "io",
        "orchestration",
        "outdated_results",
        "params",
        "quantization",
        "recipes",
        "reporting",
        "runtimes",
        "stages",
        "workspace",
    },
    "doctor": {"params", "recipes", "training"},
    "precheck": {"doctor", "microcontroller", "params", "runtimes", "stages"},
    "cli": {
        "artifacts",
        "budgets",
        "data",
        "deployment",
        "doctor",
        "evaluation",
        "io",
        "microcontroller",
        "models",
        "orchestration",
        "outdated_results",
        "params",
        "precheck",
        "pruning",
        "quantization",
        "recipes",
        "reporting",
        "runtimes",
        "stages",
        "sweep",
        "timed_search",
        "workspace",
    },
    "flows": {"cli", "deployment", "io", "params", "recipes", "reporting", "stages", "workspace"},
}
AKGP = ROOT / "akgp"
FILES = sorted([*AKGP.rglob("*.py"), *(ROOT / "flows").rglob("*.py")])


def part(file: Path) -> str:
    """The part of the project that `file` belongs to, as ALLOWED names it."""
    first, second, *_ = file.relative_to(ROOT).parts
    return "flows" if first == "flows" else Path(second).stem


def imports(file: Path) -> Iterator[str]:
    """Dotted names of all that `file` imports, anywhere in it, except for type checking only."""
    package = ".".join(file.relative_to(ROOT).parts[:-1])
    tree = ast.parse(file.read_text(), file.name)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_imports_point_down() -> None:
    """No part imports more than ALLOWED says, and what it says is needed."""
    used: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for file in FILES:
        own = part(file)
        for name in imports(file):
            root, _, rest = name.partition(".")
            first = rest.split(".")[0]
            if root == "akgp" and ((AKGP / first).is_dir() or (AKGP / f"{first}.py").exists()):
                used[own].add(first)
            assert root != "flows" or own == "flows", f"{file} imports {name}"
    assert {own: parts - {own} for own, parts in used.items()} == ALLOWED


def test_outside_packages_are_kept_to_their_places() -> None:
    places = {
        "ray": {"orchestration", "sweep"},
        "prefect": {"flows"},
        "dvc": {"flows"},
        # Networks run through the protocol of akgp.runtimes; quantization also looks into what it writes for.
        "onnxruntime": {"runtimes", "quantization"},
        "akgp.runtimes.onnxruntime": {"runtimes", "quantization"},
    }
    for file in FILES:
        for name in imports(file):
            for package, allowed in places.items():
                if name == package or name.startswith(f"{package}."):
                    assert part(file) in allowed, f"{file} imports {name}"


@pytest.mark.slow
def test_the_library_runs_without_orchestrators() -> None:
    """Every module below the stages imports where ray, dvc and prefect cannot be imported."""
    names = sorted(
        {
            ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for file in FILES
            if part(file) not in ("flows", "orchestration", "sweep")
        }
    )
    code = f"""
import sys
for name in {sorted(ORCHESTRATORS)}: sys.modules[name] = None
import importlib
for name in {names}: importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "akgp.params, akgp.cli, akgp.recipes, akgp.doctor, akgp.reporting.page",
            "torch numpy matplotlib jinja2",
        ),
        (
            "akgp.stages, akgp.orchestration.run, akgp.orchestration.worker",
            "torch numpy pyarrow ray",
        ),  # a stage's driver
        (
            "akgp.training, akgp.pruning, akgp.distillation",
            "onnx onnxruntime torchvision sklearn matplotlib pyarrow fsspec",
        ),
    ],
)
def test_light_modules_stay_light(modules: str, absent: str) -> None:
    code = f"import sys, {modules}; sys.exit(' '.join(set({absent.split()}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_package_says_where_to_find_what() -> None:
    """In its docstring, if it has many; those of commands and of sections are named by them."""
    for package in AKGP.iterdir():
        modules = [file.stem for file in package.glob("*.py") if file.stem != "__init__"]
        if len(modules) > GLANCE and package.name not in ("cli", "params"):
            docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
            assert [name for name in modules if f"`{name}`" not in docstring] == [], package.name
