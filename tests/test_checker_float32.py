"""The checker's float32 semantics: no evaluation in float32, in whatever order, leaves what it says, and it says not too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import bourn
import bourn_check
from bourn.cli.main import run
from bourn.formats.replay import Replay
from bourn_check.__main__ import main
from bourn_check.arithmetic import arithmetic
from bourn_check.dual import Dual
from bourn_check.network import Network, Nonlinear, PiecewiseLinear, Product, Scale, Shift, Sum
from bourn_check.readers.onnx import read_network
from bourn_check.semantics import SMALL, Float32, Within, evaluated
from bourn_check.sets.box import Box
from certificate_files import Files, convolutional, mlp, proved, specification
from onnx_models import model, node, numbers

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Array = np.ndarray
F = np.float32


def read(built: onnx.ModelProto) -> Float32:
    data = built.SerializeToString()
    found = evaluated(read_network(data, "net"), data, "float32")
    assert isinstance(found, Float32)
    return found


def box(net: Network, lower: Array, upper: Array) -> dict[str, Array]:
    """The ends of a box, and nothing known of what nonlinear steps read."""
    ends = {"": np.stack([lower[None], upper[None]])}
    for name, step in net.nonlinear().items():
        size = sum(net.sizes[i] for i in step.inputs)
        ends[name] = np.array([[[-np.inf]], [[np.inf]]]).repeat(size, 2)
    return ends


# Evaluation in float32, in orders drawn at random


def fused(a: Any, b: Any, c: Any) -> Array:
    """a b + c, rounded once (but for what float64 loses of the sum)."""
    return np.asarray(np.asarray(a, np.float64) * b + c).astype(F)


def dot(terms: list[tuple[Array, Array]], rng: np.random.Generator, first: Array | None = None) -> Array:
    """A sum of products of float32 numbers, and of ``first``, in some order."""
    terms = [terms[i] for i in rng.permutation(len(terms))]
    how = rng.integers(3)
    if how < 2:
        total = F(0) * terms[0][1] if first is None else first
        for w, x in terms:
            total = fused(w, x, total) if how else total + w * x
        return total
    parts = [w * x for w, x in terms] + ([] if first is None else [first])
    while len(parts) > 1:
        parts = [sum(parts[i : i + 2][1:], parts[i]) for i in range(0, len(parts), 2)]
    return np.asarray(parts[0])


def step_in_float32(step: Any, inputs: list[Array], before: tuple[Product, Array] | None, rng: np.random.Generator) -> Array:
    """What a step gives; ``before``: a product and what it read, where the step adds a bias to that, for it may come first."""
    own = step.operation
    if isinstance(own, Product):
        return product(own, inputs[0], rng, None)
    if isinstance(own, Shift):
        bias = own.bias.astype(F)
        if not inputs:
            return bias
        return product(before[0], before[1], rng, bias) if before is not None and rng.integers(2) else inputs[0] + bias
    if isinstance(own, Scale):
        if own.roots is not None:
            s = np.array([float(f) for f in own.factors]).astype(F)
            scale = s * (F(1) / np.sqrt(np.array([float(r) for r in own.roots]).astype(F)))
            return np.asarray(inputs[0] * scale[own.index])
        return np.asarray(inputs[0] * np.array([float(f) for f in own.factors]).astype(F)[own.index])
    if isinstance(own, Sum):
        return np.asarray(sum((F(s) * x for s, x in zip(own.signs[1:], inputs[1:], strict=True)), F(own.signs[0]) * inputs[0]))
    if isinstance(own, PiecewiseLinear):
        slopes, offsets = np.array(own.pieces).astype(F).T
        piece = own.piece(inputs[0])
        return np.asarray(slopes[piece] * inputs[0] + offsets[piece])
    values = np.concatenate(inputs)[None].astype(np.float64)  # exact: what moves, and maxima
    exact = arithmetic("float")
    given = exact.exact(values) if isinstance(own, Nonlinear) else [exact.exact(x[None].astype(np.float64)) for x in inputs]
    return np.asarray(own.forward(given, exact).mid[0].astype(F))


def product(own: Product, x: Array, rng: np.random.Generator, bias: Array | None) -> Array:
    groups, inner, outer = own.weight.shape
    apart = x.reshape(-1, groups, inner)
    first = None if bias is None else bias.reshape(-1, groups, outer)
    weight = own.weight.astype(F)
    return dot([(weight[None, :, i], apart[:, :, i, None]) for i in range(inner)], rng, first).ravel()


def in_float32(net: Network, x: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Every tensor at a float32 input."""
    values, steps = {"": x}, {s.output: s for s in net.steps}
    for step in net.steps:
        inputs = [values[i] for i in step.inputs]
        source = steps.get(step.inputs[0]) if step.inputs else None
        before = (source.operation, values[source.inputs[0]]) if source and isinstance(source.operation, Product) else None
        values[step.output] = inputs[0] if isinstance(step.operation, Within) else step_in_float32(step, inputs, before, rng)
    return values


