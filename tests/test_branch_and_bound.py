"""Branch and bound against exact minima in rational arithmetic: it never refutes what has a counterexample, and it ends."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from bourn.certificates.splits import Leaf, Part, Split, SplitTree, covers, together
from bourn.deadline import NEVER, Deadline, Stop
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, box, linf_ball
from bourn.problem.problem import Problem
from bourn.problem.specification import Conjunction, Row, Specification
from bourn.relaxations.absolute import Absolute
from bourn.relaxations.base import ElementWise
from bourn.relaxations.clip import Clip
from bourn.relaxations.gelu import Gelu
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.relaxations.silu import Silu
from bourn.relaxations.sine import Sine
from bourn.relaxations.softplus import Softplus
from bourn.relaxations.tanh import Tanh
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.branching import BRANCHING_INPUTS, BRANCHING_NEURONS
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.methods import method
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.split_ascent import Climb
from bourn.solvers.subproblems import Outcome, Splitting
from bourn.solvers.value_splitting import ValueSplitting
from bourn.solvers.ways import Way
from networks import Exact, Layers, at_most, convolutional, mlp, random, residual, small_box

KINDS = ("mlp", "residual", "convolution")
HOWS: dict[str, Splitting] = {
    "input": InputSplitting(batch=64),
    "input, other rules": InputSplitting(batch=64, rule="smear", worst_first=0.0),
    "neurons": NeuronSplitting(),
    "values": ValueSplitting(batch=8),
    "neurons, look-ahead": NeuronSplitting(ways=(Way("babsr", ahead=4),)),
    "neurons, newest first": NeuronSplitting(
        ways=(Way("widest", again=Climb(steps=2)),), worst_first=0.0, climb=Climb(steps=1)
    ),
}


class Case:
    """A small network on a box, with its exact values."""

    def __init__(self, kind: str, seed: int, *, clip: bool = False) -> None:
        generator = random(seed)
        acts = [(ReLU(), LeakyReLU(0.1)), (ReLU(),), (LeakyReLU(0.5), ReLU())][seed % 3]
        chosen = (Clip(-1.0, 1.0), LeakyReLU(1.5)) if clip else acts
        shape = (1, 1, 3, 2) if kind == "convolution" else (1, 3)
        layers = Layers(shape, generator, grid=seed % 2 == 0)
        if kind == "mlp":
            self.graph: Graph = mlp(layers, [4, 4, 3], 2, chosen)
        elif kind == "residual":
            self.graph = residual(layers, 3, 2, 2, chosen)
        else:
            self.graph = convolutional(layers, 2, chosen)
        self.box: Box = small_box(self.graph, generator, 2, 9, grid=seed % 2 == 0)
        self.exact = Exact(self.graph, self.box)
        self.row = Row.of({i: Fraction(round(float(c) * 8), 8) for i, c in enumerate(torch.randn(2, generator=generator))}, {0: 1})
        self.least = min(self.value(self.row, x) for x in self.exact.vertices)

    def value(self, row: Row, x: tuple[Fraction, ...]) -> Fraction:
        """A row's exact value."""
        y = self.exact.values(x)[self.graph.output]
        total = row.constant + sum((c * y[i] for i, c in row.outputs), Fraction(0))
        return total + sum((c * x[i] for i, c in row.inputs), Fraction(0))

    def ask(self, how: Splitting, *conjunctions: Conjunction, most: float = 3000) -> Outcome:
        """Split until all is decided; what is accepted is a counterexample exactly."""
        self.problem = Problem(self.graph, self.box, Specification(conjunctions))
        inner = method("crown").prepare(self.graph, self.box).bounds

        def accept(x: Tensor) -> bool:
            point = tuple(Fraction(v) for v in x.flatten().tolist())
            inside = bool(self.box.contains(x[None]).all())
            return inside and any(all(self.value(r, point) <= 0 for r in c.rows) for c in conjunctions)

        return how.run(self.problem, list(range(len(conjunctions))), inner, accept, NEVER, most)


def above(row: Row, threshold: Fraction) -> Conjunction:
    """Counterexamples: the row's value is at most the threshold."""
    return Conjunction((Row(row.outputs, row.inputs, row.constant - threshold),))


