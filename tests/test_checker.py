"""The checker refuses what is no proof, says where, and is not broken by any file; its parts are held to exact arithmetic."""

from __future__ import annotations

import ast
import hashlib
import io
import subprocess
import sys
import tokenize
import zipfile
from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bourn.formats.replay import Replay
from bourn_check import NotAProof, Unreadable, check
from bourn_check import certificate as certificate_file
from bourn_check.arithmetic import Arithmetic, arithmetic
from bourn_check.dual import Bounds, Dual, Multipliers
from bourn_check.network import Network, PiecewiseLinear
from bourn_check.read_onnx import read_network
from bourn_check.read_vnnlib import read_specification
from certificates import Arrays, Files, Manifest, changed, contents, convolutional, mlp, proved, rewritten
from onnx_models import model, node, numbers

CHECKER = Path(__file__).resolve().parent.parent / "src" / "bourn_check"
READERS = ("read_onnx.py", "read_vnnlib.py")
ARITHMETICS = ("float", "ball", "rational")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small network whose certificate has multipliers of every kind."""
    return proved(tmp_path_factory.mktemp("proved"), mlp(1, (6, 6, 5)), "lp-all", radius=0.5)


# Independence and size


def test_it_imports_nothing_of_bourn_and_no_solver(files: Files) -> None:
    foreign = ("bourn", "torch", "scipy", "highspy", "onnxruntime")
    for path in CHECKER.glob("*.py"):
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


def test_it_is_small_enough_to_be_read() -> None:
    counts = {p.name: lines_of_code(p) for p in CHECKER.glob("*.py")}
    readers = sum(counts.pop(name) for name in READERS)
    assert readers <= 600, f"{readers} lines of code read files"
    assert sum(counts.values()) <= 1000, f"{sum(counts.values())} lines of code check: {counts}"


# Arithmetic


@pytest.mark.parametrize("name", ARITHMETICS)
def test_enclosures_hold_the_exact_values(name: str) -> None:
    rng = np.random.default_rng(0)
    own, exact = arithmetic(name), arithmetic("rational")

    def results(a: Arithmetic, x: np.ndarray, w: np.ndarray, index: np.ndarray, row: list[Fraction]) -> list[Any]:
        values, factors = a.exact(x), a.numbers(row)
        product = values.matmul(w)
        mixed = (values * factors + -values).put(index, 4).columns(np.array([3, 0, 1]))
        return [product, mixed, product.total(), values.minimum(values * factors), (values * factors).positive().matmul(w)]

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


def test_stability_and_vertices() -> None:
    clip = PiecewiseLinear((-1.0, 2.0), ((0.0, -1.0), (1.0, 0.0), (0.0, 2.0)))
    lower, upper = np.array([-3.0, -3.0, -1.0, -1.0, 0.0, 2.0, -1.0]), np.array([-1.0, -0.9, 2.0, 2.1, 1.0, 9.0, -1.0])
    assert clip.stable(lower, upper).tolist()[:6] == [0, -1, 1, -1, 1, 2]
    exact = arithmetic("rational")
    for z in clip.vertices(lower, upper):
        assert ((lower <= z) & (z <= upper)).all()
        assert clip.value(z, exact).lower().tolist() == np.clip(z, -1.0, 2.0).tolist()


# Readers


def evaluated(net: Network, x: np.ndarray, name: str = "float") -> np.ndarray:
    own = arithmetic(name)
    values = net.evaluate(own.exact(x.astype(np.float64)[None]), own)
    middle: np.ndarray = (values.lower()[0] + values.upper()[0]) / 2
    return middle


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
    bounds: dict[str, Bounds] = {}
    for output, step in net.nonlinear().items():
        before = tuple(s for s in net.steps[: [s.output for s in net.steps].index(output)])
        upto = Network(before, net.inputs, ((step.inputs[0], net.sizes[step.inputs[0]]),), net.sizes)
        values = upto.evaluate(own.exact(x[None]), own)
        bounds[output] = Bounds(values.lower()[0], values.upper()[0])
    y = net.evaluate(own.exact(x[None]), own)
    dual = Dual(net, own, own.exact(x), own.exact(x), bounds)
    for sign in (1.0, -1.0):
        found = dual.bound({"y": own.exact(sign * np.eye(3))}, own.exact(np.zeros(3)), {})
        assert (found <= (sign * y.upper()[0] if sign > 0 else -y.lower()[0])).all()
        np.testing.assert_allclose(found, sign * y.lower()[0], rtol=1e-9, atol=1e-9)


def test_the_example_checked_by_hand() -> None:
    """docs/trust.md's network and multipliers give the numbers that it says, exactly."""
    constants = {"W": np.array([[1, 1], [1, -1]], np.float32), "V": np.array([[1, -1]], np.float32)}
    constants |= {"e": np.array([[-0.5, 0]], np.float32), "d": np.array([3], np.float32)}
    nodes = [node("Gemm", "x W", "z", transB=1), node("Relu", "z", "a"), node("Gemm", "a V d", "p", transB=1)]
    nodes += [node("Gemm", "x e", "q", transB=1), node("Add", "p q", "y")]
    net, own = read_network(model(nodes, {"x": [1, 2]}, constants).SerializeToString(), "net"), arithmetic("rational")
    ends = own.exact(-np.ones(2)), own.exact(np.ones(2))
    both = np.vstack([np.eye(2), -np.eye(2)])
    bounds = Dual(net, own, *ends, {}).bound({"z": own.exact(both)}, own.exact(np.zeros(4)), "interval")
    assert bounds.tolist() == [-2, -2, -2, -2]
    dual = Dual(net, own, *ends, {"a": Bounds(bounds[:2], -bounds[2:])})
    for mu, value in (((0.5, -0.5), 0.5), ((0, 0), 0.5), ((1, 0), -0.5)):
        chosen = {"a": Multipliers(np.arange(2), mu=np.array([mu]))}
        assert dual.bound({"y": own.exact(np.ones((1, 1)))}, own.exact(np.zeros(1)), chosen).tolist() == [value]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Gemm", "x W -".removesuffix(" -"), alpha=2.0, transB=1)], "factors other than 1"),
        ([node("Sigmoid", "x")], "not known"),
        ([node("Relu", "x", nonsense=1)], "attribute nonsense"),
        ([node("Mul", "x x")], "constant"),
        ([node("MatMul", "x W")], "a product"),
        ([node("Relu", "nothing")], "which nothing computes"),
        ([node("Relu", "x", "x")], "computes what is there"),
    ],
)
def test_what_the_reader_does_not_know_it_refuses(nodes: list[onnx.NodeProto], why: str) -> None:
    outputs = nodes[-1].output[0]
    built = model(nodes, {"x": [1, 3]}, {"W": numbers(2, 3)}, outputs=outputs)
    with pytest.raises(Unreadable, match=why):
        read_network(built.SerializeToString(), "net")


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
                d.contains([fx])
                and all(
                    (v < 0 if r.strict else v <= 0)
                    for r in d.rows
                    for v in [sum((c * fy for _, c in r.outputs), r.constant) + sum(c * fx for _, c in r.inputs)]
                )
                for d in found.disjuncts
            )
            assert said == meant, (x, y)


