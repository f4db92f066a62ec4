"""The map of methods: what it claims of each pair holds, and what is printed and drawn is what it says."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bourn.cli.main import run
from bourn.cli.map import parents
from bourn.cli.map_picture import arrange, depths, draw_map, edges
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, linf_ball
from bourn.program.linear_bounds import Multipliers, back_substitute
from bourn.relaxations.arctan import Arctan
from bourn.relaxations.base import LineRule
from bourn.relaxations.clip import Clip
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.relu import ReLU
from bourn.solvers.back_substitution import BackSubstitution
from bourn.solvers.base import output_rows
from bourn.solvers.cutting_planes import CuttingPlanes
from bourn.solvers.dual_ascent import DualAscent
from bourn.solvers.methods import BARRIER, BEYOND, METHODS, Exactness, Method, View, method
from bourn.solvers.outside import OUTSIDE
from bourn.solvers.simplex import Simplex
from bourn.solvers.zonotope import Zonotope
from networks import random
from test_barrier import OUTPUTS, best_slopes, side_by_side, singly, sums
from test_solvers import network, values

NETWORKS = 120
EQUAL = [(m.name, other) for m in METHODS for other in m.equal_to]
TIGHTER = [(m.name, other) for m in BEYOND for other in m.tighter_than if not m.trusts]
SPECIAL = [(m.name, other) for m in METHODS for other in m.special_case_of]


@cache
def many() -> tuple[Graph, Box]:
    """Small ReLU networks side by side, and a ball: every output of every network is an objective."""
    graph = side_by_side(NETWORKS, (3, 5, 5, OUTPUTS), 7)
    return graph, linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), 0.4)


@cache
def on_its_own(name: str) -> tuple[Mapping[int, Interval], Tensor]:
    """A method's inner bounds and its values, brought to the optimum where it iterates."""
    graph, ball = many()
    prepared = method(name).prepare(graph, ball)
    return prepared.bounds, at_the_optimum(method(name), prepared.bounds)


def at_the_optimum(m: Method, inner: Mapping[int, Interval]) -> Tensor:
    """The values of a method's solver on given inner bounds; of ascent the best of many steps and of the LP's multipliers."""
    graph, ball = many()
    objectives = singly(NETWORKS)
    if not isinstance(m.solver, DualAscent):
        return m.solver.prepare(graph, ball, inner=inner).minimise(objectives).bound[0]
    # What slopes reach, multipliers reach: slopes are a way to write some of them.
    solver = dataclasses.replace(m.solver, steps=1500, decay=0.992, direct=False)
    program, together = solver.prepare(graph, ball, inner=inner).program, sums(NETWORKS)
    climbed = solver.climb(program, output_rows(graph, together), together.constant)
    # The slopes found for the sums, one network's part at a time.
    which = torch.arange(OUTPUTS).repeat(NETWORKS)
    chosen = {v: Multipliers(program.free(v), (c.below[0][:, which],), c.above) for v, c in climbed.items() if c.below}
    found = back_substitute(program, output_rows(graph, objectives), objectives.constant, multipliers=chosen).lower[0]
    return torch.maximum(found, best_slopes(Simplex().prepare(graph, ball, inner=inner), objectives))


# --- the claims are well formed -------------------------------------------------------------------------


def test_every_method_is_below_the_barrier_by_its_claims() -> None:
    """Names exist, equality goes both ways, and special cases lead to the barrier without a circle."""
    known = {m.name: m for m in METHODS}
    assert not known[BARRIER].special_case_of
    for m in METHODS:
        assert {*m.equal_to, *m.special_case_of} <= set(known) - {m.name}
        assert all(set(known[e].equal_to) == {m.name, *m.equal_to} - {e} for e in m.equal_to)
        assert m.papers
        reached = {m.name}
        for _ in METHODS:
            reached |= {p for name in reached for p in parents(known[name])}
            assert m.name == BARRIER or any(parents(known[name]) for name in reached)
        assert BARRIER in reached
    rows = depths(METHODS)
    assert all(rows[a] > rows.get(b, 0) for a, b in edges(METHODS))


