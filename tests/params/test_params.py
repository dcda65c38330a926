from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from akgp import params

ROOT = Path(__file__).parents[2]


def tree(**changes: Any) -> dict[str, Any]:
    """The smallest valid tree, with values set by dotted names (__ for the dot)."""
    smallest: dict[str, Any] = {
        "networks": {"net": {"architecture": "cifar_resnet20"}},
        "teachers": ["net"],
        "student": "net",
    }
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = smallest
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return smallest


def written(folder: Path, text: str) -> Path:
    file = folder / "params.yaml"
    file.write_text(text)
    return file


SMALLEST = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        # unknown and missing
        ({"colour": 1}, ["colour: unknown parameter; did you mean data.color?"]),
        (
            {"distill__temprature": 2.0},
            ["distill.temprature: unknown parameter; did you mean distill.temperature?"],
        ),
        (
            {"distill__epochs": 5},
            ["distill.epochs: unknown parameter; did you mean distill.training.epochs?"],
        ),
        (
            {"networks__net__epochs": 5},
            [
                "networks.net.epochs: unknown parameter; did you mean teacher.epochs or "
                "distill.training.epochs?"
            ],
        ),
        ({"teacher__mean": [0.5]}, ["teacher.mean: unknown parameter; did you mean networks.*.mean?"]),
        ({"networks__net__depth": 20}, ["networks.net.depth: unknown parameter"]),
        (
            {"quantize__reduce_range": False},
            [
                "quantize.reduce_range: retired: weights keep all 8 bits and saturate on no processor any "
                "more; remove the line"
            ],
        ),
        # wrong types: nothing is converted
        ({"distill__temperature": True}, ["distill.temperature: got true, must be a valid number"]),
        ({"distill__temperature": "2"}, ['distill.temperature: got "2", must be a valid number']),
        ({"teacher__epochs": 2.5}, ["teacher.epochs: got 2.5, must be a valid integer"]),
        ({"teacher__epochs": True}, ["teacher.epochs: got true, must be a valid integer"]),
        ({"teacher__channels_last": 1}, ["teacher.channels_last: got 1, must be a valid boolean"]),
        ({"student": 7}, ["student: got 7, must be a valid string"]),
        ({"networks__Net": {"architecture": "x"}}, ['networks.Net: got "Net", must be of a-z, 0-9, _ and -']),
        ({"teachers": []}, ["teachers: got [], must have at least 1 item"]),
        # ranges
        ({"prune__ratio": 1.2}, ["prune.ratio: got 1.2, must be less than 1"]),
        ({"prune__ratio": -0.1}, ["prune.ratio: got -0.1, must be greater than or equal to 0"]),
        ({"distill__temperature": 0.0}, ["distill.temperature: got 0.0, must be greater than 0"]),
        ({"distill__w0": 1.01}, ["distill.w0: got 1.01, must be less than or equal to 1"]),
        ({"teacher__momentum": 1.0}, ["teacher.momentum: got 1.0, must be less than 1"]),
        ({"ray__gpus_per_worker": 2}, ["ray.gpus_per_worker: got 2, must be less than or equal to 1"]),
        ({"seed": -1}, ["seed: got -1, must be greater than or equal to 0"]),
        (
            {"teacher__learning_rate": float("nan")},
            ["teacher.learning_rate: got NaN, must be a finite number"],
        ),
        # choices are named
        (
            {"data__source": "imagenet"},
            ["data.source: got \"imagenet\", must be 'digits', 'cifar10', 'image_folder' or 'parquet'"],
        ),
        (
            {"distill__strategy": "AKGP"},
            [
                "distill.strategy: got \"AKGP\", must be 'labels', 'teacher', 'fixed', 'annealed', 'wsld', "
                "'dkd', 'confidence', 'learned', 'self' or 'akgp'"
            ],
        ),
        # every fault has its own line
        (
            {"seed": -1, "prune__ratio": 1.2, "x": 0},
            [
                "seed: got -1, must be greater than or equal to 0",
                "prune.ratio: got 1.2, must be less than 1",
                "x: unknown parameter",
            ],
        ),
    ],
)
def test_fault_names_key_value_and_what_is_allowed(changes: dict[str, Any], lines: list[str]) -> None:
    with pytest.raises(params.ParamsError) as error:
        params.validate(tree(**changes))
    assert sorted(str(error.value).splitlines()) == sorted(lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ["nett"]}, "teachers: 'nett' is not among networks (net)"),
        ({"student": "other"}, "student: 'other' is not among networks (net)"),
        ({"teachers": ["net", "net"]}, "teachers: each name once, got net, net"),
        (
            {"prune__ratio": 0.5, "prune__macs": 0.4},
            "exactly one of ratio, macs, params must be a number, got ratio, macs",
        ),
        ({"prune__criterion": "l1"}, "exactly one of ratio, macs, params must be a number, got none"),
        ({"data__source": "parquet"}, "path must be a directory or s3:// prefix for source 'parquet'"),
        (
            {"data__path": "somewhere"},
            "path must be null for source 'digits', which is embedded, got 'somewhere'",
        ),
        ({"data__source": "cifar10", "data__splits__test": 0.2}, "source 'cifar10' has its own test split"),
        (
            {"data__splits__test": 0.25, "data__splits__calibration": 0.5, "data__splits__validation": 0.4},
            "calibration + validation must be below 0.9, got 0.5 + 0.4",
        ),
        (
            {"teacher__epochs": 3, "teacher__warmup_epochs": 3.0},
            "warmup_epochs (3.0) must be below epochs (3)",
        ),
        ({"networks__net__widths": [16, 32]}, "widths must be three numbers, got [16, 32]"),
        (
            {"networks__net__weights": "DEFAULT"},
            "weights is for torchvision networks only, not 'cifar_resnet20'",
        ),
        (
            {"networks__net__architecture": "resnet18", "networks__net__widths": [1, 2, 3]},
            "widths is for cifar_resnet20",
        ),
        (
            {"networks__net__architecture": "resnet18", "data__color": "gray", "data__splits__test": 0.2},
            "networks.net.architecture: 'resnet18' takes three channels: data.color must be rgb",
        ),
        (
            {"ray__workers": 3, "teacher__batch_size": 128},
            "teacher.batch_size: 128 must be divisible by ray.workers (3)",
        ),
        (
            {"distill__training__precision": "fp16"},
            "distill.training.precision: fp16 needs ray.gpus_per_worker 1",
        ),
        (
            {"distill__training__cuda_graphs": True, "ray__gpus_per_worker": 1, "ray__workers": 2},
            "distill.training.cuda_graphs: needs ray.workers 1 and ray.gpus_per_worker 1",
        ),
        ({"teacher__cuda_graphs": True, "teacher__compile": True}, "compile and cuda_graphs are both true"),
        (
            {"distill__training__cuda_graphs": True, "distill__strategy": "self", "ray__gpus_per_worker": 1},
            "training.cuda_graphs hides what strategy self looks at: it must be false",
        ),
        (
            {"teacher__sync_batch_norm": True, "ray__workers": 2},
            "teacher.sync_batch_norm: several workers need ray.gpus_per_worker 1",
        ),
        (
            {"sweep__space": {"teacher.epochs": {"choices": [1]}}},
            "sweep.space: 'teacher.epochs' must be a parameter of prune or distill",
        ),
        (
            {"sweep__space": {"prune.ratio": {"min": 0.5, "max": 1.2}}},
            "prune.ratio: got 1.2, must be less than 1",
        ),
        ({"sweep__space": {"distill.colour": {"choices": [1]}}}, "distill.colour is not a parameter"),
        (
            {"sweep__against": "speed"},
            "sweep.against: got \"speed\", must be 'macs' or 'latency'",
        ),
        (
            {"sweep__against": "latency", "sweep__space": {"distill.w0": {"choices": [0.1]}}},
            "sweep.against: parameters of prune alone change 'latency': sweep.space must name one, such as "
            "prune.ratio, got distill.w0",
        ),
        ({"sweep__space": {"prune.ratio": {"min": 0.5}}}, "must have either min and max, or choices"),
        ({"sweep__space": {"prune.ratio": {"min": 0.5, "max": 0.4}}}, "min (0.5) must be below max (0.4)"),
    ],
)
def test_combinations_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(params.ParamsError, match=re.escape(message)) as error:
        params.validate(tree(**changes))
    section = next(iter(changes)).split("__")[0]
    assert str(error.value).startswith((section, message)), error.value


