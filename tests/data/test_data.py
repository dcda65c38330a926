"""Sources, splits and batches against sklearn, Pillow and NumPy, the remote ones through a real S3 server."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from akgp.data import DataError, Images, Summary, read_image, read_split, read_summary
from akgp.data.batches import IndexedSource, augmented, normalize
from akgp.data.corruptions import (
    asymmetric_noise,
    flip_targets,
    long_tail,
    stratified_subset,
    symmetric_noise,
)
from akgp.data.sources import CIFAR10_CLASSES, open_source
from akgp.data.splitting import stratified_split
from akgp.data.tables import SPLITS, Altered, read_true_labels, write_split
from akgp.params import Augment, Data, ParamsError, Regime, validate
from tests.support.images import (
    SHARES,
    by_origin,
    encoded,
    image_folder,
    parquet,
    pixels_of,
    prepared,
    refused,
    twenty,
)

CIFAR10 = Path(os.environ.get("AKGP_CIFAR10") or Path(__file__).parents[3] / "shared" / "data" / "cifar10")


# Splits


def test_digits_are_sklearns_in_disjoint_stratified_splits(tmp_path: Path) -> None:
    splits = {"test": 0.25, "calibration": 0.1, "validation": 0.15}
    summary, images, origins = prepared(tmp_path, color="gray", splits=splits)
    digits = load_digits()
    found = by_origin(images, origins)
    assert found.keys() == {f"digits#{row}" for row in range(1797)}
    for row, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        pixels, index = found[f"digits#{row}"]
        assert np.abs(pixels[:, :, 0] - image * 255 / 16).max() <= 0.5 and summary.classes[index] == str(
            label
        )

    sizes = np.bincount(digits.target)
    shares = {"test": 0.25, "calibration": 0.075, "validation": 0.1125, "train": 0.5625}
    for name, share in shares.items():
        counts = np.bincount(images[name].labels.numpy(), minlength=10)
        assert np.abs(counts - sizes * share).max() < 1, name
        assert abs(counts.sum() - 1797 * share) < 2, name
        assert summary.counts[name] == tuple(counts)
    train = images["train"].pixels.numpy() / 255
    assert (summary.mean, summary.std) == (pytest.approx((train.mean(),)), pytest.approx((train.std(),)))
    assert (summary.image_size, summary.channels, summary.skipped) == ((8, 8), 1, 0)
    assert summary.imbalance == max(summary.counts["train"]) / min(summary.counts["train"])


def test_the_seed_decides_the_splits(tmp_path: Path) -> None:
    first, again, other = (
        prepared(tmp_path / str(run), seed, color="gray")[0].digest for run, seed in enumerate((3, 3, 4))
    )
    assert first == again != other


@pytest.mark.parametrize("seed", range(3))
def test_every_class_gives_every_split_its_share(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(10, 60, 100)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(100), sizes))
    shares = {"train": 0.57, "calibration": 0.1, "validation": 0.13, "test": 0.2}
    split = stratified_split(labels, shares, seed)
    assert sorted(np.concatenate(list(split.values()))) == list(range(len(labels)))
    for name, share in shares.items():
        assert np.abs(np.bincount(labels[split[name]], minlength=100) - sizes * share).max() < 1
        assert abs(len(split[name]) - len(labels) * share) < 3


# Regimes

DIGITS: dict[str, Any] = {"color": "gray", "splits": {"test": 0.25}}
SIDE = ("train", "calibration", "validation")


def regime_of(summary: Summary) -> Altered:
    assert summary.regime is not None
    return summary.regime


def true_labels(origins: list[str]) -> np.ndarray:
    """What scikit-learn says of images of the digits."""
    return load_digits().target[[int(origin.partition("#")[2]) for origin in origins]]


def of_the_side(origins: dict[str, list[str]]) -> list[str]:
    return [origin for name in SIDE for origin in origins[name]]


@pytest.mark.parametrize("regime", [None, {}, {"noise": "asymmetric"}, {"imbalance": 1.0, "subset": None}])
def test_no_regime_leaves_everything_as_it_was(regime: dict[str, Any] | None, tmp_path: Path) -> None:
    """The digest is that of the commit before there were regimes."""
    summary = prepared(tmp_path, **DIGITS, **({} if regime is None else {"regime": regime}))[0]
    assert summary.digest == "f450434bb61faedb269f67b5a7bd17ef4ae5f89705eceffc30edc182ac56e113"
    assert summary.regime is None and "regime" not in (tmp_path / "summary.json").read_text()
    for name in SPLITS:
        assert pq.read_schema(tmp_path / f"{name}.parquet").names == ["pixels", "label", "origin"]
        assert torch.equal(read_true_labels(tmp_path, name), read_split(tmp_path, name).labels)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_noise_changes_exactly_the_share_of_labels_and_no_pixel(kind: str, tmp_path: Path) -> None:
    _, clean, clean_origins = prepared(tmp_path / "clean", **DIGITS)
    noise = {"label_noise": 0.3, "noise": kind}
    summary, images, origins = prepared(tmp_path / "noisy", **DIGITS, regime=noise)
    before, after = by_origin(clean, clean_origins), by_origin(images, origins)
    assert before.keys() == after.keys() and sorted(of_the_side(origins)) == sorted(
        of_the_side(clean_origins)
    )
    assert all((before[origin][0] == after[origin][0]).all() for origin in before)
    assert origins["test"] == clean_origins["test"]
    assert torch.equal(images["test"].labels, clean["test"].labels)

    true = {name: true_labels(origins[name]) for name in SPLITS}
    given = {name: images[name].labels.numpy() for name in SPLITS}
    for name in SPLITS:
        assert (read_true_labels(tmp_path / "noisy", name).numpy() == true[name]).all()
    wrong = {name: given[name] != true[name] for name in SIDE}
    for label in range(10):
        of_class = np.concatenate([wrong[name][true[name] == label] for name in SIDE])
        assert of_class.sum() == round(0.3 * len(of_class))
    if kind == "asymmetric":
        for name in SIDE:
            assert (given[name][wrong[name]] == (true[name][wrong[name]] + 1) % 10).all()

    total = np.concatenate([true[name] for name in SIDE])
    assert regime_of(summary).asked == Regime.model_validate(noise)
    assert regime_of(summary).kept == tuple(np.bincount(total, minlength=10))
    assert regime_of(summary).changed == {name: wrong[name].sum() for name in SIDE}
    for name, share in (("train", 0.8), ("calibration", 0.1), ("validation", 0.1)):
        labels = np.concatenate([given[other] for other in SIDE])
        expected = np.bincount(labels, minlength=10) * share
        assert np.abs(np.bincount(given[name], minlength=10) - expected).max() < 1, name
        # 4 standard deviations of a random split: no split has the wrong labels to itself
        assert abs(wrong[name].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(wrong[name])), name


def test_symmetric_noise_is_uniform_over_the_other_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 20_000))
    noisy = symmetric_noise(labels, 5, 0.4, seed=3)
    table = np.zeros((5, 5), int)
    np.add.at(table, (labels, noisy), 1)
    assert (np.diag(table) == 12_000).all()
    others = table[~np.eye(5, dtype=bool)]
    assert np.abs(others - 2000).max() < 5 * np.sqrt(8000 * 0.25 * 0.75)  # binomial, 20 cells
    assert len(np.unique(others)) > 1  # drawn, not dealt


def test_asymmetric_noise_of_cifar10_flips_the_usual_pairs(tmp_path: Path) -> None:
    cifar10: dict[str, Any] = {"source": "cifar10", "path": str(cifar10_directory(tmp_path / "cifar10"))}
    cifar10["splits"] = SHARES | {"test": None}
    noise = {"label_noise": 0.4, "noise": "asymmetric"}
    summary, images, origins = prepared(tmp_path / "out", **cifar10, regime=noise)
    found: dict[tuple[str, str], int] = {}
    for name in SIDE:
        for origin, label in zip(origins[name], images[name].labels.tolist(), strict=True):
            true = int(origin.partition("#")[2]) % 10
            key = (CIFAR10_CLASSES[true], CIFAR10_CLASSES[label])
            found[key] = found.get(key, 0) + 1
    flips = {
        ("truck", "automobile"): 4,
        ("bird", "airplane"): 4,
        ("deer", "horse"): 4,
        ("cat", "dog"): 4,
        ("dog", "cat"): 4,
    }
    assert {key: count for key, count in found.items() if key[0] != key[1]} == flips
    assert sum(regime_of(summary).changed.values()) == 20 and regime_of(summary).kept == (10,) * 10
    rows = [int(origin.partition("#")[2]) for origin in origins["test"]]
    assert rows == list(range(10)) and images["test"].labels.tolist() == rows
    message = r"^class 'bird' has 1 images, too few .*: lower data\.regime\.label_noise, or"
    refused(tmp_path, message, **cifar10, regime=noise | {"label_noise": 0.9})


def test_the_long_tail_is_that_of_cifar10_lt() -> None:
    """Sizes of CIFAR-10-LT at a ratio of 100, 12 406 images (Cao et al. 2019)."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 5000))
    kept = long_tail(labels, 10, 100.0, seed=0)
    assert np.bincount(labels[kept]).tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert len(np.unique(kept)) == len(kept) and (np.diff(kept) > 0).all()


