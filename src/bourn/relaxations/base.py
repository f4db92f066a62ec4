"""What a nonlinearity is: a bundle of facts, from which generic code does the rest.

A nonlinearity is a frozen value (its attributes are those of the operator) that registers itself by the
names of the ONNX operators it stands for.  Adding one means adding one file to this folder.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from bourn.interval import Interval
from bourn.rounding import TINY, UNIT

Shape = tuple[int, ...]
Tensors = tuple[Tensor, ...]
"""One an input, or one a parameter."""
Intervals = tuple[Interval, ...]
"""One an input."""
Hints = tuple[Tensor | None, Tensor | None]
NO_HINTS: Hints = (None, None)


class LineRule(Enum):
    """How a relaxation chooses its one lower and one upper line."""

    PARALLEL = "parallel lines"
    """One slope, the chord's, for both lines (Fast-Lin, Wong-Kolter, DeepZ)."""
    AREA = "lines of least area"
    """The edges of both envelopes over the interval's midpoint: least area for one-kink functions (CROWN, DeepPoly)."""
    LOWER_LEAST = "lower slope least (ReLU: 0)"
    """The upper line of AREA, and of the lower envelope the edge of least slope (CROWN with lower slope 0)."""
    LOWER_GREATEST = "lower slope greatest (ReLU: 1)"
    """The upper line of AREA, and of the lower envelope the edge of greatest slope (CROWN with lower slope 1)."""
    JOIN = "parallel lines, slope of the join (ReLU: 0)"
    """Parallel lines whose slope all pieces share, the one nearest 0 (AI2); the chord's for functions that have no pieces."""

    @property
    def parallel(self) -> bool:
        """Whether both lines have one slope."""
        return self in (LineRule.PARALLEL, LineRule.JOIN)


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """sum of lower_slopes[i] * z_i + lower_offset <= sigma(z) <= sum of upper_slopes[i] * z_i + upper_offset on the intervals.

    One slope an input; for one input these are lines, for several planes.  Tensors (B, *shape).  The inequalities hold in
    exact arithmetic for these float64 coefficients.  ``parallel`` says that both sides' slopes are the same tensors, so that
    rows of both sides are too.
    """

    lower_slopes: Tensors
    lower_offset: Tensor
    upper_slopes: Tensors
    upper_offset: Tensor

    @property
    def parallel(self) -> bool:
        return all(a is b for a, b in zip(self.lower_slopes, self.upper_slopes, strict=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> Lines:
        """Lines with every tensor passed through ``change``; parallel lines stay parallel."""
        lower = tuple(change(s) for s in self.lower_slopes)
        upper = lower if self.parallel else tuple(change(s) for s in self.upper_slopes)
        return Lines(lower, change(self.lower_offset), upper, change(self.upper_offset))


class Side(ABC):
    """One side of the hull on given intervals, as ascent and cuts see it: a family of lines that touch it.

    A line is chosen by parameters, tensors (B, *shape) or (B, M, *shape) between ``least`` and ``greatest`` (B, *shape); any
    value between them gives a line that is valid up to rounding.  Nothing here is rounded outward: what is stated from a
    line's slopes is computed anew (:meth:`Nonlinearity.support`).
    """

    least: Tensors
    greatest: Tensors
    start: Tensors
    """Parameters of the line to start from."""

    @abstractmethod
    def line(self, parameters: Tensors) -> tuple[Tensors, Tensor]:
        """The line's slopes, one an input, and its offset."""

    @abstractmethod
    def pull(self, parameters: Tensors, z: Tensors) -> Tensors:
        """For every parameter a direction in which the line's value at the point z grows: its derivative, or one that has its
        sign."""

    def hint(self, parameters: Tensors) -> Tensor | None:
        """Where the line touches the function, for :meth:`Nonlinearity.support`; None where that needs no hint."""
        return None

    @abstractmethod
    def at(self, z: Tensors) -> Tensors:
        """The parameters of the line that is best at the point z: the one that touches the hull there."""

    def fixed(self, where: Tensor, slopes: Tensors, offset: Tensor) -> Side:
        """The same side with given lines in some entries, whatever the parameters there."""
        return Fixed(self, where, slopes, offset)

    def unsqueezed(self) -> Self:
        """The same side with an axis for rows, (B, 1, *shape)."""
        return self.mapped(lambda t: t[:, None])

    @abstractmethod
    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same side with every tensor passed through ``change``."""


class Fixed(Side):
    """A side with given lines in some entries."""

    def __init__(self, side: Side, where: Tensor, slopes: Tensors, offset: Tensor) -> None:
        self.side, self.where, self.slopes, self.offset = side, where, slopes, offset
        self.start = side.start
        self.least = side.least
        self.greatest = tuple(torch.where(where, a, b) for a, b in zip(side.least, side.greatest, strict=True))

    def line(self, parameters: Tensors) -> tuple[Tensors, Tensor]:
        slopes, offset = self.side.line(parameters)
        own = tuple(torch.where(self.where, given, s) for given, s in zip(self.slopes, slopes, strict=True))
        return own, torch.where(self.where, self.offset, offset)

    def pull(self, parameters: Tensors, z: Tensors) -> Tensors:
        return tuple(p.masked_fill(self.where, 0.0) for p in self.side.pull(parameters, z))

    def at(self, z: Tensors) -> Tensors:
        return self.side.at(z)

    def hint(self, parameters: Tensors) -> Tensor | None:
        return self.side.hint(parameters)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Fixed:
        return Fixed(self.side.mapped(change), change(self.where), tuple(map(change, self.slopes)), change(self.offset))


class Nonlinearity(ABC):
    """Base of all nonlinearities.  Subclasses are frozen dataclasses; defining one registers it.

    ``onnx_names``: the ONNX operators that it stands for.  Arguments ``z`` are one :class:`Interval` or tensor an input, all
    of the output's shape.
    """

    onnx_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.__dict__.get("onnx_names", ()):
            if REGISTRY.setdefault(name, cls).__qualname__ != cls.__qualname__:
                raise TypeError(f"two nonlinearities claim the operator {name}")
            REGISTRY[name] = cls

    @classmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        """Make it from an ONNX node: its attributes and its constant inputs after the first (None where left out).

        By default it has no parameters.  Raises ValueError, with the reason, for parameters that it cannot stand for.
        """
        return cls()

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """A few instances, edge cases among them, for the contract tests; by default the one without parameters."""
        return (cls(),)

    def shape(self, *shapes: Shape) -> Shape:
        """The output's shape for inputs of these shapes; raises ValueError where they do not fit."""
        if len(set(shapes)) != 1:
            raise ValueError(f"its inputs have shapes {', '.join(map(str, shapes))}")
        return shapes[0]

    @abstractmethod
    def evaluate(self, *z: Tensor) -> Tensor:
        """The function itself, (B, *shape) each; differentiable almost everywhere."""

    @abstractmethod
    def range(self, *z: Interval) -> Interval:
        """Bounds of the function on the intervals, sound in exact arithmetic."""

    @abstractmethod
    def stable(self, *z: Interval) -> Tensor:
        """Where the function is affine on the whole of its intervals (bool); its lines are then exact."""

    @abstractmethod
    def lines(self, rule: LineRule, *z: Interval) -> Lines:
        """One lower and one upper line by ``rule``, valid in exact arithmetic."""

    @abstractmethod
    def sides(self, *z: Interval) -> tuple[Side, Side]:
        """The hull's lower and upper side."""

    @abstractmethod
    def support(self, z: Intervals, row: Tensor, mu: Tensors, hints: Hints = NO_HINTS) -> tuple[Tensor, Tensor]:
        """min over the hull of row * x - sum of mu_i * z_i, (B, M, *shape) like ``row`` and ``mu``, and a bound of its rounding
        error.

        This is a nonlinear node's term of the Lagrangian, for any multipliers mu.  -inf where an end that matters is
        infinite.  ``hints``: points of the first input at which the minimum is suspected, for positive and for negative rows.
        """

    @abstractmethod
    def attained(self, z: Intervals, row: Tensor, mu: Tensors) -> tuple[Tensors, Tensor]:
        """A point (z, x) of the hull at which the support function is attained, up to rounding."""

    def section(self, z: Intervals, at: Intervals) -> tuple[Tensor, Tensor]:
        """The hull on ``z`` cut at a point known to lie in the intervals ``at``: values x, from least to most, (N, *shape).

        (v, x) lies in the hull for every v in ``at``, in exact arithmetic: both ends are rounded inward.  Where nothing of the
        kind is known, which is all that this says by default, least is above most.
        """
        own = self.range(*at)
        return torch.full_like(own.lower, math.inf), torch.full_like(own.lower, -math.inf)


class ElementWise(Nonlinearity):
    """A function of one variable, applied to every entry."""

    def shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    @abstractmethod
    def slopes(self, z: Interval, rule: LineRule) -> tuple[Tensor, Tensor]:
        """The rule's slopes (lower, upper); the same tensor twice for a rule of parallel lines."""

    @abstractmethod
    def offsets(self, z: Interval, lower_slope: Tensor, upper_slope: Tensor) -> tuple[Tensor, Tensor]:
        """The best offsets for any slopes: min and max of sigma(z) - slope z on the interval, rounded outward."""

    @property
    @abstractmethod
    def split_points(self) -> tuple[float, ...]:
        """Where the function is best split in two: its kinks and inflections, if it has any."""

    def anchors(self, z: Interval) -> list[Tensor]:
        """Points of the interval, ascending, between which the hull's chords reach; others make :meth:`section` smaller."""
        near = [v for k in self.split_points for v in (math.nextafter(k, -math.inf), k, math.nextafter(k, math.inf))]
        return [z.lower, *(z.lower.new_tensor(v).clamp(z.lower, z.upper) for v in near), z.upper]

    def section(self, z: Intervals, at: Intervals) -> tuple[Tensor, Tensor]:
        # Every chord of the function lies in its hull, and so does the function: the ends are the outermost of them.
        (point,), own = at, self.range(*at)
        least, most = own.upper, own.lower
        places = self.anchors(z[0])
        values = [self.range(Interval(p, p)) for p in places]
        for (a, first), (b, last) in combinations(zip(places, values, strict=True), 2):
            across = (a < b) & (a <= point.lower) & (point.upper <= b)
            if not bool(across.any()):
                continue
            shares = [(end - a) / (b - a) for end in (point.lower, point.upper)]
            above = torch.maximum(*(first.upper * (1 - t) + last.upper * t for t in shares))
            below = torch.minimum(*(first.lower * (1 - t) + last.lower * t for t in shares))
            error = 16 * UNIT * (first.magnitude + last.magnitude) + TINY
            least = torch.where(across, torch.minimum(least, above + error), least)
            most = torch.where(across, torch.maximum(most, below - error), most)
        return least, most

    def lines(self, rule: LineRule, *z: Interval) -> Lines:
        lower_slope, upper_slope = self.slopes(z[0], rule)
        lower_offset, upper_offset = self.offsets(z[0], lower_slope, upper_slope)
        return Lines((lower_slope,), lower_offset, (upper_slope,), upper_offset)


REGISTRY: dict[str, type[Nonlinearity]] = {}
"""ONNX operator name to nonlinearity; filled by importing :mod:`bourn.relaxations`."""
