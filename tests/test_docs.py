"""The documentation: what code and pages name exists, and what its site generates is what the code says."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import pytest
from ruamel.yaml import YAML

from akgp import params

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts/docs_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file() and name]


def test_every_page_that_code_and_configuration_name_exists() -> None:
    named = {
        (file.relative_to(ROOT), page)
        for file in tracked("*.py", "*.yaml", "*.toml", "Makefile", ".ci/run")
        for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|png|svg)\b", file.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert [each for each in named if not (ROOT / each[1]).is_file()] == []


def test_every_relative_link_of_a_markdown_file_leads_somewhere(site: ModuleType) -> None:
    """The site's build looks at its own pages; this looks at all of them, as a git host shows them."""
    broken = [
        (str(file.relative_to(ROOT)), link)
        for file in tracked("*.md")
        for link in site.links(file.read_text(encoding="utf-8"))
        if not (ROOT if link.startswith("/") else file.parent).joinpath(link.lstrip("/")).exists()
    ]
    assert broken == []


def test_messages_that_troubleshooting_quotes_are_those_of_the_code() -> None:
    page = (ROOT / "docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
    firsts = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    quoted = {quote for first in firsts for quote in re.findall(r"`([^`]+)`", first)}
    said = {
        node.value
        for file in tracked("akgp/*.py", "akgp/**/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert len(quoted) > 20
    assert [quote for quote in quoted if not any(quote in each for each in said)] == []


def test_the_reference_has_every_parameter_and_its_bounds(site: ModuleType) -> None:
    page = site.parameters()
    rows = {found[1]: found[0] for found in re.finditer(r'^\| <span id="([^"]+)">.*$', page, re.M)}
    assert "| number, above 0, at most 100<br>default `2.0` |" in rows["distill.temperature"]
    assert "| `error`, `skip`<br>default `error` |" in rows["data.on_bad_rows"]
    assert "| number, above 0, below 1, or null<br>default `null` |" in rows["prune.macs"]
    assert "must be given" in rows["networks.NAME.architecture"]
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    keys = set(re.findall(r"^ *(\w+):(?! *$)", params, re.M)) - {"resnet20"}
    assert keys <= {part for name in rows for part in name.split(".")} | {"teachers", "heads"}


def test_the_map_of_the_package_says_what_every_part_is_for(site: ModuleType) -> None:
    rows = [row.split(" | ") for row in site.packages().splitlines()[2:]]
    assert {"| `pruning/`", "| `orchestration/`", "| `workspace.py`"} <= {row[0] for row in rows}
    assert [row for row in rows if len(row[1]) < 20] == []


def test_the_files_that_pages_name_exist() -> None:
    """The log and the records say what was; other pages what is."""
    pages = [
        file for file in tracked("docs/**/*.md", "README.md") if file.name not in ("LOG.md", "weighting.md")
    ]
    top = {name.name for name in ROOT.iterdir()} & {
        "akgp",
        "benchmarks",
        "experiments",
        "flows",
        "infra",
        "tests",
    }
    named = {
        (file.name, name)
        for file in pages
        for name in re.findall(r"`([\w./-]+)`", file.read_text(encoding="utf-8"))
        if name.partition("/")[0] in top and "/" in name
    }
    assert len(named) > 5
    assert [each for each in named if not (ROOT / each[1]).exists()] == []


def examples(language: str, *patterns: str) -> list[tuple[str, str]]:
    """Every block of code in a language: the file it stands in, and the block."""
    return [
        (file.name, block)
        for file in tracked(*patterns)
        for block in re.findall(
            rf"^```{language}[^\n]*\n(.*?)^```$", file.read_text(encoding="utf-8"), re.S | re.M
        )
    ]


NETWORK = {"networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net"}


@pytest.mark.parametrize(("file", "block"), examples("yaml", "docs/*.md", "docs/how-to/*.md", "README.md"))
def test_examples_of_parameters_are_valid(file: str, block: str) -> None:
    params.validate(NETWORK | YAML(typ="safe").load(block))


def is_parameter(name: str) -> bool:
    """Whether a dotted name is a parameter or a section; `*` stands for any name."""
    section: Any = params.Params
    for part in name.split("."):
        if section is None or (part != "*" and part not in section.model_fields):
            return False
        if part != "*":
            inner = section.model_fields[part].annotation
            section = get_args(inner)[1] if get_origin(inner) is dict else inner
            section = section if hasattr(section, "model_fields") else None
    return True


def test_the_parameters_that_pages_name_exist() -> None:
    """The log says what parameters were called; other pages what they are called."""
    sections = "|".join(params.Params.model_fields)
    named = {
        (file.name, name)
        for file in tracked("docs/**/*.md", "README.md")
        for name in re.findall(rf"`((?:{sections})\.[\w.*]+)", file.read_text(encoding="utf-8"))
        if file.name != "LOG.md" and Path(name).suffix not in {".py", ".json", ".md"}
    }
    assert len(named) > 30
    assert [each for each in named if not is_parameter(each[1].replace("networks.NAME", "networks"))] == []


def test_the_example_of_the_library_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = examples("python", "docs/reference/library.md")
    exec(example[1], {})
    assert (tmp_path / "small" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_example_of_a_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec("\n".join(example for _, example in examples("python", "docs/how-to/notebook.md")), {})
    assert (tmp_path / "int8.onnx").is_file()
    dense, student = capsys.readouterr().out.splitlines()[-2:]
    shown = (ROOT / "docs/how-to/notebook.md").read_text(encoding="utf-8")
    for line in (dense, student):
        name, accuracy, macs = re.split(r": | %, ", line)
        assert float(accuracy) > 95 and re.search(rf"^{name}: .* %, {macs}$", shown, re.M)


def test_the_page_of_strategies_has_every_strategy() -> None:
    page = (ROOT / "docs/reference/strategies.md").read_text(encoding="utf-8")
    schema = params.Distill.model_json_schema()["properties"]["strategy"]
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(schema["enum"])


def test_the_reference_has_every_command(site: ModuleType) -> None:
    page = site.commands()
    assert "`akgp sweep apply`" in page and "`akgp release rollback`" in page and "--json" in page


def test_a_page_that_loads_something_over_the_network_is_refused(site: ModuleType, tmp_path: Path) -> None:
    from mkdocs.exceptions import PluginError

    (tmp_path / "fine.html").write_text('<a href="https://a.example">a</a><img src="b.png">')
    config = type("Config", (), {"site_dir": tmp_path})
    site.on_post_build(config)
    for number, bad in enumerate(
        ('<script src="https://cdn.example/x.js">', '<link rel="stylesheet" href="//fonts.example/a.css">')
    ):
        (tmp_path / f"{number}.html").write_text(bad)
        with pytest.raises(PluginError, match=rf"{number}\.html loads .*\.example.* over the network"):
            site.on_post_build(config)
        (tmp_path / f"{number}.html").unlink()


def test_a_link_that_leaves_the_pages_follows_the_file_s_copy(site: ModuleType) -> None:
    assert site._uri(site._target("docs/how-to/cluster.md", "../../infra/ray-up.yaml")) == (
        "repository/infra/ray-up.yaml"
    )
    assert site._target("docs/how-to/deploy.md", "../../results/digits") == "results/digits/README.md"
    assert site._uri(site._target("results/README.md", "../docs/LOG.md")) == "LOG.md"
    assert [*site.links("[a](b.md#c)\n```\n[no](x.md)\n```\n[w](https://w.example)![p](p.png)")] == [
        "b.md",
        "p.png",
    ]
