"""The papers that the methods come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A paper as the map of methods names it: ``authors`` as in a citation, ``venue`` without the year."""

    authors: str
    year: int
    title: str
    venue: str
    arxiv: str = ""

    def __str__(self) -> str:
        return f"{self.authors} {self.year}"


REFERENCE = Paper(
    "Salman et al.",
    2019,
    "A Convex Relaxation Barrier to Tight Robustness Verification of Neural Networks",
    "NeurIPS",
    "1902.08722",
)
"""Where the map and the barrier come from."""

ANDERSON = Paper(
    "Anderson et al.",
    2020,
    "Strong mixed-integer programming formulations for trained neural networks",
    "Math. Program.",
    "1811.08359",
)
BUNEL = Paper("Bunel et al.", 2018, "A Unified View of Piecewise Linear Neural Network Verification", "NeurIPS", "1711.00455")
CUTS = Paper(
    "Zhang et al.", 2022, "General Cutting Planes for Bound-Propagation-Based Neural Network Verification", "NeurIPS", "2208.05740"
)
DVIJOTHAM = Paper(
    "Dvijotham et al.", 2018, "A Dual Approach to Scalable Verification of Deep Networks", "UAI", "1803.06567"
)
EHLERS = Paper("Ehlers", 2017, "Formal Verification of Piece-Wise Linear Feed-Forward Neural Networks", "ATVA", "1705.01320")
GEHR = Paper(
    "Gehr et al.", 2018, "AI2: Safety and Robustness Certification of Neural Networks with Abstract Interpretation", "IEEE S&P"
)
GOWAL = Paper(
    "Gowal et al.",
    2018,
    "On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models",
    "preprint",
    "1810.12715",
)
KATZ = Paper("Katz et al.", 2017, "Reluplex: An Efficient SMT Solver for Verifying Deep Neural Networks", "CAV", "1702.01135")
KOTHA = Paper("Kotha et al.", 2023, "Provably Bounding Neural Network Preimages", "NeurIPS", "2302.01404")
MUELLER = Paper(
    "Müller et al.",
    2022,
    "PRIMA: General and Precise Neural Network Certification via Scalable Convex Hull Approximations",
    "POPL",
    "2103.03638",
)
RAGHUNATHAN = Paper(
    "Raghunathan et al.",
    2018,
    "Semidefinite relaxations for certifying robustness to adversarial examples",
    "NeurIPS",
    "1811.01057",
)
SINGH_2018 = Paper("Singh et al.", 2018, "Fast and Effective Robustness Certification", "NeurIPS")
SINGH_2019 = Paper("Singh et al.", 2019, "An Abstract Domain for Certifying Neural Networks", "POPL")
SINGH_K_RELU = Paper("Singh et al.", 2019, "Beyond the Single Neuron Convex Barrier for Neural Network Certification", "NeurIPS")
TJANDRAATMADJA = Paper(
    "Tjandraatmadja et al.",
    2020,
    "The Convex Relaxation Barrier, Revisited: Tightened Single-Neuron Relaxations for Neural Network Verification",
    "NeurIPS",
    "2006.14076",
)
TJENG = Paper("Tjeng et al.", 2019, "Evaluating Robustness of Neural Networks with Mixed Integer Programming", "ICLR", "1711.07356")
WANG = Paper("Wang et al.", 2018, "Efficient Formal Safety Analysis of Neural Networks", "NeurIPS", "1809.08098")
WENG = Paper("Weng et al.", 2018, "Towards Fast Computation of Certified Robustness for ReLU Networks", "ICML", "1804.09699")
WONG = Paper(
    "Wong and Kolter",
    2018,
    "Provable Defenses against Adversarial Examples via the Convex Outer Adversarial Polytope",
    "ICML",
    "1711.00851",
)
XU = Paper(
    "Xu et al.",
    2021,
    "Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete Verifiers",
    "ICLR",
    "2011.13824",
)
ZHANG_2018 = Paper(
    "Zhang et al.",
    2018,
    "Efficient Neural Network Robustness Certification with General Activation Functions",
    "NeurIPS",
    "1811.00866",
)
ZHANG_2020 = Paper(
    "Zhang et al.", 2020, "Towards Stable and Efficient Training of Verifiably Robust Neural Networks", "ICLR", "1906.06316"
)
