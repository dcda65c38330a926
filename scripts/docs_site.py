"""What MkDocs does beside rendering docs/: hooks named in mkdocs.yml.

- A line `<!-- generated: NAME -->` of a page, with the lines right below it, which are for those who read it
  in the repository, becomes what the code says (the parameters, the commands) or a table of results/.
- A link that leaves docs/ (`../results/…`, `../../infra/…`) works on a git host as it stands; in the site
  the file that it names is copied below `repository/`, rendered if it is Markdown, and the link follows it.
- Nothing may be fetched by whoever reads the site: a built page that loads something over the network is an
  error.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[1]
OUTSIDE = "repository"
"""The site's folder of files that lie outside docs/."""

LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?(?:\s+\"[^\"]*\")?\))")
ELSEWHERE = re.compile(r"^([a-z][a-z0-9+.-]*:|//)")
MARKER = re.compile(r"^<!-- generated: (\w+) -->(?:\n\S.*)*$", re.M)


# Links that leave docs/


def _place(uri: str) -> str:
    """A page's path in the repository, by its path in the site."""
    inside = uri.removeprefix(f"{OUTSIDE}/")
    return inside if inside != uri else f"docs/{uri}"


def _uri(place: str) -> str:
    """The inverse: a file's path in the site, by its path in the repository."""
    inside = place.removeprefix("docs/")
    return inside if inside != place else f"{OUTSIDE}/{place}"


def _target(place: str, link: str) -> str:
    """The path in the repository that a link in the file at `place` names; of a folder, its README."""
    path = link.lstrip("/") if link.startswith("/") else posixpath.join(posixpath.dirname(place), link)
    path = posixpath.normpath(path)
    return f"{path}/README.md" if (ROOT / path / "README.md").is_file() else path


def _outside_code(text: str) -> Iterator[tuple[bool, str]]:
    """The lines of a page, and whether each is prose rather than in a fenced block."""
    fence = ""
    for line in text.splitlines(keepends=True):
        opened = re.match(r"\s*(```+|~~~+)", line)
        inside = bool(fence)
        if opened and not fence:
            fence = opened[1]
        elif opened and line.strip() == fence:
            fence = ""
        yield not (inside or opened), line


def links(text: str) -> Iterator[str]:
    """The targets of the relative links in a page's prose, without fragments."""
    for prose, line in _outside_code(text):
        for found in LINK.finditer(line) if prose else ():
            if not ELSEWHERE.match(found[2]):
                yield found[2]


def _with_links(text: str, change: Callable[[str], str]) -> str:
    """`text` with each of these targets replaced by what `change` makes of it."""

    def changed(found: re.Match[str]) -> str:
        return found[0] if ELSEWHERE.match(found[2]) else found[1] + change(found[2]) + found[3]

    return "".join(LINK.sub(changed, line) if prose else line for prose, line in _outside_code(text))


def _outside(places: list[str]) -> Iterator[str]:
    """Of these files and all that they link to, links of links included, those that lie outside docs/."""
    waiting, seen = [*places], set[str]()
    while waiting:
        place = waiting.pop()
        if place in seen or not (ROOT / place).is_file():
            continue
        seen.add(place)
        if not place.startswith("docs/"):
            yield place
        if place.endswith(".md"):
            waiting += [_target(place, link) for link in links((ROOT / place).read_text(encoding="utf-8"))]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages and the navigation name outside docs/."""
    pages = [_place(file.src_uri) for file in files.documentation_pages()]
    named = [_place(uri) for uri in re.findall(rf"{OUTSIDE}/[^'\"]+", str(config.nav))]
    for place in _outside([*pages, *named]):
        content, inclusion = (ROOT / place).read_bytes(), InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, _uri(place), content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated; let links follow the files that were copied."""
    uri = page.file.src_uri
    if uri.startswith(f"{OUTSIDE}/results/"):  # rows of figures, which would bury what is looked for
        page.meta["search"] = {"exclude": True}
    place, folder = _place(uri), posixpath.dirname(uri) or "."
    linked = _with_links(markdown, lambda link: posixpath.relpath(_uri(_target(place, link)), folder))
    return MARKER.sub(lambda found: GENERATED[found[1]](), linked)


# What is generated


def _kind(schema: Mapping[str, Any]) -> str:
    """What a parameter may be, from its JSON schema: `number, above 0, at most 10, or null`."""
    if "anyOf" in schema:
        kinds = [_kind(each) for each in schema["anyOf"]]
        return ", or ".join(
            [*(kind for kind in kinds if kind != "null"), *(["null"] if "null" in kinds else [])]
        )
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    bounds = [
        f"{words} {schema[key]:,}" if isinstance(schema[key], int) else f"{words} {schema[key]:g}"
        for key, words in {
            "exclusiveMinimum": "above",
            "minimum": "at least",
            "exclusiveMaximum": "below",
            "maximum": "at most",
        }.items()
        if key in schema
    ]
    kind = schema.get("type", "")
    if kind == "array":
        items = schema.get("items") or {"anyOf": schema.get("prefixItems", [])}
        each = _kind(items)
        return "list of names" if each == "text" else f"list, each {each}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping, each {_kind(schema['additionalProperties'])}"
    names = {"string": "text", "boolean": "`true`, `false`", "null": "null"}
    return ", ".join([names.get(kind, kind), *bounds])


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section that a field holds, if it holds one, and what stands between their names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    if get_origin(annotation) is dict:
        return _inner(get_args(annotation)[1])[0], ".NAME"
    return None, ""


