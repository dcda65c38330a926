from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from akgp.data import Summary, read_split
from akgp.data.corruptions import (
    asymmetric_noise,
    flip_targets,
    long_tail,
    stratified_subset,
    symmetric_noise,
)
from akgp.data.sources import CIFAR10_CLASSES
from akgp.data.splitting import stratified_split
from akgp.data.tables import SPLITS, Altered, read_true_labels
from akgp.params import ParamsError, Regime, validate
from tests.support.data_sets import cifar10_directory
from tests.support.images import (
    SHARES,
    by_origin,
    prepared,
    refused,
)

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
