"""The dual function of the relaxed problem: every choice of multipliers gives a lower bound, which is all that is used here.

A row Lambda on a tensor v stands for Lambda . v.  Walking the steps from the last to the first,

* affine, v = A u + b:            Lambda . v = (A^T Lambda) . u + Lambda . b, exactly;
* nonlinear, v = s(z), l <= z <= u:
      Lambda . v >= mu . z + sum_i min over z_i in [l_i, u_i] of (Lambda_i s(z_i) - mu_i z_i), for any mu;
* the input, in its box:          Lambda . x >= sum_i min(Lambda_i lower_i, Lambda_i upper_i).

So what mu is, and where it comes from, does not matter for soundness.  Where s has several inputs, mu and z have them, too.

Rows are bounded many at a time, each on a box and on bounds of its own, for a proof may have many parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.errors import NotAProof
from bourn_check.network import Affine, Network, Nonlinear, Part, of_rows
from bourn_check.sets.box import Box

INTERVAL, LINES, PARALLEL = RULES = "interval", "lines", "parallel"
"""Rules for mu: all 0, which is interval propagation through the last affine steps; of unstable entries the slopes of two lines,
:meth:`bourn_check.network.Nonlinear.lines`; or the second's alone."""

Numbers = tuple[Index, Index, Floats]
"""For what one nonlinear step reads free entries: their row, which entry it is, and mu there; elsewhere it is not free."""
Chosen = Mapping[str, Numbers] | str
"""By nonlinear step, or one of :data:`RULES`."""
Ends = Mapping[str, Floats]
"""By nonlinear step the ends l <= z <= u of what it reads, float64, (2, P, size) for P parts; "" is the input."""


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual function on a network, on parts of which each has an input box and bounds known so far."""

    network: Network
    arithmetic: Arithmetic
    ends: Ends
    inside: Box

    def bound(self, rows: Mapping[str, Part], constant: Values, chosen: Chosen, of: Index | None = None) -> Floats:
        """Lower bounds (M,) of sum over tensors of rows[v] . v, plus ``constant``, rounded down to float64.

        ``of``: the part that each row is about; all are about the only one where it is None.
        """
        pending, total = dict(rows), constant
        for name, (_, entries, mu) in () if isinstance(chosen, str) else chosen.items():  # bounds may narrow others without a row
            at = np.unique(entries[mu != 0] % self.network.sizes[name])
            add(pending, name, self.arithmetic.exact(np.zeros((constant.shape[0], len(at)))), at)
        for step in reversed(self.network.steps):
            if step.output not in pending:
                continue
            row, at = pending.pop(step.output)
            operation = step.operation
            if isinstance(operation, Affine):
                parts, said = operation.backward(row, at, self.arithmetic)
            else:
                parts, said = self._through(step.output, operation, row, at, chosen, of)
            if said is not None:
                total = total + said
            for source, part in zip(step.inputs, parts, strict=False):
                add(pending, source, *part)
        if "" in pending:
            row, at = pending.pop("")
            total = total + self.inside.least(row, at, [of_rows(end[:, at], of) for end in self.ends[""]], self.arithmetic)
        if pending:  # else what they say would be taken for 0
            raise NotAProof(f"a row on {min(pending)!r}, which nothing computes")
        return total.lower()

    def _through(
        self, name: str, function: Nonlinear, row: Values, at: Index, chosen: Chosen, of: Index | None
    ) -> tuple[list[Part], Values]:
        """The rows mu on what a nonlinear step reads, one an input, and the sum of its minima."""
        arity, size, whole = function.arity, len(at), self.network.sizes[name]
        known = self.ends[name][..., (at + whole * np.arange(arity)[:, None]).ravel()]
        if not np.isfinite(known).all():
            raise NotAProof(f"no bounds of what node {name!r} reads are proved where they are needed")
        if chosen == INTERVAL:
            return [], function.minima(row, None, known, of, self.arithmetic).total()
        apart, slope, offset = function.affine(*known)
        open_: NDArray[np.bool_] = np.asarray(apart.any(0))
        wide = row if arity == 1 else row.columns(np.tile(np.arange(size), arity))
        if isinstance(chosen, str):
            below, above = (np.where(np.tile(apart, arity), line, slope) for line in function.lines(*known))
            mu = wide.scaled(np.where(wide.about() > 0, of_rows(above if chosen == PARALLEL else below, of), of_rows(above, of)))
        elif name not in chosen:
            mu = wide.scaled(of_rows(slope, of))
        else:
            which, entries, numbers = chosen[name]
            place = np.searchsorted(at, entries % whole)
            kept = np.flatnonzero(np.append(at, -1)[place] == entries % whole)  # without a row mu is 0 at the others
            which, place, numbers = which[kept], place[kept] + size * (entries[kept] // whole), numbers[kept]
            factors, given = np.broadcast_to(of_rows(slope, of), wide.shape).copy(), np.zeros(wide.shape)
            factors[which, place], given[which, place] = 0.0, numbers
            open_[place % size] = True
            mu = wide.scaled(factors) + self.arithmetic.exact(given)
        # Where every part is affine nothing is lost: s(z) - slope z is its offset.
        rest, some = np.flatnonzero(~open_), np.flatnonzero(open_)
        total = row.columns(rest).scaled(of_rows(offset[:, rest], of)).total()
        if len(some):
            reads = (some + size * np.arange(arity)[:, None]).ravel()
            least = function.minima(row.columns(some), mu.columns(reads), known[..., reads], of, self.arithmetic)
            total = total + least.total()
        return [(mu if arity == 1 else mu.columns(np.arange(i * size, (i + 1) * size)), at) for i in range(arity)], total


def add(rows: dict[str, Part], name: str, row: Values, at: Index) -> None:
    """Add rows to those that are on a tensor."""
    if name in rows:
        other, its = rows[name]
        both = np.union1d(at, its)
        if not len(at) == len(its) == len(both):
            row, other = (r.put(np.searchsorted(both, own), len(both)) for r, own in ((row, at), (other, its)))
        row, at = row + other, both
    rows[name] = row, at
