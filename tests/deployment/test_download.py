"""The download format: restored bit for bit, near the entropy; weights that are shared."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from akgp.cli import app
from akgp.data import Preprocessing
from akgp.deployment.download import HEADER, MAGIC, DownloadError, compressed, pack, unpack
from akgp.deployment.package import digest, write_metadata
from akgp.models import cifar_resnet
from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize, verify
from akgp.quantization.qdq import Qdq, rows
from akgp.quantization.weight_sharing import share_weights, shared
from tests.support.saturation import saturating_channels

IMAGES = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    model = cifar_resnet(20, widths=(8, 16, 32)).eval()
    export_onnx(model, IMAGES[:1], folder / "float.onnx")
    quantize(folder / "float.onnx", IMAGES, Quantize(images=16), folder / "model.onnx")
    return folder / "model.onnx"


def weights(file: Path) -> list[np.ndarray]:
    graph = Qdq(onnx.load(str(file)))
    found = []
    for node in graph.weighted():
        weight = graph.dequantized(node.input[1])
        assert weight is not None
        found.append(rows(node, graph.constant(weight.integers)))
    return found


def entropy(values: np.ndarray) -> float:
    """Bytes of the values at the entropy of their histogram."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


@pytest.mark.parametrize("centroids", [None, 64, 16, 2])
def test_a_packed_file_is_restored_bit_for_bit_and_near_its_entropy(
    int8: Path, tmp_path: Path, centroids: int | None
) -> None:
    file = int8
    if centroids is not None:
        file = tmp_path / "model.onnx"
        share_weights(int8, centroids, file)
    content = file.read_bytes()
    packed = pack(content)
    assert unpack(packed, "it") == content
    # Plain int8 weights have nearly as much entropy as bits: xz does as well.
    assert len(packed) < (1.01 if centroids is None else 0.95) * compressed(content)["xz"]
    assert len(packed) - 0.25 * (len(content) - sum(each.size for each in weights(file))) < 1.08 * sum(
        map(entropy, weights(file))
    )


@pytest.mark.parametrize("centroids", [64, 16, 2])
def test_shared_weights_are_few_and_the_graph_still_computes_what_it_states(
    int8: Path, tmp_path: Path, centroids: int
) -> None:
    share_weights(int8, centroids, tmp_path / "model.onnx")
    for before, after in zip(weights(int8), weights(tmp_path / "model.onnx"), strict=True):
        assert len(np.unique(after)) <= centroids and before.shape == after.shape
        assert not len(saturating_channels(after))
        errors = np.abs(before.astype(int) - after)
        assert errors.mean() <= 256 / centroids
    assert verify(tmp_path / "model.onnx", IMAGES).equal


def test_sharing_is_the_best_partition_into_intervals() -> None:
    """Against all partitions of the sorted values: one-dimensional clusters are intervals."""
    values = np.array([[-40, -39, -38, -5, -4, 0, 1, 2, 30, 33, 60]], np.int8)
    result = shared(values, 3)
    sorted_values, best = np.sort(values[0].astype(float)), np.inf
    for first in range(1, 10):
        for second in range(first + 1, 11):
            parts = np.split(sorted_values, [first, second])
            best = min(best, sum(((part - part.mean()) ** 2).sum() for part in parts))
    means = {int(centre) for centre in np.unique(result)}
    reached = sum(
        ((group - group.mean()) ** 2).sum()
        for group in (values[result == centre].astype(float) for centre in means)
    )
    assert len(means) == 3 and reached == pytest.approx(best)


def test_neighbours_that_would_saturate_take_a_smaller_centroid() -> None:
    weight = np.array([[127, 1, 66, 62, 60, -127, -1, -70, -58, 3]], np.int8)
    result = shared(weight, 3)
    assert not len(saturating_channels(result)) and len(np.unique(result)) <= 3


@pytest.mark.parametrize("centroids", [1, 256])
def test_a_number_of_centroids_that_is_none(int8: Path, tmp_path: Path, centroids: int) -> None:
    with pytest.raises(QuantizationError, match=rf"centroids must be in \[2, 255\], got {centroids}"):
        share_weights(int8, centroids, tmp_path / "model.onnx")


def test_a_graph_without_int8_weights_is_refused(int8: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"float\.onnx: no layer has int8 weights"):
        share_weights(int8.with_name("float.onnx"), 16, tmp_path / "model.onnx")


