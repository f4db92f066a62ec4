"""radius: how far from images a method certifies that their class stays, and how near a counterexample was found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bourn.attacks.nearest import Around, Nearest, least_margins, nearest
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.crossing import Crossing
from bourn.deadline import NEVER, Deadline, OutOfTime
from bourn.device import device as by_device
from bourn.errors import UsageError
from bourn.formats.model import load
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.balls import lp_ball
from bourn.problem.input_set import InputSet, as_tensor, linf_ball
from bourn.problem.problem import Objectives, label_margins
from bourn.program.linear_bounds import back_substitute
from bourn.relaxations.base import LineRule
from bourn.solvers.adjustments import suited
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.base import output_rows
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import BARRIER, Method
from bourn.solvers.methods import method as by_name
from bourn.solvers.nearby import Nearby
from bourn.solvers.simplex import Optimised, Simplex

UNCLIPPED_CAP = 1000.0
"""No search goes beyond this radius where no clip range bounds the ball."""

SCOUTED = 1e-2
"""The precision to which a cheaper method's radius is found, to begin from: interpolated it is a good deal better."""

Log = Callable[[str, int, int], None]
"""Called with the name of what searches, how many images are done, and of how many."""


@dataclass(frozen=True, eq=False)
class Certified:
    """What the search by one method found for B images, (B,) each.

    ``radius``: the greatest found at which every margin's bound is above 0 (0 where none was found); it holds in real
    arithmetic for the weights as stored.  ``failed``: the least radius above it at which one was not (infinite where the cap or
    the end of the time came first, and where the image itself is not of the class).  ``margin`` and ``failed_margin``: the least
    bound at the two.  ``finished``: False where time ran out before the two were near each other.
    """

    method: Method
    radius: Tensor
    failed: Tensor
    margin: Tensor
    failed_margin: Tensor
    evaluations: Tensor
    finished: Tensor
    seconds: float
    lps: int = 0

    @property
    def monotone(self) -> bool:
        """Whether theory has the radius as the largest there is (to the precision): bounds fall as the radius grows."""
        return self.method.name in ("ibp", BARRIER)


@dataclass(frozen=True, eq=False)
class Radii:
    """All methods' certified radii of B images, and the attack's; ``cap`` (B,): where the searches stopped at the latest.

    ``attacked``: one for each image, empty without an attack.  ``labels`` (B,): the classes that were to stay.
    """

    labels: Tensor
    certified: tuple[Certified, ...]
    attacked: tuple[Nearest, ...]
    cap: Tensor
    precision: float
    seconds: float


def radius(
    model: Any,
    images: object,
    *,
    labels: int | Sequence[int] | Tensor | None = None,
    methods: Iterable[str | Method] = ("ibp", "fast-lin", "crown", BARRIER),
    norm: float = math.inf,
    clip: tuple[float, float] | None = (0.0, 1.0),
    precision: float = 1e-3,
    cap: float | None = None,
    attack: ProjectedGradient | None = ProjectedGradient(restarts=5),  # noqa: B008 - a frozen value
    timeout: float | Deadline | None = None,
    device: str = "cpu",
    example: Any = None,
    log: Log | None = None,
) -> Radii:
    """How far from each of ``images`` (B, *input shape) or (B, n) the network keeps its class.

    For every one of ``methods`` the search of :func:`search`; with ``attack`` also the nearest counterexample found, replayed.
    ``labels``: the class of every image, or of all; by default the predictions.  ``norm``: 1, 2 or infinity.  ``clip``:
    the range that all entries stay in.  ``precision``: how near to each other the ends of a search come,
    relatively.  ``cap``: no search goes further; by default as far as the clip range does, or 1000 without one.
    ``timeout``: seconds for everything; what was not found by then is marked.  ``model``: see :func:`bourn.load`.

    Raises :class:`bourn.errors.BournError` where an argument does not fit.
    """
    began = time.monotonic()
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    loaded = load(model, example=example)
    chosen = [by_name(m) if isinstance(m, str) else m for m in methods]
    flat, size = as_tensor(images, "the images"), math.prod(loaded.graph.input_shape)
    if flat.dim() < 2 or flat.numel() != len(flat) * size:
        raise UsageError(f"images of shape {tuple(flat.shape)} do not fit the network's {size} inputs")
    flat = flat.flatten(1)
    if labels is None:
        labels = [int(loaded.run(x.numpy()).argmax()) for x in flat.cpu()]
    wanted = torch.as_tensor(labels, dtype=torch.int64).expand(len(flat))
    place = by_device(device)
    graph = loaded.graph.to(place)
    balls = Balls.around(graph, flat.to(place), wanted.to(place), norm, clip, cap)
    certified = tuple(_search(balls, m, precision, deadline, log) for m in chosen)
    attacked = []
    for b, x in enumerate(flat.cpu() if attack is not None else ()):
        assert attack is not None
        around = Around(loaded, x, int(wanted[b]), norm, clip)
        attacked.append(_attacked(around, attack, balls, b, precision, deadline))
        if log is not None:
            log("attack", b + 1, len(flat))
    return Radii(wanted, certified, tuple(attacked), balls.cap, precision, time.monotonic() - began)


