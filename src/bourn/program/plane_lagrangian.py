"""The dual function of a reduced program that planes cut: every plane has a multiplier for every row.

With a multiplier of at least 0 a plane is one more summand of each row (:mod:`bourn.program.planes`), so that this is the reduced
program's dual function at other rows; its supergradient in a multiplier is by how much the relaxed point breaks the plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.program.hulls import Choice, Hull
from bourn.program.lagrangian import Evaluation
from bourn.program.linear_bounds import Multipliers
from bourn.program.planes import Planes
from bourn.program.reduced import ReducedLagrangian, Rows
from bourn.relaxations.base import Tensors

PLANES = -1
"""Where the planes' multipliers stand among the choices, which are by node."""

_NEW = 0.1
"""The share that every step's relaxed point has in their average."""


@dataclass(frozen=True, eq=False)
class _Ends:
    """Between what parameters may lie, as a hull's side has it."""

    least: Tensors = ()
    greatest: Tensors = ()


@dataclass(frozen=True, eq=False)
class Weights:
    """What ascent needs to know of multipliers of planes: between what they may lie."""

    below: _Ends
    above: _Ends = _Ends()
    reach: Tensors = ()


class PlaneLagrangian:
    """A reduced program's dual function, a batch of one, with ``planes``, which are one more choice, :data:`PLANES`.

    ``most`` (K,): what the multipliers are at most; ``begin``: choices to start from, of the first planes.
    """

    def __init__(self, own: ReducedLagrangian, planes: Planes, most: Tensor, begin: Mapping[int, Choice] | None = None) -> None:
        self.own, self.begin = own, begin
        program, limits = own.program, torch.from_numpy(planes.limits).to(most.device)
        none = {0: limits.new_zeros(1, 0, *program.graph.input_shape)}
        self.planes = own.reduce(planes.dense(program) or none, -limits[None])
        least, greatest = torch.zeros_like(most, dtype=own.dtype), most.to(own.dtype)
        weights = Weights(_Ends((least[None, None],), (greatest[None, None],)))
        self.hulls: dict[int, Hull | Weights] = {**own.hulls, PLANES: weights}
        self.point: dict[int, Tensor] | None = None

    @property
    def batch(self) -> int:
        return self.own.batch

    @property
    def count(self) -> int:
        return self.own.count

    @property
    def constant(self) -> Tensor:
        return self.own.constant

    def take(self, problems: Tensor, rows: Tensor) -> PlaneLagrangian:
        """The same for some rows (1, M')."""
        taken = copy(self)
        taken.own, taken.point = self.own.take(problems, rows), None
        taken.hulls = {**taken.own.hulls, PLANES: self.hulls[PLANES]}
        return taken

    def start(self) -> dict[int, Choice]:
        """The lines and multipliers to start from: those of ``begin``, new planes at 0."""
        count = len(self.planes.constant[0])
        zero = self.planes.constant.new_zeros(self.batch, self.count, count)
        if self.begin is None:
            return {**self.own.start(), PLANES: Choice((zero,), ())}
        known = self.begin[PLANES].below[0]
        zero[..., : known.shape[2]] = known
        return {v: c.replaced([t.clone() for t in c.tensors()]) for v, c in self.begin.items()} | {PLANES: Choice((zero,), ())}

    def _with(self, weights: Tensor) -> ReducedLagrangian:
        """The dual function without planes of which this is the value: of rows with the planes in them."""
        own, rows = copy(self.own), self.own.rows
        on = dict(rows.on)
        for u, t in self.planes.on.items():
            on[u] = torch.baddbmm(on[u], weights, t) if u in on else torch.bmm(weights, t)
        constant = rows.constant + torch.mv(weights[0], self.planes.constant[0])[None]
        own.rows = Rows(torch.baddbmm(rows.on_input, weights, self.planes.on_input), on, constant)
        return own

    def evaluate(self, choices: Mapping[int, Choice]) -> Evaluation:
        """The dual function at these slopes and multipliers."""
        return self._with(choices[PLANES].below[0]).evaluate(choices)

    def gradient(self, found: Evaluation, choices: Mapping[int, Choice]) -> dict[int, list[Tensor | None]]:
        """A supergradient for every tensor of every choice; the relaxed points that it comes from are averaged in ``point``."""
        values, gradients = self.own.forward(found, choices)
        assert found.minimiser is not None
        broken = torch.baddbmm(self.planes.constant[:, None], found.minimiser, self.planes.on_input.mT)
        for u, matrix in self.planes.on.items():
            broken = torch.baddbmm(broken, values[u], matrix.mT)
        now = {0: found.minimiser, **values}
        self.point = now if self.point is None else {v: t.lerp(now[v], _NEW) for v, t in self.point.items()}
        return {**gradients, PLANES: [broken]}

    def multipliers(self, choices: Mapping[int, Choice]) -> tuple[dict[int, Multipliers], Tensor]:
        """The choices in the form that states a bound, and the planes' weights (M, K)."""
        nodes = {v: choice for v, choice in choices.items() if v != PLANES}
        return self.own.multipliers(nodes), choices[PLANES].below[0][0].to(torch.float64)
