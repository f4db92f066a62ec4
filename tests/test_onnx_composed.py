"""Operators that are read as compositions compute what onnxruntime computes, and their bounds hold."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import networks
from bourn.errors import UnsupportedOperatorError
from bourn.formats.model import Model
from bourn.formats.onnx import from_bytes, from_model
from bourn.formats.replay import Replay
from bourn.formats.vnnlib import parse
from bourn.problem.input_set import box
from bourn.relaxations.clip import Clip
from bourn.relaxations.gelu import Gelu
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.maximum import Maximum
from bourn.relaxations.product import Product
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.relaxations.silu import Silu
from bourn.relaxations.step import Step
from bourn.solvers.methods import method
from bourn.verification import verify
from composed_models import COMPOSED, TABLE, choices, one
from onnx_models import agrees, model, node, numbers, operations
from quick import PROVED
from test_onnx_windows import windows


@pytest.mark.parametrize("name", COMPOSED)
def test_values(name: str) -> None:
    agrees(COMPOSED[name])


@pytest.mark.parametrize("radius", [0.05, 0.5])
@pytest.mark.parametrize("name", COMPOSED)
def test_bounds_hold(name: str, radius: float) -> None:
    """Every node's values at many points lie in every method's bounds."""
    graph = from_model(COMPOSED[name])
    center = torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=networks.random(3))
    question = box(center - radius, center + radius)
    points = torch.cat([question.sample(1000, networks.random(4))[0], question.lower, question.upper])
    values = graph.values(points)
    for chosen in ("ibp", "crown", "deepz", "forward", "alpha-crown"):
        prepared = method(chosen).prepare(graph, question)
        for number in {*graph.pre_activations, graph.output}:
            bounds, own = prepared.node(number), values[number]
            slack = 1e-10 * (1 + own.abs())
            assert bool((own >= bounds.lower - slack).all()), (chosen, graph.nodes[number].name)
            assert bool((own <= bounds.upper + slack).all()), (chosen, graph.nodes[number].name)


@pytest.mark.parametrize("name", [n for n in COMPOSED if not n.startswith(("Lp", "Pow", "Div", "Reciprocal", "ReduceLogSum"))])
def test_bounds_are_finite(name: str) -> None:
    """No sum of squares or of exponentials is bounded below 0, where roots, logarithms and reciprocals end."""
    graph = from_model(COMPOSED[name])
    center = torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=networks.random(3))
    for chosen in ("ibp", "crown"):
        bounds = method(chosen).prepare(graph, box(center - 1, center + 1)).node(graph.output)
        assert bool(bounds.lower.isfinite().all() & bounds.upper.isfinite().all()), chosen


def nonlinearities(name: str) -> list[Any]:
    graph = from_model(COMPOSED[name])
    return [graph.nodes[v].operation for v in graph.nonlinear]


def test_hulls_are_kept_where_they_can_be() -> None:
    assert nonlinearities("Max with a number") == [Clip(low=float(np.float32(0.3)))]
    assert nonlinearities("Min with zeros") == [Clip(high=0.0)]
    assert nonlinearities("Max with zeros") == [ReLU()]
    assert nonlinearities("Max with a vector") == [ReLU()]
    assert nonlinearities("Max of the same") == []
    assert nonlinearities("PRelu (1,)") == [LeakyReLU(float(numbers(1)[0]))]
    assert nonlinearities("Softmax 13 over 2") == [Sigmoid()]
    for name in COMPOSED:
        if name.startswith("GELU"):
            assert nonlinearities(name) == [Gelu()]
    assert nonlinearities("SiLU") == [Silu()]
    assert nonlinearities("quick GELU") == [Silu(float(np.float32(1.702)))]
    assert [type(o) for o in nonlinearities("attention")].count(Product) == 2
    # The windows at the corners, at the edges and inside have a maximum each.
    assert nonlinearities("MaxPool padded") == [Maximum()] * 3


def test_comparisons_at_equality() -> None:
    """Greater is strict, GreaterOrEqual is not: at the threshold itself and at both zeros the values are onnxruntime's."""
    x = np.array([[1, -1, 0, 0.5, -0.5, 0.25, -0.0, np.nextafter(np.float32(0.5), 1), 1e-45, -1, 0.25, 2]], dtype=np.float32)
    for name, built in choices().items():
        replay, graph = Replay(built), from_model(built)
        given = np.concatenate([np.roll(x, k, axis=1) for k in range(12)])
        given = np.concatenate([given, given], axis=1)[:, : replay.inputs].astype(np.float64)
        own = graph.evaluate(torch.from_numpy(given).reshape(len(given), *graph.input_shape)).reshape(len(given), -1)
        np.testing.assert_allclose(own.numpy(), replay.run(given), rtol=1e-6, atol=1e-12, err_msg=name)


