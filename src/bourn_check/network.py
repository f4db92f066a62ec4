"""The network as the checker sees it: steps from tensor to tensor, each affine or one nonlinear function, entry by entry.

A tensor is flat here (row-major); its shape is what the reader needed to make the steps.  Rows on a tensor are (M, size).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bourn_check.arithmetic import Arithmetic, Floats, Index, Values

Part = tuple[Values, Index]
"""Rows (M, n) that are on n entries of a tensor alone, and these, ascending."""
HAIR = 2.0**-10
"""The share of an interval that is next to nothing."""
Backward = tuple[list[Part], Values | None]
"""The rows on every input, and what they say of the bias, (M,)."""


class Affine(ABC):
    """An affine function of its inputs."""

    @abstractmethod
    def backward(self, rows: Values, at: Index, arithmetic: Arithmetic) -> Backward:
        """rows . (A x + b) = (rows A) . x + rows . b, for rows on the entries ``at``."""

    @abstractmethod
    def forward(self, inputs: Sequence[Values], arithmetic: Arithmetic) -> Values:
        """A x + b for inputs (1, size)."""


@dataclass(frozen=True, eq=False)
class Move(Affine):
    """Entries by flat index; -1 stands for 0."""

    index: Index

    def backward(self, rows: Values, at: Index, arithmetic: Arithmetic) -> Backward:
        index = self.index[at]
        used = np.unique(index[index >= 0])
        if not np.array_equal(index, used):
            rows = rows.put(np.where(index < 0, -1, np.searchsorted(used, index)), len(used))
        return [(rows, used)], None

    def forward(self, inputs: Sequence[Values], arithmetic: Arithmetic) -> Values:
        zero = arithmetic.exact(np.zeros((inputs[0].shape[0], 1)))
        extended = arithmetic.joined([inputs[0], zero])
        return extended.columns(np.where(self.index < 0, inputs[0].shape[1], self.index))


@dataclass(frozen=True, eq=False)
class Product(Affine):
    """(positions, groups, n) times an exact matrix (groups, n, m), one for each group."""

    weight: Floats
    _transposed: list[Floats] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_transposed", [np.ascontiguousarray(w.T) for w in self.weight])

    def _times(self, values: Values, matrices: Sequence[Floats], arithmetic: Arithmetic) -> Values:
        groups, (inner, outer) = len(matrices), matrices[0].shape
        count = values.shape[0]
        apart = values.reshape(-1, groups * inner)
        parts = [apart.columns(np.arange(g * inner, (g + 1) * inner)).matmul(w) for g, w in enumerate(matrices)]
        joined = parts[0] if groups == 1 else arithmetic.joined(parts)
        return joined.reshape(count, math.prod(joined.shape) // count if count else groups * outer)

    def backward(self, rows: Values, at: Index, arithmetic: Arithmetic) -> Backward:
        groups, inner, outer = self.weight.shape
        positions, place = np.unique(at // (groups * outer), return_inverse=True)
        if len(at) < len(positions) * groups * outer:
            rows = rows.put(place * (groups * outer) + at % (groups * outer), len(positions) * groups * outer)
        used = positions[:, None] * (groups * inner) + np.arange(groups * inner)
        return [(self._times(rows, self._transposed, arithmetic), used.ravel())], None

    def forward(self, inputs: Sequence[Values], arithmetic: Arithmetic) -> Values:
        return self._times(inputs[0], list(self.weight), arithmetic)


@dataclass(frozen=True, eq=False)
class Scale(Affine):
    """Every entry times a number, entry i times ``factors[index[i]]``, divided by sqrt(``roots[index[i]]``) where there are any."""

    factors: tuple[Fraction, ...]
    index: Index
    roots: tuple[Fraction, ...] | None = None

    def _factors(self, arithmetic: Arithmetic, at: Index) -> Values:
        own = arithmetic.numbers(self.factors)
        return (own if self.roots is None else own * arithmetic.inverse_roots(self.roots)).columns(self.index[at])

    def backward(self, rows: Values, at: Index, arithmetic: Arithmetic) -> Backward:
        return [(rows * self._factors(arithmetic, at), at)], None

    def forward(self, inputs: Sequence[Values], arithmetic: Arithmetic) -> Values:
        return inputs[0] * self._factors(arithmetic, np.arange(len(self.index)))


@dataclass(frozen=True, eq=False)
class Shift(Affine):
    """Every entry plus an exact number; without inputs a constant."""

    bias: Floats
    inputs: int = 1

    def backward(self, rows: Values, at: Index, arithmetic: Arithmetic) -> Backward:
        return [(rows, at)] * self.inputs, rows.matmul(self.bias[at][:, None]).reshape(rows.shape[0])

    def forward(self, inputs: Sequence[Values], arithmetic: Arithmetic) -> Values:
        own = arithmetic.exact(self.bias[None])
        return inputs[0] + own if self.inputs else own


@dataclass(frozen=True, eq=False)
class Sum(Affine):
    """The sum of inputs of one size, each with a sign."""

    signs: tuple[int, ...]

    def backward(self, rows: Values, at: Index, arithmetic: Arithmetic) -> Backward:
        return [(rows if s > 0 else -rows, at) for s in self.signs], None

    def forward(self, inputs: Sequence[Values], arithmetic: Arithmetic) -> Values:
        signed = [x if s > 0 else -x for s, x in zip(self.signs, inputs, strict=True)]
        result = signed[0]
        for value in signed[1:]:
            result = result + value
        return result


class Nonlinear(ABC):
    """A function of ``arity`` inputs of one size, entry by entry; what it reads, z, is these side by side, flat.

    ``lower`` and ``upper``, or both as ``ends``, are bounds of z, (P, arity * size) for P parts.
    """

    arity = 1

    def affine(self, lower: Floats, upper: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """Where it is not known to be affine, (P, size), and elsewhere its slopes (P, arity * size) and offsets (P, size)."""
        outer = (len(lower), lower.shape[1] // self.arity)
        return np.ones(outer, dtype=bool), np.zeros(lower.shape), np.zeros(outer)

    def lines(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Slopes (P, arity * size) for the positive and the negative part of a row.  Any would do; here 0."""
        return np.zeros(lower.shape), np.zeros(lower.shape)

    @abstractmethod
    def minima(self, row: Values, mu: Values | None, ends: Floats, of: Index | None, arithmetic: Arithmetic) -> Values:
        """min of row f(z) - mu . z on the ends (2, P, n) of the part ``of`` each row (M, n), entry by entry; mu is 0 for None."""

    @abstractmethod
    def forward(self, z: Values, arithmetic: Arithmetic) -> Values:
        """The function of enclosures."""


