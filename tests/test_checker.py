"""The checker's parts: it stands alone, is small, reads what the files say, and its numbers enclose the exact ones."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bourn.formats.replay import Replay
from bourn_check import NotAProof, Unreadable
from bourn_check.arithmetic import Arithmetic, arithmetic
from bourn_check.dual import Dual
from bourn_check.network import Network, PiecewiseLinear
from bourn_check.readers.onnx import read_network
from bourn_check.readers.vnnlib import read_specification
from bourn_check.sets.box import Box
from certificate_files import convolutional, evaluated, mlp, proved
from onnx_models import model, node, numbers

CHECKER = Path(__file__).resolve().parent.parent / "src" / "bourn_check"
READERS, NODES, SETS = "readers", "nodes", "sets"
ARITHMETICS = ("float", "ball", "rational")


# Independence and size


def test_it_imports_nothing_of_bourn_and_no_solver(tmp_path: Path) -> None:
    files = proved(tmp_path, mlp(0), "crown")
    foreign = ("bourn", "torch", "scipy", "highspy", "onnxruntime")
    for path in CHECKER.rglob("*.py"):
        for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in found.names] if isinstance(found, ast.Import) else []
            names += [found.module or ""] if isinstance(found, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in foreign], f"{path.name} imports {names}"
    code = "import sys; from bourn_check.__main__ import main; s = main(sys.argv[1:]); "
    code += f"print([m for m in {foreign} if m in sys.modules], s)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, files.arguments)], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("[] 0\n"), done.stdout + done.stderr


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank nor nothing but a comment or a docstring."""
    text = path.read_text(encoding="utf-8")
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in nothing]
    found = {line for t in tokens for line in range(t.start[0], t.end[0] + 1)}
    for place in ast.walk(ast.parse(text)):
        if isinstance(place, ast.Expr) and isinstance(place.value, ast.Constant) and isinstance(place.value.value, str):
            found.difference_update(range(place.lineno, (place.end_lineno or place.lineno) + 1))
    return len(found)


COMMAND = ("__main__.py", "limits.py")
"""What reads the command line and limits the process decides nothing."""
SEMANTICS = "semantics.py"
"""What is asked of it only with ``--semantics float32``."""


def test_it_is_small_enough_to_be_read() -> None:
    counts = {p.relative_to(CHECKER): lines_of_code(p) for p in CHECKER.rglob("*.py")}
    rooms = {room: {p: n for p, n in counts.items() if p.parts[0] == room} for room in (READERS, NODES, SETS)}
    core = {p: n for p, n in counts.items() if p.parts[0] not in (*rooms, *COMMAND, SEMANTICS)}
    assert sum(rooms[READERS].values()) <= 600, f"{sum(rooms[READERS].values())} lines of code read files"
    assert max(rooms[NODES].values()) <= 60, f"lines of code of a nonlinear function: {rooms[NODES]}"
    assert max(rooms[SETS].values()) <= 60, f"lines of code of a kind of input set: {rooms[SETS]}"
    assert counts[Path(SEMANTICS)] <= 160
    assert sum(core.values()) <= 1000, f"{sum(core.values())} lines of code check: {core}"


# Arithmetic


@pytest.mark.parametrize("name", ARITHMETICS)
def test_enclosures_hold_the_exact_values(name: str) -> None:
    rng = np.random.default_rng(0)
    own, exact = arithmetic(name), arithmetic("rational")

    def results(a: Arithmetic, x: np.ndarray, w: np.ndarray, index: np.ndarray, row: list[Fraction]) -> list[Any]:
        values, factors, some = a.exact(x), a.numbers(row), np.linspace(-1, 1, 6)
        product = values.matmul(w)
        mixed = (values * factors + -values).put(index, 4).columns(np.array([3, 0, 1]))
        return [product, mixed, product.total(), values.minimum(values * factors), (values * factors).capped(x < x.max()).matmul(w),
                values.difference(some, values * factors, -some), values.scaled(-some).capped(x > 1)]

    for trial in range(20):
        x, w = rng.normal(size=(3, 6)) * 10.0 ** rng.integers(-8, 9, size=(3, 6)), rng.normal(size=(6, 5))
        x[:, 1] = -x[:, 0] * (1 + 2.0**-50)  # sums that cancel
        w[1] = w[0]
        index, row = rng.integers(-1, 4, size=6), [Fraction(int(k), 7) for k in rng.integers(-9, 9, size=6)]
        for found, true in zip(results(own, x, w, index, row), results(exact, x, w, index, row), strict=True):
            low, high = found.lower(), found.upper()
            assert low.shape == true.shape
            assert (low <= true.upper()).all(), trial
            assert (high >= true.lower()).all(), trial
            scale = np.abs(x).max() * 100
            assert (high - low <= (1e-12 if name == "float" else 4e-16) * scale).all()


