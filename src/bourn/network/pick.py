"""One place of a sliding window: a convolution that only moves numbers, which max-pools are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bourn.network.affine import Convolution, Shape


@dataclass(frozen=True, eq=False, kw_only=True)
class Pick(Convolution):
    """The entry at ``tap`` of every position's window, channel by channel, without padding.

    A convolution with one group a channel, whose kernel is 1 at the tap and 0 elsewhere (:func:`pick` makes it): so receptive
    fields see through it, but slices do its work, and nothing rounds.
    """

    tap: Shape
    forward_terms = 0
    transpose_terms = 0

    def view(self, x: Tensor) -> Tensor:
        """The picked entries of x (N, *in_shape), as a view of it, (N, *out_shape)."""
        for axis, (tap, dilation, stride, out) in enumerate(
            zip(self.tap, self.dilation, self.stride, self.out_shape[2:], strict=True), start=3
        ):
            first = tap * dilation
            x = x[(*(slice(None),) * axis, slice(first, first + (out - 1) * stride + 1, stride))]
        return x

    def linear(self, *xs: Tensor) -> Tensor:
        return self.view(xs[0])

    def absolute(self, *xs: Tensor) -> Tensor:
        return self.view(xs[0])

    def transpose(self, rows: Tensor) -> tuple[Tensor, ...]:
        found = rows.new_zeros(len(rows), *self.in_shapes[0])
        self.view(found).copy_(rows)
        return (found,)


def pick(in_shape: Shape, out_shape: Shape, kernel: Shape, tap: Shape, stride: Shape, dilation: Shape) -> Pick:
    """The pick of one tap of a window of shape ``kernel`` over (batch, channels, *space)."""
    channels = in_shape[1]
    weight = torch.zeros(channels, math.prod(kernel), dtype=torch.float64)
    weight[:, sum(t * math.prod(kernel[i + 1 :]) for i, t in enumerate(tap))] = 1.0
    return Pick(
        in_shapes=(in_shape,),
        out_shape=out_shape,
        weight=weight.reshape(channels, 1, *kernel),
        stride=stride,
        padding=(0,) * len(kernel),
        dilation=dilation,
        groups=channels,
        tap=tap,
    )
