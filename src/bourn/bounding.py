"""bound: lower and upper bounds of a network's nodes over an input set, by any method of the table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bourn.deadline import Deadline
from bourn.device import device as by_device
from bourn.errors import UsageError
from bourn.formats.model import load
from bourn.interval import Interval
from bourn.problem.input_set import Box
from bourn.problem.problem import Objectives, reshape_box
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
    input_set: Box,
    *,
    method: str | Method = "crown",
    nodes: Sequence[str] | None = None,
    objectives: Objectives | None = None,
    timeout: float | Deadline | None = None,
    device: str = "cpu",
    example: Any = None,
) -> Bounds:
    """Bound ``nodes`` (names; by default all pre-activations and the output) of ``model`` over ``input_set``.

    ``model``: see :func:`bourn.load`.  ``input_set``: B boxes of the network's input shape, or of (1, n) where n
    is its size.  ``method``: a name of ``bourn methods`` or a :class:`Method`.  The bounds hold in real
    arithmetic for the weights as stored: rounding errors are accounted for outward.

    Raises :class:`bourn.errors.BournError` where an argument does not fit, :class:`bourn.deadline.OutOfTime`
    after ``timeout`` (seconds, reading included, or a deadline that already runs).
    """
    began = time.monotonic()
    deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
    chosen = by_name(method) if isinstance(method, str) else method
    graph = load(model, example=example).graph
    if input_set.lower[0].numel() != graph.nodes[0].size:
        raise UsageError(f"the input set has shape {input_set.shape}, the network's input {graph.input_shape}")
    box = reshape_box(input_set, graph.input_shape)
    place = by_device(device)
    graph, box = graph.to(place), box.to(place)
    numbers = [*graph.pre_activations, graph.output] if nodes is None else [graph.number(name) for name in nodes]
    prepared = chosen.prepare(graph, box, deadline=deadline)
    found = {graph.nodes[v].name: prepared.node(v) for v in dict.fromkeys(numbers)}
    values = None if objectives is None else prepared.minimise(objectives.to(place)).bound
    return Bounds(chosen, found, values, time.monotonic() - began)
