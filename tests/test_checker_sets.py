"""The checker's input sets beyond boxes: what rows are at least on them, and which questions state them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from bourn.problem.balls import lp_ball
from bourn_check import Unreadable
from bourn_check.arithmetic import arithmetic
from bourn_check.readers.vnnlib import read_specification
from bourn_check.sets.ball import Ball

DECLARED = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(assert (<= Y_0 0))"


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("name", ["float", "ball", "rational"])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0), (0.3, 0.95)])
def test_rows_on_balls_are_bounded_as_tightly_as_can_be(norm: int, name: str, clip: tuple[float, float] | None) -> None:
    rng, own = np.random.default_rng(norm), arithmetic(name)
    for size in (1, 7, 30):
        center, radius = rng.uniform(0, 1, size), float(rng.uniform(0.01, 1.5))
        if clip is not None:  # some entries are held away from the center
            radius += float(np.linalg.norm(center - center.clip(*clip), ord=norm))
        box = lp_ball(center[None], radius, norm=norm, clip=clip)
        rows = rng.normal(size=(12, size))
        rows[0], rows[1, 1:], rows[2] = 0.0, 0.0, 1e-12 * rows[2]
        ends = [box.lower.numpy(), box.upper.numpy()]
        ball = Ball(norm, tuple(map(Fraction, center.tolist())), Fraction(radius))
        found = ball.least(own.exact(rows), np.arange(size), ends, own).lower()
        # Points are above it, and the best are near it.
        points = torch.cat([box.sample(200)[0], box.minimiser(torch.from_numpy(rows)[None])[0]])
        values = rows @ points[box.contains(points)].numpy().T
        assert (values >= found[:, None] - 1e-13 * np.abs(rows).sum(1)[:, None]).all()
        low, error = (t[0].numpy() for t in box.minimise_linear(torch.from_numpy(rows)[None]))
        assert (found <= low + error + 1e-15).all()
        assert (found >= low - 1e-13 * np.abs(rows).sum(1) - 1e-200).all()
        # Of a row on some entries alone the others are 0; what these take of the radius, held away from the center, is let be.
        some = np.arange(size)[::2]
        alone = np.zeros_like(rows)
        alone[:, some] = rows[:, some]
        part = ball.least(own.exact(rows[:, some]), some, [end[:, some] for end in ends], own).lower()
        whole = ball.least(own.exact(alone), np.arange(size), ends, own).lower()
        assert (part <= whole + 1e-13).all()
        assert bool((np.abs(center - center.clip(*ends)) > 0).any()) or np.allclose(part, whole, rtol=1e-7, atol=1e-13)


def test_balls_are_read_from_sums_of_squares_and_absolute_values() -> None:
    squares = "(assert (<= (+ (* (- X_0 0.5) (- X_0 0.5)) (* (+ X_1 1) (+ X_1 1))) (* 0.5 0.5)))"
    asked = read_specification(f"{DECLARED}{squares}".encode(), "a question")
    ball = asked.inside
    assert isinstance(ball, Ball)
    assert (ball.norm, ball.center, ball.radius) == (2, (Fraction(1, 2), Fraction(-1)), Fraction(1, 2))
    assert asked.disjuncts[0].nearest([Fraction(9), Fraction(-1)]) == (Fraction(1), Fraction(-1))
    assert ball.contains([Fraction(8, 10), Fraction(-6, 10)])  # 3, 4 and 5
    assert not ball.contains([Fraction(81, 100), Fraction(-6, 10)])
    sizes = f"{DECLARED}(assert (<= X_0 0.6))(assert (<= (+ (abs (- X_0 0.5)) (abs X_1)) 1))"
    asked = read_specification(sizes.encode(), "a question")
    assert isinstance(asked.inside, Ball)
    assert asked.inside.norm == 1
    assert asked.disjuncts[0].end(0) == (Fraction(-1, 2), Fraction(6, 10))


@pytest.mark.parametrize(
    "stated",
    [
        "(<= (+ (abs X_0) (* X_1 X_1)) 1)",
        "(<= (+ (abs X_0)) 1)",
        "(<= (+ (abs X_1) (abs X_0)) 1)",
        "(<= (+ (* X_0 X_0) (* X_1 X_1)) 1)",
        "(<= (+ (abs X_0) (abs X_1)) (- 1))",
        "(<= (+ (abs X_0) (abs X_1)) Y_0)",
        "(<= (+ (* 2 X_0) (* X_1 X_1)) 1)",
        "(or (<= (+ (abs X_0) (abs X_1)) 1) (<= X_0 0))",
        "(<= (+ (*) (abs)) 1)",
        "(<= (+) 1)",
    ],
)
def test_what_is_no_ball_is_refused(stated: str) -> None:
    with pytest.raises(Unreadable):
        read_specification(f"{DECLARED}(assert {stated})".encode(), "a question")


def test_a_second_ball_is_refused() -> None:
    stated = "(assert (<= (+ (abs X_0) (abs X_1)) 1))"
    with pytest.raises(Unreadable):
        read_specification(f"{DECLARED}{stated}{stated}".encode(), "a question")