def _attacked(around: Around, attack: ProjectedGradient, balls: Balls, b: int, precision: float, deadline: Deadline) -> Nearest:
    guess, cap = float(balls.linear[b]), float(balls.cap[b])
    return nearest(around, attack, precision=precision, guess=guess, cap=cap, deadline=deadline)


@dataclass(frozen=True, eq=False)
class Balls:
    """Nested balls around the images (B, *input_shape) of a network, whose classes ``labels`` (B,) are to stay.

    ``value`` (B,): the least margin at the image itself, not rounded.  ``linear`` (B,): the distance at which its
    linearisation is 0, infinite where it has no slope.  ``cap`` (B,): the greatest radius of interest.
    """

    graph: Graph
    images: Tensor
    labels: Tensor
    norm: float
    clip: tuple[float, float] | None
    value: Tensor
    linear: Tensor
    cap: Tensor

    @classmethod
    def around(
        cls,
        graph: Graph,
        images: Tensor,
        labels: Tensor,
        norm: float,
        clip: tuple[float, float] | None,
        cap: float | None,
    ) -> Balls:
        """Raises :class:`UsageError` for images, labels, a norm or a cap that do not fit."""
        classes, size = math.prod(graph.output_shape), math.prod(graph.input_shape)
        if images.numel() != len(images) * size:
            raise UsageError(f"images of shape {tuple(images.shape)} do not fit the network's {size} inputs")
        if norm not in (1, 2, math.inf):
            raise UsageError(f"the norm is {norm}; there are 1, 2 and infinity")
        if classes < 2:
            raise UsageError(f"the network has {classes} output; a class can only be kept where there are two or more")
        if cap is not None and not 0 < cap < math.inf:
            raise UsageError(f"the cap is {cap:g}; it must be above 0 and finite")
        wrong = torch.nonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            raise UsageError(f"the label {int(labels[wrong[0]])} is no class of the network's {classes}, counted from 0")
        x = images.reshape(-1, *graph.input_shape)
        inside = torch.isfinite(x) if clip is None else (x >= clip[0]) & (x <= clip[1])
        if not bool(inside.all()):
            number, said = int(torch.nonzero(~inside)[0, 0]), "is not finite" if clip is None else f"leaves the clip range {clip}"
            raise UsageError(f"image {number} {said}; scale it as the network wants it, or choose another clip range or none")
        value, gradient = least_margins(graph, x, labels)
        dual = {math.inf: 1, 2: 2, 1: math.inf}[norm]
        reach = x.new_full((len(x),), UNCLIPPED_CAP)
        if clip is not None:  # a little more, so that the ball covers the range
            reach = torch.maximum(x - clip[0], clip[1] - x).flatten(1).norm(p=norm, dim=1) * (1 + 1e-9)
        most = reach if cap is None else reach.clamp(max=cap)
        linear = value.clamp(min=0.0) / gradient.norm(p=dual, dim=1)
        return cls(graph, x, labels, norm, clip, value, linear.nan_to_num(math.inf, math.inf), most)

    def __getitem__(self, which: slice | Tensor) -> Balls:
        moved = {n: getattr(self, n)[which] for n in ("images", "labels", "value", "linear", "cap")}
        return replace(self, **moved)

    def at(self, radii: Tensor) -> InputSet:
        """The balls of the radii (B,); of one image only where the norm is not infinity."""
        if self.norm == math.inf:
            return linf_ball(self.images, radii, clip=self.clip)
        return lp_ball(self.images, float(radii), norm=self.norm, clip=self.clip)

    @property
    def objectives(self) -> Objectives:
        """The margins of the labels over the other classes."""
        return label_margins(self.labels, math.prod(self.graph.output_shape))


