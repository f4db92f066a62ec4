"""float32: the network as its evaluation rounds it, with proven bounds of how far every number may be off.

An affine function of what nonlinear functions and the input give is a sum of products, over the paths through its steps.  Let
float32 arithmetic (u = 2^-24, to nearest) compute it by additions and multiplications in whatever order, fused or not, such
that a product on its way into the result is rounded k times at most.  Then the result is within

    gamma(k) sum |product| + lost,    gamma(k) = k u / (1 - k u)

of the function of the float32 numbers that it stands on (Higham, *Accuracy and Stability of Numerical Algorithms*, lemmas 3.1
and 3.3; section 3.1).  ``lost`` is what underflow takes: 2^-126 for every number that may be flushed to 0, times what it is
multiplied by after that.  A sum of n products rounds each n times, in any order; k adds up along the steps.  Relu, Clip, Abs and
maxima choose among float32 numbers, and so are exact; a slope's product rounds.

So the network of :class:`Float32` is the one in the file with a step :class:`Within` behind every such function: its result plus
any number of at most that size.  What that is depends on bounds of the numbers, which are those proved so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from bourn_check.arithmetic import SAFETY, Arithmetic, Floats, Index, Values
from bourn_check.errors import NotAProof, Unreadable
from bourn_check.network import Affine, Backward, Move, Network, Nonlinear, PiecewiseLinear, Product, Scale, Shift, Step, Sum
from bourn_check.nodes.maximum import Maximum
from bourn_check.nodes.product import Multiply
from bourn_check.readers import unpacked

UNIT = 2.0**-24
SMALL = 2.0**-126
"""The least normal number: what is below may be flushed to 0, where it is read and where it is computed."""
MOST = 2.0**127
"""Numbers up to here do not overflow."""


def gamma(roundings: int) -> float:
    """The relative error bound of so many roundings."""
    if roundings * UNIT >= 0.5:
        raise NotAProof(f"a number that is rounded {roundings} times on its way has no error bound in float32")
    return roundings * UNIT / (1.0 - roundings * UNIT) * SAFETY


@dataclass(frozen=True, eq=False)
class Within(Affine):
    """Every entry plus some number of at most ``error``; inf as long as nobody has said."""

    error: Floats

    def backward(self, rows: Values, at: Index, arithmetic: Arithmetic) -> Backward:
        off = rows.scaled(self.error[at])
        return [(rows, at)], off.minimum(-off).total()

    def forward(self, inputs: Sequence[Values], arithmetic: Arithmetic) -> Values:
        return inputs[0] + arithmetic.between(-self.error, self.error)


@dataclass(frozen=True, eq=False)
class Rounded:
    """Sums of products: ``terms`` (size,) sums of their absolute values, each of which was rounded so often, and ``lost``."""

    terms: Floats
    roundings: int = 0
    lost: float = 2 * SMALL  # of a single number

    @property
    def error(self) -> Floats:
        """How far the float32 numbers are from the real ones, at most."""
        return (gamma(self.roundings) * self.terms + self.lost) * SAFETY

    @property
    def size(self) -> Floats:
        """What their absolute values are, at most."""
        return self.terms * SAFETY + self.error


# What every kind of step makes of sums


def _moved(step: Move, x: Rounded) -> Rounded:
    return replace(x, terms=np.append(x.terms, 0.0)[step.index])


def _multiplied(step: Product, x: Rounded) -> Rounded:
    weight = np.abs(step.weight)
    groups, inner, _ = weight.shape
    rounded, reach = int((weight > 0).sum(1).max()), float(weight.sum(1).max())
    terms = np.matmul(x.terms.reshape(-1, groups, inner).swapaxes(0, 1), weight).swapaxes(0, 1).ravel() * SAFETY
    return _lossy(terms, x, rounded, reach, inner * (float(x.size.max()) + 2))


def _scaled(step: Scale, x: Rounded) -> Rounded:
    """By a factor or by its rounded reciprocal; over a root the variance may be flushed, its sum, the reciprocal root (within two
    units in the last place), and two products round."""
    factors = np.array([abs(float(f)) for f in step.factors])
    roots = np.array([float(r) for r in step.roots or ()])
    if roots.size and not (roots.min() >= 2.0**-60 and roots.max() <= 2.0**100):
        raise NotAProof("a variance is too small or too large for float32")
    factors = factors / np.sqrt(roots) * SAFETY if roots.size else factors * SAFETY
    if factors.max() > 2.0**100:
        raise NotAProof("a factor is too large for float32")
    terms, most = x.terms * factors[step.index] * SAFETY, float(factors.max())
    return _lossy(terms, x, 8 if roots.size else 2, most, (2.0**32 if roots.size else 1.0) * (float(x.size.max()) + 2))


def _lossy(terms: Floats, x: Rounded, roundings: int, reach: float, places: float) -> Rounded:
    """Products with weights whose sums are at most ``reach``; ``places``: how often, times what, a small number may be lost."""
    more = (1.0 + gamma(roundings)) * (reach * (x.lost + 2 * SMALL) + 2 * SMALL * places)
    return Rounded(terms, x.roundings + roundings, more * SAFETY)


def _shifted(step: Shift, *x: Rounded) -> Rounded:
    own = np.abs(step.bias)
    return _added(None, *x, Rounded(own)) if x else Rounded(own)


def _added(step: Sum | None, *x: Rounded) -> Rounded:
    """Of n numbers, each of which is added n - 1 times."""
    terms = np.sum([v.terms for v in x], axis=0) * SAFETY
    lost = (1.0 + gamma(len(x))) * (sum(v.lost for v in x) + 4 * len(x) * SMALL) * SAFETY
    return Rounded(terms, max(v.roundings for v in x) + len(x) - 1, lost)


_AFFINE: Mapping[type, Callable[..., Rounded]] = {
    Move: _moved, Product: _multiplied, Scale: _scaled, Shift: _shifted, Sum: _added, Within: lambda step, x: Rounded(x.size),
}  # fmt: skip
"""Behind an error stands a float32 number."""


def _function(operation: Nonlinear, lower: Floats, upper: Floats) -> Rounded:
    """What a function of float32 numbers between these may be."""
    size = np.maximum(np.abs(lower), np.abs(upper))
    if isinstance(operation, Maximum):
        return Rounded(size.reshape(operation.arity, -1).max(0))
    if isinstance(operation, Multiply):
        first, second = size.reshape(2, -1)
        return Rounded(first * second * SAFETY, 1, 2 * SMALL * (2 + 2 * float(size.max())))
    assert isinstance(operation, PiecewiseLinear)
    points = [lower, upper, *(np.clip(knot, lower, upper) for knot in operation.knots)]
    most = np.max([np.abs(operation.at(z)) for z in points], axis=0) * SAFETY
    if _exact(operation):
        return Rounded(most)
    slope, offset = np.abs(operation.pieces).max(0)
    return Rounded(most + 2 * offset, 2, 4 * SMALL * (2 + float(slope) + float(size.max())))


def _exact(operation: Nonlinear) -> bool:
    """Whether a function gives one of the numbers that it is given, or one of those in the file, or less it."""
    if isinstance(operation, PiecewiseLinear):
        return all(s in (0.0, 1.0, -1.0) and (s == 0 or o == 0) for s, o in operation.pieces)
    return isinstance(operation, Maximum)


# The network


@dataclass(frozen=True, eq=False)
class Float32(Network):
    """A network whose steps :class:`Within` have the errors of values within given ends."""

    semantics = (
        "for float32 inputs, in float32 arithmetic node by node as stored, with sums in any order, products fused or not;\n"
        "of convolutions by Winograd or FFT, of TF32 and other numbers of fewer bits it says nothing"
    )

    def evaluate(self, x: Values, arithmetic: Arithmetic) -> Values:
        """Enclosures of what evaluation may give at a float32 input."""
        point = x.lower()
        if not (point == point.astype(np.float32)).all():
            raise NotAProof("the witness is no float32 input")
        return super().evaluate(x, arithmetic)

    def on(self, ends: Mapping[str, Floats]) -> Network:
        """With the errors of what the hull of all parts admits; raises :class:`NotAProof` where a number might overflow."""
        hull = {name: (lower.min(0), upper.max(0)) for name, (lower, upper) in ends.items()}
        found, steps = {"": Rounded(np.maximum(*np.abs(hull[""])))}, []
        for step in self.steps:
            x = [found[name] for name in step.inputs]
            if isinstance(step.operation, Nonlinear):
                most = np.concatenate([v.size for v in x])
                lower, upper = hull.get(step.output, (-most, most))
                made = _function(step.operation, np.clip(lower, -most, most), np.clip(upper, -most, most))
            else:
                if isinstance(step.operation, Within):
                    step = replace(step, operation=Within(x[0].error))
                made = _AFFINE[type(step.operation)](step.operation, *x)
            if not (made.size <= MOST).all():
                raise NotAProof(f"{step.where}: a number might overflow in float32")
            found[step.output] = made
            steps.append(step)
        return Network(tuple(steps), self.inputs, self.outputs, self.sizes, self.places)


def evaluated(network: Network, data: bytes, semantics: str) -> Network:
    """The network of a file's bytes as it is evaluated: in ``real`` numbers, or in ``float32``.

    For the latter it raises :class:`NotAProof` where it has other numbers, or functions of whose values no error bound is proved.
    """
    if semantics not in ("real", "float32"):
        raise ValueError(f"semantics {semantics!r}; there are real and float32")
    if semantics == "real":
        return network
    _float32_alone(onnx.load_model_from_string(unpacked(data)).graph)
    sizes, places, steps = dict(network.sizes), dict(network.places), list[Step]()
    current: dict[str, str] = {}  # by tensor what stands for it

    def within(name: str, how: str, where: str) -> str:
        """The tensor with its error, for those who read it."""
        new = f"{name} {how}"
        if (new, name) not in made:
            if new in sizes:
                raise Unreadable(f"a tensor is called {new[:80]!r}, as is what the checker makes of {name[:80]!r}")
            sizes[new], places[new] = sizes[name], places[name]
            steps.append(Step(Within(np.full(sizes[name], math.inf)), (name,), new, where))
            made.add((new, name))
        return new

    made: set[tuple[str, str]] = set()
    for step in network.steps:
        inputs = tuple(current.get(name, name) for name in step.inputs)
        if isinstance(step.operation, Nonlinear):
            if not isinstance(step.operation, PiecewiseLinear | Maximum | Multiply):
                raise NotAProof(f"{step.where}: of its values in float32 no error bound is proved")
            inputs = tuple(within(name, "as read", step.where) for name in inputs)
        steps.append(replace(step, inputs=inputs))
        if isinstance(step.operation, Nonlinear) and not _exact(step.operation):
            current[step.output] = within(step.output, "as rounded", step.where)
    outputs = tuple((within(current.get(name, name), "as read", "the output"), size) for name, size in network.outputs)
    return Float32(tuple(steps), network.inputs, outputs, sizes, places)


def _float32_alone(graph: onnx.GraphProto) -> None:
    known = {t.name for t in graph.initializer}
    types = {i.type.tensor_type.elem_type for i in graph.input if i.name not in known} | {t.data_type for t in graph.initializer}
    types |= {a.t.data_type for n in graph.node for a in n.attribute if a.HasField("t")}
    floats = {getattr(onnx.TensorProto, kind) for kind in ("FLOAT", "INT64", "INT32", "BOOL")}
    if types - floats:
        raise NotAProof(f"the network has numbers of type {onnx.TensorProto.DataType.Name(min(types - floats))}, not float32 alone")
