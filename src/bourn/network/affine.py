"""Affine operators: x_v = sum over inputs u of A_u x_u + b, each with forward, absolute forward and transpose.

Few operators serve many of a model file's: everything that only moves numbers (slice, pad, gather,
transpose, split, expand, tile) is one :class:`Select` by index.  Tensors are (N, *shape), where N is any
batch: problems in a forward pass, problems x rows in a transposed one.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(ABC):
    """Base of the affine operators.

    ``bias`` broadcasts to ``out_shape``, or is None.  Where a weight or bias had to be rounded on the way
    from the model file, ``weight_error`` bounds the weights' relative error and ``bias_error`` (shaped as
    the bias) the bias's absolute error, so that bounds can cover the network as stored.
    """

    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    bias: Tensor | None = None
    weight_error: float = 0.0
    bias_error: Tensor | None = None

    @property
    @abstractmethod
    def forward_terms(self) -> int:
        """Greatest number of products in one entry of the forward map; 0 if numbers are only moved."""

    @property
    @abstractmethod
    def transpose_terms(self) -> int:
        """Greatest number of products in one entry of the transposed map; 0 if numbers are only moved."""

    @abstractmethod
    def linear(self, *xs: Tensor) -> Tensor:
        """Sum of A_u x_u: tensors (N, *in_shapes[u]) to (N, *out_shape), without the bias."""

    @abstractmethod
    def absolute(self, *xs: Tensor) -> Tensor:
        """Sum of |A_u| x_u, shapes as in :meth:`linear`."""

    @abstractmethod
    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        """A_u^T rows for every input: (N, *out_shape) to one (N, *in_shapes[u]) each."""

    def forward(self, *xs: Tensor) -> Tensor:
        """The operator itself, bias included."""
        value = self.linear(*xs)
        return value if self.bias is None else value + self.bias

    def constant(self, batch: int) -> Tensor:
        """The value of an operator without inputs, (batch, *out_shape)."""
        raise TypeError(f"{type(self).__name__} has inputs")

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that the operator holds."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                yield value

    def to(self, device: torch.device | str) -> Self:
        """The same operator with its tensors on ``device``."""
        held = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        moved: dict[str, Any] = {name: value.to(device) for name, value in held if isinstance(value, Tensor)}
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True, eq=False, kw_only=True)
class Constant(Affine):
    """A value that depends on no input: the bias alone."""

    in_shapes: tuple[Shape, ...] = ()
    forward_terms = 0
    transpose_terms = 0

    def linear(self, *xs: Tensor) -> Tensor:
        raise TypeError("a constant has no linear part")

    def absolute(self, *xs: Tensor) -> Tensor:
        raise TypeError("a constant has no linear part")

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        return ()

    def constant(self, batch: int) -> Tensor:
        assert self.bias is not None
        return self.bias.expand(batch, *self.out_shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Affine):
    """Matrix product along the last axis: x (..., n) to x W^T (..., m); ``weight`` is (m, n)."""

    weight: Tensor

    @property
    def forward_terms(self) -> int:
        return self.weight.shape[1]

    @property
    def transpose_terms(self) -> int:
        return self.weight.shape[0]

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] @ self.weight.T

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] @ self.weight.abs().T

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows @ self.weight,)


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchedDense(Affine):
    """Matrix products with a stack of constant matrices on the right: x (..., k, n) to x W (..., k, m).

    ``weight`` is (..., n, m) and broadcasts against x's leading axes (ONNX MatMul).
    """

    weight: Tensor

    @property
    def forward_terms(self) -> int:
        return self.weight.shape[-2]

    @property
    def transpose_terms(self) -> int:
        return self.weight.shape[-1] * math.prod(self.out_shape[:-2])

    def linear(self, *xs: Tensor) -> Tensor:
        return torch.matmul(self._aligned(xs[0]), self.weight)

    def absolute(self, *xs: Tensor) -> Tensor:
        return torch.matmul(self._aligned(xs[0]), self.weight.abs())

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        product = torch.matmul(rows, self.weight.mT)
        extra = product.dim() - 1 - len(self.in_shapes[0])
        if extra:
            product = product.sum(dim=tuple(range(1, 1 + extra)))
        for axis, size in enumerate(self.in_shapes[0], start=1):
            if product.shape[axis] != size:
                product = product.sum(dim=axis, keepdim=True)
        return (product,)

    def _aligned(self, x: Tensor) -> Tensor:
        missing = len(self.out_shape) - len(self.in_shapes[0])
        return x.reshape(x.shape[0], *(1,) * missing, *x.shape[1:])


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Affine):
    """Convolution of (batch, channels, *space) in one to three dimensions, grouped and dilated.

    ``weight`` is (out channels, in channels / groups, *kernel); ``padding`` is the same on both sides of
    an axis (the importer pads unequal sides with a :class:`Select`).
    """

    weight: Tensor
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int = 1

    @property
    def dimensions(self) -> int:
        return self.weight.dim() - 2

    @property
    def forward_terms(self) -> int:
        return math.prod(self.weight.shape[1:])

    @property
    def transpose_terms(self) -> int:
        return self.weight.shape[0] // self.groups * math.prod(self.weight.shape[2:])

    def linear(self, *xs: Tensor) -> Tensor:
        return self._convolve(xs[0], self.weight)

    def absolute(self, *xs: Tensor) -> Tensor:
        return self._convolve(xs[0], self.weight.abs())

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        flat = x.reshape(-1, *x.shape[2:])
        # cuDNN may choose Winograd or FFT, whose errors the a-priori bound does not cover.
        with torch.backends.cudnn.flags(enabled=False):
            y = _CONV[self.dimensions](flat, weight, None, self.stride, self.padding, self.dilation, self.groups)
        return y.reshape(x.shape[0], x.shape[1], *y.shape[1:])

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        flat = rows.reshape(-1, *rows.shape[2:])
        left_over = tuple(
            size + 2 * pad - dil * (kernel - 1) - 1 - (out - 1) * stride
            for size, pad, dil, kernel, out, stride in zip(
                self.in_shapes[0][2:], self.padding, self.dilation, self.weight.shape[2:], rows.shape[3:], self.stride, strict=True
            )
        )
        # Where the kernel never reaches the last entries, torch wants them as output padding below the
        # stride or the dilation, which the shape arithmetic of a convolution guarantees.
        with torch.backends.cudnn.flags(enabled=False):
            x = _CONV_TRANSPOSE[self.dimensions](
                flat, self.weight, None, self.stride, self.padding, left_over, self.groups, self.dilation
            )
        return (x.reshape(rows.shape[0], *self.in_shapes[0]),)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Affine):
    """Element-wise product with a constant: ``factor`` broadcasts to the input's shape, which is the output's."""

    factor: Tensor
    forward_terms = 1
    transpose_terms = 1

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] * self.factor

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] * self.factor.abs()

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows * self.factor,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Offset(Affine):
    """x + b: the identity with a bias."""

    forward_terms = 0
    transpose_terms = 0

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0]

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0]

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows,)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Affine):
    """The same numbers in another shape."""

    forward_terms = 0
    transpose_terms = 0

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].reshape(xs[0].shape[0], *self.out_shape)

    def absolute(self, *xs: Tensor) -> Tensor:
        return self.linear(*xs)

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows.reshape(rows.shape[0], *self.in_shapes[0]),)


@dataclass(frozen=True, eq=False, kw_only=True)
class Select(Affine):
    """Every output entry is one input entry, or none: ``index`` (out_shape) into the flat input, -1 for 0.

    A padding value other than 0 stands in the bias.
    """

    index: Tensor

    @property
    def forward_terms(self) -> int:
        return 0

    @property
    def transpose_terms(self) -> int:
        used = self.index[self.index >= 0]
        most = int(torch.bincount(used).max()) if used.numel() else 0
        return 0 if most <= 1 else most

    def linear(self, *xs: Tensor) -> Tensor:
        flat = xs[0].reshape(xs[0].shape[0], -1)
        moved = flat[:, self.index.clamp(min=0).reshape(-1)]
        moved = moved.where((self.index >= 0).reshape(-1), torch.zeros((), dtype=moved.dtype, device=moved.device))
        return moved.reshape(xs[0].shape[0], *self.out_shape)

    def absolute(self, *xs: Tensor) -> Tensor:
        return self.linear(*xs)

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        flat = rows.flatten(1)
        kept = (self.index >= 0).reshape(-1)
        result = flat.new_zeros(rows.shape[0], math.prod(self.in_shapes[0]))
        result.index_add_(1, self.index.reshape(-1)[kept], flat[:, kept])
        return (result.reshape(rows.shape[0], *self.in_shapes[0]),)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Affine):
    """Signed sum of inputs of one shape: ``signs`` holds +1 or -1 for each."""

    signs: tuple[int, ...]

    @property
    def forward_terms(self) -> int:
        return len(self.signs)

    @property
    def transpose_terms(self) -> int:
        return 0

    def linear(self, *xs: Tensor) -> Tensor:
        total = xs[0] if self.signs[0] > 0 else -xs[0]
        for x, sign in zip(xs[1:], self.signs[1:], strict=True):
            total = total + x if sign > 0 else total - x
        return total

    def absolute(self, *xs: Tensor) -> Tensor:
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(rows if sign > 0 else -rows for sign in self.signs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Affine):
    """Inputs side by side along ``axis`` (0 is the first axis of the shape)."""

    axis: int

    @property
    def forward_terms(self) -> int:
        return 0

    @property
    def transpose_terms(self) -> int:
        return 0

    def linear(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, dim=self.axis + 1)

    def absolute(self, *xs: Tensor) -> Tensor:
        return self.linear(*xs)

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, [shape[self.axis] for shape in self.in_shapes], dim=self.axis + 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReduceSum(Affine):
    """Sum over ``axes`` of the input; ``out_shape`` says whether the axes stay with size 1."""

    axes: Shape
    transpose_terms = 0

    @property
    def forward_terms(self) -> int:
        return math.prod(self.in_shapes[0][a] for a in self.axes)

    def linear(self, *xs: Tensor) -> Tensor:
        if not self.axes:
            return xs[0].reshape(xs[0].shape[0], *self.out_shape)
        return xs[0].sum(dim=tuple(a + 1 for a in self.axes)).reshape(xs[0].shape[0], *self.out_shape)

    def absolute(self, *xs: Tensor) -> Tensor:
        return self.linear(*xs)

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        kept = tuple(1 if a in self.axes else size for a, size in enumerate(self.in_shapes[0]))
        return (rows.reshape(rows.shape[0], *kept).expand(rows.shape[0], *self.in_shapes[0]),)