def search(
    graph: Graph,
    images: Tensor,
    labels: Tensor,
    method: str | Method,
    *,
    norm: float = math.inf,
    clip: tuple[float, float] | None = (0.0, 1.0),
    precision: float = 1e-3,
    cap: float | None = None,
    deadline: Deadline = NEVER,
    log: Log | None = None,
) -> Certified:
    """The greatest radius found at which ``method`` certifies ``labels`` (B,) of ``images`` (B, *input_shape or n), float64.

    Every image has a bracket of its own: ``radius`` was certified, ``failed`` was not, and at the end ``failed / radius`` is at
    most 1 + ``precision``.  Where the method's bounds fall as the radius grows (IBP, LP-ALL) that is the largest radius
    there is; for other methods a larger one may exist.  All images go side by side, but for linear programs and for balls in the
    l1 or l2 norm.  Out of time the result says what was found.

    Raises :class:`bourn.errors.BournError` where an argument does not fit.
    """
    chosen = by_name(method) if isinstance(method, str) else method
    balls = Balls.around(graph, images.to(torch.float64), labels, norm, clip, cap)
    return _search(balls, chosen, precision, deadline, log)


def _search(balls: Balls, method: Method, precision: float, deadline: Deadline, log: Log | None) -> Certified:
    """As :func:`search`; a cheaper method's search tells where to begin and how steep the margin is there."""
    began, total = time.monotonic(), len(balls.images)
    guess, slope = balls.linear / 2, None
    scout = _scout(method)
    if scout is not None:
        near = _search(balls, scout, max(precision, SCOUTED), deadline, None)
        slope = (near.failed_margin - near.margin) / (near.failed - near.radius)
        root = (near.radius - near.margin / slope) * (1 + precision / 2)
        guess = torch.where(near.finished & (near.radius > 0) & (root > near.radius) & (root <= near.failed), root, guess)
    alone = isinstance(method.solver, Simplex) or balls.norm != math.inf
    parts = torch.split(torch.arange(total, device=guess.device), 1 if alone else max(1, total))
    runs = []
    for number, part in enumerate(parts):
        crossing = Crossing(balls.value[part], guess[part], balls.cap[part], precision, None if slope is None else slope[part])
        before = number if alone else 0
        run = _Run(balls[part], method, crossing, deadline, None if log is None else _part_of(log, method.name, before, total))
        run.run()
        runs.append(run)

    def joined(values: Callable[[_Run], Tensor]) -> Tensor:
        return torch.cat([values(r) for r in runs]) if runs else guess

    return Certified(
        method,
        joined(lambda r: r.crossing.low),
        joined(lambda r: r.crossing.high),
        joined(lambda r: r.crossing.low_value),
        joined(lambda r: r.crossing.high_value),
        joined(lambda r: r.crossing.evaluations),
        joined(lambda r: ~r.crossing.open),
        time.monotonic() - began,
        sum(r.lps for r in runs),
    )


