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
from bourn_check.readers.onnx import read_network
from certificate_files import Arrays, Chunks, Files, Manifest, changed, contents, evaluated, mlp, proved, rewritten

ARITHMETICS = ("float", "ball", "rational")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A small network whose certificate has multipliers of every kind."""
    return proved(tmp_path_factory.mktemp("proved"), mlp(1, (6, 6, 5)), "lp-all", radius=0.5)


# Planted faults


def other_multipliers(_: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """Multipliers of a relaxation whose line has the wrong sign."""
    for part in chunks[0]["refuted"]:
        if isinstance(part["multipliers"], dict):
            for own in part["multipliers"].values():
                arrays[own["mu"]] = -3 * arrays[own["mu"]]


def called_stable(_: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """An unstable neuron that is no longer free: as if it were stable."""
    for part in chunks[0]["refuted"]:
        if isinstance(part["multipliers"], dict):
            for own in part["multipliers"].values():
                arrays[own["free"]], arrays[own["mu"]] = arrays[own["free"]][:0], arrays[own["mu"]][:0]


def looser_rule(_: Manifest, __: Arrays, chunks: Chunks) -> None:
    for part in (*chunks[0]["bounds"], *chunks[0]["refuted"]):
        part["multipliers"] = "interval"


def dropped_bounds(_: Manifest, __: Arrays, chunks: Chunks) -> None:
    chunks[0]["bounds"] = [part for part in chunks[0]["bounds"] if part["tensor"] != "a1"]


def dropped_refutation(_: Manifest, __: Arrays, chunks: Chunks) -> None:
    del chunks[0]["refuted"][-1]


def dropped_conjunction(manifest: Manifest, _: Arrays, chunks: Chunks) -> None:
    del manifest["cases"][0]["conjunctions"][-1], chunks[0]["refuted"][-1]


def smaller_box(manifest: Manifest, arrays: Arrays, _: Chunks) -> None:
    arrays[manifest["cases"][0]["upper"]][0] -= 0.01


def other_hash(manifest: Manifest, _: Arrays, __: Chunks) -> None:
    manifest["network"]["sha256"] = "0" * 64


def negative_weight(_: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    arrays[chunks[0]["refuted"][0]["weights"]][:] = -1


def no_weight(_: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    arrays[chunks[0]["refuted"][0]["weights"]][:] = 0


def other_verdict(manifest: Manifest, arrays: Arrays, _: Chunks) -> None:
    arrays["w"] = np.zeros(3)
    manifest |= {"verdict": "sat", "witness": "w"}


FAULTS: dict[Callable[[Manifest, Arrays, Chunks], None], str] = {
    other_multipliers: "case 0, chunk 0: in part 0 a bound of .* does not refute conjunction",
    called_stable: "case 0, chunk 0: in part 0 a bound of .* does not refute conjunction",
    looser_rule: "does not refute conjunction",
    dropped_bounds: "no bounds of what node 'a1' reads",
    dropped_refutation: "case 0, chunk 0: in part 0 nothing refutes conjunction 1",
    dropped_conjunction: "nothing refutes conjunction",
    smaller_box: "nothing refutes conjunction 0",
    other_hash: "another network",
    negative_weight: "a weight is below 0",
    no_weight: "a bound of .* does not refute conjunction 0",
    other_verdict: "the witness is not in the set",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_planted_faults_are_caught(files: Files, fault: Callable[[Manifest, Arrays, Chunks], None]) -> None:
    other = changed(files, fault)
    for name in ARITHMETICS:
        with pytest.raises(NotAProof, match=FAULTS[fault]):
            check(*other.arguments, name)


# Trees of splits


def split(arrays: Arrays, chunks: Chunks, tensor: str | None = "a1") -> None:
    """The root split in two, then each half again by the input, and the refutations in the four leaves."""
    (chunk,) = chunks
    many = {"zero": [0], "two": [0, 1], "1 2": [1, 2], "3 4": [3, 4], "5 6": [5, 6], "entries": [1, 1], "entry": [1]}
    arrays.update({name: np.array(own, dtype="<i8") for name, own in many.items()})
    arrays.update({"at": np.zeros(1), "ats": np.zeros(2)})
    refuted = chunk.pop("refuted")
    for part in refuted:
        name = f"w{part['conjunction']}"
        arrays[name] = np.repeat(arrays[part["weights"]], 2, 0)
        part |= {"of": "two", "weights": name, "multipliers": "interval"}
    halves = {"of": "zero", "entry": "entry", "at": "at"} | ({} if tensor is None else {"tensor": tensor})
    again = {"parts": "1 2", "splits": [{"of": "two", "entry": "entries", "at": "ats"}]}
    again_bounds = [{"tensor": f"a{k}", "multipliers": "interval"} for k in range(3)]
    leaves = [{"parts": name, "bounds": again_bounds, "refuted": deepcopy(refuted)} for name in ("5 6", "3 4")]
    chunks[:] = [chunk | {"splits": [halves]}, again, *leaves]


def test_trees_of_splits_of_neurons_and_inputs(tmp_path: Path) -> None:
    files = proved(tmp_path, mlp(1, (6, 6, 5)), "ibp", radius=0.5)
    for tensor in ("a1", None):
        other = changed(files, lambda _, arrays, chunks, own=tensor: split(arrays, chunks, own))  # type: ignore[misc]
        for name in ARITHMETICS:
            assert check(*other.arguments, name).parts == 7

    def missing(_: Manifest, arrays: Arrays, chunks: Chunks) -> None:
        split(arrays, chunks)
        del chunks[-1]

    def twice(_: Manifest, arrays: Arrays, chunks: Chunks) -> None:
        split(arrays, chunks)
        chunks[-1]["parts"] = "5 6"

    def unrefuted(_: Manifest, arrays: Arrays, chunks: Chunks) -> None:
        split(arrays, chunks)
        for part in chunks[2]["refuted"]:
            arrays[part["weights"] + " of one"] = arrays[part["weights"]][:1]
            part |= {"of": "zero", "weights": part["weights"] + " of one"}

    with pytest.raises(Unreadable, match=r"chunks/3.json: is missing"):
        check(*changed(files, missing).arguments)
    with pytest.raises(NotAProof, match="chunk 3: it is about parts that are not open"):
        check(*changed(files, twice).arguments)
    with pytest.raises(NotAProof, match="in part 6 nothing refutes conjunction 0"):
        check(*changed(files, unrefuted).arguments)


# Files that are broken, or made to break it


def mutated(rng: np.random.Generator, manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """One random edit of an array, or of a place in the manifest or a chunk."""
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
    holder: Any = manifest if rng.random() < 0.4 or not chunks else chunks
    if not holder:
        return
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


def false_question(files: Files, folder: Path, x: np.ndarray | None = None) -> Files:
    """The same network and inputs, asked for something that an input does satisfy: ``x`` or the box's middle.

    The certificate is about this question.
    """
    manifest, arrays, chunks = contents(files.certificate)
    other = Files(files.network, folder / "false.vnnlib", folder / "false.bourn")
    case = manifest["cases"][0]
    x = (arrays[case["lower"]] + arrays[case["upper"]]) / 2 if x is None else x
    values = evaluated(read_network(files.network.read_bytes(), "net"), x)
    formulas = []
    for conjunction in case["conjunctions"]:
        comparisons = []
        for row in (own for own in conjunction["rows"] if own["outputs"]):
            ((j, _),) = row["outputs"]
            limit = repr(float(values[j]) + 0.5)
            comparisons.append(f"(<= Y_{j} {limit})")
            row["constant"] = str(-Fraction(limit))
        formulas.append(f"(and {' '.join(comparisons)})")
    lines = [line for line in files.specification.read_text().splitlines() if "assert" not in line or "Y_" not in line]
    other.specification.write_text("\n".join([*lines, f"(assert (or {' '.join(formulas)}))"]))
    manifest["specification"]["sha256"] = hashlib.sha256(other.specification.read_bytes()).hexdigest()
    rewritten(other.certificate, manifest, arrays, chunks)
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
    with pytest.raises(NotAProof, match="does not refute"):
        check(*false.arguments)
    parts = {own: contents(own.certificate) for own in (files, false)}
    counts = {"proof": 0, "not a proof": 0, "unreadable": 0}
    for seed in range(240):
        own = (files, false)[seed % 2]
        rng = np.random.default_rng(seed)
        manifest, arrays, chunks = deepcopy(parts[own])
        for _ in range(rng.integers(1, 3)):
            mutated(rng, manifest, arrays, chunks)
        target = Files(own.network, own.specification, tmp_path / "mutated.bourn")
        rewritten(target.certificate, manifest, arrays, chunks)
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
    monkeypatch.setattr(certificate_file, "MOST_TEXT", 1 << 20)
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
    manifest, arrays, chunks = contents(files.certificate)
    target = Files(files.network, files.specification, tmp_path / "header.bourn")
    rewritten(target.certificate, manifest, {k: v for k, v in arrays.items() if k != manifest["cases"][0]["lower"]}, chunks)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(target.certificate, "a") as own:
        own.writestr(f"arrays/{manifest['cases'][0]['lower']}.npy", stream.getvalue() + b"\0" * 24)
    with pytest.raises(Unreadable, match="array "):
        check(*target.arguments)
