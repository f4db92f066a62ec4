"""Passes that make a graph smaller without changing what it computes: nothing here rounds.

Every pass takes a graph and returns one.  A node that takes over its successor's work takes over its name
too, so that what a nonlinearity reads keeps the name of the tensor in the model file.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from bourn.network.affine import Affine, BatchedDense, Convolution, Dense, Offset, ReduceSum, Reshape, Scale, Select, Sum
from bourn.network.fuse import fuse_activations, guard_domains
from bourn.network.graph import Graph, Node
from bourn.rounding import up

_TAKES_A_BIAS = (Dense, BatchedDense, Convolution, Scale, Offset, Sum, ReduceSum)


def simplify(graph: Graph, *, fused: bool = True) -> Graph:
    """All passes, those of :mod:`bourn.network.fuse` too if ``fused``, repeated until none changes the graph."""
    passes = (drop_unused, drop_identities, merge_moves, merge_offsets, *((fuse_activations, guard_domains) if fused else ()))
    while True:
        changed = graph
        for step in passes:
            changed = step(changed)
        if changed is graph:
            return graph
        graph = changed


def give_axes(graph: Graph) -> Graph:
    """With one axis of length 1 for every value that has none: rows on a value have its axes behind their own."""
    if all(node.shape for node in graph.nodes):
        return graph

    def wider(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape or (1,)

    nodes = []
    for node in graph.nodes:
        operation = node.operation
        if isinstance(operation, Affine):
            shape = wider(operation.out_shape)
            if isinstance(operation, Select):
                operation = dataclasses.replace(operation, index=operation.index.reshape(shape))
            operation = dataclasses.replace(operation, in_shapes=tuple(map(wider, operation.in_shapes)), out_shape=shape)
        nodes.append(dataclasses.replace(node, operation=operation, shape=wider(node.shape)))
    return Graph(tuple(nodes), graph.output)


def drop_unused(graph: Graph) -> Graph:
    """Without the nodes on which the output does not depend (the input node always stays)."""
    kept = {0, *graph.ancestors(graph.output)}
    return graph if len(kept) == len(graph.nodes) else graph.cut(graph.output)


def drop_identities(graph: Graph) -> Graph:
    """Without affine nodes that return their input as it is."""
    edit = _Edit(graph)
    for number, node in enumerate(graph.nodes):
        if _is_identity(node):
            edit.bypass(number)
    return edit.graph()


def merge_moves(graph: Graph) -> Graph:
    """A reshape or select behind a reshape or select becomes one node."""
    edit = _Edit(graph)
    for number, node in enumerate(graph.nodes):
        if not isinstance(node.operation, Reshape | Select):
            continue
        before = edit.nodes[edit.nodes[number].inputs[0]]
        if isinstance(before.operation, Reshape | Select) and before.operation.bias is None:
            edit.replace(number, _merged_move(before.operation, node.operation), *before.inputs)
    return edit.graph()


def merge_offsets(graph: Graph) -> Graph:
    """An offset joins the bias of the node before it, where nothing else reads that node and the sum is exact."""
    edit = _Edit(graph)
    for number, node in enumerate(graph.nodes):
        if not isinstance(node.operation, Offset):
            continue
        (previous,) = edit.nodes[number].inputs
        before = edit.nodes[previous]
        if edit.alone(previous) and isinstance(before.operation, _TAKES_A_BIAS):
            merged = _with_offset(before.operation, node.operation)
            if merged is not None:
                edit.replace(previous, merged, *before.inputs)
                edit.bypass(number)
    return edit.graph()


def _is_identity(node: Node) -> bool:
    operation = node.operation
    if not isinstance(operation, Affine) or len(operation.in_shapes) != 1 or operation.in_shapes[0] != operation.out_shape:
        return False
    if operation.bias is not None and (operation.bias.any() or operation.bias_error is not None):
        return False
    if isinstance(operation, Reshape | Offset):
        return True
    if isinstance(operation, Select):
        index = operation.index.reshape(-1)
        return torch.equal(index, torch.arange(len(index), device=index.device))
    if isinstance(operation, Scale):
        return operation.weight_error == 0 and bool((operation.factor == 1).all())
    return isinstance(operation, Sum) and operation.signs == (1,)


def _merged_move(first: Reshape | Select, second: Reshape | Select) -> Affine:
    """``second`` after ``first``, which has no bias."""
    if isinstance(first, Reshape):
        return dataclasses.replace(second, in_shapes=first.in_shapes)
    if isinstance(second, Reshape):
        return dataclasses.replace(
            first,
            out_shape=second.out_shape,
            index=first.index.reshape(second.out_shape),
            bias=second.bias,
            bias_error=second.bias_error,
        )
    flat = first.index.reshape(-1)
    index = torch.where(second.index >= 0, flat[second.index.clamp(min=0)], -1) if len(flat) else second.index
    return dataclasses.replace(second, in_shapes=first.in_shapes, index=index)


def _with_offset(operation: Affine, offset: Offset) -> Affine | None:
    """The operation followed by the offset; None if the biases' sum would round."""
    if offset.bias is None:
        return operation
    if operation.bias is None:
        return dataclasses.replace(operation, bias=offset.bias, bias_error=offset.bias_error)
    total = operation.bias + offset.bias
    # Knuth's TwoSum: the sum's rounding error, exactly.
    other = total - operation.bias
    error = (operation.bias - (total - other)) + (offset.bias - other)
    if not bool((error == 0).all()):
        return None
    return dataclasses.replace(operation, bias=total, bias_error=_total_error(operation.bias_error, offset.bias_error, total))


def _total_error(a: Tensor | None, b: Tensor | None, like: Tensor) -> Tensor | None:
    if a is None and b is None:
        return None
    if a is None or b is None:
        return (a if b is None else b).expand_as(like).clone()  # type: ignore[union-attr]
    return up(a + b).expand_as(like).clone()


class _Edit:
    """The nodes of a graph under change, with who reads them at the moment."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = list(graph.nodes)
        self._original = graph
        self._output = graph.output
        self._readers = [list(c) for c in graph.consumers]
        self._changed = False

    def alone(self, number: int) -> bool:
        """Whether exactly one node reads this one, and nobody outside."""
        return len(self._readers[number]) == 1 and number not in (0, self._output)

    def replace(self, number: int, operation: Affine, *inputs: int) -> None:
        """Another operation on other inputs in a node's place."""
        for old in self.nodes[number].inputs:
            self._readers[old].remove(number)
        for new in inputs:
            self._readers[new].append(number)
        self.nodes[number] = dataclasses.replace(self.nodes[number], operation=operation, inputs=inputs)
        self._changed = True

    def bypass(self, number: int) -> None:
        """Let the readers of a node read its one input; its name goes there too, where nothing else reads that."""
        node = self.nodes[number]
        (previous,) = node.inputs
        if self.alone(previous):
            before = self.nodes[previous]
            self.nodes[previous] = dataclasses.replace(before, name=node.name, source=node.source)
            self.nodes[number] = dataclasses.replace(node, name=before.name)
        readers, self._readers[number] = self._readers[number], []
        self._readers[previous].remove(number)
        self._readers[previous].extend(readers)
        for reader in readers:
            inputs = tuple(previous if i == number else i for i in self.nodes[reader].inputs)
            self.nodes[reader] = dataclasses.replace(self.nodes[reader], inputs=inputs)
        if self._output == number:
            self._output = previous
        self._changed = True

    def graph(self) -> Graph:
        """The graph after all changes; the one before where there were none."""
        return Graph(tuple(self.nodes), self._output).cut(self._output) if self._changed else self._original
