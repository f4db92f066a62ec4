"""What a nonlinearity is: a bundle of facts, from which generic code does the rest.

A nonlinearity is a frozen value (its attributes are those of the operator) that registers itself by the
names of the ONNX operators it stands for.  Adding one means adding one file to this folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from bourn.interval import Interval

Shape = tuple[int, ...]


class LineRule(Enum):
    """How a relaxation chooses its one lower and one upper line."""

    PARALLEL = "parallel"
    """One slope, the chord's, for both lines (Fast-Lin, Wong-Kolter, DeepZ)."""
    AREA = "area"
    """The edges of both envelopes over the interval's midpoint: least area for one-kink functions (CROWN, DeepPoly)."""


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """lower_slope * z + lower_offset <= sigma(z) <= upper_slope * z + upper_offset on the whole interval.

    Tensors (B, *shape).  The inequalities hold in exact arithmetic for these float64 coefficients.
    ``parallel`` says that both slopes are the same tensor, so that rows of both sides are too.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor

    @property
    def parallel(self) -> bool:
        return self.lower_slope is self.upper_slope


@dataclass(frozen=True, slots=True, eq=False)
class Envelope:
    """One side of the hull, as dual ascent sees it: tensors (B, *shape).

    A slope between ``least`` and ``greatest`` touches the function at one of ``points``, where it has ``values``.
    """

    least: Tensor
    greatest: Tensor
    points: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class Nonlinearity(ABC):
    """Base of all nonlinearities.  Subclasses are frozen dataclasses; defining one registers it.

    ``onnx_names``: the ONNX operators that it stands for.
    """

    onnx_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.__dict__.get("onnx_names", ()):
            if REGISTRY.setdefault(name, cls).__qualname__ != cls.__qualname__:
                raise TypeError(f"two nonlinearities claim the operator {name}")
            REGISTRY[name] = cls

    @classmethod
    @abstractmethod
    def from_onnx(cls, op_type: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]) -> Self:
        """Make it from an ONNX node: its attributes and its constant inputs after the first (None where left out).

        Raises ValueError, with the reason, for parameters that it cannot stand for.
        """

    @classmethod
    @abstractmethod
    def examples(cls) -> Sequence[Self]:
        """A few instances, edge cases among them, for the contract tests."""

    @abstractmethod
    def shape(self, *shapes: Shape) -> Shape:
        """The output's shape for inputs of these shapes."""

    @abstractmethod
    def evaluate(self, *z: Tensor) -> Tensor:
        """The function itself, (B, *shape) each; differentiable almost everywhere."""

    @abstractmethod
    def range(self, *z: Interval) -> Interval:
        """Bounds of the function on the interval, sound in exact arithmetic."""


class ElementWise(Nonlinearity):
    """A function of one variable, applied to every entry."""

    def shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    @abstractmethod
    def stable(self, z: Interval) -> Tensor:
        """Where the function is affine on the whole interval (bool); its lines are then exact."""

    @abstractmethod
    def slopes(self, z: Interval, rule: LineRule) -> tuple[Tensor, Tensor]:
        """The rule's slopes (lower, upper); the same tensor twice for :attr:`LineRule.PARALLEL`."""

    @abstractmethod
    def offsets(self, z: Interval, lower_slope: Tensor, upper_slope: Tensor) -> tuple[Tensor, Tensor]:
        """The best offsets for any slopes: min and max of sigma(z) - slope z on the interval, rounded outward."""

    @abstractmethod
    def envelope(self, z: Interval, below: bool) -> Envelope:
        """The lower (or upper) envelope: the slopes of its ends and the points between which they turn; not rounded outward."""

    @abstractmethod
    def support(self, z: Interval, row: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """min over the hull of row * x - mu * z, (B, M, *shape) like ``row`` and ``mu``, and a bound of its rounding error.

        This is a nonlinear node's term of the Lagrangian, for any multiplier mu.  -inf where an end that matters is
        infinite.
        """

    @property
    @abstractmethod
    def split_points(self) -> tuple[float, ...]:
        """Where the function is best split in two: its kinks, if it has any."""

    def lines(self, z: Interval, rule: LineRule) -> Lines:
        """One lower and one upper line by ``rule``, valid in exact arithmetic."""
        lower_slope, upper_slope = self.slopes(z, rule)
        lower_offset, upper_offset = self.offsets(z, lower_slope, upper_slope)
        return Lines(lower_slope, lower_offset, upper_slope, upper_offset)


REGISTRY: dict[str, type[Nonlinearity]] = {}
"""ONNX operator name to nonlinearity; filled by importing :mod:`bourn.relaxations`."""