def check_tree(case: Case, tree: SplitTree) -> None:
    """At random points the weighted rows are at least what the leaf says that the points belong to."""
    points = case.box.sample(64, random(1))[0]
    values = case.graph.values(points)
    for i in range(len(points)):
        for leaf in tree.leaves:
            own = [(float(values[case.graph.number(s.node)][i].flatten()[s.entry]), s) for s in leaf.splits]
            if all(v <= s.value if s.part is Part.BELOW else v >= s.value for v, s in own):
                x = tuple(Fraction(v) for v in points[i].flatten().tolist())
                row = tree.conjunction.weighted(leaf.weights)
                assert at_most(leaf.bound, case.value(row, x) + Fraction(1, 10**12))


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 40), marks=pytest.mark.slow)], ids=["few", "many"])
def test_exact_minima(how: str, kind: str, seeds: range) -> None:
    """Just below the exact minimum all is refuted; at it and just above, where there is a counterexample, nothing is."""
    decided = 0
    for seed in seeds:
        case = Case(kind, seed)
        near = Fraction(1, 1000) * max(Fraction(1), abs(case.least))
        outcome = case.ask(HOWS[how], above(case.row, case.least - near))
        assert not outcome.found
        for tree in outcome.refuted.values():
            check_tree(case, tree)
        decided += bool(outcome.refuted)
        for threshold in (case.least, case.least + near):
            outcome = case.ask(HOWS[how], above(case.row, threshold), most=60)
            assert not outcome.refuted, (seed, float(threshold))
            bounds = list(outcome.bounds.values())
            assert outcome.found or (len(bounds) == 1 and at_most(bounds[0], case.least - threshold))
    assert decided >= 0.95 * len(seeds)


@pytest.mark.parametrize("kind", KINDS)
def test_other_nonlinearities_by_input(kind: str) -> None:
    """Clip and concave functions: split on the input; neurons of these are refused, not mistaken."""
    for seed in range(2):
        case = Case(kind, seed, clip=True)
        near = Fraction(1, 100) * max(Fraction(1), abs(case.least))
        assert case.ask(InputSplitting(), above(case.row, case.least - near)).refuted
        assert not case.ask(InputSplitting(), above(case.row, case.least), most=60).refuted
        problem, inner = case.problem, method("ibp").prepare(case.graph, case.box).bounds
        assert not BranchAndBound().run(problem, [0], inner, lambda x: False, Deadline(1.0)).refuted


SMOOTH: dict[str, tuple[ElementWise, ...]] = {
    "sigmoid, tanh": (Sigmoid(), Tanh()),
    "clip, leaky ReLU": (Clip(-1.0, 1.0), LeakyReLU(1.5)),
    "sine, GELU": (Sine(), Gelu()),
}


@pytest.mark.parametrize("functions", SMOOTH)
def test_values_of_any_function_are_split(functions: str) -> None:
    """A little below the least value met all is refuted, by leaves that cover the box; what is met is never refuted."""
    for seed, worst_first in enumerate((0.0, 0.5)):
        layers = Layers((1, 3), random(seed), grid=False)
        graph = residual(layers, 3, 2, 2, SMOOTH[functions]) if seed else mlp(layers, [4, 4], 2, SMOOTH[functions])
        box_ = linf_ball(torch.zeros(1, 1, 3), 0.6)
        points = box_.sample(20_000, random(7))[0]
        row = Row.of({0: Fraction(1), 1: Fraction(-1, 2)})
        values = graph.evaluate(points).flatten(1) @ torch.tensor([1.0, -0.5], dtype=torch.float64)
        least, spread = Fraction(float(values.min())), Fraction(float(values.max() - values.min()))
        for threshold, holds in ((least - spread / 5, True), (least, False)):
            problem = Problem(graph, box_, Specification((above(row, threshold),)))
            inner = method("crown").prepare(graph, box_).bounds
            outcome = ValueSplitting(worst_first=worst_first).run(problem, [0], inner, lambda x: False, NEVER, 400 if holds else 20)
            assert bool(outcome.refuted) is holds, (seed, outcome)
            assert holds or at_most(outcome.bounds[0], Fraction(1, 10**9))
            for tree in outcome.refuted.values():
                assert covers([leaf.splits for leaf in tree.leaves])


@pytest.mark.parametrize("how", HOWS)
def test_planted_counterexamples_of_several_rows(how: str) -> None:
    """Two rows that hold together at one vertex of the exact subdivision only, or about there: never refuted."""
    for seed in range(3):
        case = Case(KINDS[seed % 3], seed)
        vertices = sorted(case.exact.vertices)
        x = vertices[seed % len(vertices)]
        second = Row.of({0: 1, 1: -1}, {1: Fraction(1, 2)})
        rows = tuple(Row(r.outputs, r.inputs, r.constant - case.value(r, x)) for r in (case.row, second))
        no_hope = above(case.row, case.least - 1)
        outcome = case.ask(HOWS[how], Conjunction(rows), no_hope, most=60)
        assert 0 not in outcome.refuted


