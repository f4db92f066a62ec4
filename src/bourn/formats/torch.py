"""PyTorch modules: exported to ONNX in memory, so that bounds and replays speak of the same network."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bourn.errors import NetworkError
from bourn.network.graph import Graph


def export(module: nn.Module, example: Tensor | Sequence[int]) -> bytes:
    """The module in evaluation mode as the bytes of an ONNX file.

    ``example`` is an input, or the shape of one, its leading 1 included.  Weights are stored as the module
    holds them: nothing is folded or fused, which would round.  Numbers that are no tensors (a leaky slope,
    an epsilon) become float32, for ONNX has no other kind of attribute.  The module's own mode is left as it is.
    Raises :class:`NetworkError` if torch cannot export it.
    """
    # Only the TorchScript exporter works without another package; torch 2.4 has no choice yet.
    exporter: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    modes = {m: m.training for m in module.modules()}
    # Typed as a path alone, though the exporter writes to any file.
    file: Any = io.BytesIO()
    try:
        module.eval()
        # On a failure torch prints its own view of the module; the message of the error is enough.
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "Constant folding", UserWarning)
            torch.onnx.export(
                module,
                (_example(module, example),),
                file,
                input_names=["input"],
                output_names=["output"],
                do_constant_folding=False,
                # The evaluation mode is set above; saying EVAL here would fuse batch norms in float32.
                training=torch.onnx.TrainingMode.PRESERVE,
                **exporter,
            )
    except Exception as error:
        # Anything can go wrong in a module's own code and in the tracer.
        raise NetworkError(f"torch cannot export the module: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        for m, training in modes.items():
            m.training = training
    return bytes(file.getvalue())


def from_module(module: nn.Module, example: Tensor | Sequence[int]) -> Graph:
    """The module in evaluation mode as a graph, its weights held exactly; see :func:`export`."""
    # Imports onnx, which the rest of bourn does without.
    from bourn.formats.onnx import from_bytes

    return from_bytes(export(module, example), type(module).__name__)


def _example(module: nn.Module, example: Tensor | Sequence[int]) -> Tensor:
    if isinstance(example, Tensor):
        return example
    weight = next(module.parameters(), torch.zeros(()))
    return torch.zeros(tuple(example), dtype=weight.dtype, device=weight.device)
