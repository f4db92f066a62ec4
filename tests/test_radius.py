"""Radius search: what it states holds, agrees with bisection, and is said rightly by the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bourn
from bourn.attacks.projected_gradient import ProjectedGradient
from bourn.cli.main import run
from bourn.cli.radius import shown
from bourn.crossing import Crossing
from bourn.deadline import Deadline
from bourn.errors import UsageError
from bourn.interval import Interval
from bourn.network.affine import Dense
from bourn.network.graph import Graph, GraphBuilder
from bourn.problem.balls import lp_ball
from bourn.problem.input_set import linf_ball
from bourn.problem.problem import label_margins
from bourn.radii import UNCLIPPED_CAP, search
from bourn.solvers.methods import method
from quick import hasty
from test_solvers import network

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NET, IMAGES = str(EXAMPLES / "digits_mlp.onnx"), str(EXAMPLES / "digits_images.npz")
PRECISION = 1e-3


def points(count: int, seed: int = 0, size: int = 4) -> Tensor:
    return torch.rand(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def predicted(graph: Graph, x: Tensor) -> Tensor:
    return graph.evaluate(x.reshape(-1, *graph.input_shape)).flatten(1).argmax(1)


def least(graph: Graph, x: Tensor, labels: Tensor, name: str, radii: Tensor, clip: tuple[float, float] | None = None) -> Tensor:
    """The least bound of any margin at radii (B,), one image at a time."""
    found = []
    for b in range(len(x)):
        ball = linf_ball(x[b : b + 1].reshape(1, *graph.input_shape), float(radii[b]), clip=clip)
        wanted = label_margins(labels[b : b + 1], math.prod(graph.output_shape))
        found.append(method(name).prepare(graph, ball).minimise(wanted).bound.amin(1))
    return torch.cat(found)


def bisected(graph: Graph, x: Tensor, labels: Tensor, name: str) -> Tensor:
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 4.0, dtype=torch.float64)
    for _ in range(16):
        middle = (low + high) / 2
        fine = least(graph, x, labels, name, middle) > 0
        low, high = torch.where(fine, middle, low), torch.where(fine, high, middle)
    return low


# --- brackets -------------------------------------------------------------------------------------------

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "a line": lambda r: 3 - 70 * r,
    "bent": lambda r: 3 - 20 * r - 200 * r**2 - 3e4 * r**3,
    "exponential": lambda r: 2 - torch.expm1(300 * r),
    "doubly exponential": lambda r: 2 - torch.expm1(torch.expm1(200 * r)),
    "no bound beyond": lambda r: torch.where(r > 0.02, -math.inf, 3 - 70 * r),
    "a step": lambda r: torch.where(r < 0.0312345, 1.0, -1.0).to(torch.float64),
    "convex": lambda r: 3 * torch.exp(-100 * r) - 0.5,
    "wavy": lambda r: 0.3 + torch.sin(400 * r) - 10 * r,
}


def closed(f: Callable[[Tensor], Tensor], guesses: list[float], most: int, cap: float = 10.0) -> Crossing:
    """The search for one function from several guesses side by side; every radius lies within its bracket."""
    zero = torch.zeros(len(guesses), dtype=torch.float64)
    crossing = Crossing(f(zero), torch.tensor(guesses, dtype=torch.float64), zero + cap, PRECISION)
    for _ in range(most):
        if not bool(crossing.open.any()):
            break
        which = torch.nonzero(crossing.open)[:, 0]
        radii = crossing.propose()[which]
        assert bool(((radii > crossing.low[which]) & (radii < crossing.high[which]) & (radii <= cap)).all())
        crossing.tell(which, radii, f(radii))
    assert not bool(crossing.open.any())
    return crossing


@pytest.mark.parametrize("name", SHAPES)
def test_a_bracket_closes_on_any_shape(name: str) -> None:
    """Whatever the shape: the lower end was above 0, the upper one was not, and they are near each other."""
    f = SHAPES[name]
    found = closed(f, [1e-4, 0.001, 0.02, 0.5, 10.0], 40)
    assert bool((f(found.low) > 0).all())
    assert bool((f(found.high) <= 0).all())
    assert bool((found.high <= found.low * (1 + PRECISION)).all())


def test_smooth_shapes_take_few_evaluations() -> None:
    assert int(closed(SHAPES["a line"], [0.001, 0.02, 0.5], 9).evaluations.max()) <= 5
    for name in ("bent", "exponential"):
        assert int(closed(SHAPES[name], [0.001, 0.02, 0.5], 12).evaluations.max()) <= 10


def test_a_good_guess_with_its_slope_takes_two() -> None:
    one = torch.ones(1, dtype=torch.float64)
    crossing = Crossing(3 * one, 3 / 70 * (1 + PRECISION / 2) * one, one, PRECISION, -70 * one)
    while bool(crossing.open):
        radius = crossing.propose()
        crossing.tell(torch.tensor([0]), radius, SHAPES["a line"](radius))
    assert int(crossing.evaluations) == 2


def test_what_never_falls_ends_at_the_cap_and_what_falls_at_once_at_zero() -> None:
    ends = closed(torch.ones_like, [0.001, 10.0, math.inf], 20)
    assert bool((ends.low == 10.0).all() & ends.high.isinf().all())
    falls = closed(lambda r: torch.where(r > 0, -1.0, 1.0).to(torch.float64), [0.001, 0.5], 40)
    assert bool((falls.low == 0).all() & (falls.high < 1e-9).all())
    nothing = Crossing(torch.zeros(2, dtype=torch.float64), torch.ones(2), torch.ones(2), PRECISION)
    assert not bool(nothing.open.any())
    with pytest.raises(UsageError, match="precision"):
        Crossing(torch.ones(1), torch.ones(1), torch.ones(1), 0.0)


def test_each_center_may_have_a_radius_of_its_own() -> None:
    x, radii = points(3), torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    together = linf_ball(x, radii, clip=(0, 1))
    for b in range(3):
        alone = linf_ball(x[b : b + 1], float(radii[b]), clip=(0, 1))
        assert torch.equal(together.lower[b], alone.lower[0])
        assert torch.equal(together.upper[b], alone.upper[0])
    with pytest.raises(UsageError, match="one number each"):
        linf_ball(x, radii[:2])
    with pytest.raises(UsageError, match="radius"):
        linf_ball(x, torch.tensor([0.0, math.nan, 1.0]))


# --- certified radii ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ibp", "crown", "fast-lin", "lp-all", "lp-last"])
def test_certified_radii_agree_with_bisection(name: str) -> None:
    """Both ends are what they are said to be, and the radius is bisection's."""
    agree, count = 0, 2 if name.startswith("lp") else 5
    for seed in range(count):
        graph = network(seed, (3, 4, 4, 3))
        x = points(1, seed, 3)
        labels = predicted(graph, x)
        found = search(graph, x, labels, name, clip=None)
        assert bool(found.finished.all())
        assert bool((least(graph, x, labels, name, found.radius) > 0).all())
        assert bool((least(graph, x, labels, name, found.failed) <= 0).all())
        assert bool((found.failed <= found.radius * (1 + PRECISION)).all())
        agree += int(((found.radius - bisected(graph, x, labels, name)).abs() <= PRECISION * found.failed + 1e-4).sum())
    # Bounds that are not monotone may cross 0 more than once.
    assert agree >= count - (not found.monotone)


