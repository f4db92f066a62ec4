"""The checker's nonlinear functions: what it says of them holds, is tight, and bourn's proofs of networks of them check."""

from __future__ import annotations

from pathlib import Path

import flint
import numpy as np
import onnx
import pytest

import bourn
import bourn_check
from bourn.formats.replay import Replay
from bourn_check.arithmetic import arithmetic
from bourn_check.network import Nonlinear
from bourn_check.nodes import OTHERS
from bourn_check.nodes.exponentials import elu
from bourn_check.nodes.gated import BEND, ROOT, SILU
from bourn_check.nodes.maximum import Maximum
from bourn_check.nodes.product import Multiply
from bourn_check.nodes.smooth import Smooth
from bourn_check.readers.onnx import read_network
from certificate_files import evaluated, mlp, proved
from onnx_models import model, node, numbers

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the checker works under numpy.errstate


def unary(op: str) -> onnx.ModelProto:
    """A layer, the operator, and a layer."""
    nodes = [node("Gemm", "x W b", "z", transB=1), node(op, "z" + " p" * (op == "Pow"), "a")]
    nodes += [node("Gemm", "a V", "y", transB=1)]
    constants: dict[str, np.ndarray] = {"W": numbers(4, 3) / 4, "b": np.full(4, 2.0, np.float32), "V": numbers(2, 4, seed=3)}
    constants |= {"p": np.array(3.0, np.float32)} if op == "Pow" else {}
    return model(nodes, {"x": [1, 3]}, constants, opset=20)


UNARY: tuple[str, ...] = ("Sigmoid", "Tanh", "Atan", "Erf", "Softsign", "Exp", "Log", "Softplus", "Elu", "Selu", "Celu", "Gelu")
UNARY += ("Pow", "Sqrt", "Reciprocal", "Sin", "Cos")


def function_of(op: str) -> Smooth:
    net = read_network(unary(op).SerializeToString(), "net")
    return next(s.operation for s in net.steps if isinstance(s.operation, Smooth))


@pytest.mark.parametrize("op", UNARY)
def test_what_is_known_of_a_function_is_true(op: str) -> None:
    """Its derivative is one, about that for NumPy, and its curvature is what is stated, by Arb on small balls."""
    own = function_of(op)
    rng = np.random.default_rng(0)
    low, high = max(own.domain[0], 0.01 if own.domain[0] >= 0 else -12.0), min(own.domain[1], 12.0)
    for x in rng.uniform(low, high, 60).tolist():
        place = sum(x > b for _, b in own.breaks)
        if any(a - 1e-9 <= x <= b + 1e-9 for a, b in own.breaks):
            continue
        step = 2.0**-40
        rise = (own.function(flint.arb(x + step)) - own.function(flint.arb(x - step))) / (2 * step)
        assert float(abs(rise - own.derivative(flint.arb(x)))) <= 1e-9 * (1 + abs(float(rise)))
        assert float(own.steep(np.array([x]))[0]) == pytest.approx(float(rise), rel=3e-2, abs=1e-3)
        bend = (own.derivative(flint.arb(x + step)) - own.derivative(flint.arb(x - step))) * own.curvature[place]
        assert not bend < 0


def test_inflections_lie_where_it_is_said() -> None:
    for a, b in (ROOT, BEND):
        assert 0 < b - a < 1e-12
    assert flint.arb(ROOT[0]) ** 2 < 2 < flint.arb(ROOT[1]) ** 2
    low, high = (flint.arb(z) * (flint.arb(z) / 2).tanh() for z in BEND)
    assert low < 2 < high
    for op, shift in (("Sin", 0.0), ("Cos", 0.5)):
        for k, (a, b) in zip(range(-6, 7), function_of(op).breaks, strict=True):
            assert flint.arb(a) <= (k - flint.arb(shift)) * flint.arb.pi() <= flint.arb(b)