@pytest.mark.parametrize("sizes", [(90, 80, 70, 60), (40, 80, 70, 60), (90, 80, 9, 60), (90, 80, 70, 4)])
def test_the_long_tail_of_unequal_classes_fits_into_them(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(4), sizes)
    found = np.bincount(labels[long_tail(labels, 4, 8.0, seed=0)], minlength=4)
    factors = [1, 1 / 2, 1 / 4, 1 / 8]
    largest = min(size / factor for size, factor in zip(sizes, factors, strict=True))
    assert all(0 <= largest * factor - count < 1 for factor, count in zip(factors, found, strict=True))
    assert (found <= sizes).all() and (found == sizes).any()  # no smaller than need be


@pytest.mark.parametrize("count", [0, 1, 57, 100, 233])
def test_a_subset_has_exactly_its_size_and_each_class_its_share(count: int) -> None:
    sizes = np.array([3, 50, 80, 100])
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(4), sizes))
    kept = stratified_subset(labels, count, seed=0)
    assert len(kept) == len(np.unique(kept)) == count
    assert np.abs(np.bincount(labels[kept], minlength=4) - sizes * count / 233).max() < 1


def test_each_part_of_a_regime_follows_the_seed_and_draws_apart() -> None:
    labels = np.random.default_rng(2).permutation(np.repeat(np.arange(4), 100))
    for drawn in (
        lambda seed: stratified_subset(labels, 200, seed),
        lambda seed: long_tail(labels, 4, 3.0, seed),
        lambda seed: np.flatnonzero(symmetric_noise(labels, 4, 0.5, seed) != labels),
        lambda seed: asymmetric_noise(labels, flip_targets(("a", "b", "c", "d")), 0.5, seed),
    ):
        first, again, other = drawn(5), drawn(5), drawn(6)
        assert np.array_equal(first, again) and not np.array_equal(first, other)
    # Half of each class twice: of 200, 100 ± 5 in both, were the draws one they would be 200 or 0.
    wrong = np.flatnonzero(asymmetric_noise(labels, flip_targets(("a", "b", "c", "d")), 0.5, 5) != labels)
    assert 70 < len(np.intersect1d(wrong, stratified_subset(labels, 200, 5))) < 130
    split = stratified_split(labels, {"one": 0.5, "other": 0.5}, 5)["one"]
    assert 70 < len(np.intersect1d(wrong, split)) < 130


