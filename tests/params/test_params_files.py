from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from akgp import params
from tests.support.params_trees import schema_fields, tree


def written(folder: Path, text: str) -> Path:
    file = folder / "params.yaml"
    file.write_text(text)
    return file


UNKNOWN = f"unknown parameter; params.yaml has {', '.join(params.Params.model_fields)}"
SMALLEST = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", ".0001", "0.0001"])
def test_numbers_in_every_spelling(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, SMALLEST + f"teacher: {{weight_decay: {text}}}\n")
    assert params.load(file).teacher.weight_decay == 1e-4


def test_an_integer_is_a_number(tmp_path: Path) -> None:
    assert params.load(written(tmp_path, SMALLEST + "distill: {temperature: 4}\n")).distill.temperature == 4.0


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (SMALLEST + "seed: 1\nseed: 2\n", ["line 5: 'seed' stands here twice"]),
        (SMALLEST + "distill: {w0: 0.1, w0: 0.2}\n", ["line 4: 'w0' stands here twice"]),
        ("a: [", ["line 1: not valid YAML: expected the node content, but found '<stream end>'"]),
        ("- a\n", ["must be a mapping of parameters"]),
        ("", ["must be a mapping of parameters"]),
        ("# nothing\n", ["must be a mapping of parameters"]),
        (
            SMALLEST + "seed: -1\nx: 1\n",
            ["seed: got -1, must be greater than or equal to 0", f"x: {UNKNOWN}"],
        ),
        (SMALLEST + "seed: 2026-01-01\n", ['seed: got "2026-01-01", must be a valid integer']),
        # keys are text
        (
            "networks: {2026-01-01: {architecture: cifar_resnet20}}\nteachers: [a]\nstudent: a\n",
            ['line 1: a key must be text, got the date 2026-01-01: write "2026-01-01"'],
        ),
        (SMALLEST + "1: x\n", ['line 4: a key must be text, got the int 1: write "1"']),
        (SMALLEST + "true: x\n", ['line 4: a key must be text, got the bool true: write "true"']),
        (SMALLEST + "? [a, b]\n: 1\n", ["line 4: a key must be text, got a seq"]),
        (SMALLEST + "? {a: b}\n: 1\n", ["line 4: a key must be text, got a map"]),
        (SMALLEST + '"a\\nb": 1\n', [f'"a\\nb": {UNKNOWN}']),
        # aliases
        (SMALLEST + "data: &a [*a]\n", ["line 4: an alias (*) refers to what it stands in"]),
        (SMALLEST + "data: &a {b: {c: *a}}\n", ["line 4: an alias (*) refers to what it stands in"]),
        (
            "a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)),
            ["line 5: more than 100000 values once aliases (*) are resolved"],
        ),
        # numbers
        (
            SMALLEST + "seed: 010\n",
            [
                "line 4: got 010, an octal number to some programs and a decimal one to others: write 10, or "
                "0o10"
            ],
        ),
        (SMALLEST + 'seed: "1"\n', ['seed: got "1", must be a valid integer']),
        (SMALLEST + "seed: .inf\n", ["seed: got Infinity, must be a valid integer"]),
        (
            SMALLEST + "distill: {temperature: -.inf}\n",
            ["distill.temperature: got -Infinity, must be a finite number"],
        ),
        (
            SMALLEST + "distill: {temperature: 1e999}\n",
            ["distill.temperature: got Infinity, must be a finite number"],
        ),
        (SMALLEST + f"seed: {'9' * 5000}\n", ["line 4: an integer of 5000 digits"]),
        # what is no plain YAML
        (SMALLEST + "---\nseed: 1\n", ["line 4: not valid YAML: but found another document"]),
        (
            SMALLEST + "data:\n\tcolor: gray\n",
            ["line 5: not valid YAML: found character '\\t' that cannot start any token"],
        ),
        (SMALLEST + f"data: {'[' * 3000}{']' * 3000}\n", ["not valid YAML: nested too deeply"]),
        (
            SMALLEST + "data: {path: !!binary aGVsbG8=}\n",
            ["line 4: the tag binary is not used in parameters"],
        ),
        (SMALLEST + "data: !!set {a, b}\n", ["line 4: the tag set is not used in parameters"]),
        (
            SMALLEST + "data: !!python/object:os.system x\n",
            ["line 4: the tag python/object:os.system is not used in parameters"],
        ),
        (
            SMALLEST + 'data: {path: "\\ud800"}\n',
            ["line 4: text with half of a surrogate pair, which is no letter"],
        ),
        (SMALLEST.encode() + b"# caf\xe9\n", ["line 4: not UTF-8 (byte 0xe9)"]),
        (SMALLEST.encode("utf-16"), ["line 1: not UTF-8 (byte 0xff)"]),
        # a long value is not shown whole
        (SMALLEST + f"seed: {'x' * 5000}\n", [f'seed: got "{"x" * 99}…, must be a valid integer']),
    ],
)
def test_file_that_cannot_be_read(tmp_path: Path, text: str | bytes, lines: list[str]) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(params.ParamsError) as error:
        params.load(file)
    assert str(error.value).splitlines() == [f"{file}: {line}" for line in lines]