def test_names_of_one_method_are_one_method() -> None:
    """CROWN and DeepPoly are the same lines and the same solver, and so are LP-GREEDY and Wong-Kolter."""
    assert method("deeppoly") is method("crown")
    assert method("crown").solver == BackSubstitution(LineRule.AREA)
    assert method("LP-GREEDY") is method("wong_kolter")
    assert method("barrier") is method(BARRIER)
    assert {m.view for m in METHODS} == set(View)


def test_what_lies_beyond_leads_back_to_the_barrier() -> None:
    known = {m.name: m for m in (*METHODS, *BEYOND)}
    for m in BEYOND:
        reached = [m.name]
        while m.tighter_than and reached[-1] != BARRIER:
            reached.append(known[reached[-1]].tighter_than[0])
            assert len(reached) <= len(known)
        assert not m.special_case_of


def test_what_is_outside_is_not_among_the_methods() -> None:
    names = {n for m in METHODS for n in (m.name, m.title.lower(), *m.aliases)}
    for o in OUTSIDE:
        assert o.name.lower() not in names
        assert o.papers
        assert o.command or o.available == "not in bourn yet"


# --- the claims are true --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "other"), EQUAL)
def test_equals_have_one_value(name: str, other: str) -> None:
    torch.testing.assert_close(on_its_own(name)[1], on_its_own(other)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "other"), SPECIAL)
def test_a_special_case_is_nowhere_above(name: str, other: str) -> None:
    """On the special case's inner bounds the other one's solver is nowhere below; and often above, so that this can fail.

    Ascent that reaches the hull's optimum meets the linear program, though: strong duality.
    """
    inner, own = on_its_own(name)
    more = own if method(other).solver == method(name).solver else at_the_optimum(method(other), inner)
    assert bool((own <= more + 1e-6).all())
    if more is own:  # the same solver on better inner bounds
        more = on_its_own(other)[1]
        assert bool((own <= more + 1e-6).all())
    if method(name).exactness is Exactness.LIMIT and method(other).exactness is Exactness.HULL:
        assert bool((own >= more - 1e-5).all())
        return
    better = (own < more - 1e-4).reshape(NETWORKS, OUTPUTS).any(1)
    assert int(better.sum()) > NETWORKS // 10


@cache
def with_planes(name: str) -> Tensor:
    """A method's values of fewer of these networks, with as many planes as it finds."""
    m, count = method(name), 20
    if isinstance(m.solver, CuttingPlanes):
        m = dataclasses.replace(m, solver=dataclasses.replace(m.solver, rounds=100, least=0.0))
    graph = side_by_side(count, (3, 5, 5, OUTPUTS), 7)
    ball = linf_ball(torch.zeros(1, *graph.input_shape, dtype=torch.float64), 0.4)
    return m.prepare(graph, ball).minimise(singly(count)).bound[0].reshape(count, OUTPUTS)


@pytest.mark.parametrize(("name", "other"), TIGHTER)
def test_what_lies_beyond_is_nowhere_below(name: str, other: str) -> None:
    """On its own inner bounds, which are the other's or better; and often above, so that this can fail."""
    less, own = with_planes(other), with_planes(name)
    assert bool((less <= own + 1e-6).all())
    assert int((less < own - 1e-4).any(1).sum()) > len(own) // 10


@pytest.mark.parametrize(
    ("name", "other"), [("ibp", "ai2"), ("crown-ibp", "planet"), ("fast-lin", "lp-last"), ("crown", "alpha-crown")]
)
def test_some_are_ordered_on_their_own_inner_bounds(name: str, other: str) -> None:
    assert bool((on_its_own(name)[1] <= on_its_own(other)[1] + 1e-9).all())


@pytest.mark.parametrize("m", METHODS, ids=lambda m: m.name)
def test_none_is_above_the_barrier(m: Method) -> None:
    barrier = on_its_own(BARRIER)[1]
    assert bool((on_its_own(m.name)[1] <= barrier + 1e-7).all())