def _default(field: FieldInfo) -> str:
    """A parameter's value where it is left out; of a section, what differs from its own defaults."""
    if field.is_required():
        return "**must be given**"
    if field.default_factory_takes_validated_data:
        return "default: follows the others"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_unset=True) or ""
    elif isinstance(value, dict):
        value = {key: each.model_dump(mode="json", exclude_unset=True) for key, each in value.items()}
    return "" if value == "" else f"default `{json.dumps(value, ensure_ascii=False).strip(chr(34))}`"


def _section(
    name: str, model: type[BaseModel], level: int, shown: dict[type[BaseModel], str]
) -> Iterator[str]:
    """Heading, docstring and table of a section, then its own sections; `shown`: those described already."""
    yield f"{'#' * level} {name or 'The whole file'} {{#{_anchor(name)}}}\n"
    if model in shown:
        yield f"As [`{shown[model]}`](#{_anchor(shown[model])}).\n"
        return
    shown[model] = name
    yield "\n\n".join(" ".join(each.split()) for each in (model.__doc__ or "").split("\n\n")) + "\n"
    yield "| parameter | value | |\n| --- | --- | --- |"
    schemas, below = model.model_json_schema()["properties"], []
    for key, field in model.model_fields.items():
        path = f"{name}.{key}".lstrip(".")
        inner, between = _inner(field.annotation)
        label, kind = f'<span id="{path}">`{key}`</span>', _kind(schemas[key]) if not inner else "section"
        if inner:
            below.append((path + between, inner))
            label = f"[`{key}`](#{_anchor(path + between)})"
            kind = "sections by name" if between else "section"
        value = "<br>".join(filter(None, [kind, _default(field)]))
        yield f"| {' | '.join(map(_cell, (label, value, field.description or '')))} |"
    yield ""
    for path, inner in below:
        yield from _section(path, inner, min(level + bool(name), 4), shown)


@cache
def parameters() -> str:
    """Every section of the schema: its docstring, and a table of its parameters."""
    from akgp.params import Params

    return "\n".join(_section("", Params, 2, {}))


def _anchor(path: str) -> str:
    return path.replace(".", "-").lower() or "all"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace(".*", ".\\*")


@cache
def commands() -> str:
    """Every command with its arguments and options, as Typer describes them."""
    import typer
    from typer.cli import get_docs_for_click

    from akgp.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="akgp")
    return str(get_docs_for_click(obj=command, ctx=context, indent=1, name="akgp"))


@cache
def packages() -> str:
    """Every part of akgp, and the first paragraph of its docstring."""
    parts = [
        *ROOT.glob("akgp/*/__init__.py"),
        *(file for file in ROOT.glob("akgp/*.py") if file.stem[0] != "_"),
    ]
    rows = ["| part | its job |", "| --- | --- |"]
    for file in sorted(parts):
        name = file.parent.name + "/" if file.stem == "__init__" else file.name
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        rows.append(f"| `{name}` | {_cell(' '.join(docstring.partition(chr(10) * 2)[0].split()))} |")
    return "\n".join(rows)


def families(folder: str = "") -> str:
    """The table of benchmarks.families in this folder of its results."""
    text = (ROOT / "results/families" / folder / "table.md").read_text(encoding="utf-8")
    return text[text.index("| network") :]


GENERATED: Mapping[str, Callable[[], str]] = {
    "parameters": parameters,
    "commands": commands,
    "packages": packages,
    "families": families,
    "timm": partial(families, "timm"),
}


# Nothing from elsewhere


class _Resources(HTMLParser):
    """Collects the addresses that a browser fetches by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "link" and given.get("rel") in ("canonical", "next", "prev"):
            return
        keys = ("href",) if tag == "link" else ("src", "srcset", "data", "poster") if tag != "a" else ()
        self.fetched += [value for key in keys if (value := given.get(key))]
        if "mermaid" in (given.get("class") or "").split():
            self.fetched.append("https: mermaid, which the theme loads from a network")


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError if a page of the site loads anything over the network."""
    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix == ".html":
            parser = _Resources()
            parser.feed(file.read_text(encoding="utf-8"))
            fetched = parser.fetched
        elif file.suffix in (".css", ".svg"):
            fetched = re.findall(r"(?:url\(|@import )\s*[\"']?([^\"')]+)", file.read_text(encoding="utf-8"))
        else:
            continue
        if bad := [address for address in fetched if re.match(r"\s*(https?:|//)", address)]:
            raise PluginError(f"{file.relative_to(config.site_dir)} loads {bad[0]} over the network")
