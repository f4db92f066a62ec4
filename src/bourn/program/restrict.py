"""Smaller programs that bound the same rows: some problems of a batch, the layers after a node, receptive fields.

Each returns a :class:`RelaxedProgram` like any other, so that back-substitution needs no special case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from bourn.interval import Interval
from bourn.network.affine import Affine, Convolution, Dense, Offset, Reshape, Scale, Select, Sum
from bourn.network.graph import Graph, GraphBuilder, Input
from bourn.network.pick import Pick
from bourn.problem.input_set import Box
from bourn.program.relaxed import RelaxedProgram
from bourn.relaxations.base import Lines, Nonlinearity
from bourn.relaxations.clip import Clip


def take_problems(program: RelaxedProgram, problems: slice | Tensor) -> RelaxedProgram:
    """The program of some problems of the batch, by slice or by index."""
    if isinstance(problems, slice) and problems.start == 0 and problems.stop >= program.batch:
        return program

    def cut(t: Tensor) -> Tensor:
        return t[problems] if len(t) == program.batch else t

    return replace(
        program,
        box=program.box[problems],
        bounds={z: Interval(cut(b.lower), cut(b.upper)) for z, b in program.bounds.items()},
        lines={v: line.map(cut) for v, line in program.lines.items()},
        magnitudes={v: cut(m) for v, m in program.magnitudes.items()},
        imposed={z: cut(i) for z, i in program.imposed.items()},
    )


def after_node(program: RelaxedProgram, first: int, target: int) -> RelaxedProgram | None:
    """The program from pre-activation ``first``, its bounds taken for the input set, to ``target``.

    None where ``target`` also depends on the input around ``first``.  Its bounds are valid, and no
    better than those of the whole program.
    """
    graph = program.graph
    kept = [first]
    for number in range(first + 1, target + 1):
        inputs = graph.nodes[number].inputs
        if number in graph.ancestors(target) and inputs and all(i in kept for i in inputs):
            kept.append(number)
    if target not in kept:
        return None
    builder = GraphBuilder(graph.nodes[first].shape, name=graph.nodes[first].name)
    new = {first: 0}
    for number in kept[1:]:
        node = graph.nodes[number]
        assert not isinstance(node.operation, Input)
        new[number] = builder.add(node.operation, *(new[i] for i in node.inputs), name=node.name)
    bounds = program.bounds[first]
    return RelaxedProgram(
        builder.build(new[target]),
        Box(bounds),
        program.rule,
        {new[z]: b for z, b in program.bounds.items() if z in new},
        {new[v]: line for v, line in program.lines.items() if v in new},
        {new[v]: m for v, m in program.magnitudes.items() if v in new and v != first} | {0: bounds.magnitude},
        {new[z]: i for z, i in program.imposed.items() if z in new and z != first},
    )


@dataclass(frozen=True)
class _Window:
    """Along one axis: output position i sees entries i * stride - offset, ..., + size - 1 of a node."""

    size: int
    stride: int
    offset: int

    def before(self, kernel: int, stride: int, padding: int, dilation: int) -> _Window:
        """The window on a convolution's input, for this one on its output."""
        reach = (self.size - 1) * stride + (kernel - 1) * dilation + 1
        return _Window(reach, self.stride * stride, self.offset * stride + padding)

    def union(self, other: _Window) -> _Window | None:
        """The smallest window that holds both, if they move alike."""
        if self.stride != other.stride:
            return None
        offset = max(self.offset, other.offset)
        return _Window(max(self.size - self.offset, other.size - other.offset) + offset, self.stride, offset)


def receptive_fields(program: RelaxedProgram, target: int) -> RelaxedProgram | None:
    """The program of every position of an image-like node, as a batch of B * positions small problems.

    Each has the node's channels at that position for its output, (1, channels, 1, 1), and for its input the
    window that the position sees.  None where the graph up to ``target`` is not made of convolutions and
    element-wise nodes, or the windows are not much smaller than the nodes.
    """
    windows = _windows(program.graph, target)
    if windows is None:
        return None
    graph, shape = program.graph, program.graph.nodes[target].shape
    whole = sum(graph.nodes[v].size for v in windows)
    part = sum(graph.nodes[v].shape[1] * windows[v][0].size * windows[v][1].size for v in windows)
    if 2 * part > whole:
        return None
    return _LocalProgram(program, target, windows, (shape[2], shape[3])).build()