def shares(net: Network, values: dict[str, Array]) -> list[float]:
    """Of every error that there is how much was used, at most, by float32 values of the tensors; of each that is known."""
    own, exact, found = arithmetic("float"), {"": values[""].astype(np.float64)}, []
    for step in net.steps:
        inputs = [own.exact(exact[i][None]) for i in step.inputs]
        if isinstance(step.operation, Within):
            source = step.inputs[0]
            if source in values:
                off = np.abs(values[source] - exact[source])
                found.append(float((off / step.operation.error).max()))
            exact[step.output] = values.get(source, exact[source]).astype(np.float64)
        else:
            given: Any = own.joined(inputs) if isinstance(step.operation, Nonlinear) else inputs
            exact[step.output] = step.operation.forward(given, own).about()[0]
    return found


NETWORKS = [mlp(0, (40, 40), 20), mlp(1, (30, 30), 10, activation="LeakyRelu"), convolutional(3), convolutional(5)]


@pytest.mark.parametrize("built", NETWORKS, ids=["mlp", "leaky", "convolution", "convolution-5"])
def test_errors_hold_on_every_node_in_every_order(built: onnx.ModelProto) -> None:
    net, rng, used = read(built), np.random.default_rng(0), []
    size = net.inputs
    on = net.on(box(net, np.zeros(size), np.ones(size)))
    for _ in range(12):
        x = rng.uniform(size=size).astype(F)
        values = in_float32(on, x, rng)
        found = shares(on, values)
        assert len(found) == sum(isinstance(s.operation, Within) for s in on.steps)
        assert max(found) <= 1.0
        point = {"": x} | {name: np.concatenate([values[i] for i in s.inputs]) for name, s in net.nonlinear().items()}
        tight = net.on({name: np.stack([z[None], z[None]]).astype(np.float64) for name, z in point.items()})
        used.append(shares(tight, values))
        assert max(used[-1]) <= 1.0
    assert np.max(used, axis=0).min() > 0.01, "what errors there are is far below the bounds"


def test_errors_hold_for_sums_that_are_as_bad_as_can_be() -> None:
    """Every rounding goes the same way, by almost half of the last place: the bound is that no more than twice."""
    n = 1000
    x = np.full(n, F(1.5) - F(2.0**-23))  # of sums above 2^23 the last place is 1
    x[0] = 2.0**23
    built = model([node("Gemm", "x W", "z", transB=1), node("Relu", "z")], {"x": [1, n]}, {"W": np.ones((1, n), F)})
    net, total = read(built), F(0)
    for term in x:
        total = total + term
    on = net.on(box(net, x.astype(np.float64), x.astype(np.float64)))
    (used, *_) = shares(on, {"": x, "z": np.array([total])})
    assert 0.4 < used <= 1.0


@pytest.mark.parametrize("optimised", [True, False])
def test_errors_hold_for_onnxruntime(optimised: bool) -> None:
    for built in NETWORKS:
        net, rng = read(built), np.random.default_rng(1)
        named = onnx.ModelProto.FromString(built.SerializeToString())
        for own in built.graph.node:
            for output in own.output:
                if output != "y":
                    named.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(named.SerializeToString(), options)
        size = net.inputs
        on = net.on(box(net, np.zeros(size), np.ones(size)))
        for _ in range(3):
            x = rng.uniform(size=size).astype(F)
            found = session.run(None, {"x": x.reshape([d.dim_value for d in built.graph.input[0].type.tensor_type.shape.dim])})
            values = {o.name: v.ravel() for o, v in zip(session.get_outputs(), found, strict=True)} | {"": x}
            assert max(shares(on, values)) <= 1.0