# Planted faults


def bounds_of(manifest: Manifest, arrays: Arrays, layer: int) -> tuple[np.ndarray, np.ndarray]:
    own = manifest["cases"][0]["bounds"][layer]
    return arrays[own["lower"]], arrays[own["upper"]]


def tighter_bounds(manifest: Manifest, arrays: Arrays) -> None:
    _, upper = bounds_of(manifest, arrays, 1)
    upper[2] -= 1e-3


def called_stable(manifest: Manifest, arrays: Arrays) -> None:
    lower, upper = bounds_of(manifest, arrays, 1)
    open_ = np.flatnonzero((lower < 0) & (upper > 0))
    lower[open_[0]] = 0.0


def better_claim(manifest: Manifest, _: Arrays) -> None:
    manifest["cases"][0]["conjunctions"][0]["bound"] += 0.1


def wrong_sign(manifest: Manifest, arrays: Arrays) -> None:
    """An upper line below the function: the bounds that a verifier with it would claim."""
    lower, upper = bounds_of(manifest, arrays, 2)
    middle = (lower + upper) / 2
    lower[:], upper[:] = middle - 0.3 * (upper - lower), middle + 0.3 * (upper - lower)


def dropped_conjunction(manifest: Manifest, _: Arrays) -> None:
    del manifest["cases"][0]["conjunctions"][-1]


def dropped_part(manifest: Manifest, _: Arrays) -> None:
    del manifest["cases"][0]["bounds"][1]["parts"][0]


def dropped_bounds(manifest: Manifest, _: Arrays) -> None:
    del manifest["cases"][0]["bounds"][0]


def smaller_box(manifest: Manifest, arrays: Arrays) -> None:
    arrays[manifest["cases"][0]["upper"]][0] -= 0.01


def other_hash(manifest: Manifest, _: Arrays) -> None:
    manifest["network"]["sha256"] = "0" * 64