def test_what_a_step_gates_is_a_relu() -> None:
    assert nonlinearities("Where x, else 0") == [ReLU()]
    assert nonlinearities("Where 0, else x") == [ReLU()]
    assert nonlinearities("Where half of x") == [ReLU()]
    assert nonlinearities("Where of numbers") == [Step(0.0, 0.0, 1.0)]
    assert nonlinearities("GreaterOrEqual a number") == [Step(0.0, 1.0, 1.0)]


def test_what_is_no_gelu_or_silu_stays() -> None:
    constants = {name: np.array(value, dtype=np.float32) for name, value in (("two", 2.0), ("m", -1.0))}
    for nodes in (
        [node("Sigmoid", "x", "s"), node("Mul", "x two", "t"), node("Mul", "s t")],
        [node("Mul", "x m", "t"), node("Sigmoid", "t", "s"), node("Mul", "s x")],
        [node("Erf", "x", "e"), node("Add", "e two", "s"), node("Mul", "s x")],
        [node("Mul", "x m", "t"), node("Erf", "t", "e"), node("Mul", "e x")],
        [node("Relu", "x", "t"), node("Sigmoid", "t", "s"), node("Mul", "s x")],
    ):
        assert "Product" in operations(agrees(model(nodes, TABLE, constants)))


@pytest.mark.parametrize("name", ["MatMul (2, 1, 2, 3) (2, 3, 2)", "Gemm"])
def test_the_whole_plan_goes_on_where_products_read_selections(name: str) -> None:
    """Bounds are of pre-activations, whichever method of the plan they come from; those of selections are none."""
    graph = from_model(COMPOSED[name])
    center = torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=networks.random(5))
    question = box(center - 0.3, center + 0.3)
    for m in PROVED:
        assert set(m.prepare(graph, question).bounds) == set(graph.pre_activations), m.name


def test_a_recognised_gelu_is_the_function_of_the_file() -> None:
    """sqrt 2 in float32 is not sqrt 2: the two scales say so to float64's precision, not to float32's."""
    graph = from_model(COMPOSED["GELU, half last"])
    whole = from_model(COMPOSED["GELU, half last"], simplify=False)
    x = torch.linspace(-6, 6, 300, dtype=torch.float64).reshape(25, 1, 3, 4)
    torch.testing.assert_close(graph.evaluate(x), whole.evaluate(x), rtol=1e-14, atol=1e-14)


def refusal(built: onnx.ModelProto) -> str:
    """Why a model is not read; nothing if it is."""
    try:
        from_model(built)
    except UnsupportedOperatorError as error:
        return str(error)
    return ""


@given(window=windows(ceil=True))
def test_max_pools(window: tuple[dict[str, Any], list[int]]) -> None:
    attributes, space = window
    built = one("MaxPool", {"x": [1, 2, *space]}, opset=22, **attributes)
    why = refusal(built)
    if why:
        assert "differ" in why or "no entries" in why
    else:
        agrees(built)


def resized(mode: str, kind: str, choice: str, scales: tuple[float, float] | None, sizes: tuple[int, int]) -> onnx.ModelProto:
    attributes = {"mode": mode, "coordinate_transformation_mode": kind, "nearest_mode": choice}
    if scales is None:
        return model([node("Resize", "x - - s", **attributes)], {"x": [1, 2, 5, 4]}, {"s": np.array([1, 2, *sizes])}, opset=19)
    s = {"s": np.array([1, 1, *scales], dtype=np.float32)}
    return model([node("Resize", "x - s", **attributes)], {"x": [1, 2, 5, 4]}, s, opset=19)