def test_subset_then_long_tail_then_noise(tmp_path: Path) -> None:
    _, clean, clean_origins = prepared(tmp_path / "clean", seed=1, **DIGITS)
    small, _, small_origins = prepared(tmp_path / "small", seed=1, **DIGITS, regime={"subset": 700})
    regime = {"subset": 700, "imbalance": 4.0, "label_noise": 0.25}
    runs = [
        prepared(tmp_path / str(run), seed, **DIGITS, regime=regime) for run, seed in enumerate((1, 1, 2))
    ]
    summary, images, origins = runs[0]
    assert summary == runs[1][0] and summary.digest != runs[2][0].digest

    subset, left = of_the_side(small_origins), of_the_side(origins)
    assert len(subset) == 700 and set(left) < set(subset) < set(of_the_side(clean_origins))
    sizes = np.bincount(true_labels(of_the_side(clean_origins)), minlength=10)
    in_subset = np.bincount(true_labels(subset), minlength=10)
    assert np.abs(in_subset - sizes * 700 / sizes.sum()).max() < 1
    assert regime_of(small).kept == tuple(in_subset) and regime_of(small).changed == dict.fromkeys(SIDE, 0)

    factors = [4 ** (-k / 9) for k in range(10)]
    largest = min(size / factor for size, factor in zip(in_subset, factors, strict=True))
    profile = [int(largest * factor + 1e-6) for factor in factors]
    true = true_labels(left)
    given = np.concatenate([images[name].labels.numpy() for name in SIDE])
    assert np.bincount(true, minlength=10).tolist() == profile == list(regime_of(summary).kept)
    assert [int((given != true)[true == k].sum()) for k in range(10)] == [round(n / 4) for n in profile]

    test = by_origin(clean, clean_origins)
    assert origins["test"] == clean_origins["test"] == small_origins["test"]
    for origin, pixels, label in zip(
        origins["test"], images["test"].pixels, images["test"].labels, strict=True
    ):
        assert (test[origin][0] == pixels.permute(1, 2, 0).numpy()).all() and test[origin][1] == label


