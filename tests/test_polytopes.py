"""Polytopes: their extremes against other solvers and exact arithmetic, membership, projections."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

import bourn
from bourn.errors import EmptyInputSetError, UsageError
from bourn.problem.input_set import Box
from bourn.problem.polytopes import Polytope
from networks import fractions, random, seeds


def numbers(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def polytopes(seed: int, most: int = 20) -> tuple[Polytope, Tensor]:
    """A polytope and rows (1, 6, n): a point in it, half-spaces with zeros and ties, faces through the point, unbounded boxes."""
    generator = random(seed)
    n, count, kind = 1 + seed % 7, 1 + seed % most, seed % 5
    point = torch.rand(n, dtype=torch.float64, generator=generator)
    matrix = numbers(generator, count, n)
    if kind == 0:
        matrix = matrix.round()
    if kind == 1:
        matrix *= torch.rand(count, n, generator=generator) < 0.4
    if kind == 2:
        matrix *= 10 ** (6 * torch.rand(count, 1, dtype=torch.float64, generator=generator) - 3)
    room = torch.rand(count, dtype=torch.float64, generator=generator) * 0.3 + 0.01
    low, high = torch.zeros(1, n, dtype=torch.float64), torch.ones(1, n, dtype=torch.float64)
    limits = matrix @ point + room * matrix.norm(dim=1)
    if kind == 3:  # bounded by rows alone
        around = torch.cat([torch.eye(n), -torch.eye(n), numbers(generator, 2, n)]).to(torch.float64)
        matrix, limits = torch.cat([matrix, around]), torch.cat([limits, around @ point + 0.7])
        high = high + math.inf
        low = low - math.inf if seed % 2 else low
    rows = numbers(generator, 1, 6, n)
    rows[0, 1] = rows[0, 1].round()
    rows[0, 2] = rows[0, 2].sign()
    rows[0, 3] *= torch.rand(n, generator=generator) < 0.5
    rows[0, 4] *= 10 ** (6 * torch.rand(n, dtype=torch.float64, generator=generator) - 3)
    rows[0, 5] = -matrix[0]
    return bourn.polytope(low, high, matrix, limits), rows


def by_linear_program(sets: Polytope, row: Tensor) -> float:
    lower, upper = sets.sides.lower[0].tolist(), sets.sides.upper[0].tolist()
    found = linprog(row.numpy(), sets.matrix[0].numpy(), sets.limits[0].numpy(), bounds=list(zip(lower, upper, strict=True)))
    assert found.status == 0
    return float(found.fun)


def test_extremes_are_those_of_another_solver() -> None:
    for seed in range(200):
        sets, rows = polytopes(seed)
        assert bool(torch.isfinite(sets.interval.magnitude).all())
        low, high, error = (t[0] for t in sets.extremes(rows))
        points = sets.minimiser(rows)[0]
        for m, row in enumerate(rows[0]):
            size = float((row.abs() * sets.interval.magnitude[0]).sum())
            close = 1e-7 * size + 1e-13
            expected, greatest = by_linear_program(sets, row), -by_linear_program(sets, -row)
            assert abs(float(low[m]) - expected) <= close, (seed, m)
            assert abs(float(high[m]) - greatest) <= close, (seed, m)
            assert abs(float((row * points[m]).sum()) - expected) <= close, (seed, m)
            assert float(error[m]) <= 1e-10 * size + 1e-290


def test_the_enclosing_box_is_tight_and_holds() -> None:
    for seed in range(60):
        sets, _ = polytopes(seed, 6)
        for j, row in enumerate(torch.eye(sets.matrix.shape[2], dtype=torch.float64)):
            low, high = by_linear_program(sets, row), -by_linear_program(sets, -row)
            size = 1e-7 * (1 + abs(low) + abs(high))
            assert float(sets.lower[0, j]) <= low + size
            assert float(sets.upper[0, j]) >= high - size
            assert float(sets.lower[0, j]) >= low - size
            assert float(sets.upper[0, j]) <= high + size


Plane = tuple[list[Fraction], Fraction]


def solved(planes: tuple[Plane, ...]) -> list[Fraction] | None:
    """Where n planes meet in one point, by elimination in fractions."""
    table = [[*row, limit] for row, limit in planes]
    for i in range(len(table)):
        pivot = next((r for r in range(i, len(table)) if table[r][i]), None)
        if pivot is None:
            return None
        table[i], table[pivot] = table[pivot], table[i]
        table[i] = [v / table[i][i] for v in table[i]]
        for r in range(len(table)):
            if r != i and table[r][i]:
                table[r] = [a - table[r][i] * b for a, b in zip(table[r], table[i], strict=True)]
    return [row[-1] for row in table]


def vertices(sets: Polytope) -> list[list[Fraction]]:
    """All vertices of a polytope in a few variables, exactly."""
    n = sets.matrix.shape[2]
    planes: list[Plane] = [
        (fractions(a), Fraction(float(b))) for a, b in zip(sets.matrix[0], sets.limits[0], strict=True)
    ]
    for j, (low, high) in enumerate(zip(sets.sides.lower[0].tolist(), sets.sides.upper[0].tolist(), strict=True)):
        axis = [Fraction(int(i == j)) for i in range(n)]
        planes += [(axis, Fraction(high))] * math.isfinite(high) + [([-v for v in axis], -Fraction(low))] * math.isfinite(low)
    found = []
    for chosen in combinations(planes, n):
        point = solved(chosen)
        if point is not None and all(sum(map(Fraction.__mul__, a, point), Fraction(0)) <= b for a, b in planes):
            found.append(point)
    return found


scales = st.sampled_from([1e-150, 1e-9, 1.0, 1e6, 1e120])


@settings(max_examples=80)
@given(seeds, scales, scales)
def test_minima_hold_exactly(seed: int, scale: float, weight: float) -> None:
    """What is stated is at most the minimum in exact arithmetic, whatever the scales, and close where these are ordinary."""
    generator = random(seed)
    n, count = 1 + seed % 3, 1 + seed % 4
    matrix, point = numbers(generator, count, n), torch.rand(n, dtype=torch.float64, generator=generator)
    limits = matrix @ point + 0.1 * torch.rand(count, dtype=torch.float64, generator=generator)
    upper = torch.ones(1, n, dtype=torch.float64) * scale
    sets = bourn.polytope(torch.zeros_like(upper), upper, matrix * weight, limits * (weight * scale))
    rows = numbers(generator, 1, 4, n) * weight
    low, high, error = sets.extremes(rows)
    corners = vertices(sets)
    assert corners
    for m in range(4):
        values = [sum(map(Fraction.__mul__, fractions(rows[0, m]), corner), Fraction(0)) for corner in corners]
        below = Fraction(float(low[0, m])) - Fraction(float(error[0, m]))
        above = Fraction(float(high[0, m])) + Fraction(float(error[0, m]))
        assert below <= min(values)
        assert above >= max(values)
        size = Fraction(float(rows[0, m].abs().sum())) * Fraction(scale)
        assert min(values) - below <= size / 10**8 + Fraction(1, 10**250)
    for j in range(n):
        assert Fraction(float(sets.lower[0, j])) <= min(corner[j] for corner in corners)
        assert Fraction(float(sets.upper[0, j])) >= max(corner[j] for corner in corners)


def constant(value: float) -> Callable[[Polytope, Tensor], Tensor]:
    return lambda self, w: torch.full((*w.shape[:2], self.limits.shape[1]), value, dtype=torch.float64)


def test_any_multipliers_bound_and_zero_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        sets, rows = polytopes(5 * seed, 4)
        alone, rounding = Box(sets.interval).minimise_linear(rows)
        for made in (1e300, math.nan, 1e-3, 0.3):
            with monkeypatch.context() as patch:
                patch.setattr(Polytope, "multipliers", constant(made))
                low, error = sets.minimise_linear(rows)
            assert bool((low - error >= alone - rounding - 1e-12 * (1 + rounding)).all())
            for m, row in enumerate(rows[0]):
                assert float(low[0, m] - error[0, m]) <= by_linear_program(sets, row) + 1e-6 * float(row.abs().sum())


def test_membership_is_exact_at_the_faces() -> None:
    third = bourn.polytope([[0.0, 0.0]], [[1.0, 1.0]], [[Fraction(1, 10), Fraction(1, 5)]], [Fraction(1, 4)])
    # 0.1 a + 0.2 b <= 0.25 as written in decimals: a + 2 b <= 2.5.
    face = torch.tensor([[0.5, 1.0], [1.0, 0.75]], dtype=torch.float64)
    assert third.contains(face).tolist() == [True, True]
    assert third.contains(torch.nextafter(face[1:], face[1:] + 1)).tolist() == [False]
    inside = 0
    for seed in range(300):
        generator = random(seed)
        n = 1 + seed % 5
        row, x = numbers(generator, 1, n), torch.rand(1, n, dtype=torch.float64, generator=generator)
        limit = (row @ x[0]).clone()
        sets = bourn.polytope(torch.zeros_like(x), torch.ones_like(x), row, limit)
        exact = sum(map(Fraction.__mul__, fractions(row), fractions(x)), Fraction(0)) <= Fraction(float(limit))
        assert bool(sets.contains(x)) == exact, seed
        inside += exact
    assert 50 < inside < 250
    for bad in (math.nan, math.inf):
        assert third.contains(torch.tensor([[0.0, bad]], dtype=torch.float64)).tolist() == [False]


def test_numbers_that_float64_does_not_hold_are_rounded_to_the_safe_side() -> None:
    long = Fraction(1, 3) + Fraction(1, 7**40)
    sets = bourn.polytope([[0.0, 0.0]], [[1.0, 1.0]], [[long, Fraction(1)]], [1])
    assert float(sets.inner_limits[0, 0]) < float(sets.limits[0, 0])
    _, high, error = sets.extremes(torch.tensor([[[1.0, 3.0]]], dtype=torch.float64))
    assert Fraction(float(high)) + Fraction(float(error)) >= 3 + 1 - 3 * long
    near = sets.project(torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    assert bool(sets.contains(near))
    assert long * fractions(near)[0] + fractions(near)[1] <= 1


def exactly_inside(sets: Polytope, x: Tensor) -> bool:
    within = bool(((x >= sets.sides.lower[0]) & (x <= sets.sides.upper[0])).all())
    rows = zip(sets.matrix[0], sets.limits[0].tolist(), strict=True)
    return within and all(sum(map(Fraction.__mul__, fractions(a), fractions(x)), Fraction(0)) <= Fraction(b) for a, b in rows)


def test_projections_and_samples_lie_inside() -> None:
    for seed in range(80):
        sets, _ = polytopes(seed, 6)
        generator = random(seed)
        far = sets.middle + numbers(generator, 40, sets.matrix.shape[2]) * 10.0 ** (seed % 5 - 3)
        near = sets.project(far)
        samples = sets.sample(40, generator)[0]
        assert all(exactly_inside(sets, x) for x in (*near, *samples, *sets.middle))
        kept = sets.contains(far)
        assert bool(near[kept].isclose(far[kept], rtol=0, atol=1e-9).all())
        # Nearest: no other point of a convex set makes an obtuse angle there.
        angles = ((far - near)[:, None] * (samples[None] - near[:, None])).sum(2)
        assert float(angles.max()) <= 1e-5 * float((far - near).norm(dim=1).max() + 1e-9)


def test_a_flat_set_keeps_its_extremes() -> None:
    """x = y by two inequalities: no point is inside by any margin."""
    sets = bourn.polytope([[0.0, 0.0]], [[1.0, 0.5]], [[1.0, -1.0], [-1.0, 1.0]], [0.0, 0.0])
    assert bool(sets.contains(sets.middle))
    low, high, error = sets.extremes(torch.tensor([[[1.0, -1.0], [1.0, 1.0]]], dtype=torch.float64))
    assert low.flatten().tolist() == pytest.approx([0, 0], abs=1e-9)
    assert high.flatten().tolist() == pytest.approx([0, 1], abs=1e-9)
    assert float(error.max()) < 1e-12
    assert float(sets.upper[0, 0]) == pytest.approx(0.5)
    near = sets.project(torch.tensor([[0.2, 0.4]], dtype=torch.float64))
    assert near[0].tolist() == pytest.approx([0.3, 0.3])


def test_problems_have_half_spaces_of_their_own() -> None:
    low, high = torch.zeros(3, 2, 2, dtype=torch.float64), torch.ones(3, 2, 2, dtype=torch.float64)
    generator = random(3)
    matrix, limits = numbers(generator, 3, 4, 2, 2), torch.rand(3, 4, dtype=torch.float64, generator=generator) + 0.1
    sets, rows = bourn.polytope(low, high, matrix, limits), numbers(generator, 3, 5, 2, 2)
    found = sets.extremes(rows)
    assert repr(sets) == "Polytope(batch=3, shape=(2, 2))"
    for b in range(3):
        own = bourn.polytope(low[b : b + 1], high[b : b + 1], matrix[b], limits[b])
        for part, whole in zip(own.extremes(rows[b : b + 1]), found, strict=True):
            assert torch.allclose(part[0], whole[b], rtol=0, atol=1e-12)
        assert torch.allclose(sets[b : b + 1].lower, own.lower, rtol=0, atol=1e-12)
        assert bool(own.contains(sets.sample(20, random(b))[b]).all())
    flat = sets.reshape((4,))
    assert torch.allclose(flat.extremes(rows.flatten(2))[0], found[0], rtol=0, atol=1e-12)
    assert torch.equal(flat.contains(sets.middle.flatten(1)), torch.ones(3, dtype=torch.bool))
    chosen = sets[torch.tensor([2, 0])].to("cpu")
    assert torch.allclose(chosen.extremes(rows[[2, 0]])[1], found[1][[2, 0]], rtol=0, atol=1e-12)
    shared = bourn.polytope(low, high, matrix[0], limits[0])
    assert shared.matrix.shape == (3, 4, 2, 2)


def test_what_cannot_be_a_polytope_is_refused_in_one_line() -> None:
    low, high = [[0.0, 0.0]], [[1.0, 1.0]]
    bad: list[tuple[object, object, str]] = [
        ([[1.0, math.nan]], [1.0], "NaN"),
        ([[1.0, math.inf]], [1.0], "infinity"),
        ([[1.0, 1.0]], [math.inf], "infinity"),
        ([[1.0, 1.0, 1.0]], [1.0], r"needs \(K, \*shape\)"),
        ([1.0, 1.0], [1.0], "needs"),
        ([[1.0, 1.0]], [1.0, 2.0], "1 half-spaces need"),
        ([["a", "b"]], [1.0], "number"),
    ]
    for matrix, limits, message in bad:
        with pytest.raises(UsageError, match=message) as caught:
            bourn.polytope(low, high, matrix, limits)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="float64"):
        bourn.polytope([[-math.inf] * 2], [[math.inf] * 2], [[Fraction(1, 3) + Fraction(1, 7**40), 1]], [1])
    empty: list[tuple[object, object]] = [
        ([[1.0, 1.0]], [-0.1]),
        ([[1.0, 1.0], [-1.0, -1.0]], [0.5, -0.6]),
        ([[1.0, -1.0], [-2.0, 2.0], [1.0, 1.0], [-1.0, -1.0]], [-0.6, 2.0, 0.5, -0.5]),
        ([[0.0, 0.0]], [-1.0]),
    ]
    for matrix, limits in empty:
        with pytest.raises(EmptyInputSetError, match="empty"):
            bourn.polytope(low, high, matrix, limits)
    corner = bourn.polytope(low, high, [[1.0, 1.0]], [0.0])
    assert bool(corner.contains(torch.zeros(1, 2, dtype=torch.float64)))
    nothing = bourn.polytope(low, high, np.zeros((0, 2)), np.zeros(0))
    assert nothing.upper.tolist() == high


def test_half_spaces_bound_an_endless_box_exactly() -> None:
    ends = [[-math.inf] * 3], [[math.inf] * 3]
    sets = bourn.polytope(*ends, [[1, 1, 1], [-1, 0, 0], [0, -1, 0.5], [1, 0, -3]], [1, 2, 3, 4])
    lower, upper = sets.lower[0].tolist(), sets.upper[0].tolist()
    for j, row in enumerate(torch.eye(3, dtype=torch.float64)):
        assert lower[j] == pytest.approx(by_linear_program(sets, row), rel=1e-12)
        assert upper[j] == pytest.approx(-by_linear_program(sets, -row), rel=1e-12)
    open_ = bourn.polytope(*ends, [[1, 1, 0]], [1])
    assert bool(torch.isinf(open_.interval.magnitude).all())
    low, error = open_.minimise_linear(torch.tensor([[[1.0, 1.0, 0.0]]], dtype=torch.float64))
    assert float(low - error) == -math.inf
    assert bool(open_.contains(open_.sample(9, random(1))[0]).all())


def test_no_point_is_projected_to_none() -> None:
    sets = bourn.polytope([[0, 0]], [[1, 1]], [[1, 1]], [1.5])
    assert sets.project(torch.zeros(0, 2, dtype=torch.float64)).shape == (0, 2)