KINDS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
CHOICES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@pytest.mark.parametrize("kind", KINDS)
def test_resizing(kind: str) -> None:
    read = 0
    ways = [("linear", "floor"), *product(["nearest"], CHOICES)]
    for (mode, choice), (scales, sizes) in product(
        ways, [((2, 3), (0, 0)), ((0.6, 1.5), (0, 0)), ((0.4, 2.6), (0, 0)), (None, (1, 7)), (None, (10, 3)), (None, (5, 4))]
    ):
        built = resized(mode, kind, choice, scales, sizes)
        why = refusal(built)
        if why:
            assert "rounding" in why or "differ" in why
        else:
            agrees(built)
            read += 1
    assert read >= 18


@pytest.mark.parametrize(
    ("built", "why"),
    [
        (one("Mish", TABLE), "hull is not known"),
        (model([node("Cast", "x", "t", to=9), node("Xor", "t t", "u"), node("Cast", "u", to=1)], TABLE), "Xor"),
        (model([node("Cast", "x", "t", to=9), node("Cast", "t", "u", to=7), node("Cast", "u", to=1)], TABLE), "INT64"),
        (
            model(
                [node("Cast", "x", "t", to=9), node("Where", "t i j", "u"), node("Div", "u j", "v"), node("Cast", "v", to=1)],
                TABLE,
                {"i": np.array(3), "j": np.array(2)},
            ),
            "among integers",
        ),
        (
            model([node("Cast", "x", "t", to=9), node("Where", "t x c")], TABLE, {"c": np.array(-np.inf, dtype=np.float32)}),
            "infinity",
        ),
        (one("ArgMax", TABLE), "jumps"),
        (one("Pow", TABLE, {"e": np.array(1.5, dtype=np.float32)}), "exponent is 1.5"),
        (model([node("Pow", "c x")], {"x": [2]}, {"c": np.array([-2, 1], dtype=np.float32)}), "not above 0"),
        (one("Pow", {"x": [3], "z": [3]}), "depends on the network's input"),
        (one("PRelu", {"x": [3], "z": [3]}), "depends on the network's input"),
        (one("MaxPool", {"x": [1, 1, 2, 2]}, kernel_shape=[1, 1], pads=[1, 1, 1, 1]), "no entries"),
        (
            model([node("MaxPool", "x", "z i", kernel_shape=[2, 2]), node("Cast", "i", to=1)], {"x": [1, 1, 2, 2]}),
            "'i' is not read",
        ),
        (one("Celu", TABLE, alpha=-1.0), "above 0"),
        (one("LpNormalization", TABLE, p=3), "p is 3"),
        (one("Upsample", TABLE, {"s": np.ones(3, dtype=np.float32)}), "no Upsample"),
        (resized("cubic", "half_pixel", "floor", (2, 2), (0, 0)), "cubic"),
        (resized("linear", "tf_crop_and_resize", "floor", (2, 2), (0, 0)), "tf_crop_and_resize"),
        (resized("nearest", "asymmetric", "nowhere", (2, 2), (0, 0)), "nowhere"),
        (model([node("Resize", "x s")], {"x": [1, 4]}, {"s": np.array([1, 0.5], dtype=np.float32)}, opset=10), "leaves open"),
    ],
)
def test_refusals(built: onnx.ModelProto, why: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=why) as caught:
        from_model(built)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_constant_can_be_attacked() -> None:
    data = one("Pow", {"x": [1, 2]}, {"e": np.array(0.0)}).SerializeToString()
    query = "(vnnlib-version <2.0>)\n(declare-network N (declare-input X real [1,2]) (declare-output Y real [1,2]))\n"
    limits = "".join(f"(assert (<= X[0,{i}] 1.0))(assert (>= X[0,{i}] 0.0))" for i in range(2))
    for level, status in (("0.5", "sat"), ("1.5", "unsat")):
        question = parse(f"{query}{limits}(assert (>= Y[0,0] {level}))", "query")
        assert verify(Model(from_bytes(data), data), question).status == status


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_long_maxima_are_trees(seed: int, count: int) -> None:
    graph = from_model(one("ReduceMax", {"x": [2, count]}, opset=13, axes=[1]))
    x = torch.randn(3, 2, count, dtype=torch.float64, generator=networks.random(seed))
    torch.testing.assert_close(graph.evaluate(x), x.amax(2, keepdim=True))
    assert all(len(graph.nodes[v].inputs) <= 16 for v in graph.nonlinear)