def bounded(net: Network, lower: Array, upper: Array) -> dict[str, Array]:
    """Bounds of what every nonlinear step reads, layer after layer by the rule of lines."""
    ends, own = box(net, lower, upper), arithmetic("float")
    for name, step in net.nonlinear().items():
        (source,) = step.inputs
        size = net.sizes[source]
        unit = np.concatenate([np.eye(size), -np.eye(size)])
        dual = Dual(net.on(ends), own, ends, Box())
        found = dual.bound({source: (own.exact(unit), np.arange(size))}, own.exact(np.zeros(2 * size)), "lines")
        ends = {**ends, name: np.stack([found[None, :size], -found[None, size:]])}
    return ends


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Abs"])
def test_what_is_proved_holds_in_every_order(activation: str) -> None:
    """Weights so large, and boxes so small, that the bounds of real arithmetic are left by float32 values: these are not."""
    rng, left = np.random.default_rng(5), False
    for seed in range(4):
        built = mlp(seed, (12, 12), 4, activation=activation)
        data, center = built.SerializeToString(), rng.normal(size=4).astype(F)
        real, net = read_network(data, "net"), read(built)
        lower, upper = center.astype(np.float64), np.nextafter(center, F(9)).astype(np.float64)
        reals, ends = bounded(real, lower, upper), bounded(net, lower, upper)
        for _ in range(20):
            values = in_float32(net, np.where(rng.integers(2, size=4), lower, upper).astype(F), rng)
            for name, step in net.nonlinear().items():
                z = values[step.inputs[0]].astype(np.float64)
                assert (ends[name][0, 0] <= z).all()
                assert (z <= ends[name][1, 0]).all()
                left |= bool((z < reals[name][0, 0]).any() or (z > reals[name][1, 0]).any())
    assert left, "the case is not hard"


# Certificates


@pytest.mark.parametrize("arithmetic", ["float", "ball"])
@pytest.mark.parametrize("method", ["crown", "alpha-crown-all"])
def test_certificates_prove_float32_too(tmp_path: Path, method: str, arithmetic: str) -> None:
    files = proved(tmp_path, mlp(2, (8, 8)), method)
    report = bourn_check.check(*files.arguments, arithmetic, "float32")
    assert "float32" in report.semantics
    assert "Winograd" in str(report)


@pytest.mark.parametrize(
    ("network", "question"),
    [("digits_mlp.onnx", "digits_robust_3.vnnlib"), ("digits_cnn.onnx", "digits_robust_3_cnn.v2.vnnlib")],
)
def test_the_examples_hold_in_float32(
    tmp_path: Path, network: str, question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / "proof.bourn"), str(EXAMPLES / network), str(EXAMPLES / question)]
    bourn.write_certificate(bourn.verify(files[1], files[2]), files[0])
    assert main([*files, "--semantics", "float32"]) == 0
    assert "in float32 arithmetic" in capsys.readouterr().out
    assert run(["check", *files, "--semantics", "float32"]) == 0
    assert "in float32 arithmetic" in capsys.readouterr().out
    assert run(["check", *files]) == 0
    assert "in real arithmetic" in capsys.readouterr().out


def test_a_witness_holds_however_it_is_rounded(tmp_path: Path) -> None:
    network, question, proof = EXAMPLES / "digits_mlp.onnx", EXAMPLES / "digits_attackable.vnnlib", tmp_path / "proof.bourn"
    bourn.write_certificate(bourn.verify(network, question), proof)
    assert bourn_check.check(proof, network, question, semantics="float32").verdict == "sat"
    with pytest.raises(bourn_check.NotAProof, match="rational"):
        bourn_check.check(proof, network, question, "rational", "float32")
    net, own = read(mlp(0)), arithmetic("float")
    with pytest.raises(bourn_check.NotAProof, match="no float32 input"):
        net.evaluate(own.exact(np.full((1, 3), 0.1)), own)