def test_no_method_certifies_further_than_the_barrier_nor_the_barrier_than_the_attack() -> None:
    quick = ProjectedGradient(steps=20, restarts=2)
    for seed in range(3):
        graph = network(seed, (4, 6, 6, 3))
        names = ["ibp", "fast-lin", "crown", "lp-last", "lp-all"]
        chosen = [*map(method, names), hasty(method("alpha-crown-all"))]
        found = bourn.radius(graph, points(1, seed), methods=chosen, clip=None, attack=quick)
        barrier = next(c for c in found.certified if c.method.name == "lp-all")
        for c in found.certified:
            assert bool((c.radius <= barrier.radius * (1 + PRECISION)).all()), (seed, c.method.name)
        for b, n in enumerate(found.attacked):
            assert n.counterexample is not None
            assert barrier.radius[b] < n.radius


def test_images_side_by_side_are_as_one_by_one() -> None:
    graph, x = network(3), points(3)
    labels = predicted(graph, x)
    for name in ("ibp", "crown"):
        together = search(graph, x, labels, name)
        for b in range(3):
            alone = search(graph, x[b : b + 1], labels[b : b + 1], name)
            torch.testing.assert_close(alone.radius[0], together.radius[b], rtol=1e-9, atol=0.0)
            assert alone.evaluations[0] == together.evaluations[b]


