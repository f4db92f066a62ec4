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
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.errors import NotAProof
from bourn_check.network import Affine, Network, Nonlinear, of_rows

INTERVAL, LINES, PARALLEL = "interval", "lines", "parallel"
"""Rules for mu: all 0, which is interval propagation through the last affine steps; of unstable entries the slopes of two lines,
:meth:`bourn_check.network.Nonlinear.lines`; or the second's alone."""
RULES = (INTERVAL, LINES, PARALLEL)


@dataclass(frozen=True, eq=False)
class Given:
    """For what one nonlinear step reads the numbers mu (M, size) themselves, where ``free`` (M, size), and 0 elsewhere."""

    free: NDArray[np.bool_]
    mu: Floats


Chosen = Mapping[str, Given] | str
"""By nonlinear step, or one of :data:`RULES`."""


Ends = Mapping[str, Floats]
"""By nonlinear step the ends l <= z <= u of what it reads, float64, (2, P, size) for P parts; "" is the input."""


class Facts:
    """What the bounds of some parts say of a nonlinear step: where it is affine and with which slopes, and lines elsewhere."""

    def __init__(self, name: str, function: Nonlinear, known: Floats) -> None:
        if not np.isfinite(known).all():
            raise NotAProof(f"no bounds of what node {name!r} reads are proved where they are needed")
        self.open, self.slope, self.offset = function.affine(*known)
        wide = np.tile(self.open, function.arity)
        self.below, self.above = (np.where(wide, t, self.slope) for t in function.lines(*known))


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual function on a network, on parts of which each has an input box and bounds known so far."""

    network: Network
    arithmetic: Arithmetic
    ends: Ends
    _facts: dict[str, Facts] = field(default_factory=dict)

    def bound(self, rows: Mapping[str, Values], constant: Values, chosen: Chosen, of: Index | None = None) -> Floats:
        """Lower bounds (M,) of sum over tensors of rows[v] . v, plus ``constant``, rounded down to float64.

        ``of``: the part that each row is about; all are about the only one where it is None.
        """
        pending, total = dict(rows), constant
        for name in () if isinstance(chosen, str) else chosen.keys() - rows.keys():  # no row, but bounds that may narrow others
            pending[name] = self.arithmetic.exact(np.zeros((constant.shape[0], self.network.sizes[name])))
        for step in reversed(self.network.steps):
            row = pending.pop(step.output, None)
            if row is None:
                continue
            operation = step.operation
            if isinstance(operation, Affine):
                parts, said = operation.backward(row, self.arithmetic)
            else:
                parts, said = self._through(step.output, operation, row, chosen, of)
            if said is not None:
                total = total + said
            for source, part in zip(step.inputs, parts, strict=False):
                pending[source] = pending[source] + part if source in pending else part
        start = 0
        for name, size in self.network.inputs:
            lower, upper = (of_rows(end[:, start : start + size], of) for end in self.ends[""])
            if name in pending:
                row = pending.pop(name)
                total = total + row.scaled(lower).minimum(row.scaled(upper)).total()
            start += size
        if pending:  # else what they say would be taken for 0
            raise NotAProof(f"a row on {min(pending)!r}, which nothing computes")
        return total.lower()

    def _through(
        self, name: str, function: Nonlinear, row: Values, chosen: Chosen, of: Index | None
    ) -> tuple[list[Values], Values]:
        """The rows mu on what a nonlinear step reads, one an input, and the sum of its minima."""
        known, arity = self.ends[name], function.arity
        if name not in self._facts:
            self._facts[name] = Facts(name, function, known)
        own = self._facts[name]
        if chosen == INTERVAL:
            return [], function.minima(row, None, known, of, self.arithmetic).total()
        given = None if isinstance(chosen, str) else chosen.get(name)
        size, open_ = row.shape[1], own.open.any(0)
        wide = row if arity == 1 else row.columns(np.tile(np.arange(size), arity))
        if isinstance(chosen, str):
            below, above = (of_rows(t, of) for t in (own.above if chosen == PARALLEL else own.below, own.above))
            mu = wide.scaled(np.where(wide.about() > 0, below, above))
        elif given is None:
            mu = wide.scaled(of_rows(own.slope, of))
        else:
            open_ = open_ | given.free.any(0).reshape(arity, size).any(0)
            mu = wide.scaled(np.where(given.free, 0.0, of_rows(own.slope, of))) + self.arithmetic.exact(given.mu)
        # Where every part is affine nothing is lost: s(z) - slope z is its offset.
        rest, some = np.flatnonzero(~open_), np.flatnonzero(open_)
        total = row.columns(rest).scaled(of_rows(own.offset[:, rest], of)).total()
        if len(some):
            reads = (some + size * np.arange(arity)[:, None]).ravel()
            least = function.minima(row.columns(some), mu.columns(reads), known[..., reads], of, self.arithmetic)
            total = total + least.total()
        return [mu] if arity == 1 else [mu.columns(np.arange(i * size, (i + 1) * size)) for i in range(arity)], total
