"""Assignments as the VNN-LIB standard serialises them: a folder with one ONNX TensorProto a variable."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from bourn.errors import UsageError
from bourn.problem.problem import Question


def serialise(folder: str | Path, question: Question, x: NDArray[np.float64], y: NDArray[np.float64]) -> list[Path]:
    """Write ``<variable>.pb`` for every variable of ``question``, and return the files; flat ``x`` and ``y``.

    An element type ``real`` is written as float64.  Raises :class:`UsageError` where the folder cannot be written.
    """
    left = dict(zip(("input", "output"), question.declared(x, y), strict=True))
    files = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for variable in question.variables:
            size = math.prod(variable.shape)
            values, left[variable.kind] = left[variable.kind][:size], left[variable.kind][size:]
            kind = np.float64 if variable.element_type == "real" else np.dtype(variable.element_type)
            tensor = numpy_helper.from_array(values.astype(kind).reshape(variable.shape), variable.name)
            files.append(Path(folder) / f"{variable.name}.pb")
            files[-1].write_bytes(tensor.SerializeToString())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None
    return files
