"""bourn certifies what a neural network does on a whole region of inputs, by convex relaxation.

The names below are imported when they are first used: importing bourn imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bourn._version import __version__

if TYPE_CHECKING:
    from bourn.attacks.several import counterexamples
    from bourn.bounding import Bounds, bound, read_bounds
    from bourn.errors import BournError
    from bourn.formats.model import Model, load
    from bourn.interval import Interval
    from bourn.ladders import Ladder, ladder
    from bourn.layer_losses import LayerLosses, losses_by_layer
    from bourn.plans import Plan
    from bourn.problem.balls import Ball, lp_ball
    from bourn.problem.cutting import polytope
    from bourn.problem.input_set import Box, InputSet, box, linf_ball
    from bourn.problem.polytopes import Polytope
    from bourn.problem.problem import Case, Question
    from bourn.problem.products import ProductSet, product_set
    from bourn.problem.questions import region, robustness
    from bourn.problem.specification import Row, Specification, class_margins
    from bourn.proofs import write_certificate
    from bourn.radii import Certified, Radii, radius
    from bourn.solvers.bracket import Bracket, bracket
    from bourn.solvers.methods import METHODS, Method, method
    from bourn.verification import Result, verify
    from bourn.views import Duality, duality

_HOMES = {
    "bourn.attacks.several": ("counterexamples",),
    "bourn.bounding": ("Bounds", "bound", "read_bounds"),
    "bourn.errors": ("BournError",),
    "bourn.formats.model": ("Model", "load"),
    "bourn.interval": ("Interval",),
    "bourn.ladders": ("Ladder", "ladder"),
    "bourn.layer_losses": ("LayerLosses", "losses_by_layer"),
    "bourn.problem.balls": ("Ball", "lp_ball"),
    "bourn.problem.cutting": ("polytope",),
    "bourn.problem.input_set": ("Box", "InputSet", "box", "linf_ball"),
    "bourn.problem.polytopes": ("Polytope",),
    "bourn.problem.problem": ("Case", "Question"),
    "bourn.problem.products": ("ProductSet", "product_set"),
    "bourn.problem.questions": ("region", "robustness"),
    "bourn.problem.specification": ("Row", "Specification", "class_margins"),
    "bourn.proofs": ("write_certificate",),
    "bourn.radii": ("Certified", "Radii", "radius"),
    "bourn.solvers.bracket": ("Bracket", "bracket"),
    "bourn.solvers.methods": ("METHODS", "Method", "method"),
    "bourn.plans": ("Plan",),
    "bourn.verification": ("Result", "verify"),
    "bourn.views": ("Duality", "duality"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bourn' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


__all__ = [
    "METHODS",
    "Ball",
    "Bounds",
    "BournError",
    "Box",
    "Bracket",
    "Case",
    "Certified",
    "Duality",
    "InputSet",
    "Interval",
    "Ladder",
    "LayerLosses",
    "Method",
    "Model",
    "Plan",
    "Polytope",
    "ProductSet",
    "Question",
    "Radii",
    "Result",
    "Row",
    "Specification",
    "__version__",
    "bound",
    "box",
    "bracket",
    "class_margins",
    "counterexamples",
    "duality",
    "ladder",
    "linf_ball",
    "load",
    "losses_by_layer",
    "lp_ball",
    "method",
    "polytope",
    "product_set",
    "radius",
    "read_bounds",
    "region",
    "robustness",
    "verify",
    "write_certificate",
]
