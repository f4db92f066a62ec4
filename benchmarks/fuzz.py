"""Random small networks and specifications: verify, every way to split, MILP and enumeration must agree.

Four families, in turn.  *exact*: piecewise linear networks (plain, residual, convolutional; ReLU, leaky ReLU, clip, absolute
value), of which enumeration knows in rational arithmetic whether a conjunction of one to three rows has a counterexample; asked far
from and very near to where the answer changes.  *planted*: networks that violate within one region only, 10^-2 to 10^-5 of the
box's sides wide.  *other*: smooth and other functions, mixed, in plain and residual networks.  *composed*: every operator that is
read as a composition.  The last two are compared with the least of many samples: "unsat" is wrong wherever a sample is a
counterexample.

    python benchmarks/fuzz.py --count 10000

Prints how many questions of each family every way decided.  Exit status 1 if any answer was wrong; a seed by itself is repeated by
``--first SEED --count 1``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bourn.formats.onnx import from_model
from bourn.network.graph import Graph
from bourn.plans import CHEAP_FIRST, Bounding, Plan
from bourn.problem.input_set import Box, box
from bourn.problem.problem import Case, Question
from bourn.problem.specification import Conjunction, Row, Specification
from bourn.relaxations.absolute import Absolute
from bourn.relaxations.base import ElementWise
from bourn.relaxations.clip import Clip
from bourn.relaxations.elu import Elu
from bourn.relaxations.gelu import Gelu
from bourn.relaxations.leaky_relu import LeakyReLU
from bourn.relaxations.relu import ReLU
from bourn.relaxations.sigmoid import Sigmoid
from bourn.relaxations.silu import Silu
from bourn.relaxations.sine import Sine
from bourn.relaxations.softplus import Softplus
from bourn.relaxations.tanh import Tanh
from bourn.solvers.branch_and_bound import BranchAndBound
from bourn.solvers.input_splitting import InputSplitting
from bourn.solvers.methods import MILP, method
from bourn.solvers.neuron_splitting import NeuronSplitting
from bourn.solvers.subproblems import Splitting
from bourn.solvers.value_splitting import ValueSplitting
from bourn.verification import verify
from composed_models import COMPOSED
from networks import Exact, ExactNetwork, Layers, convolutional, fractions, mlp, random, residual, small_box

PIECEWISE: tuple[tuple[ElementWise, ...], ...] = (
    (ReLU(),),
    (ReLU(), LeakyReLU(0.1)),
    (LeakyReLU(0.5), ReLU()),
    (Clip(-1.0, 1.0), ReLU()),
    (Absolute(), ReLU()),
    (ReLU(), Clip(0.0, 6.0)),
)
OTHER: tuple[ElementWise, ...] = (Sigmoid(), Tanh(), Gelu(), Silu(), Softplus(), Sine(), Elu(1.0), ReLU(), Absolute())
SECONDS = 4.0
"""What a way is given for a question: enough for nearly all, and an end for the rest."""


def _splitting(by: Splitting) -> Plan:
    return Plan((Bounding(method("crown")), BranchAndBound(by)))


PLANS = {
    "verify": CHEAP_FIRST,
    "inputs": _splitting(InputSplitting()),
    "neurons": _splitting(NeuronSplitting()),
    "values": _splitting(ValueSplitting()),
    "MILP": Plan((Bounding(method("crown")), Bounding(method(MILP)))),
}


@dataclass(frozen=True)
class Asked:
    """A question about a graph on a box, what the answer must not be, and whether a point is nearly a counterexample."""

    graph: Graph
    box: Box
    conjunctions: tuple[Conjunction, ...]
    wrong: frozenset[str]
    plans: tuple[str, ...] = ("verify",)

    def answers(self) -> dict[str, str]:
        """Every plan's answer; one that is wrong ends in an exclamation mark."""
        flat = box(self.box.lower.flatten(1), self.box.upper.flatten(1))
        inputs, outputs = flat.lower.shape[1], self.graph.nodes[self.graph.output].size
        question = Question((Case(flat, Specification(self.conjunctions)),), inputs, outputs)
        found = {}
        for name in self.plans:
            try:
                status = verify(self.graph, question, timeout=SECONDS, plan=PLANS[name]).status
            except Exception as error:
                found[name] = f"{type(error).__name__}!"
                continue
            found[name] = f"{status}!" if status in self.wrong else status
        return found