@pytest.mark.parametrize(
    ("name", "other"), [("ai2", "deepz"), ("ai2", "crown-ibp"), ("crown-zero", "crown-one"), ("crown", "fast-lin")]
)
def test_methods_without_a_claim_are_not_ordered(name: str, other: str) -> None:
    graphs = [network(seed) for seed in range(NETWORKS)]
    for radius, (a, b) in ((1.0, (name, other)), (0.1, (other, name))):
        found = [bool((values(a, g, r) > values(b, g, r) + 1e-6).any()) for g in graphs for r in (radius, 0.4)]
        assert any(found), f"{a} is nowhere above {b}"


# --- AI2's zonotope and CROWN's slopes ------------------------------------------------------------------


def test_ai2_is_back_substitution_with_the_lines_of_the_join() -> None:
    for seed in range(NETWORKS):
        graph = network(seed)
        ball = linf_ball(torch.zeros(1, 1, 4, dtype=torch.float64), 0.3)
        inner = dict(method("ai2").prepare(graph, ball).bounds)
        lines = BackSubstitution(LineRule.JOIN).prepare(graph, ball, inner=inner)
        for number in graph.pre_activations:
            found = lines.node(number)
            torch.testing.assert_close(found.lower, inner[number].lower, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(found.upper, inner[number].upper, rtol=1e-9, atol=1e-9)


def test_the_join_leaves_an_unstable_relu_its_interval() -> None:
    """Meet and join as the domain defines them, symbol by symbol: the closed form's coefficients are these."""
    for seed in range(NETWORKS):
        generator = random(seed)
        form = torch.randn(5, dtype=torch.float64, generator=generator)
        center = (torch.rand((), dtype=torch.float64, generator=generator) * 2 - 1) * 0.99 * form.abs().sum()
        # What the other symbols leave of one symbol's range, on either side of the kink.
        others = form.abs().sum() - form.abs()
        cut = (-center - others) / form.abs(), (-center + others) / form.abs()
        above, below = cut[0].clamp(min=-1), cut[1].clamp(max=1)  # on the axis sign(form) * eps
        assert bool(((above <= 1) & (below >= -1) & (above <= below)).all())  # together they are [-1, 1] again
        branches = torch.stack([torch.zeros_like(form), form])
        kept = torch.where(branches.prod(0) > 0, branches.abs().amin(0) * form.sign(), 0.0)
        upper, lower = center + form.abs().sum(), center - form.abs().sum()
        z = Interval(lower.reshape(1), upper.reshape(1))
        lines = ReLU().lines(LineRule.JOIN, z)
        assert torch.equal(lines.lower_slopes[0] * form, kept)
        assert (lines.lower_offset.item(), lines.upper_offset.item()) == (0.0, upper.item())


def test_slopes_of_the_rules() -> None:
    """ReLU's lower slopes 0 and 1; of other functions the lower envelope's extremes, and the slope that all pieces share."""
    z = Interval(torch.tensor([-1.0, -2.0, 1.0], dtype=torch.float64), torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64))
    expected = {
        LineRule.LOWER_LEAST: ([0, 0, 1], [0.1, 0.1, 1], [0, 0, 0]),
        LineRule.LOWER_GREATEST: ([1, 1, 1], [1, 1, 1], [0.5, 1, 0]),
        LineRule.JOIN: ([0, 0, 1], [0.1, 0.1, 1], [0, 0, 0]),
    }
    for rule, slopes in expected.items():
        for operation, wanted in zip((ReLU(), LeakyReLU(0.1), Clip(0.0, 1.0)), slopes, strict=True):
            torch.testing.assert_close(operation.lines(rule, z).lower_slopes[0], torch.tensor(wanted, dtype=torch.float64))
    steepening = [Arctan().lines(r, z).lower_slopes[0] for r in (LineRule.LOWER_LEAST, LineRule.AREA, LineRule.LOWER_GREATEST)]
    assert bool((steepening[0] <= steepening[1]).all() & (steepening[1] <= steepening[2]).all())
    assert bool((steepening[0] < steepening[2]).any())
    assert Arctan().lines(LineRule.JOIN, z).parallel
    with pytest.raises(ValueError, match="parallel"):
        Zonotope(LineRule.AREA)