@pytest.mark.parametrize(
    ("regime", "message"),
    [
        ({"subset": 1400}, r"^data\.regime\.subset: 1400 must be at most 1348, the images that are not in"),
        (
            {"subset": 40},
            r"^class '\d' has \d images, too few for one in every split \(calibration takes 0\.1 of them\): "
            r"raise data\.regime\.subset, or raise data\.splits\.calibration$",
        ),
        (
            {"subset": 500, "imbalance": 50},
            r"^class '9' has \d images, .*: raise data\.regime\.subset, lower data\.regime\.imbalance, or",
        ),
        ({"imbalance": 900.0, "label_noise": 0.5}, r"^class '7' has 0 images, .*: lower .*imbalance, lower "),
        ({"subset": 9, "imbalance": 2, "label_noise": 0.5}, r"^class '\d' has 0 images, too few"),
        ({"label_noise": 0.001}, r"^data\.regime\.label_noise: 0\.001 must be higher, .* has 137 images"),
    ],
)
def test_a_regime_that_cannot_be_made_is_refused(
    regime: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused(tmp_path, message, **DIGITS, regime=regime)


@pytest.mark.parametrize(
    ("regime", "message"),
    [
        ({"label_noise": 1.0}, "label_noise: got 1.0, must be less than 1"),
        ({"label_noise": -0.1}, "label_noise: got -0.1, must be greater than or equal to 0"),
        ({"noise": "pair"}, "noise: got \"pair\", must be 'symmetric' or 'asymmetric'"),
        ({"imbalance": 0.5}, "imbalance: got 0.5, must be greater than or equal to 1"),
        ({"subset": 0}, "subset: got 0, must be greater than or equal to 1"),
        ({"subset": 0.5}, "subset: got 0.5, must be a valid integer"),
    ],
)
def test_parameters_of_a_regime_have_ranges(regime: dict[str, Any], message: str) -> None:
    net = {"networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net"}
    with pytest.raises(ParamsError) as error:
        validate(net | {"data": DIGITS | {"regime": regime}})
    assert str(error.value) == f"data.regime.{message}"


# Sources


@pytest.mark.parametrize("form", ["bytes", "struct", "path", "struct of path"])
def test_parquet_columns(form: str, tmp_path: Path) -> None:
    contents, labels = twenty()
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.png").write_bytes(content)
    images = {
        "bytes": contents,
        "struct": [{"bytes": content, "path": "elsewhere.png"} for content in contents],
        "path": [f"{number}.png" if number % 2 else str(tmp_path / f"{number}.png") for number in range(20)],
        "struct of path": [{"bytes": None, "path": f"{number}.png"} for number in range(20)],
    }[form]
    parquet(tmp_path / "a.parquet", images[:7], pa.array(labels[:7]).dictionary_encode(), ("photo", "kind"))
    parquet(tmp_path / "b.parquet", images[7:], labels[7:], ("photo", "kind"))
    columns = {"image_column": "photo", "label_column": "kind"}
    summary, split, origins = prepared(tmp_path / "out", source="parquet", path=str(tmp_path), **columns)
    found = by_origin(split, origins)
    assert summary.classes == ("ant", "bee") and len(found) == 20
    for number in range(20):
        file = f"a.parquet#{number}" if number < 7 else f"b.parquet#{number - 7}"
        pixels, label = found[f"{tmp_path}/{file}"]
        assert (pixels == pixels_of(number)).all() and label == number % 2


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([11, 3, 7, 3], ("3", "7", "11")),
        ([2.0, 0.0, 1.0, 1.0], ("0", "1", "2")),
        (["11", "3", "7", "3"], ("11", "3", "7")),
        ([True, False, True, False], ("False", "True")),
        (["Ant", "ant", "Ant", "ant"], ("Ant", "ant")),
    ],
)
def test_labels_become_classes(labels: list[Any], classes: tuple[str, ...], tmp_path: Path) -> None:
    images = [encoded(pixels_of(number)) for number in range(40)]
    parquet(tmp_path / "a.parquet", images, labels * 10)
    file = f"{tmp_path}/a.parquet"
    summary, split, origins = prepared(tmp_path / "out", source="parquet", path=file)
    assert summary.classes == classes
    for origin, (_, index) in by_origin(split, origins).items():
        given = (labels * 10)[int(origin.partition("#")[2])]
        assert summary.classes[index] == str(int(given) if isinstance(given, float) else given)


def test_image_folder(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    (folder / "ant" / "deeper").mkdir()
    (folder / "ant" / "0.png").rename(folder / "ant" / "deeper" / "0.PNG")
    (folder / "ant" / ".hidden.png").write_text("no image")
    (folder / "notes.txt").write_text("no image")
    summary, images, origins = prepared(tmp_path / "out", source="image_folder", path=str(folder))
    assert summary.classes == ("ant", "bee") and sum(map(sum, summary.counts.values())) == 20
    for origin, (pixels, label) in by_origin(images, origins).items():
        file = Path(origin)
        assert label == ("bee" in file.parts) and (pixels == pixels_of(100 * label + int(file.stem))).all()


def test_image_folder_with_a_test_split(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    image_folder(folder / "train")
    image_folder(folder / "test", images=3)
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    splits = SHARES | {"test": None}
    summary, _, origins = prepared(tmp_path / "out", **given, splits=splits)
    assert summary.counts["test"] == (3, 3) and summary.classes == ("ant", "bee")
    assert {"test" in origin.split("/") for origin in origins["test"]} == {True}
    assert not any("test" in origin.split("/") for name in SPLITS[:3] for origin in origins[name])
    refused(tmp_path, r"data\.splits\.test must be null: .* has a test split of its own", **given)
    (folder / "sample" / "ant").mkdir(parents=True)
    (folder / "sample" / "ant" / "0.png").write_bytes(encoded(pixels_of(0)))
    refused(tmp_path, r"/sample: beside test, train there must be no other images", **given, splits=splits)


def cifar10_directory(root: Path) -> Path:
    """A directory in CIFAR-10's layout: ten training images of each class, one test image."""
    for part, count in (("train", 100), ("test", 10)):
        contents = [encoded(pixels_of(number, (32, 32))) for number in range(count)]
        images = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(contents)]
        labels = [number % 10 for number in range(count)]
        parquet(root / f"{part}-00000-of-00001.parquet", images, labels, ("img", "label"))
    return root


def test_cifar10_in_a_parquet_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar10_directory(tmp_path / "cifar10")
    monkeypatch.setenv("AKGP_CIFAR10", str(folder))
    cifar10: dict[str, Any] = {"source": "cifar10", "splits": SHARES | {"test": None}}
    summary, images, origins = prepared(tmp_path / "out", **cifar10)
    assert summary.classes == CIFAR10_CLASSES and summary.counts["test"] == (1,) * 10
    assert summary.counts["train"] == (6,) * 10 and summary.counts["validation"] == (2,) * 10
    for origin, (pixels, label) in by_origin(images, origins).items():
        row = int(origin.partition("#")[2])
        assert label == row % 10 and (pixels == pixels_of(row, (32, 32))).all()

    parquet(
        folder / "train.parquet", [{"bytes": encoded(pixels_of(0)), "path": None}], [10], ("img", "label")
    )
    refused(tmp_path, r"train\.parquet#0: the label is 10, must be 0 to 9 or one of airplane", **cifar10)
    (folder / "test-00000-of-00001.parquet").unlink()
    refused(tmp_path, r"cifar10: no test\*\.parquet", **cifar10)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="AKGP_CIFAR10 is not set")
