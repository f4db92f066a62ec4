"""Model: a network to reason about and the means to replay a point in what will be deployed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bourn.errors import UsageError
from bourn.network.graph import Graph

if TYPE_CHECKING:
    from bourn.formats.joined import Replays
    from bourn.formats.replay import Replay


@dataclass(frozen=True, eq=False)
class Model:
    """A graph and where it came from: an ONNX file or ONNX bytes, replayed in onnxruntime, or neither.

    ``joined``: of several networks in one, or of one with hidden nodes for outputs, the replays.
    """

    graph: Graph
    source: str | Path | bytes | None = None
    name: str = "the model"
    joined: Replays | None = None

    @cached_property
    def _replay(self) -> Replay | Replays | None:
        if self.joined is not None or self.source is None:
            return self.joined
        from bourn.formats.replay import Replay

        return Replay(self.source, self.name) if isinstance(self.source, bytes) else Replay.from_file(self.source)

    @property
    def replayed_in(self) -> str:
        """What a counterexample is replayed in, for people to read."""
        return "float64 (bourn's own evaluation)" if self._replay is None else "onnxruntime"

    def run(self, x: np.ndarray) -> np.ndarray:
        """The outputs (n_out,) at a flat point (n_in,)."""
        if self._replay is not None:
            return self._replay.run(x)
        import torch

        point = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64)).reshape(1, *self.graph.input_shape)
        flat: np.ndarray = self.graph.to("cpu").evaluate(point).reshape(-1).numpy()
        return flat

    def representable(self, x: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """A point near ``x`` that the model's input type holds exactly and, where there is one, lies in the box.

        Where x is beyond the type's range the point is not finite.
        """
        if self._replay is None:
            clipped: np.ndarray = np.clip(x, lower, upper)
            return clipped
        point: np.ndarray = self._replay.fed(np.clip(x, lower, upper))
        for relative in (2.0**-23, 2.0**-10):
            step = np.maximum(np.abs(point), 1e-30) * relative
            below, above = point < lower, point > upper
            if not (below.any() or above.any()) or not np.isfinite(point).all():
                break
            point = self._replay.fed(np.where(below, point + step, np.where(above, point - step, point)))
        return point


def load(source: Any, *, example: Any = None) -> Model:
    """A model from an ONNX file's path, a :class:`Graph`, a torch ``nn.Module`` or a :class:`Model` itself.

    ``example``: an input tensor or its shape, batch 1 included, needed for a module.  Raises
    :class:`bourn.errors.NetworkError` if it cannot be read, :class:`UsageError` for anything else.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, Graph):
        return Model(source)
    if isinstance(source, str | Path):
        from bourn.formats.onnx import load as load_onnx

        return Model(load_onnx(source), Path(source), Path(source).name)
    import torch

    if not isinstance(source, torch.nn.Module):
        raise UsageError(f"a model is an ONNX file's path, a Graph or a torch module, not a {type(source).__name__}")
    if example is None:
        raise UsageError("a torch module needs example=..., an input or its shape, for its graph to be read")
    from bourn.formats.onnx import from_bytes
    from bourn.formats.torch import export

    data = export(source, example)
    return Model(from_bytes(data, type(source).__name__), data, type(source).__name__)
