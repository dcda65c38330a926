"""The gate of a new network: its checks, what it is compared with, and what it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from akgp import params
from akgp.deployment import release
from akgp.deployment.release import Decision, ReleaseError
from akgp.params import Release
from tests.support.commands import run
from tests.support.releases import CLASSES, candidate, configured, prepare, promote, reviewed, workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return workspace(tmp_path)


@pytest.mark.parametrize(
    ("top1", "limits", "promote", "reasons"),
    [
        (98.3, {}, True, ["top-1 98.30 % against 98.30 %, equal"]),
        (98.8, {}, True, ["top-1 98.80 % against 98.30 %, 0.50 points better"]),
        (97.8, {}, True, ["98.30 %, 0.50 points worse, 0.5 allowed (release.max_drop)"]),
        (97.7, {}, False, ["98.30 %, 0.60 points worse, 0.5 allowed (release.max_drop)"]),
        (98.2, {"max_drop": 0.0}, False, ["0.10 points worse, 0 allowed (release.max_drop)"]),
        (float("nan"), {}, False, ["top-1 nan %"]),
        (98.3, {"max_bytes": 1000}, True, ["equal", "1,000 bytes, 1,000 allowed (release.max_bytes)"]),
        (98.3, {"max_bytes": 999}, False, ["1,000 bytes, 999 allowed (release.max_bytes)"]),
        (98.3, {"max_latency_ms": 0.2}, True, ["equal", "0.200 ms, 0.2 allowed"]),
        (98.3, {"max_latency_ms": 0.19}, False, ["0.200 ms, 0.19 allowed (release.max_latency_ms)"]),
        (90.0, {"max_bytes": 9, "max_latency_ms": 0.1}, False, ["8.30 points worse", "bytes", "ms"]),
    ],
)
def test_gate(top1: float, limits: dict[str, Any], promote: bool, reasons: list[str]) -> None:
    new = {"top1": top1, "bytes": 1000, "latency_ms": 0.2}
    decision = release.gate(new, {"top1": 98.3, "bytes": 10, "latency_ms": 9.0}, Release(**limits))
    assert decision.promote is promote
    assert len(decision.reasons) == len(reasons)
    for said, expected in zip(decision.reasons, reasons, strict=True):
        assert expected in said


def test_the_first_release_has_nothing_to_beat_but_its_limits() -> None:
    new = {"top1": 50.0, "bytes": 1000, "latency_ms": 0.2}
    assert release.gate(new, None, Release()) == Decision(True, ("top-1 50.00 %, the first release",))
    assert not release.gate(new, None, Release(max_bytes=999)).promote


def test_review_measures_both_on_the_present_test_split(root: Path) -> None:
    first = reviewed(root)
    assert first.rows["new"]["top1"] == 100  # not the 12 % of the report, which may be of another network
    assert first.rows["new"]["bytes"] == (root / "models/int8/model.onnx").stat().st_size
    assert 0 < first.rows["new"]["latency_ms"] < 9
    where = release.place(root, configured(root))
    version = promote(where, first.network)
    assert reviewed(root).decision == Decision(False, (f"nothing new: {version} is in production",))
    assert not reviewed(root).rejected

    candidate(root, bias=0.2)  # from gray 153 on: wrong for 140, 7 of 8 are right
    review = reviewed(root)
    assert review.rejected and review.production == version
    assert [row["top1"] for row in review.rows.values()] == [100, 87.5]
    assert "in production  100.00 %  " in review.text() and "12.50 points worse, 0.5 allowed" in review.text()
    assert not reviewed(root, max_drop=12.5).rejected

    prepare(root, [0, 255])  # other test images: the two agree on these
    review = reviewed(root)
    assert review.decision.promote
    changed = f"the test images have changed since {version} was released; both were measured on these"
    assert review.decision.reasons == (
        "top-1 100.00 % against 100.00 %, equal",
        f"{changed}. They were drawn again from all images, so that {version} may have been trained on some "
        "of them and look better than it is: a fixed test split avoids that (docs/how-to/releases.md)",
    )
    with (root / "params.yaml").open("a") as text:
        text.write("data: {source: image_folder, path: images, splits: {test: null}}\n")
    assert release.review(root, params.load(root / "params.yaml")).decision.reasons[1:] == (changed,)


def test_classes_go_by_name(root: Path) -> None:
    promote(release.place(root, configured(root)), reviewed(root).network)
    candidate(root, bias=-2)  # all bright
    prepare(root, [0, 100, 200, 255], classes=("bright", "new", "dark"))
    assert [row["top1"] for row in reviewed(root).rows.values()] == [100, 50]


def test_a_network_for_other_classes_is_not_compared(root: Path) -> None:
    candidate(root, classes=("cat", "dog"))
    promote(release.place(root, configured(root)), release.candidate(root))
    candidate(root)
    for force in (False, True):
        with pytest.raises(ReleaseError) as error:
            reviewed(root, force=force)
        assert str(error.value) == (
            "the network in production has the classes cat, dog, the test split dark, bright: they can't be "
            "compared; set release.releases to a new place"
        )


def test_a_class_is_dropped_by_force_alone(root: Path) -> None:
    candidate(root, classes=("dark", "gray"))
    version = promote(release.place(root, configured(root)), release.candidate(root))
    candidate(root)
    review = reviewed(root)
    assert [row["top1"] for row in review.rows.values()] == [50, 100]
    assert review.rejected and review.decision.reasons == (
        "classes that the new network lacks: gray; `akgp release promote --force` drops them",
        f"classes that {version} lacks, so that it is wrong on their images: bright",
    )
    forced = reviewed(root, force=True)
    assert not forced.rejected and forced.decision.reasons == review.decision.reasons
    assert release.carry_out(release.place(root, configured(root)), forced) != version


def test_a_rejection_is_no_error_by_its_status(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert run(monkeypatch, "release", "promote") == 0
    candidate(root, bias=-2)
    assert run(monkeypatch, "release", "promote") == 3
    (root / "models/int8/model.onnx").unlink()
    assert run(monkeypatch, "release", "promote") == 1


def test_what_cannot_be_compared_or_released_is_named(root: Path) -> None:
    (root / "models/int8/preprocessing.json").write_text(
        json.dumps({"classes": CLASSES, "image_size": [8, 8], "channels": 1, "mean": [0.5], "std": [0.5]})
    )
    with pytest.raises(ReleaseError, match=r"network new takes images of \(1, 8, 8\), the test split's are"):
        reviewed(root)
    details = root / "reports/details.json"
    details.write_text(json.dumps({"networks": {"int8": {"sha256": "0" * 64}}}))
    with pytest.raises(ReleaseError, match=r"details\.json: has figures of another network than .*onnx"):
        reviewed(root)
    details.unlink()
    twelve = {
        "classes": CLASSES,
        "image_size": [4, 4],
        "channels": 1,
        "mean": [0.5],
        "std": [0.5],
        "bit_depth": 12,
    }
    (root / "models/int8/preprocessing.json").write_text(json.dumps(twelve))
    with pytest.raises(ReleaseError, match=r"of 12 bits a channel, the test split has been scaled from 16"):
        reviewed(root)
    (root / "reports/metrics.json").write_text('{"dense": {"top1": 1}}')
    with pytest.raises(ReleaseError, match=r"reports/metrics\.json: must hold int8; `dvc repro` writes"):
        reviewed(root)
    (root / "models/int8/preprocessing.json").unlink()
    with pytest.raises(ReleaseError, match=r"preprocessing\.json: no such file; `dvc repro` writes it"):
        reviewed(root)


def test_a_damaged_release_in_production_is_not_compared_with(root: Path) -> None:
    where = Path(release.place(root, configured(root)))
    version = promote(str(where), reviewed(root).network)
    candidate(root, weight=2)
    (where / version / "model.onnx").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"model\.onnx: damaged: .*`akgp release promote --force`"):
        reviewed(root)
