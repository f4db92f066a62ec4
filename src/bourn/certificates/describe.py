"""Verdicts in words, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bourn.certificates.evidence import Counterexample, Falsified, OpenConjunction, Unknown, Verdict, Verified
from bourn.rounding import float_below


def describe(verdict: Verdict, shown: int = 5) -> list[str]:
    """Lines that say what the verdict means and rests on; at most ``shown`` open conjunctions in full."""
    match verdict:
        case Verified():
            return _verified(verdict)
        case Falsified(counterexample=counterexample, by_rounding=by_rounding):
            return _falsified(counterexample, by_rounding)
        case Unknown():
            return _unknown(verdict, shown)


def _verified(verdict: Verified) -> list[str]:
    refutations = [r for found in verdict.refutations for r in found]
    lines = ["verified: no input of the set is a counterexample"]
    if refutations:
        weakest = min(refutations, key=lambda r: r.bound)
        count = f"{len(refutations)} conjunction{'s' if len(refutations) != 1 else ''}"
        lines.append(f"proved by {', '.join(verdict.methods)}: {count} refuted by lower bounds of at least {weakest.bound:.6g}")
    else:
        lines.append("proved by nothing more than reading: the specification has no counterexample in any network")
    lines.append(f"holds in {verdict.semantics}")
    return lines + ([] if verdict.by_rounding is None else [warning(verdict.by_rounding)])


def warning(found: Counterexample) -> str:
    """One line about an input that only rounding makes a counterexample."""
    x, y = _vector(found.x.tolist()), _vector(found.y.tolist())
    return (
        f"warning: {found.replayed_in}, which rounds, takes an input of the set for a counterexample: "
        f"{_short(str(found.conjunction))} has {_rows(found)} at input {x}, output {y}"
    )


def _rows(found: Counterexample) -> str:
    """The values of the rows that hold, at most five."""
    rows = found.conjunction.rows
    values = ", ".join(f"{float_below(row.value(found.x.tolist(), found.y.tolist())):.6g}" for row in rows[:5])
    return values + (", ..." if len(rows) > 5 else "")


def _falsified(found: Counterexample, by_rounding: bool) -> list[str]:
    rows = found.conjunction.rows
    satisfied = f"satisfies {_short(str(found.conjunction))}" if rows else "any input there is a counterexample"
    where = "it lies in the input set and"
    if found.real is not None:
        where = f"the input set holds no number of the network's type; the nearest, {found.off:.1g} off it,"
    return [
        "falsified: a counterexample was found",
        f"replayed in {found.replayed_in}: {where} {satisfied}",
        *(["in real arithmetic the input set holds a counterexample, by interval propagation"] if found.real is not None else []),
        f"input  {_vector(found.x.tolist())}",
        f"output {_vector(found.y.tolist())}",
        *([f"rows (at most 0): {_rows(found)}"] if rows else []),
        *(["warning: by rounding only; in real arithmetic this input is proved to be none"] if by_rounding else []),
    ]


def _unknown(verdict: Unknown, shown: int) -> list[str]:
    lines = [f"unknown: {verdict.reason}"]
    if verdict.unreplayed is not None:
        x, y = (_vector(values.tolist()) for values in (verdict.unreplayed.x, verdict.unreplayed.y))
        lines.append(f"the counterexample in real arithmetic: input {x}; {verdict.unreplayed.replayed_in} gives output {y}")
    if verdict.barrier is not None:
        lines.append(f"no layer-wise method can prove this: the barrier is at most {verdict.barrier:.6g}")
    for o in sorted(verdict.open, key=lambda o: o.bound)[-shown:]:
        lines.extend(_open(o))
    if len(verdict.open) > shown:
        lines.append(f"... and {len(verdict.open) - shown} more")
    return lines


def _open(o: OpenConjunction) -> list[str]:
    bound = "no bound" if math.isinf(o.bound) else f"best bound {o.bound:.6g} by {o.method} (above 0 is needed)"
    attained = "" if o.attained == math.inf else f", the attack came to {o.attained:.6g}"
    refused = ", but the replay refused the point" if o.attained <= 0 else ""
    ceiling = "" if o.ceiling == math.inf else f", no layer-wise method gets above {o.ceiling:.6g}"
    lines = [f"open: {_short(str(o.conjunction))}: {bound}{ceiling}{attained}{refused}"]
    total = sum(loss.amount for loss in o.losses)
    if math.isinf(total):
        lines.append(f"      lost on the way: all of it, at {next(loss.where for loss in o.losses if math.isinf(loss.amount))}")
    elif total > 0:
        share = ", ".join(f"{loss.amount / total:.0%} at {loss.where}" for loss in o.losses[:4])
        lines.append(f"      lost on the way: {total:.6g}, of it {share}")
    return lines


def _vector(values: Iterable[float], most: int = 8) -> str:
    listed = list(values)
    text = ", ".join(f"{v:.6g}" for v in listed[:most])
    return f"[{text}{', ... ' + str(len(listed)) + ' in all' if len(listed) > most else ''}]"


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
