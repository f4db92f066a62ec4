"""Forecasts of a tree's size against trees counted out, and the choice among ways to split."""

from __future__ import annotations

import math

import pytest
import torch

from bourn.solvers.ways import NEAR, PROBE, Record, Way, choose, log_size


def counted(lacks: float, less: float, more: float) -> int:
    """Leaves of the tree whose splits take away what they are said to."""
    known: dict[int, int] = {}

    def leaves(left: int) -> int:
        if left <= 0:
            return 1
        if left not in known:
            known[left] = leaves(left - round(1000 * less)) + leaves(left - round(1000 * more))
        return known[left]

    return leaves(round(1000 * lacks))


@pytest.mark.parametrize(("less", "more"), [(1.0, 1.0), (0.2, 0.9), (0.1, 0.1), (0.05, 0.4), (0.25, 0.5)])
def test_the_size_is_that_of_a_tree_counted_out(less: float, more: float) -> None:
    """How much the tree grows when what is lacking doubles, and doubles again."""
    grows = math.log(counted(4.0, less, more)) - math.log(counted(2.0, less, more))
    assert log_size(less, more) == pytest.approx(grows / 2, rel=0.1)


def test_sizes_of_splits_that_gain_nothing_are_finite_and_fall_with_the_gain() -> None:
    sizes = [log_size(less, more) for less, more in [(0, 0), (0, 0.1), (0, 1), (0.01, 1), (0.5, 1), (1, 1)]]
    assert all(math.isfinite(size) for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(math.log(2))


def records(*shown: tuple[float, float] | None) -> list[Record]:
    """Ways with seconds per split and the gain of both halves; None: not tried yet."""
    found = []
    for number, own in enumerate(shown):
        record = Record(Way("babsr"))
        if own is not None:
            record.add(number, own[0], torch.tensor([own[1]]), torch.tensor([own[1]]))
        found.append(record)
    return found


def test_what_was_not_tried_comes_next_for_half_of_the_forecast() -> None:
    own = records((1.0, 0.5), None)
    record, seconds = choose(own, 1, 10, 1e6)
    assert record is own[1]
    assert seconds == pytest.approx(10 * math.exp(own[0].forecast) / 2)
    assert choose(records(None, None), 0, 1, 60.0)[1] == 60.0


def test_near_the_end_nothing_is_tried() -> None:
    own = records((NEAR / 1e3, 1.0), None)
    assert choose(own, 1, 1, 1e6)[0] is own[0]


def test_the_better_forecast_wins_and_the_other_is_tried_now_and_then() -> None:
    """A split that costs a thousand times as much pays where ten cheap ones do not gain what it does, and not otherwise."""
    assert choose(own := records((0.001, 0.04), (1.0, 0.9)), 2, 10, 1e6)[0] is own[1]
    assert choose(own := records((0.001, 0.2), (1.0, 0.9)), 2, 10, 1e6)[0] is own[0]
    own = records((0.1, 0.1), (1.0, 0.1))
    assert choose(own, 2, 10, 1e6)[0] is own[0]
    assert choose(own, 1 + PROBE, 10, 1e6)[0] is own[1]
    own = records((0.001, 0.5), (1.0, 0.01))  # far worse: never again
    assert choose(own, 1 + PROBE, 10, 1e6)[0] is own[0]
