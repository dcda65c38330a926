from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from akgp import params
from akgp.reporting import figures
from akgp.reporting.page import Report, write
from akgp.reporting.targets import needs
from akgp.reporting.terms import regime
from tests.reporting.test_targets import TAKEN, row
from tests.support.reports import metrics

CLASSES = ("cat & dog", "<script>alert(1)</script>", "a$b_{c", "犬")
CONFUSED = [[0.7, 0.3, 0, 0], [0.2, 0.8, 0, 0], [0, 0.1, 0.9, 0], [0, 0, 0, 1]]
VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture
def content() -> Report:
    settings = params.validate(
        {"networks": {"net": {"architecture": "cifar_resnet20"}}, "teachers": ["net"], "student": "net"}
    )
    history = [
        {
            "epoch": n,
            "loss": 2 / n,
            "train_top1": 50.0 + n,
            "val_loss": 2.1 / n,
            "val_top1": 49.0 + n,
            "learning_rate": 0.1,
            "images_per_second": 900.0,
            "seconds": 1.0,
        }
        for n in (1, 2, 3)
    ]
    return Report(
        params=settings,
        metrics=metrics(),
        characteristics={
            "samples": 1200,
            "accuracy": 0.91,
            "ece": 0.031,
            "overconfidence": 0.042,
            "temperature": 1.3,
            "note": "</pre><b>",
            "noise_rate": 0.2,
            "noise_rate_low": 0.15,
            "noise_rate_by_class": [0.2] * 4,
            "noise_rate_by_class_low": [0.1] * 4,
            "doubtful": True,
            "confusion": CONFUSED,
            "overlap": CONFUSED,
            "class_counts": [1200, 90, 900, 900],
            "imbalance": 13.33,
            "memorisation_gap": -0.12,
        },
        sentence="Balanced <classes> & few wrong labels.",
        histories={"dense net": history, "student": history},
        layers=[
            {"name": "conv1", "dense_width": "16", "pruned_width": "16", "reason": "feeds <the> sum"},
            {
                "name": "layer1.0.conv1",
                "dense_width": "16",
                "pruned_width": "8",
                "reason": "",
                "rule": "bypass (layer1.0)",
            },
        ],
        weights=[{"class": name, "mean": "0.6", "p10": "0.4", "p90": "0.8", "n": "1200"} for name in CLASSES],
        summary={
            "source": "digits",
            "classes": list(CLASSES),
            "image_size": [8, 8],
            "channels": 1,
            "counts": {"train": [1200, 90, 900, 900], "test": [30, 30, 30, 30]},
            "imbalance": 13.33,
            "skipped": 0,
            "mean": [0.3],
            "std": [0.2],
            "digest": "0",
        },
        provenance={"machine": "x86_64", "commit": "abc1234"},
    )