def _windows(graph: Graph, target: int) -> dict[int, tuple[_Window, _Window]] | None:
    """Every ancestor's window (rows, columns), or None where there is no such thing."""
    one = _Window(1, 1, 0)
    windows = {target: (one, one)}
    for number in reversed(graph.ancestors(target)):
        node = graph.nodes[number]
        if len(node.shape) != 4 or node.shape[0] != 1 or not _moves_alike(node.operation):
            return None
        rows, columns = windows[number]
        operation = node.operation
        if isinstance(operation, Convolution):
            geometry = list(zip(operation.weight.shape[2:], operation.stride, operation.padding, operation.dilation, strict=True))
            rows, columns = rows.before(*geometry[0]), columns.before(*geometry[1])
        for i in node.inputs:
            if i in windows:
                joined = windows[i][0].union(rows), windows[i][1].union(columns)
                if joined[0] is None or joined[1] is None:
                    return None
                windows[i] = (joined[0], joined[1])
            else:
                windows[i] = (rows, columns)
    return windows


def _moves_alike(operation: object) -> bool:
    """Whether the operator does the same at every position."""
    if isinstance(operation, Input | Nonlinearity):
        return True
    if not isinstance(operation, Convolution | Offset | Scale | Sum):
        return False
    constants = [operation.bias, operation.bias_error, getattr(operation, "factor", None)]
    return all(c is None or c.numel() == 1 or (c.dim() >= 3 and c.shape[-1] == c.shape[-2] == 1) for c in constants)


