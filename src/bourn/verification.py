"""verify: a plan that goes from cheap to dear - attack, bounds, attack, splitting - and stops as soon as all is decided."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bourn.certificates.account import Step
from bourn.certificates.describe import describe
from bourn.certificates.evidence import Falsified, Unknown, Verdict, Verified
from bourn.deadline import Deadline
from bourn.deciding import Run
from bourn.device import device as by_device
from bourn.errors import UsageError
from bourn.formats.joined import model_for
from bourn.formats.model import Model
from bourn.plans import CHEAP_FIRST, Plan, in_processes, within_memory
from bourn.problem.problem import Problem, Question, problems
from bourn.unknowns import unknown

_LEAST, _SHARE = 0.05, 0.02
"""Seconds for which points are replayed after a proof, and the share of its time, whichever is more."""


@dataclass(frozen=True, eq=False)
class Result:
    """A verdict and how it was reached: ``steps`` done and skipped, in order, and the names of those that were not reached."""

    verdict: Verdict
    model: Model
    question: Question
    seconds: float
    steps: tuple[Step, ...]
    unreached: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``unsat`` (verified), ``sat`` (falsified), ``unknown`` or ``timed-out``."""
        match self.verdict:
            case Verified():
                return "unsat"
            case Falsified():
                return "sat"
            case Unknown(timed_out=timed_out):
                return "timed-out" if timed_out else "unknown"

    def __str__(self) -> str:
        return "\n".join([*describe(self.verdict), f"{self.seconds:.2f} s"])


def verify(
    model: Any,
    question: Any,
    *,
    timeout: float | Deadline | None = None,
    plan: Plan = CHEAP_FIRST,
    example: Any = None,
    device: str = "cpu",
    memory: float | None = None,
    workers: int = 1,
    log: Callable[[Step], None] | None = None,
) -> Result:
    """Decide whether ``question`` has a counterexample in ``model``.

    ``model``: see :func:`bourn.load`; a question about several networks has a mapping from their names to ONNX files instead.
    ``question``: a VNN-LIB file's path or a :class:`Question`.  ``timeout``:
    seconds, reading included (None: none).  ``memory``: bytes for what is computed, half of them for trees of splits, the network
    itself not counted.  ``workers``: processes among which trees of splits are dealt out that do not end soon.  ``log`` is called
    with every step as it ends.  A ``Verified`` holds in real arithmetic for the weights as stored; a ``Falsified`` carries a
    replayed input; everything else, the timeout included, is ``Unknown`` with its reason.  Sound, not complete.

    Raises :class:`bourn.errors.BournError` where model or question cannot be used.
    """
    began = time.monotonic()
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    asked = _question(question)
    loaded = model_for(model, asked, example)
    chosen = in_processes(plan, workers)
    if memory is not None:
        chosen = within_memory(chosen, memory, loaded.graph)
    place = by_device(device)
    cases = problems(loaded.graph.to(place), asked)
    if not cases:
        raise UsageError("the question has no input set")
    run = Run(loaded, asked, (Problem(p.network, p.box.to(place), p.specification) for p in cases), chosen, deadline, log)
    whole = run.work()
    seconds = time.monotonic() - began
    unreached = tuple(step.name for step in chosen.steps[run.reached :])
    return Result(_verdict(run, not whole, time.monotonic() - deadline.began), loaded, asked, seconds, tuple(run.steps), unreached)


def _verdict(run: Run, ended: bool, seconds: float) -> Verdict:
    """What a run came to that was ``ended``, after so many seconds, or ended by itself."""
    if run.found is not None:
        return Falsified(run.found)
    if not any(case.open for case in run.cases):
        run.look_for_rounding(max(_LEAST, _SHARE * seconds))
        refutations = tuple(tuple(c.refuted[k] for k in range(len(c.problem.conjunctions))) for c in run.cases)
        return Verified(refutations, run.question.cases, by_rounding=run.by_rounding)
    if run.by_rounding is not None:
        return Falsified(run.by_rounding, by_rounding=True)
    return unknown(run, ended, seconds)


def _question(question: Any) -> Question:
    if isinstance(question, Question):
        return question
    if isinstance(question, str | Path):
        from bourn.formats.vnnlib import load as load_vnnlib

        return load_vnnlib(question)
    raise UsageError(f"a question is a VNN-LIB file's path or a Question, not a {type(question).__name__}")
