"""bound: lower and upper bounds of a network's nodes over an input set, by any method of the table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bourn.deadline import Deadline
from bourn.device import device as by_device
from bourn.errors import UsageError
from bourn.formats.model import load
from bourn.interval import Interval
from bourn.network.graph import Graph
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Objectives
from bourn.program.relaxed import intersect_outside
from bourn.solvers.adjustments import suited, to_gap, within
from bourn.solvers.base import join
from bourn.solvers.methods import Method
from bourn.solvers.methods import method as by_name


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of nodes by name, each (B, *shape), and lower bounds of objectives (B, M) if any were asked for."""

    method: Method
    nodes: Mapping[str, Interval]
    objectives: Tensor | None
    seconds: float

    def __getitem__(self, node: str) -> Interval:
        return self.nodes[node]

    def save(self, path: str | Path) -> None:
        """Write ``<node>.lower`` and ``<node>.upper`` of every node to a NumPy ``.npz`` file."""
        import numpy as np

        arrays = {}
        for name, interval in self.nodes.items():
            arrays[f"{name}.lower"] = interval.lower.cpu().numpy()
            arrays[f"{name}.upper"] = interval.upper.cpu().numpy()
        with open(path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def __str__(self) -> str:
        lines = [f"bounds by {self.method.title}, {self.seconds:.3f} s"]
        for name, z in self.nodes.items():
            width = (z.upper - z.lower).mean().item() if z.lower.numel() else 0.0
            lines.append(
                f"  {name} {tuple(z.shape)}: from {z.lower.min().item():.6g} to {z.upper.max().item():.6g}, mean width {width:.6g}"
            )
        return "\n".join(lines)


def bound(
    model: Any,
    input_set: InputSet,
    *,
    method: str | Method = "crown",
    nodes: Sequence[str] | None = None,
    objectives: Objectives | None = None,
    outside: Mapping[str, Interval] | None = None,
    gap: float | None = None,
    memory: float | None = None,
    timeout: float | Deadline | None = None,
    device: str = "cpu",
    example: Any = None,
) -> Bounds:
    """Bound ``nodes`` (names; by default all pre-activations and the output) of ``model`` over ``input_set``.

    ``model``: see :func:`bourn.load`.  ``input_set``: B boxes or balls of the network's input shape, or of (1, n) where n
    is its size.  ``method``: a name of ``bourn methods`` or a :class:`Method`.  The bounds hold in real
    arithmetic for the weights as stored: rounding errors are accounted for outward.  ``outside``: bounds (B, *shape) of
    pre-activations by name, from anywhere (:func:`read_bounds` reads what :meth:`Bounds.save` wrote); they are relied on, and
    what comes out holds where they hold.  ``gap``: for LP-ALL, how near to the optimum, relative to max(1, |optimum|)
    (:func:`bourn.solvers.adjustments.to_gap`).  ``memory``: bytes for what is computed, the network itself not counted; problems go
    in parts that keep within about so much.

    Raises :class:`bourn.errors.BournError` where an argument does not fit, :class:`bourn.deadline.OutOfTime`
    after ``timeout`` (seconds, reading included, or a deadline that already runs).
    """
    began = time.monotonic()
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    chosen = by_name(method) if isinstance(method, str) else method
    chosen = chosen if gap is None else to_gap(chosen, gap)
    place = by_device(device)
    chosen = suited(chosen, place) if memory is None else within(chosen, memory / 2)
    graph = load(model, example=example).graph
    if input_set.lower[0].numel() != graph.nodes[0].size:
        raise UsageError(f"the input set has shape {input_set.shape}, the network's input {graph.input_shape}")
    box = input_set.reshape(graph.input_shape)
    graph, box = graph.to(place), box.to(place)
    numbers = [*graph.pre_activations, graph.output] if nodes is None else [graph.number(name) for name in nodes]
    given = {} if outside is None else _given(graph, outside, box.batch)
    at_once = box.batch if memory is None else max(1, int(memory / 2) // (_TENSORS * 8 * sum(n.size for n in graph.nodes)))
    parts: dict[int, list[Interval]] = {v: [] for v in dict.fromkeys(numbers)}
    values = []
    for first in range(0, box.batch, at_once):
        some = slice(first, first + at_once)
        own = {z: Interval(b.lower[some], b.upper[some]) for z, b in given.items()}
        prepared = chosen.prepare(graph, box[some], outside=own or None, deadline=deadline)
        for v, found in parts.items():
            bounds = prepared.node(v)
            found.append(intersect_outside(graph, v, bounds, own[v]) if v in own else bounds)
        if objectives is not None:
            values.append(prepared.minimise(objectives.take(some).to(place)).bound)
    nodes_found = {graph.nodes[v].name: join(found) for v, found in parts.items()}
    return Bounds(chosen, nodes_found, torch.cat(values) if values else None, time.monotonic() - began)


_TENSORS = 24
"""Tensors of a node's size that a program and its bounds hold for every problem: measured."""


def _given(graph: Graph, outside: Mapping[str, Interval], batch: int) -> dict[int, Interval]:
    """Bounds from outside by node number, in the nodes' shapes; raises :class:`UsageError` where they do not fit."""
    given = {}
    for name, bounds in outside.items():
        number = graph.number(name)
        if number not in graph.pre_activations:
            raise UsageError(f"node {name!r} is no pre-activation, so no relaxation stands on its bounds; leave it out")
        shape = (batch, *graph.nodes[number].shape)
        if bounds.lower.numel() != batch * graph.nodes[number].size:
            raise UsageError(f"the bounds from outside of node {name!r} have shape {tuple(bounds.shape)}, not {shape}")
        given[number] = Interval(bounds.lower.reshape(shape), bounds.upper.reshape(shape)).to(graph.device)
    return given


def read_bounds(path: str | Path) -> dict[str, Interval]:
    """Bounds by node name from a ``.npz`` file with ``<node>.lower`` and ``<node>.upper``, as :meth:`Bounds.save` writes it.

    Raises :class:`UsageError` where the file cannot be read or holds anything else.
    """
    import zipfile
    import zlib

    import numpy as np

    arrays = {}
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            for name in data.files:
                arrays[name] = torch.from_numpy(np.ascontiguousarray(data[name], dtype=np.float64))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise UsageError(f"{path}: is no .npz file of numbers; 'bourn bound --save' writes one") from None
    names = {name.removesuffix(".lower").removesuffix(".upper") for name in arrays}
    missing = [end for name in sorted(names) for end in (f"{name}.lower", f"{name}.upper") if end not in arrays]
    if missing or not arrays:
        raise UsageError(f"{path}: holds no array {missing[0]!r}" if missing else f"{path}: is empty")
    found = {}
    for name in sorted(names):
        try:
            found[name] = Interval(arrays[f"{name}.lower"], arrays[f"{name}.upper"])
        except UsageError as error:
            raise UsageError(f"{path}: node {name!r}: {error}") from None
    return found