@pytest.mark.parametrize("how", HOWS)
def test_rows_that_only_their_sum_refutes(how: str) -> None:
    """x >= 1/4 + z and x <= -1/4 - z for a neuron's value z >= 0: each holds somewhere, both nowhere."""
    for seed in range(2):
        case = Case("mlp", seed)
        first = Row(case.row.outputs, case.row.inputs, case.row.constant)
        opposite = Row(tuple((i, -c) for i, c in first.outputs), tuple((i, -c) for i, c in first.inputs), Fraction(1, 10))
        middle = (case.least + max(case.value(first, x) for x in case.exact.vertices)) / 2
        rows = (Row(first.outputs, first.inputs, -middle), Row(opposite.outputs, opposite.inputs, middle + Fraction(1, 10)))
        assert case.ask(HOWS[how], Conjunction(rows)).refuted


@pytest.mark.parametrize("how", HOWS)
def test_stopped_at_any_time_the_bound_is_valid(how: str) -> None:
    for seed in range(1):
        case = Case("mlp", seed)
        for most in (1, 5):
            outcome = case.ask(HOWS[how], above(case.row, case.least - Fraction(1, 10**5)), most=most)
            assert outcome.refuted or (outcome.left and outcome.stopped)
            assert all(at_most(b, Fraction(1, 10**5)) for b in outcome.bounds.values())
        inner = method("ibp").prepare(case.graph, case.box).bounds
        late = HOWS[how].run(case.problem, [0], inner, lambda x: False, Deadline(1e-9))
        assert late.refuted or (late.left and all(at_most(b, Fraction(1, 10**5)) for b in late.bounds.values()))


@pytest.mark.parametrize("how", HOWS)
def test_out_of_its_memory_a_tree_stops_and_keeps_its_bound(how: str) -> None:
    """At every budget: it says so, and the bound holds; with enough of it, all is refuted."""
    case = Case("mlp", 1)
    asked = above(case.row, case.least - Fraction(1, 10**4))
    whole = case.ask(HOWS[how], asked)
    assert whole.refuted
    stopped = 0
    for memory in (1, 3000, 10_000):
        outcome = case.ask(replace(HOWS[how], memory=memory), asked)  # type: ignore[type-var]
        if outcome.refuted:
            continue
        stopped += 1
        assert outcome.stopped.startswith("out of its memory budget of ")
        assert 0 < outcome.left <= outcome.subproblems <= whole.subproblems
        assert all(at_most(b, Fraction(1, 10**4)) for b in outcome.bounds.values())
    assert stopped or whole.subproblems == 1


class _Later(Stop):
    """Asks to stop when it was looked at so many times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def reason(self) -> str:  # type: ignore[override]
        self.looks -= 1
        return "interrupted" if self.looks < 0 else ""


@pytest.mark.parametrize("how", HOWS)
def test_interrupted_at_any_moment_the_bound_is_valid(how: str) -> None:
    case = Case("mlp", 1)
    near = Fraction(1, 10**4)
    case.problem = Problem(case.graph, case.box, Specification((above(case.row, case.least - near),)))
    inner = method("crown").prepare(case.graph, case.box).bounds
    for looks in (0, 1, 3, 10, 30):
        deadline = Deadline(stop=_Later(looks))
        outcome = HOWS[how].run(case.problem, [0], inner, lambda x: False, deadline)
        assert outcome.refuted or (outcome.left and outcome.stopped == "interrupted")
        assert all(at_most(b, near) for b in outcome.bounds.values())


@pytest.mark.parametrize("rule", [*BRANCHING_INPUTS, *BRANCHING_NEURONS])
def test_every_rule(rule: str) -> None:
    how = InputSplitting(rule=rule) if rule in BRANCHING_INPUTS else NeuronSplitting(ways=(Way(rule),))
    case = Case("mlp", 1)
    assert case.ask(how, above(case.row, case.least - Fraction(1, 100))).refuted


def test_bounds_that_overflow_refute_nothing() -> None:
    case = Case("mlp", 3)
    inner = method("ibp").prepare(case.graph, case.box).bounds
    huge = Row.of({0: 10**300, 1: -(10**300)}, constant=0)
    problem = Problem(case.graph, case.box, Specification((Conjunction((huge,)),)))
    for how in (InputSplitting(), NeuronSplitting()):
        for k, tree in how.run(problem, [0], inner, lambda x: False, NEVER, 50).refuted.items():
            assert k == 0
            assert math.isfinite(tree.bound)
            assert all(case.value(huge, x) > 0 for x in case.exact.vertices)


def test_a_tree_must_cover_everything() -> None:
    below, over = Split("z", 3, 0.0, Part.BELOW), Split("z", 3, 0.0, Part.ABOVE)
    other = [Split("x", 0, 0.5, part) for part in Part]
    assert covers([()])
    assert covers([(below,), (over,)])
    assert covers([(below,), (over, other[0]), (over, other[1])])
    assert not covers([])
    assert not covers([(below,)])
    assert not covers([(below,), (below,), (over,)])
    assert not covers([(below,), (over, other[0])])
    assert not covers([(below,), (other[1],)])
    assert not covers([(), (below,), (over,)])
    assert not covers([(below,), (Split("z", 3, 0.5, Part.ABOVE),)])
    conjunction = Conjunction((Row.of({0: 1}),))
    assert SplitTree(conjunction, (Leaf((), (1.0,), 2.0, "test"),)).bound == 2.0
    for bound, weights in ((0.0, (1.0,)), (math.inf, (1.0,)), (math.nan, (1.0,)), (1.0, (0.0,)), (1.0, (-1.0,)), (1.0, ())):
        with pytest.raises(ValueError, match="does not refute"):
            SplitTree(conjunction, (Leaf((), weights, bound, "test"),))
    with pytest.raises(ValueError, match="cover"):
        SplitTree(conjunction, (Leaf((below,), (1.0,), 2.0, "test"),))


def test_trees_go_together_where_their_splits_agree() -> None:
    """As far as both are split: a leaf of one may be larger than those of the other; another place anywhere keeps them apart."""
    conjunction = Conjunction((Row.of({0: 1}),))

    def tree(*paths: str) -> SplitTree:
        sides = {"-": Part.BELOW, "+": Part.ABOVE}
        leaves = [tuple(Split("z", int(own[0]), 0.0, sides[own[1]]) for own in path.split()) for path in paths]
        return SplitTree(conjunction, tuple(Leaf(path, (1.0,), 1.0, "test") for path in leaves))

    small, deep = tree("1-", "1+"), tree("1-", "1+ 2-", "1+ 2+")
    other, deeper = tree("3-", "3+"), tree("1-", "1+ 4-", "1+ 4+")
    assert together([small, deep, tree("")]) == [[small, deep, tree("")]]
    assert together([small, other, deep, deeper]) == [[small, deep], [other], [deeper]]


def test_a_tree_that_would_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its patience it stops where the forecast is long, with a valid bound, and goes on where the end is near."""
    case = Case("mlp", 0)
    question = above(case.row, case.least - Fraction(1, 1000))
    conjunctions = Specification((question,))
    problem = Problem(case.graph, case.box, conjunctions)
    inner = method("ibp").prepare(case.graph, case.box).bounds
    for seconds, ends in ((math.inf, False), (1e-9, True)):
        monkeypatch.setattr("bourn.solvers.neuron_splitting.forecast", lambda records, open_, s=seconds: s)
        outcome = NeuronSplitting(patience=1e-9).run(problem, [0], inner, lambda x: False, Deadline(60.0))
        assert bool(outcome.refuted) is ends
        if not ends:
            assert outcome.stopped == "forecast to take too long"
            assert at_most(outcome.bounds[0], Fraction(1, 1000))