@pytest.mark.parametrize(
    "text", ["\ufeff" + SMALLEST, SMALLEST.replace("\n", "\r\n"), "\ufeff# é\r\n" + SMALLEST]
)
def test_windows_files_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_bytes(text.encode())
    assert params.load(tmp_path / "params.yaml") == params.validate(tree())


def test_a_folder_is_no_params_file(tmp_path: Path) -> None:
    with pytest.raises(params.ParamsError, match=r"cannot be read \(Is a directory\)$"):
        params.load(tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("S3://bucket/x", "must begin with s3://, got 'S3://bucket/x'"),
        ("s3:/bucket/x", "must begin with s3://, got 's3:/bucket/x'"),
        ("s3:bucket/x", "must begin with s3://, got 's3:bucket/x'"),
        ("s3://", "must name a bucket, such as s3://bucket/folder, got 's3://'"),
        ("s3:///x", "must name a bucket, such as s3://bucket/folder, got 's3:///x'"),
        ("s3://bucket/a::b", "must not hold '::', got 's3://bucket/a::b'"),
        ("foo://x", "must be a path or an s3:// address, got 'foo://x': foo:// is not known"),
        ("FOO://x", "must be a path or an s3:// address, got 'FOO://x': FOO:// is not known"),
        ("", "must be a path or an s3:// address, got ''"),
        ("a\0b", "must be a path or an s3:// address, got 'a\\x00b'"),
        ("s3://bucket/x", ""),
        ("a:b/c", ""),
        ("C:\\data", ""),
        ("./runs", ""),
        ("s3", ""),
        ("memory/x", ""),
    ],
)
def test_addresses(address: str, message: str) -> None:
    for section, key, others in (
        ("data", "path", {"source": "image_folder", "splits": {"test": 0.2}}),
        ("ray", "storage", {}),
        ("release", "releases", {}),
        ("networks.net", "checkpoint", {"architecture": "cifar_resnet20"}),
    ):
        changes = {section.replace(".", "__"): {**others, key: address}}
        if not message:
            params.validate(tree(**changes))
            continue
        with pytest.raises(params.ParamsError) as error:
            params.validate(tree(**changes))
        assert str(error.value) == f"{section}.{key}: {message}"


def test_a_slash_at_the_end_of_a_remote_address_is_no_other_place() -> None:
    checked = params.validate(tree(ray__storage="s3://bucket/runs//", release__releases="s3://bucket/"))
    assert (checked.ray.storage, checked.release.releases) == ("s3://bucket/runs", "s3://bucket")


@pytest.mark.parametrize("address", ["local", "http://h:1", "h", "h:", ":1", "h:123456", ""])
def test_the_address_of_a_cluster(address: str) -> None:
    for good in ("auto", "10.0.0.1:6379", "[::1]:6379", None):
        params.validate(tree(ray__address=good))
    with pytest.raises(params.ParamsError) as error:
        params.validate(tree(ray__address=address))
    assert str(error.value) == f"ray.address: must be null, auto or host:port, got {address!r}"


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        params.ParamsError, match=r"nowhere.yaml: no such file; `akgp recipe use digits` writes one"
    ):
        params.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prune__macs": 0.4},
        {"data": {"source": "parquet", "path": "s3://bucket/a: b #c"}},
        {"networks": {"net": {"architecture": "my.models:small", "checkpoint": "null"}}},
        {"teacher__weight_decay": 1e-12, "distill__temperature": 1e1},
        {"prune__skip": ["fc", "layer1.0.conv1"], "prune__ratio": 0.0},
        {"sweep__space": {"distill.noise_posterior": {"choices": [True, False]}}},
        {"sweep__space": {"distill.training.ema": {"choices": [0.9, None]}}},
    ],
)
def test_dump_reads_back_as_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = params.validate(tree(**changes))
    assert params.load(written(tmp_path, params.dump(first))) == first


def test_dump_holds_every_parameter_with_its_meaning() -> None:
    """At its own place; a section that is null has a comment itself."""
    comments = comments_by_path(params.dump(params.validate(tree())))
    sections = {path[:-1] for path in comments}
    for names, field in schema_fields():
        path = tuple("net" if name == "*" else name for name in names)
        if path[:-1] in sections:
            assert comments[path] == (None if path in sections else field.description), path


def comments_by_path(text: str) -> dict[tuple[str, ...], str | None]:
    """The comment of each key of a YAML of nested mappings."""
    comments: dict[tuple[str, ...], str | None] = {}
    path: list[str] = []
    for line in text.splitlines()[1:]:
        parts = re.fullmatch(r"((?:  )*)([^:]+):(?: [^#]*)?(?:# (.*))?", line)
        if parts:
            path[len(parts[1]) // 2 :] = [parts[2]]
            comments[tuple(path)] = parts[3]
    return comments
