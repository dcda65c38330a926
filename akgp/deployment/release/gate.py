"""The gate of a new int8 network, compared with the one in production on the same test split now.

The figures from the time of the release do not decide: test images may have been added since, and latency
depends on the machine.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akgp.data.labels import listed
from akgp.deployment.package import FILES, MODEL, PREPROCESSING, parse_preprocessing
from akgp.deployment.release import store
from akgp.deployment.release.files import ReleaseError
from akgp.deployment.release.records import DamagedError, ReleaseCandidate
from akgp.params import Params, Release
from akgp.reporting.metrics import DETAILS, SHA256, read_metrics
from akgp.reporting.units import latency as latency_text
from akgp.reporting.units import number
from akgp.workspace import METRICS, Workspace

if TYPE_CHECKING:
    from akgp.data import Images, Preprocessing, Summary

Row = Mapping[str, Any]
"""A network's figures: top1 (%), bytes and latency_ms decide; other keys are recorded."""
ROUNDING = 1e-9  # points: 98.3 − 97.8 is a drop of 0.5, whatever the floats say


@dataclass(frozen=True)
class Decision:
    """Whether to promote; `reasons` are the failed checks or, if none failed, all of them."""

    promote: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Review:
    """A new network beside the one in production.

    Attributes:
        network: the new one; its row as measured now.
        rows: of "in production", if there is one, and "new"; empty if there is nothing new.
        production: version of the release in production, if any.
        known: version under which the new one has been released before, if it has.
        repairs: whether the release in production is this very network, but damaged.
    """

    network: ReleaseCandidate
    rows: Mapping[str, Row]
    production: str | None
    known: str | None
    decision: Decision
    repairs: bool = False

    @property
    def rejected(self) -> bool:
        """Whether the new network was compared and did not pass."""
        return self.known is None and not self.decision.promote

    def text(self) -> str:
        """A line for each row, and the reasons."""
        rows = [
            f"{name:<13}  {row['top1']:6.2f} %  {number(row['bytes'])}B  {latency_text(row)}"
            for name, row in self.rows.items()
        ]
        return "\n".join([*rows, *self.decision.reasons])


def review(root: Path, params: Params, *, force: bool = False) -> Review:
    """Compare the workspace's int8 network with the one in production, without changing anything.

    Args:
        force: promote a new network whatever the gate says, and although the release in production is
            damaged.

    Raises:
        ReleaseError: nothing to release, the networks can't be compared, or the release in production is
            damaged and the new network is another one.
    """
    where = store.place(root, params)
    new, production = candidate(root), store.current(where)
    known, networks, damage = store.known(where, new), {"new": new}, None
    try:
        if production:
            networks = {"in production": store.load(where, production), "new": new}
    except DamagedError as error:
        damage = str(error)
    repairs = damage is not None and known == production
    if known and damage is None:
        state = "is in production" if known == production else "was in production before"
        return Review(new, {}, production, known, Decision(False, (f"nothing new: {known} {state}",)))
    if damage and not repairs and (known or not force):
        remedy = f"rollback {known}` puts this network" if known else "promote --force` puts the new network"
        raise ReleaseError(f"{damage}; `akgp release {remedy} in its place, without a comparison")
    rows = measure(networks, root, params)
    if repairs:
        again = f"nothing new: {known} is in production, but {damage}; its files are written again"
        decision = Decision(False, (again,))
    elif damage:
        decision = Decision(True, (f"not compared with the release in production: {damage}",))
    else:
        decision = _compared(networks, rows, production, params)
        decision = replace(decision, promote=decision.promote or force)
    return Review(replace(new, row=rows["new"]), rows, production, known, decision, repairs)


def carry_out(where: str, reviewed: Review) -> str | None:
    """Do what a review decided; returns the version that is in production then, if any.

    Raises:
        ReleaseError: another release has come into production since the review.
    """
    if reviewed.repairs and reviewed.production:
        store.repair(where, reviewed.production, reviewed.network)
    if reviewed.decision.promote:
        return store.promote(where, reviewed.network, reviewed.production)
    return reviewed.production


def candidate(root: Path) -> ReleaseCandidate:
    """The int8 network of the workspace, as its last `dvc repro` left it.

    Raises:
        ReleaseError: a file of it is missing; DataError, ReportError: or not what the stages write.
    """
    from akgp.data import read_split

    workspace = Workspace(root)
    files = {name: workspace.int8 / name for name in FILES}
    for file in files.values():
        if not file.exists():
            raise ReleaseError(f"{file}: no such file; `dvc repro` writes it")
    row = read_metrics(workspace.reports / METRICS).get("int8")
    if row is None:
        file = workspace.reports / METRICS
        raise ReleaseError(f"{file}: must hold int8; `dvc repro` writes it again")
    content = {name: file.read_bytes() for name, file in files.items()}
    measured = row.pop(SHA256, None)  # earlier versions did not note it
    if measured is not None and measured != hashlib.sha256(content[MODEL]).hexdigest():
        raise ReleaseError(
            f"{workspace.reports / DETAILS}: has figures of another network than {files[MODEL]}; `dvc repro` "
            "measures that"
        )
    return ReleaseCandidate(content, row, _digest(read_split(workspace.data, "test")))