# --- what is printed and drawn --------------------------------------------------------------------------


def out(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that succeeds prints on stdout."""
    assert run(arguments) == 0
    return str(capsys.readouterr().out)


def test_the_map_names_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    text = " ".join(out(["methods", "--map"], capsys).split())
    for m in METHODS:
        for said in (m.name, m.title, m.source, m.exactness.value):
            assert said in text, said
    for o in OUTSIDE:
        assert o.name in text
    assert text.count("not in bourn yet") == sum(not o.command for o in OUTSIDE)
    assert "PRIMAL" in text
    assert "DUAL" in text
    assert "the barrier: no method of the class is above its value" in text


def test_the_table_is_printed_without_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    text = out(["methods"], capsys)
    assert all(m.name in text and m.solved_by in text for m in METHODS)
    assert "not in bourn yet" not in text


def test_json_is_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(out(["methods", "--map", "--json"], capsys))
    assert found["barrier"] == BARRIER
    assert [(m["name"], other) for m in found["methods"] for other in m["special_case_of"]] == SPECIAL
    assert [(m["name"], other) for m in found["methods"] for other in m["equal_to"]] == EQUAL
    for entry, m in zip(found["methods"], METHODS, strict=True):
        assert (entry["view"], entry["relaxation"], entry["inner_bounds"]) == (m.view.value, m.relaxation, m.inner_bounds)
        assert [p["title"] for p in entry["papers"]] == [p.title for p in m.papers]
        assert entry["sound"]
        assert not entry["complete"]
    assert [o["name"] for o in found["outside"]] == [o.name for o in OUTSIDE]


def test_inner_bounds_are_named_after_the_method_that_they_come_from() -> None:
    assert method("lp-last").inner_bounds == "those of fast-lin"
    assert method("planet").inner_bounds == "those of ibp"
    assert method("alpha-crown").inner_bounds == "those of crown"


def test_pictures_are_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    png, svg = tmp_path / "map.png", tmp_path / "map.svg"
    for path in (png, svg):
        out(["methods", "--map", "--plot", str(path)], capsys)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = "".join(ElementTree.parse(svg).getroot().itertext())
    for m in METHODS:
        assert m.source in text
        assert m.solved_by in text
    for o in OUTSIDE:
        assert o.name in text
        assert o.why in text


@pytest.mark.parametrize(("path", "said"), [("map.jpg", ".png or .svg"), ("no-such-folder/map.png", "no folder")])
def test_a_picture_that_cannot_be_written_is_one_line(path: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--map", "--plot", path]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert said in line


def test_no_arrow_runs_through_a_box_and_a_new_method_finds_its_place(tmp_path: Path) -> None:
    """Of the methods as they are, and with one more of either side."""
    more = [dataclasses.replace(method("alpha-crown-all"), name=f"new-{v.value}", title="New", view=v) for v in View]
    for methods in (METHODS, (*METHODS, *more)):
        found = arrange(methods)
        assert set(found.places) == {m.name for m in methods} - {BARRIER}
        taken = set(found.places.values())
        assert len(taken) == len(found.places)
        for m in methods:
            if m.name != BARRIER:
                assert (found.places[m.name][1] < found.primal) == (m.view is View.PRIMAL)
        for child, parent in edges(methods):
            row, slot = found.places[child]
            top, lane = found.places.get(parent, (0, slot))
            assert not {(r, lane) for r in range(top + 1, row)} & taken, (child, parent)
    draw_map(tmp_path / "more.png", (*METHODS, *more))
    assert (tmp_path / "more.png").stat().st_size > 10_000
