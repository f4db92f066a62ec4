"""Balls in the l1 and l2 norm: their extremes against other solvers and exact arithmetic, membership, and what stands on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

import bourn
from bourn.cli.main import run
from bourn.deadline import NEVER
from bourn.errors import EmptyInputSetError, UsageError
from bourn.interval import Interval
from bourn.network.affine import Convolution
from bourn.network.graph import Graph
from bourn.problem.balls import Ball, lp_ball
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.relaxed import start
from bourn.program.restrict import receptive_fields
from bourn.relaxations.base import LineRule
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.methods import METHODS, method
from networks import Layers, fractions, random, random_objectives, seeds
from samples import mlp, numbers, passed
from test_restrict import plain

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def balls(seed: int, norm: int) -> tuple[Ball, Tensor]:
    """A ball and rows (1, 6, n): boxes that cut it, center at or beyond their edge, radius 0, rows with zeros and ties."""
    generator = random(seed)
    n, kind = 1 + seed % 11, seed % 7
    center = torch.rand(1, n, dtype=torch.float64, generator=generator)
    radius = float(torch.rand(1, generator=generator)) * (0.0 if kind == 0 else 0.3 if kind == 1 else 2.0)
    if kind == 2:
        center[:, : n // 2 + 1] = 1.0
    if kind == 3:
        center = center * 1.4 - 0.2
        radius += float((center - center.clamp(0, 1)).norm(p=norm))
    rows = numbers(generator, 1, 6, n)
    rows[0, 1] = rows[0, 1].round()
    rows[0, 2] = rows[0, 2].sign()
    rows[0, 3] *= torch.rand(n, generator=generator) < 0.5
    rows[0, 4] *= 10 ** (6 * torch.rand(n, dtype=torch.float64, generator=generator) - 3)
    rows[0, 5] = 0.0 if n % 2 else rows[0, 5]
    found = lp_ball(center, radius, norm=norm, clip=None if kind == 4 else (0, 1))
    assert isinstance(found, Ball)
    return found, rows


def by_linear_program(ball: Ball, row: np.ndarray) -> float:
    """The minimum over an l1 ball, in the variables x and t >= |x - center|."""
    c, n = ball.center[0].numpy(), len(row)
    one, lower, upper = np.eye(n), ball.sides.lower[0].tolist(), ball.sides.upper[0].tolist()
    matrix = np.block([[one, -one], [-one, -one], [np.zeros((1, n)), np.ones((1, n))]])
    bounds = [*zip(lower, upper, strict=True), *[(0, None)] * n]
    found = linprog(np.concatenate([row, np.zeros(n)]), matrix, np.concatenate([c, -c, [ball.radius]]), bounds=bounds)
    assert found.status == 0
    return float(found.fun)


def by_bisection(ball: Ball, row: list[float]) -> Decimal:
    """The minimum over an l2 ball to 60 digits, from above: by bisection on the step against the row."""
    w, c, radius = [Decimal(v) for v in row], [Decimal(v) for v in ball.center[0].tolist()], Decimal(ball.radius)
    low = [max(Decimal(a) - b, -2 * radius) for a, b in zip(ball.sides.lower[0].tolist(), c, strict=True)]
    high = [min(Decimal(a) - b, 2 * radius) for a, b in zip(ball.sides.upper[0].tolist(), c, strict=True)]

    def value(step: Decimal) -> tuple[bool, Decimal]:
        moves = [min(max(-step * v, a), b) for v, a, b in zip(w, low, high, strict=True)]
        inside = sum(m * m for m in moves) <= radius * radius
        return inside, sum((v * (a + m) for v, a, m in zip(w, c, moves, strict=True)), Decimal(0))

    short = Decimal(0)
    long = max((max(abs(a), abs(b)) / abs(v) for v, a, b in zip(w, low, high, strict=True) if v), default=Decimal(0))
    if value(long)[0]:
        return value(long)[1]
    for _ in range(220):
        half = (short + long) / 2
        short, long = (half, long) if value(half)[0] else (short, half)
    return value(short)[1]


def solve(ball: Ball, row: Tensor, norm: int) -> Decimal | float:
    return by_linear_program(ball, row.numpy()) if norm == 1 else by_bisection(ball, row.tolist())


@pytest.fixture(autouse=True)
def digits() -> Iterator[None]:
    """Decimals have 60 digits."""
    with localcontext() as context:
        context.prec = 60
        yield


@pytest.mark.parametrize("norm", [1, 2])
def test_extremes_are_those_of_another_solver(norm: int) -> None:
    for seed in range(210):
        ball, rows = balls(seed, norm)
        low, high, error = (t[0] for t in ball.extremes(rows))
        least, same = (t[0] for t in ball.minimise_linear(rows))
        assert torch.equal(least, low)
        assert bool((same <= error).all())
        values = (rows * ball.minimiser(rows)).sum(2)[0]
        for m, row in enumerate(rows[0]):
            size = float(row.abs().sum()) * (1 + ball.radius)
            # HiGHS's feasibility tolerance is 1e-7.
            close = (1e-6 if norm == 1 else 1e-12) * size + 1e-13
            expected, greatest = (sign * float(solve(ball, sign * row, norm)) for sign in (1, -1))
            assert abs(float(low[m]) - expected) <= close, (seed, m)
            assert abs(float(high[m]) - greatest) <= close, (seed, m)
            assert abs(float(values[m]) - expected) <= close, (seed, m)
            assert float(error[m]) <= 1e-13 * size + 1e-290


def exact_l1_minimum(ball: Ball, row: list[Fraction]) -> Fraction:
    """Move the entries of greatest |row| first, as far as the box and the radius let them: rational arithmetic throughout."""
    center, lower, upper = fractions(ball.center), ball.sides.lower.flatten().tolist(), ball.sides.upper.flatten().tolist()

    def held(value: Fraction, low: float, high: float) -> Fraction:
        value = value if low == -math.inf else max(value, Fraction(low))
        return value if high == math.inf else min(value, Fraction(high))

    ends = list(zip(center, lower, upper, strict=True))
    x = [held(*end) for end in ends]
    left = Fraction(ball.radius) - sum(abs(a - c) for a, c in zip(x, center, strict=True))
    for i in sorted(range(len(row)), key=lambda i: -abs(row[i])):
        sign = (row[i] < 0) - (row[i] > 0)
        goal = held(x[i] + sign * left, *ends[i][1:])
        left -= abs(goal - x[i])
        x[i] = goal
    return sum((w * a for w, a in zip(row, x, strict=True)), Fraction(0))


def roughly(ball: Ball, row: list[Fraction]) -> Fraction:
    """A relative 1e-12 of all that is added up, and far less than anything of interest."""
    terms = (abs(w) * (abs(c) + Fraction(ball.radius)) for w, c in zip(row, fractions(ball.center), strict=True))
    return sum(terms, Fraction(0)) / 10**12 + (1 + Fraction(ball.radius)) / 10**290


sizes = st.sampled_from([1e-320, 1e-200, 1e-150, 1e-12, 1.0, 1e9, 1e140])


@settings(max_examples=150)
@given(seeds, sizes, sizes)
def test_l1_minima_hold_exactly(seed: int, scale: float, weight: float) -> None:
    """What is stated is at most the minimum in exact arithmetic, whatever the scales, and not far below it."""
    ball, rows = balls(seed, 1)
    ball = Ball(1, ball.center * scale, ball.radius * scale, Interval(ball.sides.lower * scale, ball.sides.upper * scale))
    if not bool(ball.contains(ball.middle).all()):  # scaling has rounded it away
        return
    rows = rows * weight
    low, error = ball.minimise_linear(rows)
    for m in range(rows.shape[1]):
        row, stated = fractions(rows[0, m]), Fraction(float(low[0, m])) - Fraction(float(error[0, m]))
        exact = exact_l1_minimum(ball, row)
        assert stated <= exact
        assert exact - stated <= roughly(ball, row)


@settings(max_examples=100)
@given(seeds, sizes, sizes)
def test_l2_minima_hold_at_exact_points(seed: int, scale: float, weight: float) -> None:
    """What is stated is at most the minimum to 60 digits, and the value at a point inside by fractions, and not far below."""
    ball, rows = balls(seed, 2)
    ball = Ball(2, ball.center * scale, ball.radius * scale, Interval(ball.sides.lower * scale, ball.sides.upper * scale))
    if not bool(ball.contains(ball.middle).all()):
        return
    rows = rows * weight
    low, error = ball.minimise_linear(rows)
    points = ball.project(ball.minimiser(rows)[0])
    assert bool(ball.contains(points).all())
    for m in range(rows.shape[1]):
        value = sum((w * x for w, x in zip(fractions(rows[0, m]), fractions(points[m]), strict=True)), Fraction(0))
        stated = Fraction(float(low[0, m])) - Fraction(float(error[0, m]))
        least = Fraction(by_bisection(ball, rows[0, m].tolist()))
        assert stated <= value
        assert stated <= least
        assert least - stated <= roughly(ball, fractions(rows[0, m]))


def test_l2_minima_whose_norms_are_rational() -> None:
    for k in (1, 7, 10**9 + 7):
        ball = lp_ball(torch.tensor([[1 / 3, -0.1]], dtype=torch.float64), 0.7, norm=2)
        rows = torch.tensor([[[3.0 * k, 4.0 * k]]], dtype=torch.float64)
        low, high, error = (float(t) for t in ball.extremes(rows))
        middle = sum(w * c for w, c in zip(fractions(rows), [Fraction(1 / 3), Fraction(-0.1)], strict=True))
        exact = middle - 5 * k * Fraction(0.7), middle + 5 * k * Fraction(0.7)
        assert Fraction(low) - Fraction(error) <= exact[0] <= Fraction(low) + Fraction(error)
        assert Fraction(high) - Fraction(error) <= exact[1] <= Fraction(high) + Fraction(error)


def exactly_inside(ball: Ball, x: Tensor) -> bool:
    pairs = zip(fractions(x), fractions(ball.center), strict=True)
    total = sum((abs(a - c) ** ball.norm for a, c in pairs), Fraction(0))
    within = bool(((x >= ball.sides.lower) & (x <= ball.sides.upper)).all())
    return within and total <= Fraction(ball.radius) ** ball.norm


@pytest.mark.parametrize("norm", [1, 2])
def test_membership_is_exact_at_the_sphere(norm: int) -> None:
    inside = 0
    for seed in range(300):
        generator = random(seed)
        n = 1 + seed % 5
        scale = [1.0, 1e-170, 1e170, 1e-30][seed % 4]
        center, direction = numbers(generator, 1, n) * (scale if seed % 3 else 1.0), numbers(generator, 1, n)
        ball = lp_ball(center, scale, norm=norm)
        assert isinstance(ball, Ball)
        x = center + direction / direction.norm(p=norm) * scale
        if seed % 3:
            x = torch.nextafter(x, center if seed % 3 == 1 else 2 * x - center)
        found = bool(ball.contains(x))
        assert found == exactly_inside(ball, x), seed
        inside += found
    assert 50 < inside < 250
    # 3-4-5: on the sphere exactly, and the next float64 outside.
    ball = lp_ball(torch.zeros(1, 2, dtype=torch.float64), 5.0 if norm == 2 else 7.0, norm=norm)
    corner = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert ball.contains(corner).tolist() == [True]
    assert ball.contains(torch.nextafter(corner, corner + 1)).tolist() == [False]
    for bad in (math.nan, math.inf, -math.inf):
        assert ball.contains(torch.tensor([[0.0, bad]], dtype=torch.float64)).tolist() == [False]
    assert not bool(lp_ball(corner, 1e200, norm=norm).contains(torch.full((1, 2), 9e307, dtype=torch.float64)))


@pytest.mark.parametrize("norm", [1, 2])
def test_projections_and_samples_lie_inside(norm: int) -> None:
    for seed in range(120):
        ball, _ = balls(seed, norm)
        generator = random(seed)
        n = ball.center.shape[1]
        far = ball.center + numbers(generator, 40, n) * 10.0 ** (seed % 5 - 3)
        near = ball.project(far)
        samples = ball.sample(40, generator)[0]
        assert all(exactly_inside(ball, x[None]) for x in (*near, *samples, *ball.middle))
        kept = ball.contains(far)
        assert torch.equal(near[kept].isclose(far[kept], rtol=0, atol=1e-9), torch.ones_like(near[kept], dtype=torch.bool))
        # Nearest: no other point of a convex set makes an obtuse angle there.
        angles = ((far - near)[:, None] * (samples[None] - near[:, None])).sum(2)
        assert float(angles.max()) <= 1e-5 * float((far - near).norm(dim=1).max() + 1e-9)


def test_what_cannot_be_a_ball_is_refused_and_the_infinite_norm_is_a_box() -> None:
    center = torch.full((2, 3), 0.5, dtype=torch.float64)
    for norm in (1, 2, math.inf):
        for radius in (-1.0, math.nan, math.inf):
            with pytest.raises(UsageError, match="radius"):
                lp_ball(center, radius, norm=norm)
        with pytest.raises(EmptyInputSetError):
            lp_ball(center, 0.1, norm=norm, clip=(2, 3))
        with pytest.raises(EmptyInputSetError):
            lp_ball(center, 0.1, norm=norm, clip=(1, 0))
    for norm in (0, 3, math.nan):
        with pytest.raises(UsageError, match="norm"):
            lp_ball(center, 0.1, norm=norm)
    with pytest.raises(UsageError, match="infinity"):
        lp_ball(center * math.inf, 0.1)
    # Every entry is within the radius, all together are not: 3 * 0.5 > 1.4 and sqrt(3) * 0.5 > 0.86.
    with pytest.raises(EmptyInputSetError):
        lp_ball(center, 1.4, norm=1, clip=(1, 2))
    with pytest.raises(EmptyInputSetError):
        lp_ball(center, 0.86, norm=2, clip=(1, 2))
    touching = lp_ball(center, 1.5, norm=1, clip=(1, 2))
    assert torch.equal(touching.project(center), torch.ones_like(center))

    found = lp_ball(torch.zeros(1, 2), 0.5, norm=math.inf, clip=(0, 1))
    assert isinstance(found, bourn.Box)
    assert found.upper.tolist() == [[0.5, 0.5]]


def sets(seed: int) -> Iterator[tuple[Graph, InputSet, Objectives]]:
    """Networks on a batch of two balls, with objectives on output and input."""
    graph, generator = mlp(seed), random(seed)
    center = torch.rand(2, *graph.input_shape, dtype=torch.float64, generator=generator)
    for norm in (1, 2):
        clip = (0, 1) if seed % 2 else None
        objectives = random_objectives(graph, generator, 3, inputs=bool(seed % 3), batch=2)
        yield graph, lp_ball(center, 0.6 if norm == 2 else 1.0, norm=norm, clip=clip), objectives


@pytest.mark.parametrize("chosen", METHODS, ids=lambda m: m.name)
def test_every_method_is_sound(chosen: bourn.Method) -> None:
    for seed in range(6):
        for graph, ball, objectives in sets(seed):
            assert not passed(chosen, graph, ball, objectives, seed), seed


def test_the_lp_is_not_below_ascent_on_an_l1_ball_and_close_on_an_l2_ball() -> None:
    for seed in range(6):
        for graph, ball, objectives in sets(seed):
            inner = method("crown").prepare(graph, ball).bounds
            ascent = method("alpha-crown").solver.prepare(graph, ball, inner=inner).minimise(objectives).bound
            optimum = method("lp-all").solver.prepare(graph, ball, inner=inner).minimise(objectives).bound
            slack = 1e-7 if isinstance(ball, Ball) and ball.norm == 1 else 0.05
            assert bool((optimum >= ascent - slack).all())


def test_bounds_are_nested_as_the_balls_are() -> None:
    """On the same inner bounds, for CROWN's lines are not monotone; interval bounds and LP-ALL are on their own."""
    for seed in range(8):
        graph, generator = mlp(seed), random(seed)
        center = torch.rand(2, *graph.input_shape, dtype=torch.float64, generator=generator)
        objectives = random_objectives(graph, generator, 3, inputs=False, batch=2)
        nested = [lp_ball(center, 0.5, norm=norm, clip=(0, 1)) for norm in (1, 2, math.inf)]
        inner = method("crown").prepare(graph, nested[2]).bounds
        crown = [BackSubstitution().prepare(graph, s, inner=inner).minimise(objectives).bound for s in nested]
        ibp = [method("ibp").prepare(graph, s).minimise(objectives).bound for s in nested]
        linear = [method("lp-all").prepare(graph, s).minimise(objectives).bound for s in (nested[0], nested[2])]
        for found in (crown, ibp, linear):
            assert all(bool((a >= b - 1e-9).all()) for a, b in pairwise(found))