@pytest.mark.parametrize("norm", [1, 2])
def test_other_norms_hold_what_they_say(norm: int) -> None:
    graph, x = network(4), points(2)
    labels = predicted(graph, x)
    found = bourn.radius(graph, x, methods=["crown"], norm=norm, attack=ProjectedGradient(steps=20, restarts=2))
    (crown,) = found.certified
    for b in range(2):
        wanted = label_margins(labels[b : b + 1], 3)
        for radius, certified in ((crown.radius[b], True), (crown.failed[b], False)):
            if math.isinf(radius):
                continue
            ball = lp_ball(x[b].reshape(1, *graph.input_shape), float(radius), norm=norm, clip=(0, 1))
            assert bool((method("crown").prepare(graph, ball).minimise(wanted).bound > 0).all()) == certified
        assert crown.radius[b] < found.attacked[b].radius


def constant_network() -> Graph:
    builder = GraphBuilder((1, 4))
    weight, bias = torch.zeros(3, 4, dtype=torch.float64), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    return builder.build(builder.add(Dense(in_shapes=((1, 4),), out_shape=(1, 3), weight=weight, bias=bias), 0))


def test_a_constant_network_is_certified_up_to_the_cap() -> None:
    x = points(2)
    for clip, cap in (((0.0, 1.0), None), (None, UNCLIPPED_CAP), (None, 7.0)):
        for name in ("crown", "lp-all"):
            found = search(constant_network(), x, torch.zeros(2, dtype=torch.int64), name, clip=clip, cap=cap)
            reach = torch.maximum(x, 1 - x).amax(1) * (1 + 1e-9) if cap is None else torch.full((2,), cap, dtype=torch.float64)
            torch.testing.assert_close(found.radius, reach)
            assert bool(found.failed.isinf().all() & found.finished.all())
    nothing = bourn.radius(constant_network(), x, methods=[]).attacked
    assert all(n.counterexample is None and math.isinf(n.radius) for n in nothing)


def test_a_wrong_label_has_no_radius_and_is_its_own_counterexample() -> None:
    graph, x = network(3), points(3)
    wrong = (predicted(graph, x) + 1) % 3
    found = bourn.radius(graph, x, labels=wrong, methods=["ibp", "lp-all"])
    assert all(bool((c.radius == 0).all() & c.finished.all()) for c in found.certified)
    assert [n.radius for n in found.attacked] == [0.0, 0.0, 0.0]


def test_no_images_have_no_radii() -> None:
    found = bourn.radius(network(3), torch.zeros(0, 4), methods=["crown", "lp-all"])
    assert all(len(c.radius) == 0 for c in found.certified)
    assert found.attacked == ()


def test_out_of_time_nothing_is_claimed() -> None:
    graph, x = network(3), points(2)
    found = search(graph, x, predicted(graph, x), "lp-all", deadline=Deadline(1e-6))
    assert not bool(found.finished.any())
    assert bool((found.radius == 0).all() & found.failed.isinf().all())
    late = bourn.radius(graph, x, methods=["crown"], timeout=1e-6)
    assert not any(n.finished or n.counterexample for n in late.attacked)


