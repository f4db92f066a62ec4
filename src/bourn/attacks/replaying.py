"""Replaying: whether a candidate is a counterexample as written, in what the model comes from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bourn.certificates.evidence import Counterexample, is_counterexample
from bourn.formats.model import Model
from bourn.problem.input_set import InputSet
from bourn.problem.problem import Case


def replayed(model: Model, case: Case, x: Tensor) -> Counterexample | None:
    """The candidate ``x`` (any shape) as a counterexample of ``case``, at a point near it that the model's input type holds.

    None where the replay does not agree, or no such point is found in the input set.
    """
    point = inside(model, case.box, x.detach().cpu().reshape(1, -1))
    if not np.isfinite(point).all():
        return None
    y = model.run(point)
    return Counterexample(case, point, y, model.replayed_in) if is_counterexample(case, point, y) else None


def inside(model: Model, box: InputSet, x: Tensor) -> np.ndarray:
    """A point near x that the model's input type holds: in the set if one is found, towards its middle if need be."""
    lower, upper = box.inner if box.inner is not None else (box.lower, box.upper)
    for share in (0.0, 2.0**-21, 2.0**-16, 2.0**-8):
        near = x if share == 0 else x + share * (box.middle - x)
        point = model.representable(near.reshape(-1).numpy(), lower.reshape(-1).numpy(), upper.reshape(-1).numpy())
        if bool(box.contains(torch.from_numpy(np.ascontiguousarray(point, dtype=np.float64))[None])):
            break
    return point
