"""The checker refuses what is no proof and says where, and no file breaks it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bourn_check import NotAProof, Unreadable, check
from bourn_check import certificate as certificate_file
from bourn_check.read_onnx import read_network
from certificate_files import Arrays, Files, Manifest, changed, contents, evaluated, mlp, proved, rewritten

ARITHMETICS = ("float", "ball", "rational")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small network whose certificate has multipliers of every kind."""
    return proved(tmp_path_factory.mktemp("proved"), mlp(1, (6, 6, 5)), "lp-all", radius=0.5)


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
