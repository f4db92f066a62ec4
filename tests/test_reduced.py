"""The reduced program is the same dual function on fewer numbers; ascent on it reaches LP-ALL to its gap, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bourn
from bourn.errors import UsageError
from bourn.network.graph import Graph
from bourn.problem.input_set import Box, linf_ball
from bourn.problem.problem import Objectives
from bourn.program.lagrangian import Lagrangian
from bourn.program.reduced import ReducedLagrangian, kept_entries, pays
from bourn.program.relaxed import RelaxedProgram, start, with_bounds
from bourn.relaxations.base import LineRule
from bourn.solvers.base import output_rows
from bourn.solvers.climb import Steps, climb
from bourn.solvers.methods import method, to_gap
from bourn.solvers.simplex import Simplex
from networks import convolutional, dense, residual

BATCH = 4


def asked(kind: int, seed: int) -> tuple[Graph, Box, Objectives]:
    graph = (dense, residual, convolutional)[kind](seed)
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(BATCH, *graph.input_shape, dtype=torch.float64, generator=generator) - 0.5
    rows = torch.randn(1, 5, graph.nodes[graph.output].size, dtype=torch.float64, generator=generator)
    return graph, linf_ball(center, 0.3), Objectives(rows, None, torch.zeros(1, 5, dtype=torch.float64))


def programs(graph: Graph, box: Box) -> RelaxedProgram:
    program = start(graph, box, LineRule.AREA)
    for z, bounds in method("crown").prepare(graph, box).bounds.items():
        program = with_bounds(program, z, bounds)
    return program
