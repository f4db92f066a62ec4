"""The dual function of the relaxed problem: every choice of multipliers gives a lower bound, which is all that is used here.

A row Lambda on a tensor v stands for Lambda . v.  Walking the steps from the last to the first,

* affine, v = A u + b:            Lambda . v = (A^T Lambda) . u + Lambda . b, exactly;
* nonlinear, v = s(z), l <= z <= u:
      Lambda . v >= mu . z + sum_i min over z_i in [l_i, u_i] of (Lambda_i s(z_i) - mu_i z_i), for any mu;
* the input, in its box:          Lambda . x >= sum_i min(Lambda_i lower_i, Lambda_i upper_i).

So what mu is, and where it comes from, does not matter for soundness.  The middle line's minimum is at an end of the interval or
at a kink, for s is piecewise linear.

Rows are bounded many at a time, each on a box and on bounds of its own, for a proof may have many parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values
from bourn_check.errors import NotAProof
from bourn_check.network import Affine, Network, PiecewiseLinear

INTERVAL, LINES, PARALLEL = "interval", "lines", "parallel"
"""Rules for mu: all 0, which is interval propagation through the last affine steps; of unstable entries the slopes of two lines,
:meth:`bourn_check.network.PiecewiseLinear.lines`; or the chord's alone."""
RULES = (INTERVAL, LINES, PARALLEL)


@dataclass(frozen=True, eq=False)
class Given:
    """Of one nonlinear step the numbers mu (M, size) themselves, where ``free`` (M, size), and 0 elsewhere."""

    free: NDArray[np.bool_]
    mu: Floats


Chosen = Mapping[str, Given] | str
"""By nonlinear step, or one of :data:`RULES`."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """What is known of the argument of a nonlinear step: l <= z <= u, float64, (P, size) for P parts."""

    lower: Floats
    upper: Floats


class Facts:
    """What the bounds of some parts say of a nonlinear step: where it is stable and with which slope, and lines elsewhere."""

    def __init__(self, name: str, function: PiecewiseLinear, known: Bounds) -> None:
        if not (np.isfinite(known.lower).all() and np.isfinite(known.upper).all()):
            raise NotAProof(f"no bounds of what node {name!r} reads are proved where they are needed")
        slopes, offsets = np.array(function.pieces).T
        piece = function.stable(known.lower, known.upper)
        self.open = piece < 0
        self.slope = np.where(self.open, 0.0, slopes[piece])
        self.offset = offsets[piece]
        self.below, self.above = (np.where(self.open, t, self.slope) for t in function.lines(known.lower, known.upper))
        self.points, self.zero = function.vertices(known.lower, known.upper)
        self.values = [function.at(z) for z in self.points]


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual function on a network, on parts of which each has an input box (P, n) and bounds known so far."""

    network: Network
    arithmetic: Arithmetic
    lower: Floats
    upper: Floats
    bounds: Mapping[str, Bounds]
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
            lower, upper = (_rows(end[:, start : start + size], of) for end in (self.lower, self.upper))
            if name in pending:
                row = pending.pop(name)
                total = total + row.scaled(lower).minimum(row.scaled(upper)).total()
            start += size
        if pending:  # else what they say would be taken for 0
            raise NotAProof(f"a row on {min(pending)!r}, which nothing computes")
        return total.lower()

    def _through(
        self, name: str, function: PiecewiseLinear, row: Values, chosen: Chosen, of: Index | None
    ) -> tuple[list[Values], Values]:
        """The rows mu on a nonlinear step's argument, and the sum of its minima."""
        if name not in self._facts:
            self._facts[name] = Facts(name, function, self.bounds[name])
        own = self._facts[name]
        if chosen == INTERVAL:
            return [], self._minima(function, own, np.arange(row.shape[1]), row, None, of)
        given = None if isinstance(chosen, str) else chosen.get(name)
        open_ = own.open.any(0)
        if isinstance(chosen, str):
            below, above = (_rows(t, of) for t in (own.above if chosen == PARALLEL else own.below, own.above))
            mu = row.scaled(np.where(row.above_zero(), below, above))
        elif given is None:
            mu = row.scaled(_rows(own.slope, of))
        else:
            open_ = open_ | given.free.any(0)
            mu = row.scaled(np.where(given.free, 0.0, _rows(own.slope, of))) + self.arithmetic.exact(given.mu)
        # Where every part has one piece nothing is lost: s(z) - slope z is its offset.
        rest, some = np.flatnonzero(~open_), np.flatnonzero(open_)
        total = row.columns(rest).scaled(_rows(own.offset[:, rest], of)).total()
        if len(some):
            total = total + self._minima(function, own, some, row.columns(some), mu.columns(some), of)
        return [mu], total

    def _minima(
        self, function: PiecewiseLinear, own: Facts, some: Index, row: Values, mu: Values | None, of: Index | None
    ) -> Values:
        """sum over ``some`` entries of min over [l, u] of row s(z) - mu z, (M,)."""
        least = None
        for z, value in zip(own.points, own.values, strict=True):
            at, height = _rows(z[:, some], of), _rows(value[:, some], of)
            if function.simple:
                term = row.scaled(height) if mu is None else row.difference(height, mu, at)
            else:
                term = row * function.on_piece(self.arithmetic.exact(at), function.piece(at), self.arithmetic)
                term = term if mu is None else term + -mu.scaled(at)
            least = term if least is None else least.minimum(term)
        assert least is not None
        return (least if own.zero is None else least.capped(_rows(own.zero[:, some], of))).total()


def _rows(values: NDArray[Any], of: Index | None) -> NDArray[Any]:
    """Of every row what its part has."""
    return values if of is None else values[of]