@dataclass(frozen=True)
class PiecewiseLinear(Nonlinear):
    """A continuous function of one variable: ``pieces`` (slope, offset) between ascending ``knots``, for every entry."""

    knots: tuple[float, ...]
    pieces: tuple[tuple[float, float], ...]

    def piece(self, z: Floats) -> Index:
        """The piece on which each number lies."""
        return np.searchsorted(np.array(self.knots), z).astype(np.int64)

    def at(self, z: Floats) -> Floats:
        """The function at numbers, rounded."""
        slopes, offsets = np.array(self.pieces).T
        piece = self.piece(z)
        return slopes[piece] * z + offsets[piece]  # type: ignore[no-any-return]

    def on_piece(self, z: Values, piece: Index, arithmetic: Arithmetic) -> Values:
        slopes, offsets = np.array(self.pieces).T
        return z.scaled(slopes[piece]) + arithmetic.exact(offsets[piece])

    def affine(self, lower: Floats, upper: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """Where it is not, the slope of the piece that all but a hair of the interval lies on, and 0 without such a piece."""
        knots, (slopes, offsets), hair = np.array(self.knots), np.array(self.pieces).T, HAIR * (upper - lower)
        first, last = np.searchsorted(knots, lower, "right"), np.searchsorted(knots, upper, "left")
        start, end = np.searchsorted(knots, lower + hair, "right"), np.searchsorted(knots, upper - hair, "left")
        return first < last, np.where(start < end, 0.0, slopes[np.minimum(start, end)]), offsets[np.minimum(first, last)]

    def lines(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Of the piece a little left of the middle, and of the chord: intervals around a knot are common, and so rounding
        does not decide of them."""
        slopes, low, high, width = np.array(self.pieces).T[0], self.at(lower), self.at(upper), upper - lower
        chord = np.divide(high - low, width, out=np.zeros(width.shape), where=(width > 0) & np.isfinite(width))
        return slopes[self.piece(lower / 2 + upper / 2 - 2.0**-30 * width)], chord

    def minima(self, row: Values, mu: Values | None, ends: Floats, of: Index | None, arithmetic: Arithmetic) -> Values:
        # An affine change of the function has its minimum at an end or a knot; at a knot at 0 where the function is 0 it is 0.
        lower, upper = ends
        zero = 0.0 in self.knots and not self.at(np.zeros(1)).any()
        points = [lower, upper, *(np.clip(knot, lower, upper) for knot in self.knots if knot != 0 or not zero)]
        least = None
        simple = all(s in (0.0, 1.0, -1.0) and (s == 0 or o == 0) for s, o in self.pieces)  # its values are float64 numbers
        for z in points:
            at, height = of_rows(z, of), of_rows(self.at(z), of)
            if simple:
                term = row.scaled(height) if mu is None else row.difference(height, mu, at)
            else:
                term = row * self.on_piece(arithmetic.exact(at), self.piece(at), arithmetic)
                term = term if mu is None else term + -mu.scaled(at)
            least = term if least is None else least.minimum(term)
        assert least is not None
        return least.capped(of_rows((lower < 0) & (upper > 0), of)) if zero else least

    def forward(self, z: Values, arithmetic: Arithmetic) -> Values:
        # The first piece and, from every knot on, the change of slope.
        result = self.on_piece(z, np.zeros(z.shape, dtype=np.int64), arithmetic)
        for knot, (before, _), (after, _) in zip(self.knots, self.pieces[:-1], self.pieces[1:], strict=True):
            short = (arithmetic.exact(np.array(knot)) + -z).capped(np.array(True))  # less what z is beyond the knot
            result = result + short.scaled(np.array(before)) + -short.scaled(np.array(after))
        return result


def of_rows(values: NDArray[Any], of: Index | None) -> NDArray[Any]:
    """Of every row what its part has."""
    return values if of is None else values[of]


@dataclass(frozen=True, eq=False)
class Step:
    """``output`` = ``operation`` of ``inputs``; ``where`` names the node of the file."""

    operation: Affine | Nonlinear
    inputs: tuple[str, ...]
    output: str
    where: str


@dataclass(frozen=True, eq=False)
class Network:
    """Steps in order, from "", the inputs side by side, of which there are so many, on; ``outputs`` with their sizes, in order.

    ``places``: how many places an image has, entry e being at place e modulo it.
    """

    steps: tuple[Step, ...]
    inputs: int
    outputs: tuple[tuple[str, int], ...]
    sizes: dict[str, int]
    places: dict[str, int]
    semantics = "in real arithmetic, for the weights as stored; the deployed network rounds, which this says nothing about"

    def on(self, ends: Mapping[str, Floats]) -> Network:
        """The network for what lies within some ends; here it is the same for all."""
        return self

    def nonlinear(self) -> dict[str, Step]:
        """The nonlinear steps by what they compute, in order."""
        return {s.output: s for s in self.steps if isinstance(s.operation, Nonlinear)}

    def evaluate(self, x: Values, arithmetic: Arithmetic) -> Values:
        """Enclosures of the outputs (1, n) at inputs (1, n)."""
        values = {"": x}
        for step in self.on({"": np.stack([x.lower(), x.upper()])}).steps:
            operation, inputs = step.operation, [values[i] for i in step.inputs]
            z: Any = inputs if isinstance(operation, Affine) else arithmetic.joined(inputs)
            values[step.output] = operation.forward(z, arithmetic)
        return arithmetic.joined([values[name] for name, _ in self.outputs])