def test_no_enclosure_comes_out_of_overflow() -> None:
    own = arithmetic("float")
    big = own.exact(np.array([[1e308, 1e308]]))
    with np.errstate(all="ignore"):
        assert (big + big).lower().tolist() == [[-np.inf, -np.inf]]
        assert (big + big + -(big + big)).lower().tolist() == [[-np.inf, -np.inf]]
        assert (big.matmul(np.array([[10.0], [-10.0]]))).lower().tolist() == [[-np.inf]]


def test_large_weights_do_not_carry_up_an_underflow() -> None:
    rng = np.random.default_rng(0)
    own, exact = arithmetic("float"), arithmetic("rational")
    for _ in range(50):
        x = rng.uniform(1, 2) * 2.0**-1040 * np.array([[1.0, -1.0]])
        w = rng.uniform(1, 2) * 2.0**1000 * np.array([[1.0], [1.0 + rng.integers(-2, 3) * 2.0**-52]])
        assert own.exact(x).matmul(w).lower() <= exact.exact(x).matmul(w).upper()


def test_where_a_piecewise_linear_function_is_affine() -> None:
    clip = PiecewiseLinear((-1.0, 2.0), ((0.0, -1.0), (1.0, 0.0), (0.0, 2.0)))
    lower, upper = np.array([-3.0, -3.0, -1.0, -1.0, 0.0, 2.0, -1.0]), np.array([-1.0, -0.9, 2.0, 2.1, 1.0, 9.0, -1.0])
    open_, slope, offset = (t[0] for t in clip.affine(lower[None], upper[None]))
    assert open_.tolist() == [False, True, False, True, False, False, False]
    for z in (lower, upper):
        np.testing.assert_array_equal((slope * z + offset)[~open_], np.clip(z, -1.0, 2.0)[~open_])


# Readers


@pytest.mark.parametrize(
    "built",
    [mlp(0), mlp(1, activation="Abs"), convolutional(0), convolutional(5)],
    ids=["mlp", "abs", "convolution", "convolution-5"],
)
def test_the_network_read_is_what_onnxruntime_computes(built: onnx.ModelProto) -> None:
    net, replay = read_network(built.SerializeToString(), "net"), Replay(built)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=replay.inputs).astype(np.float32)
        np.testing.assert_allclose(evaluated(net, x), replay.run(x.astype(np.float64)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["float", "ball"])
def test_rows_carried_back_are_the_networks_transpose(name: str) -> None:
    """On a box that is a point, with exact bounds, the dual function is the network's value."""
    net = read_network(convolutional(2).SerializeToString(), "net")
    own = arithmetic(name)
    x = np.random.default_rng(3).normal(size=72).astype(np.float32).astype(np.float64)
    bounds = {"": np.stack([x[None], x[None]])}
    for output, step in net.nonlinear().items():
        before = tuple(s for s in net.steps[: [s.output for s in net.steps].index(output)])
        upto = Network(before, net.inputs, ((step.inputs[0], net.sizes[step.inputs[0]]),), net.sizes, net.places)
        values = upto.evaluate(own.exact(x[None]), own)
        bounds[output] = np.stack([values.lower(), values.upper()])
    y = net.evaluate(own.exact(x[None]), own)
    dual = Dual(net, own, bounds, Box())
    for sign in (1.0, -1.0):
        found = dual.bound({"y": (own.exact(sign * np.eye(3)), np.arange(3))}, own.exact(np.zeros(3)), {})
        assert (found <= (sign * y.upper()[0] if sign > 0 else -y.lower()[0])).all()
        np.testing.assert_allclose(found, sign * y.lower()[0], rtol=1e-9, atol=1e-9)


def test_the_example_checked_by_hand() -> None:
    """docs/trust.md's network and multipliers give the numbers that it says, exactly."""
    constants = {"W": np.array([[1, 1], [1, -1]], np.float32), "V": np.array([[1, -1]], np.float32)}
    constants |= {"e": np.array([[-0.5, 0]], np.float32), "d": np.array([3], np.float32)}
    nodes = [node("Gemm", "x W", "z", transB=1), node("Relu", "z", "a"), node("Gemm", "a V d", "p", transB=1)]
    nodes += [node("Gemm", "x e", "q", transB=1), node("Add", "p q", "y")]
    net, own = read_network(model(nodes, {"x": [1, 2]}, constants).SerializeToString(), "net"), arithmetic("rational")
    ends = {"": np.stack([-np.ones((1, 2)), np.ones((1, 2))])}
    both = np.vstack([np.eye(2), -np.eye(2)])
    bounds = Dual(net, own, ends, Box()).bound({"z": (own.exact(both), np.arange(2))}, own.exact(np.zeros(4)), "interval")
    assert bounds.tolist() == [-2, -2, -2, -2]
    dual = Dual(net, own, {**ends, "a": np.stack([bounds[None, :2], -bounds[None, 2:]])}, Box())
    for mu, value in (((0.5, -0.5), 0.5), ((0, 0), 0.5), ((1, 0), -0.5)):
        chosen = {"a": (np.zeros(2, dtype=np.int64), np.arange(2), np.array(mu, dtype=np.float64))}
        assert dual.bound({"y": (own.exact(np.ones((1, 1))), np.arange(1))}, own.exact(np.zeros(1)), chosen).tolist() == [value]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Gemm", "x W -".removesuffix(" -"), alpha=2.0, transB=1)], "factors other than 1"),
        ([node("Sign", "x")], "not known"),
        ([node("Relu", "x", nonsense=1)], "attribute nonsense"),
        ([node("Pow", "x v")], "one exponent"),
        ([node("MatMul", "x W")], "a product"),
        ([node("Relu", "nothing")], "which nothing computes"),
        ([node("Relu", "x", "x")], "computes what is there"),
        ([node("Gemm", "W V", "g"), node("Add", "g x")], "reads a constant"),
        ([node("MatMul", "W V", "g"), node("Add", "g x")], "reads a constant"),
        ([node("Neg", "V", "g"), node("Add", "g x")], "reads a constant"),
        ([node("Relu", "V", "g"), node("Add", "g x")], "reads a constant"),
        ([node("MatMul", "x V", "#2"), node("Gemm", "x V v", "h"), node("Add", "#2 h")], "computes what is there"),
    ],
)
def test_what_the_reader_does_not_know_it_refuses(nodes: list[onnx.NodeProto], why: str) -> None:
    outputs = nodes[-1].output[0]
    constants = {"W": numbers(2, 3), "V": numbers(3, 3, seed=1), "v": numbers(3, seed=2)}
    built = model(nodes, {"x": [1, 3]}, constants, outputs=outputs)
    with pytest.raises(Unreadable, match=why):
        read_network(built.SerializeToString(), "net")