def test_a_bound_cut_short_by_the_deadline_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that ends after the deadline is not used: nothing is said to have failed because time was short."""
    left = iter([1.0, 1.0])
    monkeypatch.setattr(Deadline, "left", property(lambda self: next(left, -1.0)))
    graph, x = network(3), points(1)
    found = search(graph, x, predicted(graph, x), "ibp", deadline=Deadline(100))
    assert not bool(found.finished.any())
    assert bool(found.failed.isinf().all())


def test_bounds_of_a_larger_ball_are_handed_to_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[int, Interval]] = []
    right = bourn.solvers.simplex.Simplex.prepare

    def watched(self: object, graph: Graph, box: object, **others: object) -> object:
        given.append(others["begin"])  # type: ignore[arg-type]
        return right(self, graph, box, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(bourn.solvers.simplex.Simplex, "prepare", watched)
    graph, x = network(5), points(1)
    search(graph, x, predicted(graph, x), "lp-all", clip=None)
    assert given[0] is None
    assert any(begin is not None for begin in given[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"images": torch.full((1, 4), math.nan)}, "NaN"),
        ({"images": torch.full((1, 4), math.inf), "clip": None}, "not finite"),
        ({"images": torch.full((1, 4), 2.0)}, "clip range"),
        ({"images": torch.zeros(1, 5)}, "4 inputs"),
        ({"labels": 3}, "no class"),
        ({"norm": 3.0}, "norm"),
        ({"precision": 0.0}, "precision"),
        ({"cap": 0.0}, "cap"),
        ({"methods": ["nonsense"]}, "nonsense"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(bourn.BournError, match=said):
        bourn.radius(network(3), **{"images": torch.zeros(1, 4), **arguments})


# --- the attack -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_the_nearest_counterexample_is_one_at_its_distance(norm: float) -> None:
    """Exactly: the distance of the replayed point is at most the radius, and just so."""
    images = np.load(IMAGES)["image"].reshape(10, 64)[2:4]
    found = bourn.radius(NET, images, methods=[], norm=norm, precision=0.01, attack=ProjectedGradient(steps=20, restarts=2))
    for x, n in zip(images.astype(np.float64), found.attacked, strict=True):
        assert n.counterexample is not None
        assert n.counterexample.replayed_in == "onnxruntime"
        assert n.missed < n.radius <= n.missed * 1.01
        moves = [abs(Fraction(a) - Fraction(b)) for a, b in zip(n.counterexample.x.tolist(), x.tolist(), strict=True)]
        size = {1: sum(moves), 2: sum(m * m for m in moves), math.inf: max(moves)}[norm]
        reach = Fraction(n.radius) ** (2 if norm == 2 else 1)
        assert size <= reach <= size * (1 + Fraction(1, 2**50))


# --- the command ----------------------------------------------------------------------------------------


def test_the_command_prints_a_line_an_image(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "nearest.npz"
    arguments = ["radius", NET, "--image", IMAGES, "--index", "0,2-3", "-m", "ibp", "-m", "crown", "--save", str(saved)]
    assert run(arguments) == 0
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert lines[0] == ["image", "label", "ibp", "crown", "attack", "certified/attack"]
    assert [line[0] for line in lines[1:]] == ["0", "2", "3", "mean"]
    for _, label, ibp, crown, attack, share in lines[1:4]:
        assert 0 <= int(label) < 10
        assert 0 < float(ibp) < float(crown) < float(attack)
        assert float(share) == pytest.approx(float(crown) / float(attack), abs=1e-3)
    assert "3 counterexamples written" in printed.err
    with np.load(saved) as data:
        assert data["images"].shape == (3, 64)
        assert (data["outputs"].argmax(1) != [int(line[1]) for line in lines[1:4]]).all()


def test_json_and_the_table_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["radius", NET, "--image", IMAGES, "--index", "1", "-m", "crown", "--no-attack", "--no-clip"]
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run(arguments) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    (image,) = found["images"]
    certified = image["methods"]["crown"]["certified"]
    assert row[:2] == ["1", str(image["label"])]
    assert certified * (1 - 1e-5) <= float(row[2]) <= certified
    assert image["cap"] == UNCLIPPED_CAP
    assert "attack" not in image


def test_radii_are_shown_on_their_safe_side() -> None:
    for radius in (0.012345678, 0.3, 8 / 255, 1000.0, 1.9999999e-7, 0.0):
        below, above = shown(radius, ROUND_FLOOR), shown(radius, ROUND_CEILING)
        assert float(below) <= radius <= float(above)
        assert float(above) - float(below) <= 1.1e-5 * radius
    assert (shown(0.3, ROUND_FLOOR), shown(0.3, ROUND_CEILING), shown(0.0, ROUND_FLOOR)) == ("0.3", "0.3", "0")
    assert (shown(0.0123456789, ROUND_FLOOR), shown(0.0123456712, ROUND_CEILING)) == ("0.0123456", "0.0123457")


def test_out_of_time_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["radius", NET, "--image", IMAGES, "--index", "1", "-m", "crown", "--timeout", "1e-6"]) == 0
    printed = capsys.readouterr()
    assert ">= 0" in printed.out
    assert "out of time" in printed.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--image"),
        (["--image", "missing.npy"], "missing.npy"),
        (["--image", IMAGES, "--index", "10"], "no image 10"),
        (["--image", IMAGES, "--index", "3-1"], "no list of images"),
        (["--image", IMAGES, "--index", "x"], "no list of images"),
        (["--image", IMAGES, "--label", "10"], "label 10"),
        (["--image", IMAGES, "-m", "nonsense"], "nonsense"),
        (["--image", IMAGES, "--clip", "0.5", "1"], "clip range"),
        (["--image", IMAGES, "--clip", "1", "0"], "--clip"),
        (["--image", IMAGES, "--precision", "2"], "precision"),
        (["--image", IMAGES, "--cap", "nan"], "cap"),
        (["--image", IMAGES, "--timeout", "0"], "timeout"),
        (["--image", IMAGES, "--save", "nowhere/x.npz"], "no folder"),
        (["--image", IMAGES, "--save", "x.npz", "--no-attack"], "--save"),
    ],
)
def test_a_wrong_question_is_refused_in_one_line(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["radius", NET, *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.splitlines()[-1]
    assert last.startswith("bourn: ")
    assert said in last
    assert "Traceback" not in printed.err
