"""The dual function of the relaxed problem: every choice of multipliers gives a lower bound, which is all that is used here.

A row Lambda on a tensor v stands for Lambda . v.  Walking the steps from the last to the first,

* affine, v = A u + b:            Lambda . v = (A^T Lambda) . u + Lambda . b, exactly;
* nonlinear, v = s(z), l <= z <= u:
      Lambda . v >= mu . z + sum_i min over z_i in [l_i, u_i] of (Lambda_i s(z_i) - mu_i z_i), for any mu;
* the input, in its box:          Lambda . x >= sum_i min(Lambda_i lower_i, Lambda_i upper_i).

So what mu is, and where it comes from, does not matter for soundness.  The middle line's minimum is at an end of the interval or
at a kink, for s is piecewise linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.errors import NotAProof
from bourn_check.network import Affine, Network, PiecewiseLinear


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Of one nonlinear step: mu of the entries ``free``, as numbers (M, F) or as slopes (F,) by the row's sign."""

    free: Index
    mu: Floats | None = None
    below: Floats | None = None
    above: Floats | None = None

    def rows(self, some: slice) -> Multipliers:
        """Those of some rows."""
        return self if self.mu is None else Multipliers(self.free, self.mu[some])


INTERVAL = "interval"
Chosen = Mapping[str, Multipliers] | str
"""By nonlinear step; or :data:`INTERVAL`: all 0, which is interval propagation through the last affine steps."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """What is known of the argument of a nonlinear step: l <= z <= u, float64, each."""

    lower: Floats
    upper: Floats


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual function on a network, an input box and bounds known so far."""

    network: Network
    arithmetic: Arithmetic
    lower: Values
    upper: Values
    bounds: Mapping[str, Bounds]

    def bound(self, rows: Mapping[str, Values], constant: Values, chosen: Chosen) -> Floats:
        """Lower bounds (M,) of sum over tensors of rows[v] . v, plus ``constant``, rounded down to float64."""
        pending, total = dict(rows), constant
        for step in reversed(self.network.steps):
            row = pending.pop(step.output, None)
            if row is None:
                continue
            operation = step.operation
            if isinstance(operation, Affine):
                parts, said = operation.backward(row, self.arithmetic)
            else:
                parts, said = self._through(step.output, operation, row, chosen)
            if said is not None:
                total = total + said
            for source, part in zip(step.inputs, parts, strict=False):
                pending[source] = pending[source] + part if source in pending else part
        start = 0
        for name, size in self.network.inputs:
            if name in pending:
                row, own = pending.pop(name), np.arange(start, start + size)
                total = total + (row * self.lower.columns(own)).minimum(row * self.upper.columns(own)).total()
            start += size
        if pending:  # else what they say would be taken for 0
            raise NotAProof(f"a row on {min(pending)!r}, which nothing computes")
        return total.lower()

    def _through(self, name: str, function: PiecewiseLinear, row: Values, chosen: Chosen) -> tuple[list[Values], Values]:
        """The rows mu on a nonlinear step's argument, and the sum of its minima."""
        known = self.bounds.get(name)
        if known is None:
            raise NotAProof(f"no bounds of what node {name!r} reads are proved where they are needed")
        arithmetic, size = self.arithmetic, row.shape[1]
        if isinstance(chosen, str):
            return [], self._minima(function, row, None, known)
        own = chosen.get(name)
        piece = function.stable(known.lower, known.upper)
        free = np.zeros(0, dtype=np.int64) if own is None else own.free
        piece[free] = -1
        # Elsewhere: the slope of the only piece, for which nothing is lost, and 0 where there are several.
        at = np.flatnonzero(piece >= 0)
        slopes, offsets = np.array(function.pieces).T
        row_at = row.columns(at)
        mu_at = row_at * arithmetic.exact(slopes[piece[at]])
        total = (row_at * arithmetic.exact(offsets[piece[at]])).total()
        passed = mu_at.put(at, size)
        rest = np.setdiff1d(np.flatnonzero(piece < 0), free)
        if len(rest):
            total = total + self._minima(function, row.columns(rest), None, _some(known, rest))
        if own is not None and len(free):
            row_free = row.columns(free)
            if own.mu is not None:
                mu = arithmetic.exact(own.mu)
            else:
                assert own.below is not None
                assert own.above is not None
                positive = row_free.positive()
                negative = -((-row_free).positive())
                mu = positive * arithmetic.exact(own.below) + negative * arithmetic.exact(own.above)
            total = total + self._minima(function, row_free, mu, _some(known, free))
            passed = passed + mu.put(free, size)
        return [passed], total

    def _minima(self, function: PiecewiseLinear, row: Values, mu: Values | None, known: Bounds) -> Values:
        """sum over entries of min over [l, u] of row s(z) - mu z, (M,)."""
        least = None
        for z in function.vertices(known.lower, known.upper):
            term = row * function.value(z, self.arithmetic)
            if mu is not None:
                term = term + -(mu * self.arithmetic.exact(z))
            least = term if least is None else least.minimum(term)
        assert least is not None
        return least.total()


def _some(known: Bounds, entries: Index) -> Bounds:
    return Bounds(known.lower[entries], known.upper[entries])
