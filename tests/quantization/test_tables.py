from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from akgp.quantization.qdq import Qdq
from akgp.quantization.simulator import simulate
from akgp.quantization.tables import APPROXIMATION, FUNCTIONS, is_clear, magnitudes, round_alike, table
from akgp.runtimes.onnxruntime import session

RUN = sorted(FUNCTIONS - {"Celu", "Mish", "Selu", "Softsign"})
"""Those that networks hold; onnxruntime lacks some of the others in this opset."""


def graph(function: str, scale_in: float, zero_in: int, scale_out: float, zero_out: int) -> onnx.ModelProto:
    """Images in, the function of their integers out, and that again as floats."""
    constants = {"s": np.float32(scale_in), "z": np.uint8(zero_in)}
    constants |= {"t": np.float32(scale_out), "y": np.uint8(zero_out)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node(function, ["d"], ["f"], name="function"),
        helper.make_node("QuantizeLinear", ["f", "t", "y"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "t", "y"], ["out"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 256]) for name in ("x", "out")]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def every(scale: float, zero: int) -> np.ndarray:
    """A float for each of the 256 integers."""
    return ((np.arange(256) - zero) * np.float32(scale)).astype(np.float32)[None]


@pytest.mark.parametrize("function", RUN)
def test_the_runtime_approximates_no_worse_than_is_assumed(function: str) -> None:
    x = np.linspace(-12, 12, 256 * 40).reshape(-1, 256)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 256]) for name in "xy"]
    node = helper.make_node(function, ["x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", info[:1], info[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    single = x.astype(np.float32)
    (computed,) = session(model.SerializeToString(), threads=1).run(None, {"x": single})
    exact = ReferenceEvaluator(model).run(None, {"x": single.astype(np.float64)})[0]
    sizes = np.abs(x) if function == "HardSwish" else np.maximum(1, np.abs(exact))
    assert (np.abs(computed - exact) <= APPROXIMATION * sizes / 2).all()


@pytest.mark.parametrize("function", RUN)
def test_every_integer_is_rounded_alike_whatever_the_approximation(function: str) -> None:
    """Brute force: the true value moved by the largest error that is assumed gives the same integer."""
    generator = np.random.default_rng(0)
    unclear = 0
    for _ in range(20):
        scale, zero = float(generator.uniform(0.01, 0.08)), int(generator.integers(60, 200))
        model = graph(function, scale, zero, 1 / 255, 0)
        node, given = model.graph.node[2], (np.float32(scale), np.uint8(zero))
        values, sizes = table(node, *given), magnitudes(node, *given)
        low, high = min(values.min(), 0), values.max()
        out, zero_out = np.float32((high - low) / 255), round(-low / (high - low) * 255)
        model = graph(function, scale, zero, float(out), zero_out)
        unclear += not is_clear(values, sizes, out, np.uint8(zero_out))
        round_alike(model)
        used = Qdq(model).constant("t")
        assert out <= used <= 1.02 * out and is_clear(values, sizes, used, np.uint8(zero_out))
        error = APPROXIMATION * sizes
        steps = [np.clip(np.rint((values + e) / float(used)) + zero_out, 0, 255) for e in (-error, 0, error)]
        assert (steps[0] == steps[1]).all() and (steps[1] == steps[2]).all()
        images = every(scale, zero)
        simulated = simulate(model, images)
        (logits,) = session(model.SerializeToString(), threads=1).run(None, {"x": images})
        assert not simulated.floating and (simulated.logits == logits).all()
    assert unclear, "or this would show nothing"


def test_a_scale_on_a_boundary_is_told() -> None:
    values, ones = np.linspace(0, 1, 256), np.ones(256)
    assert is_clear(values, ones, np.float32(1 / 255), np.uint8(0))
    assert not is_clear(values + 0.5 / 255, ones, np.float32(1 / 255), np.uint8(0))


def test_a_hard_swish_of_small_numbers_is_clear() -> None:
    """Its error is a share of its input, however small; an absolute one would be steps of such a scale."""
    model = graph("HardSwish", 1e-5, 128, 4e-6, 120)
    round_alike(model)
    images = every(1e-5, 128)
    simulated = simulate(model, images)
    (logits,) = session(model.SerializeToString(), threads=1).run(None, {"x": images})
    assert not simulated.floating and (simulated.logits == logits).all()