@pytest.mark.parametrize("norm", [1, 2])
def test_receptive_fields_see_projections_of_the_ball(norm: int) -> None:
    graph = plain(Layers((1, 2, 13, 13), random(5)))
    center = torch.rand(2, *graph.input_shape, dtype=torch.float64, generator=random(6))
    ball = lp_ball(center, 0.7, norm=norm, clip=(0, 1))
    program = start(graph, ball, LineRule.AREA)
    first = graph.pre_activations[0]
    assert receptive_fields(program, first) is not None
    local = BackSubstitution().pre_activation(program, first, NEVER)
    samples = graph.values(ball.sample(200, random(7))[0])[first]
    assert bool((samples >= local.lower[0]).all() & (samples <= local.upper[0]).all())
    rows = torch.eye(graph.nodes[first].size, dtype=torch.float64).reshape(1, -1, *graph.nodes[first].shape)
    operation = graph.nodes[first].operation
    assert isinstance(operation, Convolution)
    assert operation.bias is not None
    (on_input,) = operation.transpose(rows[0])
    low, high, _ = ball.extremes(on_input[None])
    bias = operation.bias.expand(1, *operation.out_shape).flatten()
    assert torch.allclose(local.lower.flatten(1), low + bias, rtol=0, atol=1e-10)
    assert torch.allclose(local.upper.flatten(1), high + bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm", ["1", "2"])
def test_a_verdict_from_the_command_line(norm: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = ["verify", str(EXAMPLES / "digits_mlp.onnx"), "--image", str(EXAMPLES / "digits_images.npz"), "--norm", norm]
    assert run([*question, "--index", "6", "--radius", "0.05"]) == 0
    assert capsys.readouterr().out.startswith("unsat\n")
    assert run([*question, "--index", "6", "--radius", "9"]) == 0
    assert capsys.readouterr().out.startswith("sat\n")


@pytest.mark.parametrize("norm", [1, 2])
def test_counterexamples_lie_in_the_ball_as_written(norm: int) -> None:
    images = np.load(EXAMPLES / "digits_images.npz")
    for radius in (3.0 * (3 if norm == 1 else 1), 4.0 * (3 if norm == 1 else 1)):
        image = images["image"][6].astype(np.float64)
        question = bourn.robustness(image, int(images["label"][6]), radius, 10, norm=norm)
        verdict = bourn.verify(EXAMPLES / "digits_mlp.onnx", question, timeout=60).verdict
        found = verdict.counterexample.x  # type: ignore[union-attr]
        assert np.array_equal(found, found.astype(np.float32).astype(np.float64))
        distances = [abs(a - b) ** norm for a, b in zip(fractions(torch.from_numpy(found)), map(Fraction, image), strict=True)]
        assert sum(distances) <= Fraction(radius) ** norm
        assert found.min() >= 0
        assert found.max() <= 1


def test_questions_say_which_norm(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(EXAMPLES / "digits_mlp.onnx"), "--image", str(EXAMPLES / "digits_images.npz"), "--norm", "2"]
    assert run(["ladder", *arguments, "--radius", "0.1", "-m", "crown"]) == 0
    assert "(l2)" in capsys.readouterr().out


@pytest.mark.parametrize("norm", [1, 2])
def test_no_point_is_projected_to_none(norm: int) -> None:
    ball = lp_ball(torch.zeros(1, 2), 1.0, norm=norm)
    assert ball.project(torch.zeros(0, 2, dtype=torch.float64)).shape == (0, 2)
