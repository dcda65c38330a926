"""The files of akgp that a computation depends on: the transitive imports of a module, read, never run.

A change of one of them may change what is computed; a change of any other file cannot. dvc.yaml's stages
depend on them, and so does the name of a job, which is resumed only while they are the same.

Imports count anywhere in a file, including inside functions, except those under TYPE_CHECKING. For a package
whose `__init__.py` only imports, the modules that define the imported names count. Not followed are:

- names imported from the package akgp.params, the schema of params.yaml: its values are dependencies of their
  own, and a new parameter of one section would otherwise run all stages again. A module of it that is
  imported by its own name counts: it computes from them (training_defaults, strategies).
- akgp.orchestration: where a stage computes is no part of what it computes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package akgp."""
SCHEMA, ELSEWHERE = "akgp.params", "akgp.orchestration"


def source_files(*modules: str, root: Path = ROOT) -> list[Path]:
    """The files below `root`, sorted, that `modules` depend on, of their own package and of akgp.

    They include other files that a module names, such as a template beside it.

    Raises:
        ModuleNotFoundError: one of `modules` does not exist.
    """
    sources = _Sources(root)
    for module in modules:
        if sources.file(module) is None:
            raise ModuleNotFoundError(f"{module}: no such module in {root}")
    return sorted(sources.closure([(module, None) for module in modules]))


def only_imports(file: Path) -> bool:
    """Whether it is a package's `__init__.py` that only imports names from other modules."""
    return file.name == "__init__.py" and all(map(_defines_nothing, ast.parse(file.read_bytes()).body))


Imported = tuple[str, str | None]
"""A module's dotted name, and what is imported from it; None: all of it."""


class _Sources:
    """The modules below `root`, each read once."""

    def __init__(self, root: Path) -> None:
        self.root, self.read = root, dict[Path, _Module]()

    def closure(self, imported: list[Imported]) -> set[Path]:
        """The files that the imported names depend on."""
        packages = {"akgp", *(name.partition(".")[0] for name, _ in imported)}
        done, files = set[Imported](), set[Path]()
        while imported:
            name, attribute = each = imported.pop()
            file = self.file(name)
            if each in done or name.partition(".")[0] not in packages or file is None:
                continue
            if name == SCHEMA or f"{name}.".startswith(f"{ELSEWHERE}."):
                continue
            done.add(each)
            parent = name.rpartition(".")[0]
            if parent and not self.module(parent).only_imports:  # importing a module runs its package too
                imported.append((parent, None))
            module = self.module(name)
            if not module.only_imports:
                files |= {file, *module.named_files}
                imported += module.imports
            elif attribute is None:
                imported += module.imports
            elif origins := [source for alias, source in module.aliases if alias == attribute]:
                imported += origins
            else:  # defined there, such as __version__
                files.add(file)
        return files

    def file(self, name: str) -> Path | None:
        """The file of a module; None if it does not exist."""
        path = self.root.joinpath(*name.split("."))
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
        return None

    def module(self, name: str) -> _Module:
        file = self.file(name)
        assert file is not None
        if file not in self.read:
            self.read[file] = _Module(file, name, self)
        return self.read[file]


class _Module:
    """A module as its text shows it."""

    def __init__(self, file: Path, name: str, sources: _Sources) -> None:
        self.file, self.sources = file, sources
        self.package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        self.text = file.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, str(file))
        self.only_imports = only_imports(file)

    @cached_property
    def named_files(self) -> list[Path]:
        """The files beside the module, not Python's, whose names it holds as strings."""
        beside = [each for each in self.file.parent.iterdir() if each.suffix != ".py" and each.is_file()]
        return [file for file in beside if f'"{file.name}"' in self.text]

    @cached_property
    def imports(self) -> list[Imported]:
        return [source for _, source in self.aliases]

    @cached_property
    def aliases(self) -> list[tuple[str, Imported]]:
        """Each import: its name in the module, and what it refers to."""
        return [each for node in _statements(self.tree) for each in self._imported(node)]

    def _imported(self, node: ast.AST) -> Iterator[tuple[str, Imported]]:
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, (alias.name, None)) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = self.package.split(".")
            parents = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = self.sources.file(inner) is not None
                attribute = None if alias.name == "*" else alias.name
                yield alias.asname or alias.name, (inner, None) if is_module else (base, attribute)


def _defines_nothing(statement: ast.stmt) -> bool:
    """Whether it is an import, a string, or a name such as `__all__`."""
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[0]).startswith("__")
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, (ast.Import, ast.ImportFrom))


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """All statements, nested ones included, except those under TYPE_CHECKING."""
    left: list[Any] = list(tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.stmt):
            yield node
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        blocks = ("orelse",) if typing_only else ("body", "orelse", "finalbody", "handlers", "cases")
        for block in blocks:
            left += getattr(node, block, ())
