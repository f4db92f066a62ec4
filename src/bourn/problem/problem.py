"""Questions and problems: what is asked, and of which network."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bourn.errors import SpecificationError
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.specification import Conjunction, Row, Specification
from bourn.rounding import float_below

_LEAST, _GREATEST = Fraction(sys.float_info.min), Fraction(sys.float_info.max)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One input set (flat, batch 1: (1, n)) and the counterexamples sought in it."""

    box: InputSet
    specification: Specification


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared tensor of the question: ``kind`` is "input" or "output".

    ``network``: whose it is, where the question names networks.  ``tensor``: of a hidden node, an output here, the file's name.
    """

    name: str
    kind: str
    element_type: str
    shape: tuple[int, ...]
    network: str = ""
    tensor: str = ""


@dataclass(frozen=True, slots=True)
class Shared:
    """Where the declared inputs and outputs of several networks are among those of the question, which may be fewer."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Declared:
    """A declared network: the name of the one that it is equal to, or that it is isomorphic to (other weights)."""

    name: str
    equal_to: str = ""
    isomorphic_to: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The property fails if any case has a counterexample.

    ``inputs`` and ``outputs`` are the numbers of flat entries; ``variables`` and ``version`` say how the
    file declared them, for writing witnesses in its own form.  ``shared``: of a question about several networks, where the declared
    entries are among these.
    """

    cases: tuple[Case, ...]
    inputs: int
    outputs: int
    variables: tuple[Variable, ...] = ()
    version: str = "1.0"
    networks: tuple[Declared, ...] = ()
    source: str = ""
    shared: Shared | None = None

    @property
    def network_names(self) -> tuple[str, ...]:
        """The networks' names, where the question has some."""
        return tuple(network.name for network in self.networks)

    @property
    def joined(self) -> bool:
        """Whether it is about more than the inputs and outputs of one network."""
        return len(self.networks) > 1 or any(v.tensor for v in self.variables)

    def declared(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Every declared entry of the inputs and of the outputs, from a flat point and its values."""
        return (x, y) if self.shared is None else (x[list(self.shared.inputs)], y[list(self.shared.outputs)])

    @property
    def rows(self) -> int:
        return sum(len(c.rows) for case in self.cases for c in case.specification.conjunctions)


@dataclass(frozen=True, eq=False)
class Objectives:
    """M rows as arrays: value = outputs . y + inputs . x + constant, from below.

    ``outputs`` (B or 1, M, n_out), ``inputs`` (B or 1, M, n_in) or None if all zero, ``constant`` (B or 1, M)
    rounded down; ``inexact`` says whether a coefficient was rounded too (relative error of one unit roundoff).
    """

    outputs: Tensor
    inputs: Tensor | None
    constant: Tensor
    inexact: bool = False

    def __len__(self) -> int:
        return self.constant.shape[-1]

    def take(self, problems: slice | Tensor) -> Objectives:
        """The objectives of some problems; those shared by all stay as they are."""

        def cut(t: Tensor) -> Tensor:
            return t if len(t) == 1 else t[problems]

        return Objectives(cut(self.outputs), None if self.inputs is None else cut(self.inputs), cut(self.constant), self.inexact)

    def to(self, device: torch.device | str) -> Objectives:
        """The same objectives on ``device``."""
        inputs = None if self.inputs is None else self.inputs.to(device)
        return Objectives(self.outputs.to(device), inputs, self.constant.to(device), self.inexact)

    @classmethod
    def from_rows(cls, rows: list[Row] | tuple[Row, ...], inputs: int, outputs: int) -> Objectives:
        """Rows to arrays; raises :class:`SpecificationError` for a coefficient beyond float64's range."""
        y = torch.zeros(len(rows), outputs, dtype=torch.float64)
        uses_x = any(row.inputs for row in rows)
        x = torch.zeros(len(rows), inputs, dtype=torch.float64) if uses_x else None
        constant = torch.tensor([float_below(row.constant) for row in rows], dtype=torch.float64)
        inexact = False
        for number, row in enumerate(rows):
            for matrix, terms in ((y, row.outputs), (x, row.inputs)):
                for index, coefficient in terms:
                    # Below the normal numbers rounding has no small relative error.
                    if not _LEAST <= abs(coefficient) <= _GREATEST:
                        raise SpecificationError(f"coefficient beyond the range of float64 in row {row}")
                    value = float(coefficient)
                    assert matrix is not None
                    matrix[number, index] = value
                    inexact |= value != coefficient
        return cls(y[None], None if x is None else x[None], constant[None], inexact)


@dataclass(frozen=True, eq=False)
class Problem:
    """One case asked of one network.

    ``box`` has the network's input shape, (1, *input_shape).  Raises :class:`SpecificationError` where the
    case does not fit the network.
    """

    network: Graph
    box: InputSet
    specification: Specification
    rows: tuple[Row, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.box.shape != self.network.input_shape:
            raise SpecificationError(
                f"the input set has shape {self.box.shape}, the network's input {self.network.input_shape}"
            )
        self.specification.check_indices(math.prod(self.network.input_shape), math.prod(self.network.output_shape))
        distinct = dict.fromkeys(row for c in self.specification.conjunctions for row in c.rows)
        object.__setattr__(self, "rows", tuple(distinct))

    @property
    def conjunctions(self) -> tuple[Conjunction, ...]:
        return self.specification.conjunctions

    def objectives(self, rows: Sequence[Row] | None = None) -> Objectives:
        """These rows, by default all distinct ones in the order of :attr:`rows`, on the box's device.

        Raises :class:`SpecificationError` for a coefficient beyond float64's range.
        """
        chosen = self.rows if rows is None else tuple(rows)
        found = Objectives.from_rows(chosen, math.prod(self.network.input_shape), math.prod(self.network.output_shape))
        return found.to(self.box.lower.device)


def label_margins(labels: Tensor, classes: int) -> Objectives:
    """For labels (B,) the margins y_label - y_j over all j != label: B problems x (classes - 1) objectives."""
    others = torch.arange(classes - 1, device=labels.device)[None] + (
        torch.arange(classes - 1, device=labels.device)[None] >= labels[:, None]
    )
    outputs = torch.zeros(len(labels), classes - 1, classes, dtype=torch.float64, device=labels.device)
    outputs.scatter_(2, others[..., None], -1.0)
    outputs.scatter_(2, labels[:, None, None].expand(-1, classes - 1, 1), 1.0)
    return Objectives(outputs, None, outputs.new_zeros(1, classes - 1))


def problems(network: Graph, question: Question) -> list[Problem]:
    """The question's cases as problems of ``network``; raises :class:`SpecificationError` where counts differ."""
    inputs, outputs = math.prod(network.input_shape), math.prod(network.output_shape)
    if question.inputs != inputs:
        raise SpecificationError(f"the specification declares {question.inputs} inputs, but the network has {inputs}")
    if question.outputs > outputs:
        raise SpecificationError(f"the specification declares {question.outputs} outputs, but the network has {outputs}")
    return [Problem(network, case.box.reshape(network.input_shape), case.specification) for case in question.cases]