def _part_of(log: Log, name: str, before: int, total: int) -> Callable[[int], None]:
    return lambda done: log(name, before + done, total)


def _scout(method: Method) -> Method | None:
    """A cheaper method on the same inner bounds, or bounded like them; None for what is cheap itself."""
    if isinstance(method.solver, Simplex):
        return replace(method, solver=DualAscent(steps=10))
    return replace(method, solver=BackSubstitution(LineRule.AREA)) if isinstance(method.solver, DualAscent) else None


@dataclass(eq=False)
class _Run:
    """One search: images whose radii go through a method together."""

    balls: Balls
    method: Method
    crossing: Crossing
    deadline: Deadline
    log: Callable[[int], None] | None
    lps: int = 0
    known: dict[int, Interval] | None = None
    near: Nearby | None = None

    def __post_init__(self) -> None:
        solver = self.method.solver
        # Of so many steps and no more the bounds would depend on where the search has been.
        if isinstance(solver, DualAscent) and solver.gap > 0 and self.method.inner is None:
            self.near = Nearby()

    def run(self) -> None:
        """Evaluate until all brackets are closed or the time is over."""
        total = len(self.balls.images)
        try:
            while bool(self.crossing.open.any()):
                self.deadline.check()
                which = torch.nonzero(self.crossing.open)[:, 0]
                radii = self.crossing.propose()[which]
                values = self._values(which, radii)
                self.deadline.check()  # a bound cut short says nothing of the radius
                self.crossing.tell(which, radii, values)
                if self.log is not None:
                    self.log(total - int(self.crossing.open.sum()))
        except OutOfTime:
            return

    def _values(self, which: Tensor, radii: Tensor) -> Tensor:
        """The least bound of any margin at the radii of the images ``which``, (B,) each."""
        balls, method = self.balls[which], suited(self.method, self.balls.graph.device)
        ball, begin = balls.at(radii), None
        if self.near is not None:
            assert isinstance(method.solver, DualAscent)
            self.near.move(which, radii)
            ascended = method.solver.prepare(balls.graph, ball, deadline=self.deadline, near=self.near)
            return ascended.minimise(balls.objectives).bound.amin(1)
        if self.known is not None:
            # Bounds on a larger ball hold on a smaller one; the closed form on top of them leaves fewer linear programs.
            begin = BackSubstitution(LineRule.AREA).prepare(balls.graph, ball, begin=self.known, deadline=self.deadline).bounds
        prepared = method.prepare(balls.graph, ball, begin=begin, deadline=self.deadline)
        if not isinstance(prepared, Optimised):
            return prepared.minimise(balls.objectives).bound.amin(1)
        value = least_by_programs(prepared, balls.objectives)
        self.lps += prepared.lps
        if float(value) <= 0 and self.method.inner is None and isinstance(self.method.solver, Simplex):
            self.known = dict(prepared.bounds)
        return value


def least_by_programs(prepared: Optimised, objectives: Objectives) -> Tensor:
    """The least bound of several objectives, (1,), for a batch of one; once one is not above 0 the others are not asked.

    The objective with the least bound in closed form is asked first, and after it those that may lie below it.
    """
    rows = output_rows(prepared.graph, objectives)
    closed = back_substitute(prepared.program, rows, objectives.constant).lower[0]
    first = int(closed.argmin())
    value = prepared.minimise(_some(objectives, torch.tensor([first], device=closed.device))).bound[:, 0]
    others = torch.nonzero(closed < value)[:, 0]
    others = others[others != first]
    if float(value) <= 0 or not len(others):
        return value
    return torch.minimum(value, prepared.minimise(_some(objectives, others)).bound.amin(1))


def _some(objectives: Objectives, which: Tensor) -> Objectives:
    constant = objectives.constant[:, which]
    inputs = None if objectives.inputs is None else objectives.inputs[:, which]
    return Objectives(objectives.outputs[:, which], inputs, constant, objectives.inexact)