def certified(folder: Path, built: onnx.ModelProto, lower: Array, upper: Array, asked: str) -> Files:
    files = Files(folder / "net.onnx", folder / "prop.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(built.SerializeToString())
    files.specification.write_text(specification(lower, upper, 1, asked))
    bourn.write_certificate(bourn.verify(files.network, files.specification), files.certificate)
    assert bourn_check.check(*files.arguments).verdict == "unsat"
    return files


def test_what_holds_in_real_arithmetic_alone_is_refused(tmp_path: Path) -> None:
    # y = relu(1e8 x + 1) - relu(1e8 x) is 1 for x >= 0; in float32 the 1 is lost.
    constants = {"W": np.array([[1e8], [1e8]], F), "b": np.array([1, 0], F), "V": np.array([[1, -1]], F)}
    nodes = [node("Gemm", "x W b", "z", transB=1), node("Relu", "z", "a"), node("Gemm", "a V", "y", transB=1)]
    built = model(nodes, {"x": [1, 1]}, constants)
    files = certified(tmp_path, built, np.zeros(1), np.ones(1), "(assert (<= Y_0 0.5))")
    assert Replay(built).run(np.ones(1)) == 0.0, "a counterexample"
    for how in ("float", "ball", "rational"):
        with pytest.raises(bourn_check.NotAProof, match="does not refute conjunction 0"):
            bourn_check.check(*files.arguments, how, "float32")


def test_a_neuron_that_rounding_turns_on_is_not_called_stable(tmp_path: Path) -> None:
    # 2^24 + 3 rounds to 2^24 + 4, so that (x_0 + x_1) - x_2, which is -0.5, may come out as 0.5.
    constants = {"W": np.array([[1, 1, -1]], F), "b": np.array([0.5], F), "V": np.array([[1.0]], F)}
    nodes = [node("MatMul", "x T", "s"), node("Add", "s b", "z"), node("Relu", "z", "a"), node("MatMul", "a V", "y")]
    constants["T"] = constants.pop("W").T
    x = np.array([2.0**24, 3.0, 2.0**24 + 4])
    files = certified(tmp_path, model(nodes, {"x": [1, 3]}, constants), x, x, "(assert (>= Y_0 0.25))")
    assert F(x[0]) + F(x[1]) - F(x[2]) + F(0.5) == 0.5, "a counterexample"
    with pytest.raises(bourn_check.NotAProof, match="in part 0"):
        bourn_check.check(*files.arguments, semantics="float32")


def test_a_neuron_that_only_rounding_leaves_open_costs_next_to_nothing(tmp_path: Path) -> None:
    # z = x - 1 is at least 0, in float32 about so; y = relu(z) - z + 0.1 is 0.1, which 0 as the multiplier of z would not tell.
    constants = {"W": np.array([[1]], F), "b": np.array([-1], F), "V": np.array([[1]], F), "c": np.array([0.1], F)}
    nodes = [node("Gemm", "x W b", "z", transB=1), node("Relu", "z", "a"), node("Sub", "a z", "d"), node("Gemm", "d V c", "y")]
    files = certified(tmp_path, model(nodes, {"x": [1, 1]}, constants), np.ones(1), np.full(1, 2.0), "(assert (<= Y_0 0.05))")
    assert bourn_check.check(*files.arguments, semantics="float32").verdict == "unsat"


@pytest.mark.parametrize("size", [1.0, 2.0**40])
def test_flushed_to_zero(tmp_path: Path, size: float) -> None:
    """A product below the normal range may be 0; a large weight behind it makes that count."""
    constants = {"W": np.array([[2.0**-100]], F), "b": np.array([0], F), "V": np.array([[2.0**100]], F)}
    nodes = [node("Gemm", "x W b", "z", transB=1), node("Relu", "z", "a"), node("Gemm", "a V", "y", transB=1)]
    x = np.full(1, 2.0**-40) * size
    files = certified(tmp_path, model(nodes, {"x": [1, 1]}, constants), x, x, f"(assert (<= Y_0 {float(x[0]) / 2!r}))")
    assert x[0] * 2.0**-100 < SMALL or size > 1
    if size > 1:
        assert bourn_check.check(*files.arguments, semantics="float32").verdict == "unsat"
    else:
        with pytest.raises(bourn_check.NotAProof, match="does not refute"):
            bourn_check.check(*files.arguments, semantics="float32")


def test_what_has_no_bound_in_float32_is_refused(tmp_path: Path) -> None:
    def of(nodes: list[onnx.NodeProto], weight: float, **more: Any) -> onnx.ModelProto:
        dtype = more.pop("dtype", F)
        return model(nodes, {"x": [1, 2]}, {"W": numbers(2, 2, dtype=dtype) * dtype(weight)}, **more)

    layers = [node("MatMul", "x W", "z"), node("Relu", "z", "a"), node("MatMul", "a W")]
    def reached(built: onnx.ModelProto) -> None:
        net = read(built)
        net.on(box(net, -np.ones(2), np.ones(2)))

    cases = [
        (of([node("MatMul", "x W", "z"), node("Sigmoid", "z")], 1.0), "Sigmoid node 'y': of its values in float32 no error bound"),
        (of(layers, 1.0, dtype=np.float64, element_type=onnx.TensorProto.DOUBLE), "numbers of type DOUBLE"),
        (of(layers, 1.0, dtype=np.float16, element_type=onnx.TensorProto.FLOAT16), "numbers of type FLOAT16"),
        (of(layers, 1e30), "overflow"),
    ]
    for built, why in cases:
        with pytest.raises(bourn_check.NotAProof, match=why):
            reached(built)
    with pytest.raises(ValueError, match="there are real and float32"):
        evaluated(read(mlp(0)), b"", "float16")
