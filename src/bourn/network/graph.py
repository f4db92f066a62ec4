"""The network that is verified: an immutable directed acyclic graph of affine and nonlinear nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from bourn.errors import NetworkError, UsageError
from bourn.network.affine import Affine, Select
from bourn.network.pick import Pick
from bourn.relaxations.base import Nonlinearity

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Input:
    """The node that holds the network's input: always the first, and the only one of its kind."""


Operation = Input | Affine | Nonlinearity


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One value of the network: ``operation`` applied to the nodes numbered ``inputs``.

    ``shape`` is the value's shape as stored in the model file, its leading 1 included; problems of a
    batch come before it, as (B, *shape).  ``source`` says where in the model file it comes from.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    shape: Shape
    source: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Graph:
    """Topologically ordered nodes; node 0 is the input, ``output`` the number of the output node.

    Raises :class:`NetworkError` if the order is not topological or names are not unique.
    """

    nodes: tuple[Node, ...]
    output: int
    _by_name: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0].operation, Input):
            raise NetworkError("a graph starts with its input node")
        for number, node in enumerate(self.nodes):
            if any(not 0 <= i < number for i in node.inputs):
                raise NetworkError(f"node {node.name!r} stands before one of its inputs")
            if isinstance(node.operation, Input) != (number == 0):
                raise NetworkError(f"node {node.name!r} is a second input node")
        by_name = {node.name: number for number, node in enumerate(self.nodes)}
        if len(by_name) != len(self.nodes):
            raise NetworkError("two nodes have the same name")
        object.__setattr__(self, "_by_name", by_name)

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        return self.nodes[self.output].shape

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU if there are none."""
        for node in self.nodes:
            if isinstance(node.operation, Affine):
                for tensor in node.operation.tensors():
                    return tensor.device
        return torch.device("cpu")

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For every node the nodes that read it, in order, one entry a reading."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for number, node in enumerate(self.nodes):
            for i in node.inputs:
                found[i].append(number)
        return tuple(tuple(c) for c in found)

    @cached_property
    def nonlinear(self) -> tuple[int, ...]:
        """Numbers of the nonlinear nodes, in order."""
        return tuple(i for i, node in enumerate(self.nodes) if isinstance(node.operation, Nonlinearity))

    @cached_property
    def pre_activations(self) -> tuple[int, ...]:
        """Numbers of the nodes that a nonlinear node reads, in order, without repetition.

        Where it reads a selection of a node's entries (:attr:`moved`), that is the node itself.
        """
        return tuple(sorted({self._origin(i) for v in self.nonlinear for i in self.nodes[v].inputs}))

    @cached_property
    def moved(self) -> dict[int, tuple[int, ...]]:
        """For every pre-activation the nodes that hold nothing but entries of it, in order: their bounds are its bounds, moved."""
        found: dict[int, list[int]] = {z: [] for z in self.pre_activations}
        for number in range(len(self.nodes)):
            if self._origin(number) != number and self._origin(number) in found:
                found[self._origin(number)].append(number)
        return {z: tuple(numbers) for z, numbers in found.items()}

    def _origin(self, number: int) -> int:
        """The node whose entries a node selects; itself if it does anything else."""
        while isinstance(operation := self.nodes[number].operation, Select | Pick) and operation.bias is None:
            number = self.nodes[number].inputs[0]
        return number

    def readers(self, node: int) -> tuple[int, ...]:
        """Numbers of the nonlinear nodes that read a pre-activation, as it is or through :attr:`moved` ones."""
        sources = (node, *self.moved.get(node, ()))
        return tuple(sorted({v for z in sources for v in self.consumers[z] if v in self.nonlinear}))

    def number(self, name: str) -> int:
        """The number of the node called ``name``; raises :class:`UsageError` if there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            known = [self.nodes[v].name for v in (*self.pre_activations, self.output)]
            some = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            raise UsageError(f"the network has no node {name!r}; pre-activations and the output are {some}") from None

    def ancestors(self, target: int) -> tuple[int, ...]:
        """Numbers of the nodes that ``target`` depends on, itself included, in order."""
        needed = {target}
        for number in range(target, -1, -1):
            if number in needed:
                needed.update(self.nodes[number].inputs)
        return tuple(sorted(needed))

    def cut(self, target: int) -> Graph:
        """The graph that computes node ``target`` and nothing else (the input node always stays)."""
        kept = sorted({0, *self.ancestors(target)})
        renumber = {old: new for new, old in enumerate(kept)}
        nodes = tuple(
            Node(n.name, n.operation, tuple(renumber[i] for i in n.inputs), n.shape, n.source)
            for n in (self.nodes[i] for i in kept)
        )
        return Graph(nodes, renumber[target])

    def values(self, x: Tensor) -> list[Tensor]:
        """Every node's value at the inputs ``x`` of shape (B, *input_shape); differentiable."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise UsageError(f"an input of shape {tuple(x.shape[1:])} does not fit the network's {self.input_shape}")
        values: list[Tensor] = []
        for node in self.nodes:
            arguments = [values[i] for i in node.inputs]
            if isinstance(node.operation, Input):
                values.append(x)
            elif isinstance(node.operation, Affine):
                values.append(node.operation.forward(*arguments) if arguments else node.operation.constant(len(x)))
            else:
                values.append(node.operation.evaluate(*arguments))
        return values

    def evaluate(self, x: Tensor) -> Tensor:
        """The output (B, *output_shape) at the inputs ``x`` (B, *input_shape), to float64 rounding."""
        return self.values(x)[self.output]

    def to(self, device: torch.device | str) -> Graph:
        """The same graph with its tensors on ``device``."""
        nodes = tuple(
            Node(n.name, n.operation.to(device) if isinstance(n.operation, Affine) else n.operation, n.inputs, n.shape, n.source)
            for n in self.nodes
        )
        return Graph(nodes, self.output)

    def __str__(self) -> str:
        neurons = sum(self.nodes[v].size for v in self.nonlinear)
        return (
            f"Graph({math.prod(self.input_shape)} inputs, {len(self.nonlinear)} nonlinear nodes with {neurons} neurons, "
            f"{math.prod(self.output_shape)} outputs)"
        )


class GraphBuilder:
    """Collects nodes in order; :meth:`build` makes the graph.  Names are made unique by a suffix."""

    def __init__(self, input_shape: Sequence[int], name: str = "input") -> None:
        self._nodes = [Node(name, Input(), (), tuple(input_shape))]
        self._names = {name}

    def shape(self, number: int) -> Shape:
        """The shape of node ``number``."""
        return self._nodes[number].shape

    def node(self, number: int) -> Node:
        """Node ``number`` as it stands."""
        return self._nodes[number]

    def add(self, operation: Affine | Nonlinearity, *inputs: int, name: str = "", source: str = "") -> int:
        """Append a node and return its number; raises :class:`NetworkError` if shapes do not fit."""
        shapes = tuple(self._nodes[i].shape for i in inputs)
        if isinstance(operation, Affine):
            if shapes != operation.in_shapes:
                raise NetworkError(f"node {name!r}: inputs of shape {shapes} where {operation.in_shapes} are needed")
            shape = operation.out_shape
        else:
            shape = operation.shape(*shapes)
        base = name or f"{type(operation).__name__.lower()}_{len(self._nodes)}"
        unique, suffix = base, 1
        while unique in self._names:
            suffix += 1
            unique = f"{base}_{suffix}"
        self._names.add(unique)
        self._nodes.append(Node(unique, operation, inputs, shape, source))
        return len(self._nodes) - 1

    def build(self, output: int) -> Graph:
        """The graph of all nodes so far, with node ``output`` for its output."""
        return Graph(tuple(self._nodes), output)