def test_a_row_that_no_step_takes_up_is_no_bound() -> None:
    own = arithmetic("rational")
    ends = {"": np.stack([-np.ones((1, 3)), np.ones((1, 3))])}
    dual = Dual(read_network(mlp(0).SerializeToString(), "net"), own, ends, Box())
    with pytest.raises(NotAProof, match="nothing computes"):
        dual.bound({"W0": (own.exact(np.ones((1, 15))), np.arange(15))}, own.exact(np.zeros(1)), "interval")


DECLARED = "(declare-const X_0 Real)(declare-const Y_0 Real)"


@pytest.mark.parametrize(
    "text",
    ["", "(", ")", "x", "(assert)", DECLARED + "(assert (<= X_0 nan))", DECLARED + "(assert (<= X_0 1e99999))", "(" * 300]
    + [
        DECLARED + f"(assert {a})"
        for a in ("X_0", "(<= X_1 0)", "(<= (* X_0 Y_0) 1)", "(<= (/ 1 X_0) 1)", "(xor X_0 Y_0)", "(<= X_0)")
    ]
    + ["(vnnlib-version <2.0>)(declare-network f (declare-hidden z real [1]))", "(vnnlib-version <3.0>)" + DECLARED],
)
def test_specifications_that_are_not_read(text: str) -> None:
    with pytest.raises(Unreadable):
        read_specification(text.encode(), "prop")


def test_a_specification_means_what_it_says() -> None:
    text = DECLARED + "(assert (and (>= X_0 0.1) (<= X_0 1)))(assert (not (and (< Y_0 (* 2 3)) (or (> X_0 0.5) (== Y_0 1)))))"
    found = read_specification(text.encode(), "prop")
    for x in ("0.05", "0.1", "0.3", "0.5", "0.7", "1"):
        for y in ("0", "1", "5.9", "6", "7"):
            fx, fy = Fraction(x), Fraction(y)
            meant = Fraction("0.1") <= fx <= 1 and not (fy < 6 and (fx > Fraction("0.5") or fy == 1))
            said = any(
                d.nearest([fx]) == (fx,)
                and all(
                    (v < 0 if r.strict else v <= 0)
                    for r in d.rows
                    for v in [sum((c * fy for _, c in r.outputs), r.constant) + sum(c * fx for _, c in r.inputs)]
                )
                for d in found.disjuncts
            )
            assert said == meant, (x, y)