def exact(seed: int) -> Asked:
    """A conjunction of one to three rows, decided by enumeration."""
    generator = random(seed)
    chosen = PIECEWISE[seed % len(PIECEWISE)]
    kind = ("mlp", "residual", "convolution")[seed // 7 % 3]
    layers = Layers((1, 1, 3, 2) if kind == "convolution" else (1, 3), generator, grid=seed % 2 == 0)
    if kind == "mlp":
        graph = mlp(layers, [4, 4, 3][: 2 + seed % 2], 2, chosen)
    else:
        graph = residual(layers, 3, 2, 2, chosen) if kind == "residual" else convolutional(layers, 2, chosen)
    question = small_box(graph, generator, 2, 9, grid=seed % 2 == 0)
    known = Exact(graph, question)
    rows = [_row(generator) for _ in range(1 + seed % 3)]
    values = {x: [_value(graph, known, r, x) for r in rows] for x in known.vertices}
    # Each row through some vertex's value; the last one is moved to where the answer changes, or next to it.
    at = list(values)[int(torch.randint(len(values), (), generator=generator))]
    rows = [_moved(r, v) for r, v in zip(rows, values[at], strict=True)]
    values = {x: [a - b for a, b in zip(own, values[at], strict=True)] for x, own in values.items()}
    least: Fraction = min(v for v in (_least(known, s, values) for s in known.simplices) if v is not None)
    near = [Fraction(0), Fraction(1, 10**6), Fraction(1, 1000), Fraction(1, 10)][seed // 3 % 4]
    shift = near * max(Fraction(1), abs(least)) * (-1) ** seed
    rows[-1] = _moved(rows[-1], least + shift)
    wrong = "unsat" if shift >= 0 else "sat"
    # A replay in float64 may meet a row that real arithmetic misses by less than its rounding.
    unsure = abs(shift) < Fraction(1, 10**9)
    plans = ("verify", "inputs", "neurons" if all(isinstance(a, ReLU | LeakyReLU) for a in chosen) else "values", "MILP")
    impossible = frozenset[str]() if unsure and wrong == "sat" else frozenset({wrong})
    return Asked(graph, question, (Conjunction(tuple(rows)),), impossible, plans)


def _row(generator: torch.Generator) -> Row:
    return Row.of({i: Fraction(round(float(c) * 8), 8) for i, c in enumerate(torch.randn(2, generator=generator))}, {0: 1})


def _moved(row: Row, by: Fraction) -> Row:
    return Row(row.outputs, row.inputs, row.constant - by)


def _value(graph: Graph, known: Exact, row: Row, x: tuple[Fraction, ...]) -> Fraction:
    y = known.values(x)[graph.output]
    total = row.constant + sum((c * y[i] for i, c in row.outputs), Fraction(0))
    return total + sum((c * x[i] for i, c in row.inputs), Fraction(0))


def _least(
    known: Exact, simplex: Sequence[tuple[Fraction, ...]], values: dict[tuple[Fraction, ...], list[Fraction]]
) -> Fraction | None:
    """The last row's least value where the others are at most 0, on a simplex on which all are affine: clipped, side by side."""
    polygon = [values[x] for x in simplex]
    for row in range(len(polygon[0]) - 1):
        polygon = _clipped(polygon, row)
    return min((v[-1] for v in polygon), default=None)


def _clipped(polygon: list[list[Fraction]], row: int) -> list[list[Fraction]]:
    kept = []
    for i, here in enumerate(polygon):
        before = polygon[i - 1]
        if (here[row] > 0) != (before[row] > 0):
            share = before[row] / (before[row] - here[row])
            kept.append([a + share * (b - a) for a, b in zip(before, here, strict=True)])
        if here[row] <= 0:
            kept.append(here)
    return kept


def planted(seed: int) -> Asked:
    """y = a network's output kept above 1, less a spike of height 3 around one point: the only counterexamples."""
    generator = random(seed)
    inputs = 1 + seed % 4
    layers = Layers((1, inputs), generator)
    lower = torch.randn(1, inputs, dtype=torch.float64, generator=generator)
    sides = torch.rand(1, inputs, dtype=torch.float64, generator=generator) + 0.5
    peak = lower + sides * torch.rand(1, inputs, dtype=torch.float64, generator=generator)
    width = 10.0 ** -(2 + 3 * float(torch.rand((), generator=generator)))
    return _planted(layers, lower, lower + sides, peak, width, seed)


def _planted(layers: Layers, lower: Tensor, upper: Tensor, peak: Tensor, width: float, seed: int) -> Asked:
    from bourn.network.affine import Dense

    inputs = lower.shape[1]

    def dense(source: int, weight: Tensor, bias: Tensor) -> int:
        shapes = {"in_shapes": ((1, weight.shape[1]),), "out_shape": (1, weight.shape[0])}
        return layers.builder.add(Dense(**shapes, weight=weight, bias=bias), source)  # type: ignore[arg-type]

    eye = torch.eye(inputs, dtype=torch.float64)
    # Of the spike: |x - peak| a coordinate as two ReLUs; of the rest: a random layer; both layers side by side.
    noise = layers.numbers(3, inputs)
    first = dense(0, torch.cat([eye, -eye, noise]) / width, torch.cat([-peak[0], peak[0], layers.numbers(3)]) / width)
    first = layers.act(first, ReLU())
    spike = torch.cat([-torch.ones(1, 2 * inputs), torch.zeros(1, 3)], 1).to(torch.float64)
    other = torch.cat([torch.zeros(2, 2 * inputs, dtype=torch.float64), layers.numbers(2, 3) * width], 1)
    second = layers.act(dense(first, torch.cat([spike, other]), torch.tensor([1.0, 0.3, -0.2], dtype=torch.float64)), ReLU())
    output = dense(second, torch.tensor([[-3.0, 0.5, 0.25]], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    graph = layers.builder.build(output)
    at_peak = ExactNetwork(graph).values(fractions(peak))[graph.output][0]
    # Half way down the spike, so that a whole region of the input violates.
    row = Row.of({0: 1}, {}, -(at_peak + 1))
    plans = ("verify", "inputs", "neurons", "MILP")
    return Asked(graph, box(lower[None], upper[None]), (Conjunction((row,)),), frozenset({"unsat"}), plans)


def other(seed: int) -> Asked:
    """Smooth functions, mixed with others."""
    generator = random(seed)
    picks = torch.randperm(len(OTHER), generator=generator)[:3].tolist()
    chosen = [OTHER[i] for i in picks]
    layers = Layers((1, 3), generator)
    graph = mlp(layers, [4, 4], 2, chosen) if seed % 2 else residual(layers, 3, 2, 2, chosen)
    center = torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=generator)
    radius = torch.rand(1, *graph.input_shape, dtype=torch.float64, generator=generator)
    return _sampled(graph, box(center - radius, center + radius), seed, ("verify", "inputs", "values"))


def composed(seed: int) -> Asked:
    """Every operator read as a composition, in turn."""
    names = list(COMPOSED)
    graph = from_model(COMPOSED[names[seed % len(names)]])
    generator = random(seed)
    center = torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=generator)
    radius = [0.05, 0.3][seed % 2]
    return _sampled(graph, box(center - radius, center + radius), seed, ("verify",))


def _sampled(graph: Graph, question: Box, seed: int, plans: tuple[str, ...]) -> Asked:
    """A random row, its threshold at the least of many samples, clearly above it, or far below it."""
    generator = random(seed + 1)
    points = torch.cat([question.sample(2000, generator)[0], question.lower, question.upper])
    outputs = graph.evaluate(points).flatten(1)
    coefficients = torch.randn(outputs.shape[1], dtype=torch.float64, generator=generator)
    values = outputs @ coefficients
    least, spread = float(values.min()), float(values.max() - values.min()) + 1e-3
    shift = [1e-6, 0.05, -0.02, -0.5][seed % 4] * spread
    row = Row.of(dict(enumerate(coefficients.tolist())), {}, -(least + shift))
    return Asked(graph, question, (Conjunction((row,)),), frozenset({"unsat"} if shift > 0 else ()), plans)


FAMILIES: dict[str, Callable[[int], Asked]] = {"exact": exact, "planted": planted, "other": other, "composed": composed}


def main() -> int:
    """Ask, compare, and print how often each way decided."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    began = time.process_time()
    families = list(FAMILIES)
    for seed in range(asked.first, asked.first + asked.count):
        family = families[seed % len(families)]
        answers = FAMILIES[family](seed // len(families)).answers()
        for name, answer in answers.items():
            counts.setdefault(f"{family}, {name}", Counter())[answer] += 1
        if any("!" in a for a in answers.values()) or {"sat", "unsat"} <= set(answers.values()):
            wrong.append(f"seed {seed} ({family}): {answers}")
            print(wrong[-1], file=sys.stderr, flush=True)
    for name, counter in sorted(counts.items()):
        print(f"{name:<20} " + ", ".join(f"{number} {answer}" for answer, number in sorted(counter.items())))
    print(f"{asked.count} questions, {time.process_time() - began:.0f} s of the processor; wrong: {len(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