def test_a_file_is_not_packed_onto_itself_and_a_float_one_not_at_all(int8: Path) -> None:
    before = int8.read_bytes()
    result = CliRunner().invoke(app, ["pack", str(int8), "--output", str(int8)])
    assert result.exit_code == 2 and "is the model itself" in result.output
    assert int8.read_bytes() == before
    packed = int8.with_name("itself.akgp")
    CliRunner().invoke(app, ["pack", str(int8), "--output", str(packed)], catch_exceptions=False)
    result = CliRunner().invoke(app, ["unpack", str(packed), "--output", str(packed)])
    assert result.exit_code == 2 and "is the packed file itself" in result.output
    result = CliRunner().invoke(app, ["pack", str(int8), "--output", str(int8.parent / "nowhere" / "x.akgp")])
    assert result.exit_code == 2 and "nowhere: no such folder" in result.output
    result = CliRunner().invoke(app, ["pack", str(int8.with_name("float.onnx"))])
    assert "is no int8 file: it quantizes nothing" in str(result.exception)


def test_the_lossy_file_does_not_replace_the_model(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed into the working directory; unpacked there, unless the name is taken."""
    monkeypatch.chdir(int8.parent)
    before = int8.read_bytes()
    CliRunner().invoke(app, ["pack", str(int8), "--centroids", "4"], catch_exceptions=False)
    assert Path("model.akgp").exists()
    result = CliRunner().invoke(app, ["unpack", "model.akgp"])
    assert result.exit_code == 2 and "model.onnx is there, with other content" in result.output
    assert int8.read_bytes() == before
    assert CliRunner().invoke(app, ["unpack", "model.akgp", "--output", "lossy.onnx"]).exit_code == 0
    CliRunner().invoke(app, ["pack", str(int8), "--output", "same.akgp"], catch_exceptions=False)
    Path("same.onnx").write_bytes(before)
    assert CliRunner().invoke(app, ["unpack", "same.akgp"]).exit_code == 0, "the same content"


def test_in_a_workspace_without_images_it_is_packed_without_accuracies(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/int8").mkdir(parents=True)
    shutil.copy(int8, "models/int8/model.onnx")
    plain = CliRunner().invoke(app, ["pack"], catch_exceptions=False)
    assert plain.exit_code == 0 and "no accuracy" not in plain.output
    for named in ((), ("models/int8/model.onnx",)):
        shared = CliRunner().invoke(app, ["pack", *named, "--centroids", "9"], catch_exceptions=False)
        assert shared.exit_code == 0 and "no accuracy: params.yaml: no such file" in shared.output


def test_a_shared_file_has_the_digest_of_its_own_graph(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.onnx"
    shutil.copyfile(int8, file)
    about = Preprocessing(
        classes=("a",) * 10, image_size=(16, 16), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    write_metadata(file, about, None)
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["pack", str(file), "--centroids", "4"],
        ["unpack", "model.akgp", "--output", "few.onnx"],
    ):
        assert not CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code
    noted = [
        {each.key: json.loads(each.value) for each in onnx.load(name).metadata_props}["digest"]
        for name in ("model.onnx", "few.onnx")
    ]
    assert noted == [digest(onnx.load(name)) for name in ("model.onnx", "few.onnx")] and noted[0] != noted[1]


def test_what_is_no_model_is_said_of_the_file_itself(int8: Path, tmp_path: Path) -> None:
    packed = tmp_path / "model.akgp"
    CliRunner().invoke(app, ["pack", str(int8), "--output", str(packed)], catch_exceptions=False)
    result = CliRunner().invoke(app, ["predict", "--model", str(packed), "x.png"])
    assert str(result.exception).startswith(f"{packed}: is no model, whose file ends in .onnx")
    assert "`akgp unpack`" in str(result.exception)
    result = CliRunner().invoke(app, ["unpack", str(packed), "--output", str(tmp_path / "no" / "x.onnx")])
    assert isinstance(result.exception, OSError)
    assert result.exception.filename == str(tmp_path / "no" / "x.onnx")


def test_any_onnx_file_can_be_packed() -> None:
    tensor = numpy_helper.from_array(np.array([1, 1, 2, -3], np.int8), "w")
    graph = onnx.helper.make_graph([], "empty", [], [], initializer=[tensor, tensor])
    content = onnx.helper.make_model(graph).SerializeToString()
    assert unpack(pack(content), "it") == content


def test_damage_is_noticed(int8: Path) -> None:
    packed = pack(int8.read_bytes())
    for wrong in (b"", MAGIC, int8.read_bytes(), lzma.compress(b"x")):
        with pytest.raises(DownloadError, match=r"it: (not in the download format|damaged)"):
            unpack(wrong, "it")
    for place in (9, 45, HEADER.size + 3, len(packed) // 2, len(packed) - 5):
        flipped = bytearray(packed)
        flipped[place] ^= 0x55
        with pytest.raises(DownloadError, match="it: damaged"):
            unpack(bytes(flipped), "it")
    with pytest.raises(DownloadError, match="it: damaged"):
        unpack(packed[: len(packed) // 2], "it")
