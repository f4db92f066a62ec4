"""What lies outside the class of layer-wise convex relaxations, and so may pass the barrier."""

from __future__ import annotations

from dataclasses import dataclass

from bourn.solvers import papers
from bourn.solvers.papers import Paper


@dataclass(frozen=True)
class Outside:
    """What is no layer-wise convex relaxation, and so may pass the barrier.

    ``why``: what it has that the class has not.  ``complete``: whether it decides every question in the end.  ``command``:
    how bourn is asked for it; empty where it cannot be asked yet.
    """

    name: str
    why: str
    papers: tuple[Paper, ...]
    complete: bool = False
    command: str = ""

    @property
    def source(self) -> str:
        return ", ".join(map(str, self.papers))

    @property
    def available(self) -> str:
        return self.command or "not in bourn yet"


OUTSIDE: tuple[Outside, ...] = (
    Outside(
        "MILP", "a binary variable for every unstable neuron", (papers.TJENG,), complete=True, command="bourn bound --method milp"
    ),
    Outside("SMT (Reluplex)", "case distinctions inside a simplex", (papers.KATZ,), complete=True),
    Outside("Branch and bound", "splits neurons or inputs, relaxes every part", (papers.BUNEL,), True, "bourn verify"),
    Outside(
        "Inner bounds by branch and bound",
        "a tree of its own for every open pre-activation",
        (papers.TJENG, papers.BUNEL),
        command="bourn bound --method split-all",
    ),
    Outside("Cutting planes", "constraints across neurons and layers", (papers.CUTS,)),
    Outside(
        "k-ReLU, PRIMA",
        "hulls of several neurons at once (in bourn of pairs)",
        (papers.SINGH_K_RELU, papers.MUELLER),
        command="bourn bound --method k-relu",
    ),
    Outside(
        "Multi-input hulls",
        "a neuron's hull over all inputs of its affine map",
        (papers.ANDERSON, papers.TJANDRAATMADJA),
        command="bourn bound --method anderson",
    ),
    Outside("SDP", "products of neurons in a positive semidefinite matrix", (papers.RAGHUNATHAN,)),
    Outside("Constraint on the output", "inner bounds only where the property is broken", (papers.KOTHA,)),
)
"""What lies outside the class."""