class _LocalProgram:
    """Builds the program of :func:`receptive_fields`."""

    def __init__(
        self, program: RelaxedProgram, target: int, windows: dict[int, tuple[_Window, _Window]], positions: tuple[int, int]
    ) -> None:
        self.program, self.target, self.windows, self.positions = program, target, windows, positions
        # Of a ball a window sees its projection, a ball of the same radius.
        self.box = program.box.map(lambda t: self.unfold(t, 0))
        self.builder = GraphBuilder(self.box.shape)
        self.new = {0: 0}
        self.bounds: dict[int, Interval] = {}
        self.imposed: dict[int, Tensor] = {}
        self.lines: dict[int, Lines] = {}
        self.magnitudes = {0: self.box.interval.magnitude}

    def unfold(self, t: Tensor, node: int) -> Tensor:
        """(B, 1, C, H, W) to (B * positions, 1, C, h, w), 0 outside the node."""
        rows, columns = self.windows[node]
        last = [(p - 1) * w.stride - w.offset + w.size for p, w in zip(self.positions, (rows, columns), strict=True)]
        height, width = t.shape[-2:]
        padded = F.pad(t[:, 0], (columns.offset, max(0, last[1] - width), rows.offset, max(0, last[0] - height)))
        view = padded.unfold(2, rows.size, rows.stride).unfold(3, columns.size, columns.stride)
        view = view[:, :, : self.positions[0], : self.positions[1]].permute(0, 2, 3, 1, 4, 5)
        return view.reshape(-1, 1, t.shape[2], rows.size, columns.size)

    def build(self) -> RelaxedProgram:
        graph = self.program.graph
        for number in sorted(self.windows)[1:]:
            node = graph.nodes[number]
            arguments = [self.argument(i, number) for i in node.inputs]
            if isinstance(node.operation, Affine):
                operation = self.local_affine(number, node.operation, [self.builder.shape(i) for i in arguments])
                magnitude = self.unfold(self.program.magnitudes[number].expand(self.program.batch, *node.shape), number)
                self.new[number] = self.add_affine(operation, arguments, magnitude)
            else:
                assert isinstance(node.operation, Nonlinearity)
                self.new[number] = self.builder.add(node.operation, *arguments)
                self.add_lines(self.new[number], number, self.program.lines[number])
                for new, old in zip(arguments, node.inputs, strict=True):
                    self.add_bounds(new, number, old)
        local = self.builder.build(self.new[self.target])
        return RelaxedProgram(local, self.box, self.program.rule, self.bounds, self.lines, self.magnitudes, self.imposed)

    def add_bounds(self, new: int, reader: int, old: int) -> None:
        """Bounds of the pre-activation ``old`` in the window of its ``reader``; outside the node it is the point 0."""
        if old in self.program.bounds:
            bounds = self.program.bounds[old]
            self.bounds[new] = Interval(self.unfold(bounds.lower, reader), self.unfold(bounds.upper, reader))
        if old in self.program.imposed:
            self.imposed[new] = self.unfold(self.program.imposed[old].to(torch.float64), reader) > 0

    def add_lines(self, new: int, old: int, lines: Lines) -> None:
        self.lines[new] = lines.map(lambda t: self.unfold(t, old))
        shape = self.program.graph.nodes[old].shape
        self.magnitudes[new] = self.unfold(self.program.magnitudes[old].expand(self.program.batch, *shape), old)

    def argument(self, node: int, reader: int) -> int:
        """The new number of an input of ``reader``: 0 outside the node if it is padded, and cut to the reader's window."""
        operation = self.program.graph.nodes[reader].operation
        new = self.new[node]
        convolves = isinstance(operation, Convolution)
        if convolves and isinstance(self.program.graph.nodes[node].operation, Affine):
            # An affine value outside the node is its bias, not the padding's 0: a mask sets it right.
            new = self.builder.add(Clip(), new)
            inside = self.unfold(self.box.lower.new_ones(1, *self.program.graph.nodes[node].shape), node)
            inside = inside.repeat(self.program.batch, 1, 1, 1, 1)
            zero = torch.zeros_like(inside)
            self.lines[new] = Lines((inside,), zero, (inside,), zero)
            self.magnitudes[new] = self.magnitudes[self.new[node]]
        have, own = self.windows[node], self.windows[reader]
        if isinstance(operation, Convolution):
            geometry = list(zip(operation.weight.shape[2:], operation.stride, operation.padding, operation.dilation, strict=True))
            need = own[0].before(*geometry[0]), own[1].before(*geometry[1])
        else:
            need = own
        if need != have:
            new = self.crop(new, need, have)
        return new

    def crop(self, new: int, need: Sequence[_Window], have: Sequence[_Window]) -> int:
        shape = self.builder.shape(new)
        index = torch.arange(math.prod(shape), device=self.box.lower.device).reshape(shape)
        for axis, (n, h) in enumerate(zip(need, have, strict=True), start=2):
            index = index.narrow(axis, h.offset - n.offset, n.size)
        cropped = self.builder.add(Select(in_shapes=(shape,), out_shape=tuple(index.shape), index=index), new)
        self.magnitudes[cropped] = self.magnitudes[new].flatten(1)[:, index.flatten()].reshape(-1, *index.shape)
        return cropped

    def local_affine(self, number: int, operation: Affine, in_shapes: list[tuple[int, ...]]) -> Affine:
        rows, columns = self.windows[number]
        out_shape = (1, self.program.graph.nodes[number].shape[1], rows.size, columns.size)
        if not isinstance(operation, Convolution):
            return replace(operation, in_shapes=tuple(in_shapes), out_shape=out_shape)
        return replace(operation, in_shapes=tuple(in_shapes), out_shape=out_shape, padding=(0, 0))

    def add_affine(self, operation: Affine, arguments: list[int], magnitude: Tensor) -> int:
        """Add the operator, a small convolution as the matrix it is: one large product beats many small convolutions."""
        if not isinstance(operation, Convolution) or operation.bias_error is not None or not _small(operation):
            new = self.builder.add(operation, *arguments)
            self.magnitudes[new] = magnitude
            return new
        inputs, outputs = math.prod(operation.in_shapes[0]), math.prod(operation.out_shape)
        identity = torch.eye(outputs, dtype=torch.float64, device=operation.weight.device)
        weight = operation.transpose(identity.reshape(outputs, *operation.out_shape))[0].reshape(outputs, inputs)
        bias = None if operation.bias is None else operation.bias.expand(operation.out_shape).reshape(1, outputs)
        flat = self.builder.add(Reshape(in_shapes=operation.in_shapes, out_shape=(1, inputs)), *arguments)
        product = Dense(
            in_shapes=((1, inputs),), out_shape=(1, outputs), weight=weight, bias=bias, weight_error=operation.weight_error
        )
        dense = self.builder.add(product, flat)
        new = self.builder.add(Reshape(in_shapes=((1, outputs),), out_shape=operation.out_shape), dense)
        self.magnitudes[flat] = self.magnitudes[arguments[0]].reshape(-1, 1, inputs)
        self.magnitudes[dense] = magnitude.reshape(-1, 1, outputs)
        self.magnitudes[new] = magnitude
        return new


def _small(operation: Convolution) -> bool:
    """Whether the matrix wastes at most a factor of 16 in products, which it gains back in speed."""
    return not isinstance(operation, Pick) and math.prod(operation.in_shapes[0][2:]) <= 16 * math.prod(operation.weight.shape[2:])