def measure(networks: Mapping[str, ReleaseCandidate], root: Path, params: Params) -> dict[str, Row]:
    """The networks' rows with top1, bytes and latency measured here, on the present test split.

    In `deploy.runtime`. Classes are matched by name: an image of a class that a network does not have counts
    as wrong.

    Raises:
        ReleaseError: a network takes images of another size, or has none of the classes.
    """
    from akgp.data import read_split, read_summary
    from akgp.deployment.model_files import as_known
    from akgp.evaluation import accuracy, latency, runtime_logits
    from akgp.runtimes import RUNTIMES

    data = Workspace(root).data
    summary, images = read_summary(data), read_split(data, "test")
    shape, runtime = (summary.channels, *summary.image_size), RUNTIMES[params.deploy.runtime]
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        graphs: dict[str, Path] = {}
        for name, network in networks.items():
            expected = _checked(name, network, summary)
            graphs[name] = Path(folder) / f"{name}.onnx"
            graphs[name].write_bytes(network.files[MODEL])
            source = as_known(images, summary.classes, expected)
            threads = params.ray.cpus_per_worker
            logits = runtime_logits(graphs[name], source, threads=threads, runtime=runtime)
            rows[name] = {"top1": accuracy(logits, source.labels), "bytes": graphs[name].stat().st_size}
        # Both in one call: they are timed in turn, under the same load.
        times = latency(graphs, (1, *shape), params.evaluate, params.seed, runtime)
    return {
        name: {
            **networks[name].row,
            **rows[name],
            "latency_ms": times[name].median_ms,
            "latency_low_ms": times[name].low_ms,
            "latency_high_ms": times[name].high_ms,
        }
        for name in networks
    }


def _checked(name: str, network: ReleaseCandidate, summary: Summary) -> Preprocessing:
    """The network's preprocessing, after checking that it can be measured on these images; see `measure`."""
    expected = parse_preprocessing(network.files[PREPROCESSING], f"the network {name}")
    takes, are = (expected.channels, *expected.image_size), (summary.channels, *summary.image_size)
    apart = "they can't be compared; set release.releases to a new place"
    if takes != are:
        raise ReleaseError(f"the network {name} takes images of {takes}, the test split's are {are}: {apart}")
    if expected.bit_depth != summary.bit_depth:
        raise ReleaseError(
            f"the network {name} takes images of {expected.bit_depth} bits a channel, the test split has "
            f"been scaled from {summary.bit_depth}: {apart}"
        )
    if not set(expected.classes) & set(summary.classes):
        raise ReleaseError(
            f"the network {name} has the classes {listed(expected.classes)}, the test split "
            f"{listed(summary.classes)}: {apart}"
        )
    return expected


def _compared(
    networks: Mapping[str, ReleaseCandidate], rows: Mapping[str, Row], production: str | None, params: Params
) -> Decision:
    """The gate's decision; its reasons say too what makes the two figures of accuracy hard to compare."""
    if production is None:
        return gate(rows["new"], None, params.release)
    old, new = networks["in production"], networks["new"]
    classes = {
        name: parse_preprocessing(network.files[PREPROCESSING], f"the network {name}").classes
        for name, network in networks.items()
    }
    lost = [known for known in classes["in production"] if known not in classes["new"]]
    gained = [known for known in classes["new"] if known not in classes["in production"]]
    decision = gate(rows["new"], rows["in production"], params.release, lost)
    notes = []
    if gained:
        notes.append(
            f"classes that {production} lacks, so that it is wrong on their images: {listed(gained)}"
        )
    if old.test_digest != new.test_digest:
        changed = f"the test images have changed since {production} was released; both were measured on these"
        if params.data.splits.test is not None:
            changed += (
                f". They were drawn again from all images, so that {production} may have been trained "
                "on some of them and look better than it is: a fixed test split avoids that "
                "(docs/how-to/releases.md)"
            )
        notes.append(changed)
    return replace(decision, reasons=(*decision.reasons, *notes))


def gate(new: Row, production: Row | None, params: Release, lost: Sequence[str] = ()) -> Decision:
    """Promote if the new network is no worse than allowed and within its limits.

    Args:
        new: measured on the test split.
        production: measured on the same images; None: there is none in production.
        lost: classes that the one in production has and the new one lacks.
    """
    checks = [_accuracy(new["top1"], production, params.max_drop)]
    if lost:
        text = (
            f"classes that the new network lacks: {listed(lost)}; `akgp release promote --force` drops them"
        )
        checks.append((False, text))
    if params.max_bytes is not None:
        text = f"{new['bytes']:,} bytes, {params.max_bytes:,} allowed (release.max_bytes)"
        checks.append((new["bytes"] <= params.max_bytes, text))
    if params.max_latency_ms is not None:
        text = f"{new['latency_ms']:.3f} ms, {params.max_latency_ms:g} allowed (release.max_latency_ms)"
        checks.append((new["latency_ms"] <= params.max_latency_ms, text))
    promote = all(fine for fine, _ in checks)
    return Decision(promote, tuple(text for fine, text in checks if promote or not fine))


def _accuracy(top1: float, production: Row | None, max_drop: float) -> tuple[bool, str]:
    if production is None:
        return True, f"top-1 {top1:.2f} %, the first release"
    gain = top1 - production["top1"]
    text = f"top-1 {top1:.2f} % against {production['top1']:.2f} %, "
    if gain >= 0:
        return True, text + ("equal" if gain == 0 else f"{gain:.2f} points better")
    return (
        gain >= -max_drop - ROUNDING,
        text + f"{-gain:.2f} points worse, {max_drop:g} allowed (release.max_drop)",
    )


def _digest(images: Images) -> str:
    """SHA-256 over pixels and labels."""
    sha = hashlib.sha256(str(tuple(images.pixels.shape)).encode())
    sha.update(images.pixels.contiguous().numpy().data)
    sha.update(images.labels.numpy().data)
    return sha.hexdigest()