def test_the_real_cifar10() -> None:
    source = open_source(Data(source="cifar10", path=str(CIFAR10)))
    rows = {
        part: sum(pq.read_metadata(file).num_rows for file in CIFAR10.glob(f"{part}*"))
        for part in source.parts
    }
    assert rows == {"train": 50_000, "test": 10_000}
    for samples in source.parts.values():
        reading = iter(samples)
        sample = next(reading)
        assert isinstance(sample.content, bytes) and 0 <= sample.label < 10
        assert Image.open(io.BytesIO(sample.content)).size == (32, 32)
        reading.close()  # type: ignore[attr-defined]


def test_cifar10_from_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.delenv("AKGP_CIFAR10", raising=False)

    def downloaded(root: Path, *, train: bool, download: bool) -> SimpleNamespace:
        numbers = range(100 if train else 10)
        pixels = np.stack([pixels_of(number, (32, 32)) for number in numbers])
        return SimpleNamespace(data=pixels, targets=[number % 10 for number in numbers])

    def offline(root: Path, *, train: bool, download: bool) -> SimpleNamespace:
        raise OSError("no route to host")

    cifar10: dict[str, Any] = {"source": "cifar10", "splits": SHARES | {"test": None}}
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", downloaded)
    from_torchvision = prepared(tmp_path / "out", **cifar10)[0]
    folder = cifar10_directory(tmp_path / "cifar10")
    assert prepared(tmp_path / "other", **cifar10, path=str(folder))[0].digest == from_torchvision.digest
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    refused(tmp_path, r"downloaded \(no route to host\): set data\.path or AKGP_CIFAR10", **cifar10)


# S3


def test_s3_gives_what_the_disk_gives(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**s3.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    folder = image_folder(tmp_path / "images")
    (folder / "ant" / "0.png").rename(folder / "ant" / "0 [1]*.png")
    tables = tmp_path / "tables"
    contents, labels = twenty()
    (tables / "files").mkdir(parents=True)
    for number, content in enumerate(contents):
        (tables / "files" / f"{number}.png").write_bytes(content)
    parquet(tables / "a.parquet", [f"files/{number}.png" for number in range(20)], labels)
    s3.upload(image_folder(tmp_path / "others", ("cow", "dog")), "images-of-others")
    for source, local in (("image_folder", folder), ("parquet", tables)):
        url = s3.upload(local, local.name)
        here = prepared(tmp_path / "here", source=source, path=str(local))[0]
        there, _, origins = prepared(tmp_path / "there", source=source, path=url)
        assert (there.digest, there.classes) == (here.digest, here.classes)
        assert all(origin.startswith(url) for origin in origins["train"])

    refused(
        tmp_path,
        r"s3://.*/nothing: no such directory",
        source="image_folder",
        path=f"s3://{s3.bucket}/nothing",
    )
    refused(tmp_path, "s3://no-such-bucket/x", source="parquet", path="s3://no-such-bucket/x")


# What is bad is named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "the label is missing"),
        ({"label": -1}, "the label is -1, must be a whole number from 0, or text"),
        ({"label": 0.5}, "the label is 0.5, must be"),
        ({"label": float("nan")}, "the label is nan, must be"),
        ({"label": float("inf")}, "the label is inf, must be"),
        ({"label": " "}, "the label is empty"),
        ({"image": None}, "no image"),
        ({"image": b"text"}, r"the image can't be decoded \(of no known format\)"),
        ({"image": encoded(pixels_of(0))[:-40]}, "the image can't be decoded"),
        ({"image": encoded(np.full((6, 6), 70_000, np.int32), "tiff")}, r".*\(more than 16 bits"),
        ({"image": encoded(np.ones((6, 6), np.float32), "tiff")}, r".*\(floating-point"),
    ],
)
def test_a_bad_row_is_named_or_counted(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    images, labels = twenty()
    if not isinstance(changes.get("label", ""), str):
        labels = [1.0 if isinstance(changes["label"], float) else 1, 0] * 10
    images[13], labels[13] = changes.get("image", images[13]), changes.get("label", labels[13])
    folder = parquet(tmp_path / "tables" / "a.parquet", images, labels)
    given: dict[str, Any] = {"source": "parquet", "path": str(folder)}
    refused(tmp_path, rf"^{folder}/a\.parquet#13: {message}", **given)
    summary, _, origins = prepared(tmp_path / "out", **given, on_bad_rows="skip")
    assert (summary.skipped, sum(map(sum, summary.counts.values()))) == (1, 19)
    assert not any("#13" in origin for split in origins.values() for origin in split)


def test_bad_files_are_named_or_counted(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    bad = folder / "bee" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(tmp_path, rf"^{bad}: the image can't be decoded", **given)
    assert prepared(tmp_path / "out", **given, on_bad_rows="skip")[0].skipped == 1

    _, labels = twenty()
    parquet(
        tmp_path / "tables" / "a.parquet",
        ["gone.png", *map(str, folder.glob("ant/*"))],
        ["bee", *labels[:10]],
    )
    message = rf"^{tmp_path}/tables/a\.parquet#0: {tmp_path}/tables/gone\.png: no such file"
    refused(tmp_path, message, source="parquet", path=str(tmp_path / "tables"))


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "tables" / "a.parquet", *twenty())
    whole = (folder / "a.parquet").read_bytes()
    for damaged in (whole[:-50], whole[:4] + b"\xff" * 200 + whole[204:]):
        (folder / "a.parquet").write_bytes(damaged)
        refused(tmp_path, r"^.*/a\.parquet: ", source="parquet", path=str(folder))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image_column": "img"},
            r"a\.parquet: no column 'img' \(data\.image_column\), the columns are image, label",
        ),
        ({"label_column": "y"}, r"no column 'y' \(data\.label_column\)"),
        ({"image_column": "list"}, r"'list' \(data\.image_column\) holds list.*, must hold encoded images"),
        (
            {"label_column": "image"},
            r"'image' \(data\.label_column\) holds binary, must hold integers or text",
        ),
    ],
)
def test_columns_are_checked_first(columns: dict[str, str], message: str, tmp_path: Path) -> None:
    images, labels = twenty()
    table = pa.table({"image": images, "label": labels, "list": [[1]] * 20})
    pq.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path, message, source="parquet", path=str(tmp_path), **columns)