@pytest.mark.parametrize(("seed", "functions"), [(68, (ReLU(), Silu())), (102, (Absolute(), Softplus()))])
def test_parts_that_turn_out_empty(seed: int, functions: tuple[ElementWise, ...]) -> None:
    """Splits may leave a part without inputs, whose bounds then cross in the middle of the network: it is closed, nothing fails."""
    generator = random(seed)
    torch.randperm(9, generator=generator)
    graph = residual(Layers((1, 3), generator), 3, 2, 2, functions)
    center, radius = (make(1, 1, 3, dtype=torch.float64, generator=generator) for make in (torch.randn, torch.rand))
    points = box(center - radius, center + radius).sample(500, generator)[0]
    c = torch.randn(2, dtype=torch.float64, generator=generator)
    least = float((graph.evaluate(points).flatten(1) @ c).min())
    row = Row.of(dict(enumerate(c.tolist())), {}, -least)
    problem = Problem(graph, box(center - radius, center + radius), Specification((Conjunction((row,)),)))
    inner = method("crown").prepare(graph, problem.box).bounds
    outcome = ValueSplitting().run(problem, [0], inner, lambda x: False, Deadline(20.0), 150)
    assert not outcome.refuted
    assert not outcome.found


@pytest.mark.parametrize("how", [InputSplitting(), NeuronSplitting()], ids=["inputs", "neurons"])
def test_what_is_affine_is_decided_too(how: Splitting) -> None:
    """Without a neuron, and without an unstable one, there is nothing to split, and nothing that fails."""
    for widths in ([], [4]):
        graph = mlp(Layers((1, 3), random(5)), widths, 2, (ReLU(),))
        center = torch.full((1, 1, 3), 4.0, dtype=torch.float64)
        sets = box(center - 1e-3, center + 1e-3)
        value = Fraction(float(graph.evaluate(center).flatten()[0]))
        problem = Problem(graph, sets, Specification.of([Row.of({0: 1}, {}, 1 - value)]))
        inner = dict(method("crown").prepare(graph, sets).bounds)
        outcome = BranchAndBound(how).run(problem, [0], inner, lambda x: False, Deadline(5.0))
        assert set(outcome.refuted) == {0}