def test_missing_sections_are_defaults_but_networks_must_be_named() -> None:
    assert params.validate(tree()).distill.temperature == 2.0
    with pytest.raises(params.ParamsError) as error:
        params.validate({})
    assert str(error.value).splitlines() == ["networks: missing", "teachers: missing", "student: missing"]


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
            ["seed: got -1, must be greater than or equal to 0", "x: unknown parameter"],
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
        (SMALLEST + '"a\\nb": 1\n', ['"a\\nb": unknown parameter']),
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
        ("nightly", "releases", {}),
        ("networks.net", "checkpoint", {"architecture": "cifar_resnet20"}),
    ):
        changes = {section.replace(".", "__"): {**others, key: address}}
        if not message:
            params.validate(tree(**changes))
            continue
        with pytest.raises(params.ParamsError) as error:
            params.validate(tree(**changes))
        assert str(error.value) == f"{section}.{key}: {message}"


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
    ],
)
def test_dump_reads_back_as_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    first = params.validate(tree(**changes))
    assert params.load(written(tmp_path, params.dump(first))) == first


def test_dump_holds_every_parameter_with_its_meaning() -> None:
    text = params.dump(params.validate(tree()))
    for section in (
        params.Data,
        params.Splits,
        params.Network,
        params.Training,
        params.Augment,
        params.Prune,
        params.Distill,
        params.Quantize,
        params.Evaluate,
        params.Ray,
        params.Sweep,
        params.Nightly,
    ):
        for name, field in section.model_fields.items():
            assert re.search(rf"^ *{name}:.*", text, re.MULTILINE), name
            if field.description and name not in ("space",):
                assert field.description in text, name


