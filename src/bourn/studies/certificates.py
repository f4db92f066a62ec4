"""A study's certificates: of every image that is certified a VNN-LIB file and a proof, in a folder beside the store.

Of adversarial error at the study's radius, of minimum distortion at the radius that was certified or, where no multipliers are
found again that prove just that, one smaller by the study's precision.  They are made after the answers, and checked one by one by
the independent checker.  That a VNN-LIB file asks what the study asked rests on the writing here; that the network has no
counterexample to it, on the checker alone.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bourn.certificates.evidence import Refutation, Verified
from bourn.errors import BournError
from bourn.proofs import write_certificate
from bourn.studies.description import ATTACK, SPLITTING
from bourn.studies.engines import each
from bourn.studies.jobs import input_sets
from bourn.studies.running import Study
from bourn.studies.store import Record, Store

ERROR, DISTORTION = "adversarial-error", "minimum-distortion"
"""Kinds of study whose proofs can be kept."""
CERTIFIED, NETWORKS = "certified", "networks"
_FIRST = 0.25
"""Of the time for a certificate, for the first of several radii."""

PROVED, WRITTEN, NOT_A_PROOF, UNREADABLE = "proved", "written", "not a proof", "cannot be read"
NONE, TRUSTED = "no certificate", "no certificate, trusted: HiGHS"


@dataclass(frozen=True)
class Files:
    """The three files of one answer, and the method that gave it."""

    certificate: Path
    network: Path
    specification: Path
    method: str


@dataclass(frozen=True)
class Told:
    """What came of one answer."""

    files: Files
    outcome: str
    reason: str = ""


@dataclass(frozen=True, eq=False)
class _Wanted:
    """A certificate to be written: that the images around one (flat) keep the label, up to the first radius that has a proof."""

    files: Files
    image: np.ndarray
    radii: tuple[float, ...]
    clip: Any
    label: int
    classes: int
    seconds: float


def folder_of(store: Path) -> Path:
    """Where a store's certificates are."""
    return store.with_suffix(".certificates")


def files_of(record: Record, folder: Path) -> Files:
    """Where an answer's certificate is or would be, and what it is about."""
    network = folder / NETWORKS / f"{record.task['network_hash']}.onnx"
    method = str(record.result["decided_by"] if record.task["study"] == ERROR else record.task["method"])
    return Files(folder / f"{record.key}.bourn", network, folder / f"{record.key}.vnnlib.gz", method)


def certified(store: Store) -> Iterator[Record]:
    """The answers that are proofs."""
    yield from (r for r in store.records(ERROR) if r.result["outcome"] == CERTIFIED)
    yield from (r for r in store.records(DISTORTION) if r.task["method"] != ATTACK and (r.result["radius"] or 0) > 0)


def write_all(study: Study, store: Store, workers: int = 1, seconds: float = 600.0) -> Iterator[Told]:
    """Write the certificates that are missing; ``seconds``: for each.  What came of every one, as it comes.

    Raises :class:`bourn.errors.BournError` where the folder cannot be written.
    """
    folder = folder_of(store.path)
    (folder / NETWORKS).mkdir(parents=True, exist_ok=True)
    known = {network.hash: network for network in study.networks}
    for network in study.networks:
        path = folder / NETWORKS / f"{network.hash}.onnx"
        if not path.exists():
            path.write_bytes(network.data)
    records = {r.key: r for r in certified(store)}
    wanted = []
    for asked in study.asked():
        record = records.get(asked.key)
        if record is None or (files := files_of(record, folder)).certificate.exists():
            continue
        task, graph = asked.task, known[asked.task["network_hash"]].graph
        radii: tuple[float, ...] = (task["radius"],)
        if task["study"] == DISTORTION:
            found = float(record.result["radius"])
            radii = found, found * (1 - task["options"]["precision"])
        wanted.append(_Wanted(files, asked.image, radii, task["clip"], task["label"], graph.nodes[graph.output].size, seconds))
    return each(_write, wanted, workers)


def _write(wanted: _Wanted) -> Told:
    *others, last = wanted.radii
    for radius in others:
        told = _write_at(wanted, radius, _FIRST * wanted.seconds)
        if told.outcome == WRITTEN:
            return told
    return _write_at(wanted, last, wanted.seconds)


def _write_at(wanted: _Wanted, radius: float, seconds: float) -> Told:
    from bourn.formats.model import load
    from bourn.formats.vnnlib import load as load_vnnlib
    from bourn.verification import Result, verify

    try:
        ball = input_sets(torch.from_numpy(wanted.image)[None], radius, wanted.clip)
        text = question(ball.lower.flatten().numpy(), ball.upper.flatten().numpy(), wanted.label, wanted.classes)
        text = f"; every image within {radius!r} of one has class {wanted.label}\n{text}"
        wanted.files.specification.write_bytes(gzip.compress(text.encode(), mtime=0))
        asked = load_vnnlib(wanted.files.specification)
        if wanted.files.method == SPLITTING:  # an answer keeps no tree, so it is made again
            result = verify(wanted.files.network, asked, timeout=seconds)
            if not isinstance(result.verdict, Verified):
                return Told(wanted.files, NONE, f"not verified again: {result.status}")
        else:
            found = tuple(
                tuple(Refutation(c, (1.0,), 1.0, wanted.files.method) for c in case.specification.conjunctions)
                for case in asked.cases
            )
            result = Result(Verified(found, asked.cases), load(wanted.files.network), asked, 0.0, ())
        write_certificate(result, wanted.files.certificate, timeout=seconds)
    except BournError as error:
        return Told(wanted.files, NONE, str(error))
    return Told(wanted.files, WRITTEN)


def question(lower: np.ndarray, upper: np.ndarray, label: int, classes: int) -> str:
    """VNN-LIB: some image of a box has another class that scores at least as much."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))] + [f"(declare-const Y_{j} Real)" for j in range(classes)]
    for i, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
        lines += [f"(assert (>= X_{i} {low!r}))", f"(assert (<= X_{i} {high!r}))"]
    others = " ".join(f"(and (>= Y_{j} Y_{label}))" for j in range(classes) if j != label)
    return "\n".join([*lines, f"(assert (or {others}))", ""])


def check_all(
    store: Store, arithmetic: str, workers: int, memory: float, seconds: float, semantics: str = "real"
) -> Iterator[Told]:
    """Check the certificates of all answers that are proofs; those without one are told too."""
    folder = folder_of(store.path)
    asked = [(files_of(record, folder), arithmetic, semantics, memory, seconds) for record in certified(store)]
    return each(_check, asked, workers)


def _check(asked: tuple[Files, str, str, float, float]) -> Told:
    from bourn_check import NotAProof, Unreadable, check
    from bourn_check.limits import limits

    files, arithmetic, semantics, memory, seconds = asked
    if not files.certificate.exists():
        return Told(files, TRUSTED if files.method.startswith("milp") else NONE)
    try:
        with limits(memory, seconds):
            report = check(files.certificate, files.network, files.specification, arithmetic, semantics)
    except NotAProof as error:
        return Told(files, NOT_A_PROOF, str(error))
    except Unreadable as error:
        return Told(files, UNREADABLE, str(error))
    return Told(files, PROVED) if report.verdict == "unsat" else Told(files, NOT_A_PROOF, f"it proves {report.verdict}")