class Page(HTMLParser):
    """Collects text, tags and every address; fails on a tag that is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.terms: dict[str, str] = {}  # of definition lists
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [
            value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "data")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] == "dt":
            self.term = data
        elif self.open and self.open[-1] == "dd":
            self.terms[self.term] = self.terms.get(self.term, "") + data


def test_page_is_whole_and_loads_nothing(tmp_path: Path, content: Report) -> None:
    file = write(tmp_path, content)
    html = file.read_text(encoding="utf-8")
    page = Page(html)
    assert file == tmp_path / "index.html"
    assert page.tags.count("svg") == 5
    assert page.terms["teacher's accuracy"] == "91.0 % of 1,200 calibration images"
    assert page.terms["wrong labels"] == "20.0 % by estimate, at least 15.0 %; corrected above 5 %"
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"link", "img", "iframe", "script", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", html)
    assert "#0102" not in html  # every stand-in colour was replaced by one of the page's


def test_page_says_what_it_was_given(tmp_path: Path, content: Report) -> None:
    text = " ".join(" ".join(Page(write(tmp_path, content).read_text(encoding="utf-8")).text).split())
    for expected in (
        "Balanced <classes> & few wrong labels.",
        "98.44",
        "272 k",
        "−75.0 %",
        "−60.0 %",
        "0.200 ms (0.190–0.210)",
        "asked for 50.0% of the filters",
        "filters removed 25.0%",
        "MACs removed 60.0%",
        "parameters removed 75.0%",
        "19 run as integer kernels, 2 in floating point",
        "3 operations stay in floating point: the last bits depend on the processor",
        "commit abc1234",
        "90 to 1,200",
        "feeds <the> sum",
        "bypass (layer1.0)",
        "temperature: 2.0",
    ):
        assert expected in text, expected


def test_a_budget_of_time_is_said_with_what_was_predicted_and_reached(
    tmp_path: Path, content: Report
) -> None:
    asked = content.params.model_copy(update={"prune": params.Prune(speedup=2.5)})
    budget = {"key": "speedup", "asked": 2.5, "reached": 2.4561, "why": None, "predicted": 2.6012}
    page = Page(write(tmp_path, replace(content, params=asked, budget=budget)).read_text(encoding="utf-8"))
    assert page.terms["asked for"] == "int8 2.5 times as fast as dense float"
    assert page.terms["reached by pruning"] == "int8 2.46 times as fast as dense float (2.6 predicted)"


@pytest.mark.parametrize(
    ("key", "asked", "reached", "said"),
    [
        ("macs", 0.5, 0.503, "50.3% of the MACs kept"),
        ("latency_ms", 1.5, 1.4567, "1.46 ms in int8"),
        ("bytes", "14k", 14_000, "an int8 file of 14,000 bytes"),
    ],
)
def test_what_a_budget_came_to_has_its_unit(
    tmp_path: Path, content: Report, key: str, asked: Any, reached: float, said: str
) -> None:
    prune = content.params.model_copy(update={"prune": params.Prune.model_validate({key: asked})})
    budget = {"key": key, "asked": asked, "reached": reached, "why": None}
    page = Page(write(tmp_path, replace(content, params=prune, budget=budget)).read_text(encoding="utf-8"))
    assert page.terms["reached by pruning"] == said


def test_a_dense_network_that_was_trained_before_has_no_training_here(
    tmp_path: Path, content: Report
) -> None:
    student = content.params.student
    network = content.params.networks[student].model_copy(update={"checkpoint": "net.pt"})
    given = content.params.model_copy(update={"networks": content.params.networks | {student: network}})
    page = Page(write(tmp_path, replace(content, params=given)).read_text(encoding="utf-8"))
    assert page.terms["dense network"] == "trained before: net.pt" and "dense training" not in page.terms


def test_weights_above_1_are_within_their_figure() -> None:
    """Marks outside of the axes would not be drawn; further ticks are."""
    low = [{"class": name, "mean": 0.4, "p10": 0.3, "p90": 0.5, "n": 9} for name in "ab"]
    high = [row | {"mean": 1.4, "p10": 1.3, "p90": 1.5} for row in low]
    marks = [figures.teacher_weights(rows).count("<use") for rows in (low, high)]
    assert marks[1] >= marks[0]


def test_quantization_aware_training_is_said_where_there_was_any(tmp_path: Path, content: Report) -> None:
    term = "quantization-aware training"
    assert term not in Page(write(tmp_path, content).read_text(encoding="utf-8")).terms
    qat = {"shipped": "control", "val_top1": {"student": 97.5, "control": 98.25, "qat": 98.0}}
    rows = metrics()
    rows["int8"]["qat"] = qat
    page = Page(write(tmp_path, replace(content, metrics=rows)).read_text(encoding="utf-8"))
    assert page.terms[term] == (
        "validation top-1 of int8: the student as it is 97.50 %, trained on in float 98.25 %, trained on as "
        "int8 98.00 %; shipped: trained on in float"
    )


def test_other_formats_and_the_layers_of_the_c_library(tmp_path: Path, content: Report) -> None:
    c = row("c", 1000) | {"latency_ms": None, "against_float": None}
    given = replace(content, targets=[c, row("litert", 998)], microcontroller=TAKEN)
    html = write(tmp_path, given).read_text(encoding="utf-8")
    page = " ".join(" ".join(Page(html).text).split())
    assert needs(TAKEN) in page and "998 of" not in page and "999 of 1,000 classes are the oracle's" in page
    assert "layer1.0.conv1 Convolution 8×8×8 36,864 752 1,456 81.2" in page
    assert "On a microcontroller" not in write(tmp_path, content).read_text(encoding="utf-8")


def test_a_regime_is_said_where_there_is_one(tmp_path: Path, content: Report) -> None:
    assert "regime" not in Page(write(tmp_path, content).read_text(encoding="utf-8")).terms
    asked = {"label_noise": 0.4, "noise": "symmetric", "imbalance": 10.0, "subset": 5000}
    changed = {"train": 1234, "calibration": 56, "validation": 78}
    altered = {"asked": asked, "kept": [1500, 900, 400, 300], "changed": changed}
    noisy = replace(content, summary={**content.summary, "regime": altered})
    page = Page(write(tmp_path, noisy).read_text(encoding="utf-8"))
    assert page.terms["regime"] == (
        "subset of 5,000 images; exponential long tail 10 : 1, 3,100 images left; symmetric label noise, "
        "0.4 (wrong: 1,234 in train, 56 in calibration, 78 in validation); the test split is as it was"
    )


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"subset": 90}, "subset of 90 images; the test split is as it was"),
        ({"imbalance": 2.5}, "exponential long tail 2.5 : 1, 80 images left; the test split is as it was"),
        (
            {"label_noise": 0.3, "noise": "asymmetric"},
            "asymmetric label noise, 0.3 of the flipped classes (wrong: 9 in train); "
            "the test split is as it was",
        ),
    ],
)
def test_a_regimes_line_names_what_was_asked_alone(asked: dict, line: str) -> None:
    defaults = params.Regime().model_dump(mode="json")
    assert regime({"asked": defaults | asked, "kept": [50, 30], "changed": {"train": 9}}) == line
    assert regime(None) == ""


def test_class_names_are_escaped(tmp_path: Path, content: Report) -> None:
    html = write(tmp_path, content).read_text(encoding="utf-8")
    text = "".join(Page(html).text)
    assert "<script>" not in html and "</pre><b>" not in html
    for name in CLASSES:
        assert text.count(name) >= 3, name  # the figure, its table, the list of classes


def test_same_content_same_bytes(tmp_path: Path, content: Report) -> None:
    first = write(tmp_path, content).read_bytes()
    assert write(tmp_path, content).read_bytes() == first


def test_ids_are_unique_across_figures(tmp_path: Path, content: Report) -> None:
    html = write(tmp_path, content).read_text(encoding="utf-8")
    ids = re.findall(r'<clipPath id="([^"]+)"', html)
    assert ids and len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("distill", "w0", "said"),
    [
        ({}, None, "akgp, w0 0.3, temperature 2"),
        ({}, 0.0, "akgp, w0 0.00 by the answers, temperature 2"),
        ({"w0_from": "branches"}, 0.41, "akgp, w0 0.41 by the branches, temperature 2"),
        (
            {"training": {"augment": {"mixup": 0.3}}}, 0.2,
            "akgp, by the teacher alone, as all images are mixed, temperature 2",
        ),
        ({"strategy": "labels"}, None, "labels, temperature 2"),
    ],
)  # fmt: skip
def test_the_weight_that_was_used_is_told(
    tmp_path: Path, content: Report, distill: dict[str, Any], w0: float | None, said: str
) -> None:
    changed = {"distill": distill, "sweep": {"space": {}}}
    tree = content.params.model_dump(mode="json") | changed
    page = Page(write(tmp_path, replace(content, params=params.validate(tree), w0=w0)).read_text("utf-8"))
    assert page.terms["distillation"] == said


@pytest.mark.parametrize(
    ("distill", "corrected", "adjusted"),
    [
        ({}, "; corrected above 5 %", "; logits are adjusted above 3"),
        ({"noise_posterior": False, "logit_adjustment": "off"}, "", ""),
        ({"strategy": "fixed"}, "", ""),
        ({"strategy": "fixed", "logit_adjustment": "on"}, "", "; logits are adjusted"),
    ],
)
def test_only_corrections_that_were_made_are_told(
    tmp_path: Path, content: Report, distill: dict[str, Any], corrected: str, adjusted: str
) -> None:
    changed = {"distill": distill, "sweep": {"space": {}}}
    tree = content.params.model_dump(mode="json") | changed
    page = Page(write(tmp_path, replace(content, params=params.validate(tree))).read_text("utf-8"))
    assert page.terms["wrong labels"] == "20.0 % by estimate, at least 15.0 %" + corrected
    assert page.terms["imbalance"].startswith(f"13.33, largest class over smallest{adjusted}13.33 (")


def test_without_training_and_characteristics(tmp_path: Path, content: Report) -> None:
    taken = replace(
        content,
        histories={"dense net": [{"epoch": 0, "val_loss": 0.1, "val_top1": 98.0}]},
        weights=[],
        characteristics=None,
    )
    page = Page(write(tmp_path, taken).read_text(encoding="utf-8"))
    assert page.tags.count("svg") == 1


def test_many_classes_are_drawn_without_names() -> None:
    rows = [{"class": f"class {n}", "mean": 0.5, "p10": 0.4, "p90": 0.6, "n": 10} for n in range(200)]
    assert "class 7<" not in figures.teacher_weights(rows)


def test_the_mean_over_classes_is_told_where_it_is_another(tmp_path: Path, content: Report) -> None:
    rows = {name: row | {"balanced_top1": row["top1"] - 0.3} for name, row in metrics().items()}
    rows["student"]["balanced_top1"] = 91.25
    page = write(tmp_path, replace(content, metrics=rows)).read_text(encoding="utf-8")
    assert "91.25" in page and "its mean over the classes" in page


def test_doubtful_labels_are_drawn_where_they_are_known() -> None:
    found = {"class_counts": [5, 6, 7, 8], "noise_rate_by_class": [0.5, None, 0.25, 0.0]}
    lows = {"noise_rate_by_class_low": [0.2, 0.0, 0.1, 0.0]}
    svg = figures.class_characteristics(found | lows, CLASSES)
    assert "training images" in svg and "labelled otherwise, %" in svg
    assert (
        svg.count("<use")
        == figures.class_characteristics(
            found | lows | {"noise_rate_by_class": [0.5, 0.1, 0.25, 0.0]}, CLASSES
        ).count("<use")
        - 1
    ), "a mark for each class that is known"
    unknown = figures.class_characteristics(found | lows | {"noise_rate_by_class": [None] * 4}, CLASSES)
    assert "training images" in unknown and "labelled otherwise" not in unknown
    assert figures.class_characteristics(None, CLASSES) == ""


def test_squares_of_confused_classes_have_areas_like_their_probabilities() -> None:
    found = {
        "noise_rate": 0.2, "noise_rate_by_class": [0.2, 0.2, 0.2, None], "doubtful": True,
        "confusion": CONFUSED, "overlap": CONFUSED,
    }  # fmt: skip
    svg = figures.class_confusion(found, CLASSES)
    assert "largest: 30 %" in svg and "largest: 6 %" in svg
    assert "largest: 6 %" not in figures.class_confusion(found | {"doubtful": False}, CLASSES)
    assert figures.class_confusion(None, CLASSES) == ""
    assert figures.class_confusion(found, [str(k) for k in range(figures.LABELLED + 1)]) == ""
    squares = re.findall(
        r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: var', svg
    )
    sides = sorted((abs(float(right) - float(left)) for left, right in squares), reverse=True)
    assert [side**2 / sides[0] ** 2 for side in sides[:6]] == pytest.approx(
        [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3], rel=0.01
    )  # of 0.3, 0.2 and 0.1, in both panels