def negative_weight(manifest: Manifest, _: Arrays) -> None:
    manifest["cases"][0]["conjunctions"][0]["weights"][-1] = "-1"


def other_verdict(manifest: Manifest, arrays: Arrays) -> None:
    arrays["w"] = np.zeros(3)
    manifest |= {"verdict": "sat", "witness": "w"}


FAULTS: dict[Callable[[Manifest, Arrays], None], str] = {
    tighter_bounds: "case 0, bounds of what 'a1' reads: the upper end of entry 2 is claimed",
    called_stable: "the lower end of entry",
    better_claim: "case 0, conjunction 0: a bound of",
    wrong_sign: "is what its multipliers give",
    dropped_conjunction: "nothing refutes conjunction",
    dropped_part: "has no proof",
    dropped_bounds: "no bounds of what node 'a0' reads",
    smaller_box: "nothing refutes conjunction 0",
    other_hash: "another network",
    negative_weight: "weights are at least 0",
    other_verdict: "the witness is not in the set",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_planted_faults_are_caught(files: Files, fault: Callable[[Manifest, Arrays], None]) -> None:
    other = changed(files, fault)
    for name in ARITHMETICS:
        with pytest.raises(NotAProof, match=FAULTS[fault]):
            check(*other.arguments, name)


# Trees of splits


def split(manifest: Manifest, missing: str = "", at: float = 0.0) -> None:
    """The first conjunction's proof, once on each side of a split."""
    own = manifest["cases"][0]["conjunctions"][0]
    leaf = {k: own.pop(k) for k in ("weights", "bound", "multipliers")}
    own |= {
        "split": {"tensor": "a1", "entry": 1, "at": at},
        "below": leaf,
        "above": {"split": {"entry": 0, "at": 0.0}} | {"below": leaf, "above": leaf},
    }
    own.pop(missing, None)


def test_trees_of_splits_of_neurons_and_inputs(files: Files) -> None:
    other = changed(files, lambda m, _: split(m))
    for name in ARITHMETICS:
        check(*other.arguments, name)
    with pytest.raises(NotAProof, match="the half 'above' of a split is missing"):
        check(*changed(files, lambda m, _: split(m, "above")).arguments)


# Files that are broken, or made to break it


def mutated(rng: np.random.Generator, manifest: Manifest, arrays: Arrays) -> None:
    """One random edit of an array or of a place in the manifest."""
    if rng.random() < 0.5:
        name = str(rng.choice(sorted(arrays)))
        values = arrays[name]
        kind = rng.integers(7)
        if kind == 0 and values.size and values.dtype.kind in "fi":
            values.flat[rng.integers(values.size)] = rng.choice([np.nan, np.inf, -1e30, 0]) if values.dtype.kind == "f" else -9
        elif kind <= 2 and values.dtype.kind == "f":
            arrays[name] = (values * rng.choice([-1, 0.5, 2, 1 + 1e-6])).astype(values.dtype)
        elif kind == 3:
            arrays[name] = values[:-1]
        elif kind == 4:
            arrays[name] = values.astype(rng.choice(["<f2", "<i4", "<c16", "<U3"]))
        elif kind == 5:
            arrays[name] = rng.permutation(values.ravel()).reshape(values.shape)
        else:
            arrays[name] = arrays[str(rng.choice(sorted(arrays)))]
        return
    holder: Any = manifest
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[rng.integers(len(keys))]
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.15:
            break
        holder = holder[key]
    strange = [
        None,
        True,
        -1,
        10**400,
        1e308,
        "",
        "1/0",
        "1e9999",
        "interval",
        [],
        {},
        [[0, "1"]],
        {"free": "0", "mu": "0"},
        "../../x",
    ]
    choice = rng.integers(len(strange) + 2)
    if choice < len(strange):
        holder[key] = strange[choice]
    elif choice == len(strange):
        del holder[key]
    elif isinstance(holder, list):
        holder.append(holder[key])


def false_question(files: Files, folder: Path) -> Files:
    """The same network and box, asked for something that an input does satisfy; the certificate is about this question."""
    manifest, arrays = contents(files.certificate)
    other = Files(files.network, folder / "false.vnnlib", folder / "false.bourn")
    text = files.specification.read_text()
    head, tail = text[: text.index("(assert (or")], text[text.index("(assert (or") :]
    case = manifest["cases"][0]
    x = (arrays[case["lower"]] + arrays[case["upper"]]) / 2
    values = evaluated(read_network(files.network.read_bytes(), "net"), x)
    for conjunction in case["conjunctions"]:
        for row in conjunction["rows"]:
            ((j, _),) = row["outputs"]
            limit = repr(float(values[j]) + 0.5)
            tail = tail.replace(f"(<= Y_{j} {float(-Fraction(row['constant']))!r})", f"(<= Y_{j} {limit})")
            row["constant"] = str(-Fraction(limit))
    other.specification.write_text(head + tail)
    manifest["specification"]["sha256"] = hashlib.sha256(other.specification.read_bytes()).hexdigest()
    rewritten(other.certificate, manifest, arrays)
    return other


def outcome_of(files: Files) -> tuple[str, str]:
    """What the checker says, in a word and in full; any other exception is a defect."""
    try:
        return "proof", str(check(*files.arguments))
    except NotAProof as error:
        return "not a proof", str(error)
    except Unreadable as error:
        return "unreadable", str(error)


def test_mutations_are_refused_or_still_proofs(files: Files, tmp_path: Path) -> None:
    """Of a property that holds an edited certificate may still be a proof; of one that fails none is, whatever is edited."""
    false = false_question(files, tmp_path)
    with pytest.raises(NotAProof, match="is what its multipliers give"):
        check(*false.arguments)
    # Without claims in the way, only the bounds themselves say no.
    parts = {own: contents(own.certificate) for own in (files, false)}
    counts = {"proof": 0, "not a proof": 0, "unreadable": 0}
    for seed in range(240):
        own = (files, false)[seed % 2]
        rng = np.random.default_rng(seed)
        manifest, arrays = (deepcopy(part) for part in parts[own])
        for conjunction in manifest["cases"][0]["conjunctions"]:
            conjunction["bound"] = 1e-300
        for _ in range(rng.integers(1, 3)):
            mutated(rng, manifest, arrays)
        target = Files(own.network, own.specification, tmp_path / "mutated.bourn")
        rewritten(target.certificate, manifest, arrays)
        outcome, message = outcome_of(target)
        counts[outcome] += 1
        assert outcome != "proof" or own is files, f"seed {seed} proves what is false"
        assert message
    assert counts["proof"] > 5, counts
    assert min(counts["not a proof"], counts["unreadable"]) > 50, counts


def test_broken_files(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, target = files.certificate.read_bytes(), Files(files.network, files.specification, tmp_path / "broken.bourn")
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 30):
        target.certificate.write_bytes(whole[:length])
        with pytest.raises(Unreadable, match=r"broken\.bourn"):
            check(*target.arguments)
    rng = np.random.default_rng(0)
    for _ in range(40):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        target.certificate.write_bytes(bytes(flipped))
        assert outcome_of(target)[1]
    with zipfile.ZipFile(target.certificate, "w") as twice:
        twice.writestr("manifest.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            twice.writestr("manifest.json", "{}")
    with pytest.raises(Unreadable, match="two of one name"):
        check(*target.arguments)
    for text in ("[" * 100_000, '{"format": NaN}', "[]", "{", '"' + "9" * 10_000 + '"', "9" * 10_000):
        with zipfile.ZipFile(target.certificate, "w") as deep:
            deep.writestr("manifest.json", text)
        with pytest.raises(Unreadable):
            check(*target.arguments)
    with zipfile.ZipFile(target.certificate, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", b" " * (1 << 22))
    monkeypatch.setattr(certificate_file, "MOST_MANIFEST", 1 << 20)
    with pytest.raises(Unreadable, match="4194304 bytes are too many"):
        check(*target.arguments)


@pytest.mark.parametrize(
    "header",
    [
        {"shape": (10**12, 10**12), "descr": "<f8", "fortran_order": False},
        {"shape": (-1,), "descr": "<f8", "fortran_order": False},
        {"shape": (3,), "descr": "|O", "fortran_order": False},
        {"shape": (3,), "descr": "<f8", "fortran_order": True},
        {"shape": (3,), "descr": [("a", "<f8")], "fortran_order": False},
    ],
)
def test_headers_of_arrays_are_not_believed(files: Files, tmp_path: Path, header: dict[str, Any]) -> None:
    manifest, arrays = contents(files.certificate)
    target = Files(files.network, files.specification, tmp_path / "header.bourn")
    rewritten(target.certificate, manifest, {k: v for k, v in arrays.items() if k != manifest["cases"][0]["lower"]})
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(target.certificate, "a") as own:
        own.writestr(f"arrays/{manifest['cases'][0]['lower']}.npy", stream.getvalue() + b"\0" * 24)
    with pytest.raises(Unreadable, match="array "):
        check(*target.arguments)
