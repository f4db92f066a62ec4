"""Random edits of certificates: those that the checker still takes for proofs must be proofs, and none may break it.

Pairs of small questions about one network, one for every kind of proof: one holds and has a certificate, the other is false, and
its certificate is the same but for its hash and its rows.  Whatever is edited, the false one must never be proved; that is the
independent criterion, for no edit makes it true.  Edits are of arrays, the manifest, chunks, single bits of the file, its length
and its members.  Every check has limits of memory and time, and may write no file.

    python benchmarks/mutations.py --count 10000

Exit status: 1 if a false question was proved, or anything but the checker's own two exceptions came out.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import bourn
from bourn.plans import Bounding, Plan, Stand
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.value_splitting import ValueSplitting
from bourn_check import NotAProof, Unreadable, check
from bourn_check.limits import limits
from certificate_files import Files, contents, convolutional, mlp, proved, rewritten
from test_certificate_cases import DEEP
from test_certificate_cases import asked as by_cases
from test_certificate_sets import on_ball, on_polytope
from test_certificate_splits import by_splitting
from test_checker_functions import composed
from test_checker_refusals import false_question, mutated, split


def main() -> int:
    """Edit, check, and print how it ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    began, slowest = time.process_time(), 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pairs = _questions(folder)
        for seed in range(asked.first, asked.first + asked.count):
            rng = np.random.default_rng(seed)
            own, is_true = pairs[seed % len(pairs)]
            target = Files(own.network, own.specification, folder / "edited.bourn")
            kind = _edited(rng, own, target)
            before, started = sorted(folder.rglob("*")), time.process_time()
            outcome = _outcome(target)
            slowest = max(slowest, time.process_time() - started)
            counts[f"{kind}: {outcome.split(':')[0]}"] += 1
            if (outcome == "proof" and not is_true) or outcome.startswith("broken") or sorted(folder.rglob("*")) != before:
                wrong.append(f"seed {seed}: {outcome}")
    for name, number in sorted(counts.items()):
        print(f"{name:<40} {number}")
    print(f"{asked.count} edits, {time.process_time() - began:.0f} s of the processor, the slowest check {slowest:.2f} s")
    print("\n".join(wrong) or "no false question was proved, nothing broke the checker")
    return 1 if wrong else 0


def _questions(folder: Path) -> list[tuple[Files, bool]]:
    """Files with certificates, and whether what they are about is true: of every kind of proof one of each."""
    tree = proved(folder / "tree", mlp(2, (6, 6, 5)), "ibp", radius=0.5)
    manifest, arrays, chunks = contents(tree.certificate)
    split(arrays, chunks)
    rewritten(tree.certificate, manifest, arrays, chunks)
    found = []
    for own in (proved(folder / "plain", mlp(1, (6, 6, 5)), "lp-all", radius=0.5), tree, *_others(folder)):
        (own.certificate.parent / "false").mkdir()
        inside = np.array([-0.3, 0.1, 0.5]) if own.certificate.parent.name == "polytope" else None
        false = false_question(own, own.certificate.parent / "false", inside)
        assert _outcome(own) == "proof"
        assert _outcome(false).startswith("not a proof: case 0")
        found += [(own, True), (false, False)]
    return found


def _others(folder: Path) -> Iterator[Files]:
    """Smooth functions, products, maxima, sparse rows, bounds by cases, trees of every kind, polytopes and balls."""
    yield proved(folder / "smooth", mlp(3, (6, 6), activation="Tanh"), "crown", radius=0.3)
    for kind in ("mul", "max", "softmax"):
        yield proved(folder / kind, composed(kind), "alpha-crown")
    yield proved(folder / "convolutions", convolutional(3), "crown", radius=0.1)
    for name in ("cases", "neurons", "values", "halves", "polytope", "ball"):
        (folder / name).mkdir()
    plan = Plan((Bounding(bourn.method("crown")), Bounding(DEEP, Stand.ON_TOP)))
    yield by_cases(folder / "cases", plan, 0.9)
    yield by_splitting(folder / "neurons", mlp(3, (6, 6)), NeuronSplitting(), 0.1, 0.5)
    yield by_splitting(folder / "values", composed("hard swish"), ValueSplitting(), 0.1, 0.8)
    yield by_splitting(folder / "halves", mlp(3, (6, 6), activation="Tanh"), InputSplitting(), 0.3, 0.5)
    yield on_polytope(folder / "polytope", mlp(3, (6, 6)), "alpha-crown-all", share=-0.01)
    yield on_ball(folder / "ball")


def _edited(rng: np.random.Generator, own: Files, target: Files) -> str:
    """Write an edited certificate; the kind of edit."""
    draw = rng.random()
    if draw < 0.8:
        manifest, arrays, chunks = deepcopy(contents(own.certificate))
        for _ in range(rng.integers(1, 4)):
            mutated(rng, manifest, arrays, chunks)
        rewritten(target.certificate, manifest, arrays, chunks)
        return "arrays, manifest, chunks"
    whole = own.certificate.read_bytes()
    if draw < 0.9:
        flipped = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            flipped[rng.integers(len(flipped))] ^= 1 << int(rng.integers(8))
        target.certificate.write_bytes(bytes(flipped))
        return "bits"
    if draw < 0.95:
        target.certificate.write_bytes(whole[: rng.integers(len(whole))])
        return "cut short"
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        members = old.infolist()
        chosen = members[rng.integers(len(members))].filename
        for member in members:
            data, name = old.read(member), member.filename
            if name == chosen:  # other names and paths, nothing, or very much of nothing
                name = str(rng.choice([name, "../" * 8 + name, "/" + name, name + "\0", ""]))
                data = (data, b"", b"\0" * (1 << int(rng.integers(10, 27))), b"[" * 100_000)[int(rng.integers(4))]
            new.writestr(name or "x", data)
    target.certificate.write_bytes(stream.getvalue())
    return "members"


def _outcome(files: Files) -> str:
    try:
        with limits(gigabytes=64.0, seconds=60.0):
            check(*files.arguments)
    except NotAProof as error:
        return f"not a proof: {error}"
    except Unreadable as error:
        return f"unreadable: {error}"
    except Exception as error:  # whatever it is, it is a defect of the checker
        return f"broken: {type(error).__name__}: {error}"
    return "proof"


if __name__ == "__main__":
    sys.exit(main())