def test_every_field_has_a_description() -> None:
    for section in params.Section.__subclasses__():
        if section.__module__ != params.__name__:
            continue
        for name, field in section.model_fields.items():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, params.Section)
            assert field.description or nested, f"{section.__name__}.{name}"


def test_nothing_can_be_changed() -> None:
    checked = params.validate(tree())
    with pytest.raises(ValueError, match="frozen"):
        checked.seed = 1  # type: ignore[misc]


def test_values_are_set_together_and_validated_as_a_whole() -> None:
    """Whatever their order; and rules between sections are asked, too."""
    own = params.validate(tree(distill__strategy="self", ray__workers=2))
    together = {"distill.alpha": 2.5, "distill.strategy": "wsld", "distill.training.learning_rate": 0.05}
    for values in (together, dict(reversed(together.items()))):
        changed = params.with_values(own, values)
        assert (changed.distill.alpha, changed.distill.strategy) == (2.5, "wsld")
        assert changed.distill.training.learning_rate == 0.05
        assert changed.model_copy(update={"distill": own.distill}) == own
    for values, line in (
        ({"distill.alpha": 2.5}, "distill: alpha must be in [0, 1] for strategy 'self', got 2.5"),
        (
            {"distill.training.batch_size": 65},
            "distill.training.batch_size: 65 must be divisible by ray.workers (2)",
        ),
        ({"distill.temperature": True}, "distill.temperature: got true, must be a valid number"),
        ({"distill.training": 1}, "distill.training is not a parameter, but a section"),
        ({"distill.colour": 1}, "distill.colour is not a parameter"),
    ):
        with pytest.raises(params.ParamsError) as error:
            params.with_values(own, values)
        assert str(error.value) == line


def test_one_amount_replaces_another() -> None:
    checked = params.validate(tree(prune__macs=0.4))
    assert params.with_values(checked, {"prune.ratio": 0.3}).prune == params.Prune(ratio=0.3)
    assert params.with_values(checked, {"prune.criterion": "l1"}).prune.macs == 0.4
    with pytest.raises(params.ParamsError, match="got ratio, macs"):
        params.with_values(checked, {"prune.ratio": 0.3, "prune.macs": 0.3})


SELF_OR_WSLD = {"choices": ["self", "wsld"]}


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ({"distill.alpha": {"choices": [0.3, 2.5]}, "distill.strategy": SELF_OR_WSLD}, ""),
        ({"distill.strategy": SELF_OR_WSLD, "distill.alpha": {"min": 0.5, "max": 3}}, ""),
        (
            {"distill.alpha": {"choices": [0.3, 2.5]}, "distill.strategy": {"choices": ["self"]}},
            "distill.alpha: 2.5 is valid with no other values of the space: distill: alpha must be in "
            "[0, 1] for strategy 'self', got 2.5",
        ),
        (
            {"prune.ratio": {"min": 0.1, "max": 0.5}, "prune.macs": {"min": 0.2, "max": 0.5}},
            "prune.ratio: 0.1 is valid with no other values of the space: prune: exactly one of ratio, "
            "macs, params must be a number, got ratio, macs",
        ),
        (
            {"distill.strategy": {"choices": ["akgp", "learned"]}},
            "distill.strategy: 'learned' weighs teachers against each other: teachers must name two or more "
            "networks, got net",
        ),
        ({"distill.training.epochs": {"min": 2, "max": 6}}, ""),
        (
            {"distill.training.epochs": {"min": 1, "max": 6}},
            "distill.training.epochs: 1 is valid with no other values of the space: distill.training: "
            "warmup_epochs (1.0) must be below epochs (1)",
        ),
        (
            {"distill.training.epochs": {"min": 2.5, "max": 6}},
            "distill.training.epochs is an integer: min and max must be, too, got 2.5, 6.0",
        ),
        (
            {"distill.noise_posterior": {"min": 0, "max": 1}},
            "distill.noise_posterior is no number: it needs choices, not min and max",
        ),
        (
            {"prune.criterion": {"min": 0, "max": 1}},
            "prune.criterion is no number: it needs choices, not min and max",
        ),
        (
            {"distill.noise_posterior": {"choices": [True, 1]}},
            "distill.noise_posterior: got 1, must be a valid boolean",
        ),
        ({"distill.training": {"choices": [1]}}, "distill.training is not a parameter, but a section"),
    ],
)
def test_of_a_space_what_no_trial_could_have_is_refused(space: dict[str, Any], line: str) -> None:
    if not line:
        params.validate(tree(sweep__space=space))
        return
    with pytest.raises(params.ParamsError) as error:
        params.validate(tree(sweep__space=space))
    assert str(error.value) == f"sweep.space: {line}"


@pytest.mark.parametrize("name", ["digits", "cifar10-quick", "cifar10-resnet32"])
def test_recipes_are_valid_and_described(name: str) -> None:
    file = ROOT / "recipes" / f"{name}.yaml"
    assert file.read_text().startswith("# ")
    checked = params.load(file)
    assert params.validate(YAML().load(params.dump(checked))) == checked
