"""Weight sharing: the weights of each layer of an int8 graph take few distinct values.

Deep Compression (Han et al. 2016, section 3): one-dimensional k-means within each layer. Here the values that
are clustered are the quantized weights, so that the graph, its scales and its speed stay as they are; what
shrinks is the entropy of the weights, and so a download (`akgp.deployment.download`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.aligned_channels import aligned, is_aligned, unaligned
from akgp.quantization.channels import layer_of, weight_name
from akgp.quantization.checking import QuantizationError
from akgp.quantization.exact_scales import move_weight_scales
from akgp.quantization.qdq import Qdq, rows, unrows
from akgp.quantization.saturation import LARGEST_PAIR

if TYPE_CHECKING:
    from onnx import ModelProto

Integers = NDArray[np.int8]
FOUR_BITS = 16
"""Distinct weights of a layer whose precision is int4."""


def share_weights(source: str | Path, centroids: int, target: str | Path) -> None:
    """Write the graph `source` with at most `centroids` distinct weights in each layer as `target`.

    The written graph gives the same logits on all processors as `quantize`'s do: where two neighbours could
    saturate after the rounding to centroids, the larger one takes a smaller centroid.

    Args:
        source: an int8 graph that `quantize` has written.
        centroids: 2 to 255.

    Raises:
        QuantizationError: another number of centroids, or a graph without int8 weights.
    """
    import onnx

    if not 2 <= centroids <= 255:
        raise QuantizationError(f"centroids must be in [2, 255], got {centroids}")
    given = onnx.load(str(source))
    model = unaligned(given)  # zeros that are no weights would draw a centroid near
    weights = int8_weights(model)
    if not weights:
        raise QuantizationError(
            f"{source}: no layer has int8 weights; `dvc repro quantize` writes such a file"
        )
    share_layers(model, weights, centroids)
    move_weight_scales(model)  # other sums than before occur
    onnx.save(aligned(model) if is_aligned(given) else model, str(target))


def int8_weights(model: ModelProto) -> dict[str, Integers]:
    """The integers of each layer of an int8 graph, [O, K]: neighbours along K as the kernels pair them."""
    graph = Qdq(model)
    return {
        name: rows(node, graph.constant(weight_name(node, graph)))
        for node in graph.weighted()
        if (name := layer_of(node, graph))
    }


def share_layers(model: ModelProto, names: Iterable[str], centroids: int) -> None:
    """Leave at most `centroids` distinct weights in each of these layers of an int8 graph, in place."""
    graph, chosen = Qdq(model), set(names)
    nodes = {weight_name(node, graph): node for node in graph.weighted() if layer_of(node, graph) in chosen}
    for weight, node in nodes.items():
        before = graph.constant(weight)
        graph.write(weight, unrows(node, shared(rows(node, before), centroids), before.shape))


def shared(weight_OK: Integers, centroids: int) -> Integers:
    """The weights, each rounded to one of at most `centroids` integers, by k-means.

    Args:
        weight_OK: [O, K], neighbours along K as the kernels pair them.

    Returns:
        int8 [O, K]; no two neighbours of one sign sum to more than LARGEST_PAIR.
    """
    if len(np.unique(weight_OK)) <= centroids:
        return weight_OK
    safe = _without_saturation(_clustered(weight_OK, centroids))
    if len(np.unique(safe)) <= centroids:
        return safe
    return _without_saturation(_clustered(weight_OK, centroids - 1))  # 0, which it took as well, is one then


def _clustered(weight_OK: Integers, centroids: int) -> Integers:
    from sklearn.cluster import KMeans

    # The distinct values, as heavy as they are frequent, have the same optimum as all the weights.
    values, position, counts = np.unique(weight_OK, return_inverse=True, return_counts=True)
    clusters = KMeans(centroids, n_init=4, random_state=0).fit(values[:, None], sample_weight=counts)
    rounded = np.rint(clusters.cluster_centers_[clusters.labels_, 0]).astype(np.int8)
    return rounded[position].reshape(weight_OK.shape)


def _without_saturation(weight_OK: Integers) -> Integers:
    """Replace the larger of two neighbours that saturate by the next smaller value, or 0, until none do."""
    wide = weight_OK.astype(np.int16)
    values = np.unique(np.append(wide, 0))
    while True:
        row, k = np.nonzero((np.abs(wide[:, 1:] + wide[:, :-1]) > LARGEST_PAIR) & _same_sign(wide))
        if not len(row):
            return wide.astype(np.int8)
        larger = np.where(np.abs(wide[row, k]) >= np.abs(wide[row, k + 1]), k, k + 1)
        place = np.searchsorted(values, wide[row, larger])
        wide[row, larger] = values[place - np.sign(wide[row, larger])]


def _same_sign(wide_OK: NDArray[np.int16]) -> NDArray[np.bool_]:
    return np.sign(wide_OK[:, 1:]) == np.sign(wide_OK[:, :-1])
