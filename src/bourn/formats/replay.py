"""Replay: what onnxruntime computes for a point, in the element type of the file.

A counterexample counts only if the network as deployed agrees with it.  onnxruntime is imported here alone,
and only when a model is opened.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bourn.errors import NetworkError, UsageError

Floats = NDArray[np.float64]

_ELEMENT_TYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


class Serialisable(Protocol):
    """An ``onnx.ModelProto``, without importing onnx to say so."""

    def SerializeToString(self) -> bytes:
        """The bytes of the file."""


class Replay:
    """A model in onnxruntime, on the CPU with one thread.

    Points are flat: all inputs side by side in declaration order, each row-major; outputs likewise.
    """

    def __init__(self, model: bytes | Serialisable, source: str = "the model", *, optimise: bool = True) -> None:
        """Raises :class:`NetworkError` if onnxruntime cannot run the model; ``source`` names it in messages."""
        self._source = source
        data = model if isinstance(model, bytes) else model.SerializeToString()
        self._open(data, optimise)

    @classmethod
    def from_file(cls, path: str | Path, *, optimise: bool = True) -> Replay:
        """The model in a file, ``.onnx`` or ``.onnx.gz``."""
        path = Path(path)
        try:
            if path.suffix == ".gz":
                return cls(gzip.decompress(path.read_bytes()), str(path), optimise=optimise)
            if not path.is_file():
                raise FileNotFoundError("there is no such file")
        except (OSError, EOFError, zlib.error) as error:
            raise NetworkError(f"{path}: cannot be read: {_one_line(error)}") from None
        # By its path, for weights may lie in files beside it.
        replay = cls.__new__(cls)
        replay._source = str(path)
        replay._open(str(path), optimise)
        return replay

    def _open(self, model: bytes | str, optimise: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Its own messages go to the process's stderr; what matters comes as an exception.
        options.log_severity_level = 4
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = self._opened(model, options)
        if any(i.shape[:1] == [0] for i in self._session.get_inputs()):
            # Imports onnx, which a replay otherwise does without.
            from bourn.formats.onnx import with_open_batch

            data = model if isinstance(model, bytes) else Path(model).read_bytes()
            self._session = self._opened(with_open_batch(data, self._source), options)
        self._inputs = [
            (i.name, self._element_type(i.name, i.type), self._shape(i.name, i.shape)) for i in self._session.get_inputs()
        ]
        self._outputs = [o.name for o in self._session.get_outputs()]

    def _opened(self, model: bytes | str, options: Any) -> Any:
        import onnxruntime

        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's exceptions have no common base.
            raise NetworkError(f"{self._source}: onnxruntime cannot run it: {_one_line(error)}") from None

    def _element_type(self, name: str, stated: str) -> type[np.floating[Any]]:
        if stated not in _ELEMENT_TYPES:
            raise NetworkError(f"{self._source}: input {name!r} is a {stated}, not a tensor of floats")
        return _ELEMENT_TYPES[stated]

    def _shape(self, name: str, stated: list[int | str | None]) -> tuple[int, ...]:
        """The stated shape with 1 for the batch, which comes first and may be symbolic or 0."""
        sizes = [size if isinstance(size, int) else 0 for size in stated]
        sizes[:1] = [size if size > 0 else 1 for size in sizes[:1]]
        if not all(size > 0 for size in sizes):
            raise NetworkError(f"{self._source}: the shape of input {name!r} is not fixed")
        return tuple(sizes)

    @property
    def inputs(self) -> int:
        """The number of flat input entries."""
        return sum(math.prod(shape) for _, _, shape in self._inputs)

    def run(self, x: NDArray[Any]) -> Floats:
        """Outputs (n_out,) for a point (n_in,), or (batch, n_out) for (batch, n_in), one point at a time."""
        points = np.asarray(x)
        if points.ndim not in (1, 2) or points.shape[-1] != self.inputs:
            raise UsageError(f"points of shape {points.shape} do not fit the network's {self.inputs} inputs")
        if points.ndim == 1:
            return self._run_one(points)
        return np.stack([self._run_one(point) for point in points]) if len(points) else np.zeros((0, 0))

    def fed(self, x: NDArray[Any]) -> Floats:
        """The point or points as the network sees them: rounded to the inputs' element types."""
        points = np.asarray(x)
        parts = np.split(points, np.cumsum([math.prod(shape) for _, _, shape in self._inputs])[:-1], axis=-1)
        with np.errstate(over="ignore"):  # beyond the type's range: infinite
            rounded = [part.astype(kind).astype(np.float64) for part, (_, kind, _) in zip(parts, self._inputs, strict=True)]
        return np.concatenate(rounded, axis=-1)

    def _run_one(self, point: NDArray[Any]) -> Floats:
        feed: dict[str, NDArray[Any]] = {}
        start = 0
        for name, kind, shape in self._inputs:
            end = start + math.prod(shape)
            feed[name] = point[start:end].astype(kind).reshape(shape)
            start = end
        try:
            results = self._session.run(self._outputs, feed)
        except Exception as error:
            raise NetworkError(f"{self._source}: onnxruntime failed: {_one_line(error)}") from None
        return np.concatenate([np.asarray(r, dtype=np.float64).reshape(-1) for r in results])


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