def test_sizes_must_be_alike_or_given(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    wide = pixels_of(5, (10, 20))
    (folder / "bee" / "5.png").write_bytes(encoded(wide))
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(
        tmp_path, r"data\.image_size must be set: .*ant/0\.png has 6×6 pixels, .*bee/5\.png 20×10", **given
    )
    summary, images, origins = prepared(tmp_path / "out", **given, image_size=8)
    assert summary.image_size == (8, 8)
    squashed = np.asarray(Image.fromarray(wide).resize((8, 8), Image.Resampling.BILINEAR))
    assert (by_origin(images, origins)[f"{folder}/bee/5.png"][0] == squashed).all()

    (tmp_path / "parted").mkdir()
    (folder / "bee" / "5.png").unlink()
    folder.rename(tmp_path / "parted" / "train")
    for label in ("ant", "bee"):
        (tmp_path / "parted" / "test" / label).mkdir(parents=True)
        (tmp_path / "parted" / "test" / label / "0.png").write_bytes(encoded(wide))
    given = {"source": "image_folder", "path": str(tmp_path / "parted"), "splits": SHARES | {"test": None}}
    refused(
        tmp_path,
        r"image_size must be set: .*train/ant/0\.png has 6×6 pixels, .*test/ant/0\.png 20×10",
        **given,
    )


def test_what_cannot_be_split_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    given: dict[str, Any] = {"source": "image_folder", "path": str(folder)}
    refused(
        tmp_path, r"data\.splits\.test must be a share: image folder", **given, splits=SHARES | {"test": None}
    )
    small = SHARES | {"validation": 0.05}
    message = (
        r"'ant' has 10 images, too few .*\(validation takes 0\.04 of them\).*raise data\.splits\.validation"
    )
    refused(tmp_path, message, **given, splits=small)
    (folder / "bee" / "0.png").rename(folder / "0.png")
    refused(tmp_path, r"images/0\.png: images must lie in a folder named after their class", **given)
    given["path"] = str(folder / "none")
    refused(tmp_path, r"images/none: no such directory", **given)

    alone = image_folder(tmp_path / "alone", ("ant",))
    refused(tmp_path, "two classes or more are needed, got ant alone", source="image_folder", path=str(alone))
    parted = tmp_path / "parted"
    image_folder(parted / "test", ("ant", "bee", "cow"), 3)
    given = {"source": "image_folder", "path": str(parted), "splits": SHARES | {"test": None}}
    refused(tmp_path, "parted/test only, none in", **given)
    image_folder(parted / "train")
    refused(tmp_path, "class 'cow' is in the test split only", **given)

    contents, _ = twenty()
    folder = tmp_path / "tables"
    for labels, first in (("ant", "bee"), "'ant'"), ((True, False), "'False'"):
        parquet(folder / "a.parquet", contents[:10], [1, 2] * 5)
        parquet(folder / "b.parquet", contents[10:], labels * 5)
        message = rf"all numbers or all text: .*a\.parquet#0 has 1, .*b\.parquet#\d {first}"
        refused(tmp_path, message, source="parquet", path=str(folder))
    (folder / "a.parquet").rename(folder / "train.parquet")
    refused(tmp_path, r"b\.parquet: beside train\*\.parquet and", source="parquet", path=str(folder))
    (folder / "b.parquet").unlink()
    (folder / "train.parquet").rename(folder / "test.parquet")
    refused(tmp_path, r"tables: test\*\.parquet only", source="parquet", path=str(folder))


# Decoding


def decoded_as(tmp_path: Path, content: bytes, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """[H, W, C] by read_image."""
    (tmp_path / "image").write_bytes(content)
    expected = Summary.model_construct(image_size=size, channels=channels)
    return read_image(tmp_path / "image", expected)[0].permute(1, 2, 0).numpy()


def test_photos_are_turned_as_their_orientation_says(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # bright on the right
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    upright = decoded_as(tmp_path, encoded(pixels, "jpeg", exif=exif, quality=95), (32, 16))
    assert np.abs(upright.astype(int) - np.rot90(pixels, -1)).max() < 16


def test_transparency_shows_white(tmp_path: Path) -> None:
    pixels = np.dstack([pixels_of(0), np.random.default_rng(9).integers(0, 256, (6, 6), dtype=np.uint8)])
    colour, alpha = pixels[:, :, :3].astype(float), pixels[:, :, 3:] / 255
    found = decoded_as(tmp_path, encoded(pixels), (6, 6))
    assert np.abs(found - (colour * alpha + 255 * (1 - alpha))).max() < 1.5

    palette = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6) % 3).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    file = io.BytesIO()
    palette.save(file, "png", transparency=bytes([255, 0, 255]))
    found = decoded_as(tmp_path, file.getvalue(), (6, 6))
    colours = np.array([[10, 20, 30], [255, 255, 255], [70, 80, 90]])
    assert (found == colours[np.arange(36).reshape(6, 6) % 3]).all()


def test_of_16_bits_the_upper_8_remain(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (6, 6), dtype=np.uint16)
    assert (decoded_as(tmp_path, encoded(pixels), (6, 6), 1)[:, :, 0] == pixels // 256).all()
    assert (decoded_as(tmp_path, encoded(pixels), (6, 6)) == (pixels // 256)[:, :, None]).all()


def test_a_single_image_is_read_as_the_prepared_ones(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    for color in ("rgb", "gray"):
        given: dict[str, Any] = {
            "source": "image_folder",
            "path": str(folder),
            "image_size": 5,
            "color": color,
        }
        summary, images, origins = prepared(tmp_path / color, **given)
        for origin, pixels in zip(origins["train"], images["train"].pixels, strict=True):
            assert torch.equal(read_image(Path(origin), summary)[0], pixels)


# Files


def test_a_split_survives_the_disk(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (5000, 3, 4, 5), dtype=torch.uint8)
    images = Images(pixels, torch.randint(7, (5000,)))
    write_split(tmp_path, "train", images, [str(number) for number in range(5000)])
    again = read_split(tmp_path, "train")
    assert torch.equal(again.pixels, pixels) and torch.equal(again.labels, images.labels)
    assert again.pixels.is_contiguous() and again.labels.dtype == torch.int64


def test_damaged_artifacts_are_named(tmp_path: Path) -> None:
    noise = torch.randint(
        0, 256, (50, 1, 8, 8), dtype=torch.uint8
    )  # stored as it is: only the checksum tells
    write_split(tmp_path, "test", Images(noise, torch.arange(50)), ["x"] * 50)
    file = tmp_path / "test.parquet"
    whole = file.read_bytes()
    for damaged in (b"", whole[:-20], whole[:1600] + bytes([whole[1600] ^ 1]) + whole[1601:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"^{file}: .*; `dvc repro data` writes it again$"):
            read_split(tmp_path, "test")
    pq.write_table(pa.table({"label": [1]}), file)
    with pytest.raises(DataError, match=r"test\.parquet: must hold pixels and label"):
        read_split(tmp_path, "test")
    pq.write_table(pa.table({"origin": ["x"]}), file)
    with pytest.raises(DataError, match=r"test\.parquet: must hold label; `dvc repro data`"):
        read_true_labels(tmp_path, "test")
    with pytest.raises(DataError, match=r"train\.parquet: no such file or directory; `dvc repro data`"):
        read_true_labels(tmp_path, "train")
    with pytest.raises(DataError, match=r"train\.parquet: no such file or directory; `dvc repro data`"):
        read_split(tmp_path, "train")
    (tmp_path / "summary.json").write_text('{"classes": []}')
    with pytest.raises(DataError, match=r"summary\.json: can't be read .*; `dvc repro data`"):
        read_summary(tmp_path)


# Batches

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def random_images(count: int, height: int = 8, width: int = 8) -> IndexedSource:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return IndexedSource(pixels, torch.arange(count) % 5, MEAN, STD)


def test_normalize() -> None:
    pixels = random_images(4).pixels
    expected = (pixels.numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    for channels_last in (False, True):
        found = normalize(pixels, MEAN, STD, channels_last=channels_last)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("pad", "flip"), [(2, False), (0, True), (3, True), (9, False)])
def test_crops_and_mirrors_are_numpys(pad: int, flip: bool) -> None:
    """Each image is exactly one crop of its padded self; every offset occurs, and half are mirrored."""
    pixels = random_images(300, 6, 8).pixels
    params = Augment(crop_padding=pad, flip=flip)
    found = augmented(pixels, params, torch.Generator().manual_seed(0)).numpy()
    rows, columns, mirrored = set(), set(), 0
    for image, result in zip(pixels.numpy(), found, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        matches = [
            (row, column, mirror)
            for row in range(2 * pad + 1)
            for column in range(2 * pad + 1)
            for mirror in ((False, True) if flip else (False,))
            if (padded[:, row : row + 6, column : column + 8][:, :, :: -1 if mirror else 1] == result).all()
        ]
        assert matches
        rows.add(matches[0][0])
        columns.add(matches[0][1])
        mirrored += matches[0][2]
    if pad < 6:  # a wider border repeats itself
        assert rows == columns == set(range(2 * pad + 1))
    assert 110 < mirrored < 190 if flip else mirrored == 0  # 150 ± 4.6 standard deviations


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_is_one_square_of_the_mean(side: int) -> None:
    pixels = random_images(200, 6, 8).pixels
    params = Augment(crop_padding=0, flip=False, cutout=side)
    found = augmented(pixels, params, torch.Generator().manual_seed(0)).numpy()
    fill = np.round(pixels.numpy().mean((0, 2, 3))).astype(np.uint8)
    centres = set()
    for image, result in zip(pixels.numpy(), found, strict=True):
        matches = []
        for row in range(6):
            for column in range(8):
                top, left = row - side // 2, column - side // 2
                expected = image.copy()
                expected[:, max(top, 0) : top + side, max(left, 0) : left + side] = fill[:, None, None]
                if (expected == result).all():
                    matches.append((row, column))
        assert matches
        centres.add(matches[0])
    assert len(centres) > 35  # of 48


def test_nothing_asked_for_changes_nothing() -> None:
    pixels = random_images(9).pixels
    still = Augment(crop_padding=0, flip=False, cutout=0)
    assert torch.equal(augmented(pixels, still, torch.Generator()), pixels)


def epoch(images: IndexedSource, **options: Any) -> list[Any]:
    given = {"batch_size": 12, "augment": Augment(cutout=3), "seed": 1, "epoch": 0}
    return list(images.epoch(**(given | options)))


def test_an_epoch_is_whole_batches_of_each_image_once() -> None:
    images = random_images(53)
    batches = epoch(images, augment=None)
    order = torch.cat([batch.index for batch in batches])
    assert [len(batch.index) for batch in batches] == [12] * 4 and len(order.unique()) == 48
    for batch in batches:
        assert torch.equal(batch.labels, images.labels[batch.index])
        torch.testing.assert_close(batch.inputs, normalize(images.pixels[batch.index], MEAN, STD))
    assert [len(batch.index) for batch in epoch(random_images(7))] == [7]


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    images = random_images(53)
    first, again = epoch(images), epoch(images)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.index, other.index) and torch.equal(one.inputs, other.inputs)
    for changed in (epoch(images, epoch=1), epoch(images, seed=2)):
        assert not torch.equal(first[0].index, changed[0].index)


@pytest.mark.parametrize("count", [53, 10])
def test_workers_share_the_batches_of_one(count: int) -> None:
    images = random_images(count)
    alone = epoch(images) if count > 12 else epoch(images, batch_size=9)
    workers = [epoch(images, rank=rank, world=3) for rank in range(3)]
    for whole, *shares in zip(alone, *workers, strict=True):
        for key in ("index", "inputs", "labels"):
            assert torch.equal(torch.cat([getattr(share, key) for share in shares]), getattr(whole, key)), key
        assert len({len(share.index) for share in shares}) == 1


def test_too_few_images_for_the_workers() -> None:
    with pytest.raises(ValueError, match=r"2 training images are too few for 3 workers: lower ray\.workers"):
        epoch(random_images(2), world=3)


@pytest.mark.parametrize("world", [1, 2, 3, 60])
def test_evaluation_sees_each_image_once(world: int) -> None:
    images = random_images(53)
    batches = [
        batch for rank in range(world) for batch in images.ordered(batch_size=8, rank=rank, world=world)
    ]
    assert all(1 <= len(batch.index) <= 8 for batch in batches)
    assert torch.cat([batch.index for batch in batches]).sort().values.tolist() == list(range(53))
    for batch in batches:
        assert torch.equal(batch.labels, images.labels[batch.index])
        torch.testing.assert_close(batch.inputs, normalize(images.pixels[batch.index], MEAN, STD))


def test_gray_images_return_whatever_their_strides(tmp_path: Path) -> None:
    """A contiguous tensor of one channel has strides that Arrow would take for another order of axes."""
    pixels = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 1, 3, 4)
    write_split(tmp_path, "train", Images(pixels, torch.tensor([0, 1])), ["a", "b"])
    assert torch.equal(read_split(tmp_path, "train").pixels, pixels)