def intervals(own: Smooth, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = max(own.domain[0], 0.01 if own.domain[0] >= 0 else -9.0), min(own.domain[1], 9.0)
    ends = np.sort(rng.uniform(low, high, (2, count)), 0)
    ends[1, :5] = ends[0, :5]
    if own.domain[0] < 0:
        ends[0, 5:10], ends[1, 7:12] = -rng.uniform(0, 1e-12, 5), np.abs(ends[1, 7:12])
    ends = np.sort(ends, 0)
    return ends[0], ends[1]


@pytest.mark.parametrize("op", [*UNARY, "Silu"])
def test_extents_hold_and_are_tight(op: str) -> None:
    own = SILU if op == "Silu" else function_of(op)
    rng = np.random.default_rng(1)
    lower, upper = intervals(own, rng, 60)
    if op == "Reciprocal":
        lower, upper = np.sort(np.abs(np.stack([lower, upper])) + 0.1, 0)
    slope = rng.normal(size=60) * rng.choice([0.0, 0.3, 2.0], 60)
    found = [own.extent(slope, np.full(60, way), lower, upper) for way in (True, False)]
    for both, tight in zip(found, (0, 1), strict=True):
        for k in range(60):
            points = np.unique(np.concatenate([np.linspace(lower[k], upper[k], 300).clip(lower[k], upper[k])]))
            values = [own.function(flint.arb(p)) - flint.arb(slope[k]) * flint.arb(p) for p in points.tolist()]
            assert all(not v < both[0][k] and not v > both[1][k] for v in values)
            size = 1 + max(float(abs(v)) for v in values)
            best = (min if tight == 0 else max)(map(float, values))
            assert abs(both[tight][k] - best) <= 3e-4 * size * (1 + (upper[k] - lower[k]))


def test_an_interval_beyond_the_domain_has_no_bound() -> None:
    for op, low, high in (("Log", 0.0, 1.0), ("Sqrt", -1e-9, 1.0), ("Sin", -50.0, 0.0)):
        with pytest.raises(bourn_check.NotAProof, match="not defined"):
            function_of(op).extent(np.zeros(1), np.ones(1, dtype=bool), np.array([low]), np.array([high]))
    found = function_of("Reciprocal").extent(np.zeros(1), np.ones(1, dtype=bool), np.array([-1.0]), np.array([1.0]))
    assert [float(end[0]) for end in found] == [-np.inf, np.inf]


@pytest.mark.parametrize("name", ["float", "ball", "rational"])
@pytest.mark.parametrize("own", [Maximum(3), Multiply(), elu(1.5, 1.0)], ids=["max", "product", "elu"])
def test_minima_hold_at_points(own: Nonlinear, name: str) -> None:
    if name == "rational" and isinstance(own, Smooth):
        return
    rng, numbers_ = np.random.default_rng(2), arithmetic(name)
    ends = np.sort(rng.normal(size=(2, 2, own.arity * 5)), 0)
    ends[:, :, 0] = ends[:1, :, 0]
    of = np.array([0, 1, 1, 0])
    row, mu = rng.normal(size=(4, 5)), rng.normal(size=(4, own.arity * 5))
    row[0, :2] = 0
    low = own.minima(numbers_.exact(row), numbers_.exact(mu), ends, of, numbers_).lower()
    none = own.minima(numbers_.exact(row), None, ends, of, numbers_).lower()
    best = np.full(row.shape, np.inf)
    for _ in range(2000):
        share = np.where(rng.random(mu.shape) < 0.6, rng.integers(0, 2, mu.shape), rng.random(mu.shape))
        p = np.split(ends[0][of] + (ends[1] - ends[0])[of] * share, own.arity, 1)
        z = np.concatenate(p, 1)
        f = np.max(p, 0) if own.arity == 3 else p[0] * p[1] if own.arity == 2 else np.where(p[0] < 0, 1.5 * np.expm1(p[0]), p[0])
        value = row * f - sum(np.split(mu * z, own.arity, 1))
        assert (low <= value + 1e-12).all()
        assert (none <= row * f + 1e-12).all()
        best = np.minimum(best, value)
    assert (best - low < 0.12).all()
    slopes = own.lines(*ends)
    assert all(s.shape == ends[0].shape for s in slopes)
    open_, slope, offset = own.affine(*ends)
    shown = np.concatenate([slope, offset], 1)
    assert np.isfinite(shown).all()
    assert open_.shape == (2, 5)


# Networks


@pytest.mark.parametrize("op", UNARY)
def test_proofs_of_smooth_networks_check(tmp_path: Path, op: str) -> None:
    for method in ("ibp", "crown", "alpha-crown"):
        files = proved(tmp_path / method, unary(op), method, radius=0.2)
        assert bourn_check.check(*files.arguments).verdict == "unsat"
    bourn_check.check(*files.arguments, "ball")
    if op in ("Elu", "Selu", "Celu"):  # linear on what reaches them here
        bourn_check.check(*files.arguments, "rational")
        return
    with pytest.raises(bourn_check.NotAProof, match="piecewise linear"):
        bourn_check.check(*files.arguments, "rational")


def composed(kind: str) -> onnx.ModelProto:
    """Networks whose nonlinear functions have several inputs, or are made of others."""
    inner = {
        "max": [node("Max", "z w", "a")],
        "min": [node("Min", "z w", "a")],
        "mul": [node("Mul", "z w", "a")],
        "square": [node("Mul", "z z", "a")],
        "div": [node("Div", "z e", "a")],
        "one by": [node("Div", "one e", "a")],
        "softmax": [node("Softmax", "z", "a", axis=1)],
        "hard sigmoid": [node("HardSigmoid", "z", "a")],
        "hard swish": [node("HardSwish", "z", "a")],
        "prelu": [node("PRelu", "z quarter", "a")],
        "silu": [node("Sigmoid", "z", "s"), node("Mul", "z s", "a")],
        "negative power": [node("Pow", "e m", "a")],
        "clip by max": [node("Max", "z half", "c"), node("Min", "c half2", "a")],
    }[kind]
    nodes = [node("Gemm", "x W b", "z", transB=1), node("Gemm", "x U", "w", transB=1), node("Exp", "w", "e"), *inner]
    constants = {"W": numbers(4, 3), "b": numbers(4, seed=8), "U": numbers(4, 3, seed=9) / 4, "V": numbers(2, 4, seed=3)}
    constants |= {"half": np.array(0.5, np.float32), "half2": np.array(1.5, np.float32), "m": np.array(-2.0, np.float32)}
    constants |= {"quarter": np.array([0.25], np.float32), "one": np.array(1.0, np.float32)}
    used = {i for n in nodes for i in n.input}
    return model(
        [*nodes, node("Gemm", "a V", "y", transB=1)],
        {"x": [1, 3]},
        {k: v for k, v in constants.items() if k in used | {"V"}},
        opset=16,
    )


COMPOSED: tuple[str, ...] = ("max", "min", "mul", "square", "div", "silu", "negative power", "clip by max", "one by", "softmax")
COMPOSED += ("hard sigmoid", "hard swish", "prelu")


@pytest.mark.parametrize("kind", COMPOSED)
def test_proofs_of_composed_networks_check(tmp_path: Path, kind: str) -> None:
    net, replay = read_network(composed(kind).SerializeToString(), "net"), Replay(composed(kind))
    x = np.random.default_rng(0).normal(size=3).astype(np.float32)
    np.testing.assert_allclose(evaluated(net, x), replay.run(x.astype(np.float64)), rtol=1e-5, atol=1e-5)
    for method in ("crown", "alpha-crown"):
        files = proved(tmp_path / method, composed(kind), method, radius=0.3)
        for name in ("float", "ball"):
            assert bourn_check.check(*files.arguments, name).verdict == "unsat"


def pooled() -> onnx.ModelProto:
    nodes = [node("Conv", "x K", "z", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Relu", "z", "r")]
    nodes += [node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "p", "f")]
    nodes += [node("Gemm", "f V", "h", transB=1), node("Relu", "h", "g"), node("Gemm", "g U", "y", transB=1)]
    constants = {"K": numbers(3, 2, 3, 3), "V": numbers(4, 27, seed=3), "U": numbers(2, 4, seed=4)}
    return model(nodes, {"x": [1, 2, 6, 6]}, constants)


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha-crown", "lp-all"])
def test_proofs_of_max_pools_check(tmp_path: Path, method: str) -> None:
    files = proved(tmp_path, pooled(), method, radius=0.1)
    for name in ("float", "rational"):
        assert bourn_check.check(*files.arguments, name).verdict == "unsat"


def test_counterexamples_of_smooth_networks_check(tmp_path: Path) -> None:
    network, question = tmp_path / "net.onnx", tmp_path / "prop.vnnlib"
    for built in (mlp(0, activation="Sigmoid"), pooled(), composed("mul")):
        network.write_bytes(built.SerializeToString())
        count = bourn.load(network).graph.nodes[0].size
        text = "".join(f"(declare-const X_{i} Real)(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(count))
        question.write_text(text + "(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (<= Y_0 1000))")
        bourn.write_certificate(bourn.verify(network, question), tmp_path / "proof.bourn")
        for name in ("float", "ball"):
            assert bourn_check.check(tmp_path / "proof.bourn", network, question, name).verdict == "sat"


def test_every_operator_of_the_checker_is_written_by_bourn() -> None:
    from bourn.proofs import OPERATORS

    assert set(OTHERS) <= set(OPERATORS)
