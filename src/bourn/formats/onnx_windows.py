"""ONNX operators that slide a window over space: convolutions and average pools."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from bourn.errors import NetworkError
from bourn.formats import onnx_constants as constants
from bourn.formats.onnx_arithmetic import scale
from bourn.formats.onnx_constants import Constant
from bourn.formats.onnx_moves import padded
from bourn.formats.onnx_reading import Shape, Use, Value, bias_error, rule, select, tensor
from bourn.network.affine import Convolution


@dataclass(frozen=True, slots=True)
class Window:
    """Where a sliding window of ``kernel`` stands, axis by axis; ``overhang`` reaches past the padding at the end."""

    kernel: Shape
    stride: Shape
    dilation: Shape
    before: Shape
    after: Shape
    overhang: Shape
    out: Shape


def sliding_window(use: Use, space: Shape, kernel: Shape) -> Window:
    """The node's window over an input of this spatial shape."""
    rank = len(kernel)
    if len(space) != rank or not 1 <= rank <= 3:
        raise use.refuse(f"{len(space)} spatial axes with a kernel of {rank}; one to three are read")
    stride = tuple(use.attribute("strides") or (1,) * rank)
    dilation = tuple(use.attribute("dilations") or (1,) * rank)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    auto = use.attribute("auto_pad", "NOTSET")
    pads = tuple(use.attribute("pads") or (0,) * 2 * rank)
    ceil = bool(use.attribute("ceil_mode", 0))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        missing = [(-(-n // s) - 1) * s + r - n for n, s, r in zip(space, stride, reach, strict=True)]
        if min(missing) < 0 and use.op_type != "Conv":
            raise use.refuse("SAME padding of a window shorter than its stride is read differently from tool to tool")
        missing = [max(m, 0) for m in missing]
        less, more = tuple(m // 2 for m in missing), tuple(m - m // 2 for m in missing)
        before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
    elif auto in ("NOTSET", "VALID") and len(pads) == 2 * rank and min(pads) >= 0:
        before, after = (pads[:rank], pads[rank:]) if auto == "NOTSET" else ((0,) * rank, (0,) * rank)
    else:
        raise NetworkError(f"its padding {auto} {pads} does not fit {rank} axes")
    out, overhang = [], []
    for n, s, r, b, a in zip(space, stride, reach, before, after, strict=True):
        steps = n + b + a - r
        if ceil and auto == "VALID" and steps % s:
            raise use.refuse("the standard and onnxruntime differ on VALID padding with ceil_mode")
        count = (-(-steps // s) if ceil and auto == "NOTSET" else steps // s) + 1
        # A window that would start in the padding at the end is left out.
        count -= ceil and (count - 1) * s >= n + b
        if count < 1:
            raise NetworkError(f"a window of {kernel} does not fit the input's shape {space}")
        out.append(count)
        overhang.append(max((count - 1) * s - steps, 0))
    return Window(kernel, stride, dilation, before, after, tuple(overhang), tuple(out))


def convolve(use: Use, x: int, weight: Constant, window: Window, groups: int, bias: Constant | None = None, part: str = "") -> int:
    """The convolution of a node; padding that differs from side to side becomes a select of its own."""
    shape = use.shape(x)
    end = tuple(a + o for a, o in zip(window.after, window.overhang, strict=True))
    padding = window.before
    if padding != end:
        index = np.arange(math.prod(shape)).reshape(shape)
        x = select(use, x, padded(index, [(0, 0), (0, 0), *zip(padding, end, strict=True)], fill=-1), part="padded")
        padding = (0,) * len(padding)
    over_space = (1,) * len(window.kernel)
    fitted = None if bias is None else Constant(bias.array.reshape(-1, *over_space), bias.error)
    operation = Convolution(
        in_shapes=(use.shape(x),),
        out_shape=(shape[0], weight.array.shape[0], *window.out),
        weight=tensor(weight.floats),
        weight_error=weight.error,
        bias=None if fitted is None else tensor(fitted.floats),
        bias_error=None if fitted is None else bias_error(fitted),
        stride=window.stride,
        padding=padding,
        dilation=window.dilation,
        groups=groups,
    )
    return use.emit(operation, x, part=part)


def _kernel(use: Use) -> tuple[Constant, Constant | None, int]:
    """Weight, bias and number of groups; the kernel's shape is stated twice."""
    weight, bias, groups = use.constant(1), use.constant(2), use.attribute("group", 1)
    if weight is None or weight.array.ndim < 3:
        raise NetworkError("its weight is missing or has no spatial axes")
    stated = tuple(use.attribute("kernel_shape") or weight.array.shape[2:])
    if stated != weight.array.shape[2:]:
        raise NetworkError(f"its kernel_shape is {stated}, but its weight has shape {weight.array.shape}")
    return weight, bias, groups


@rule("Conv")
def _conv(use: Use) -> Value:
    x = use.activation(use.value(0))
    weight, bias, groups = _kernel(use)
    shape = use.shape(x)
    outputs, channels = weight.array.shape[:2]
    if len(shape) < 3 or shape[1] != channels * groups or outputs % groups or (bias is not None and bias.array.size != outputs):
        raise NetworkError(f"a weight of shape {weight.array.shape} in {groups} groups does not fit the input's shape {shape}")
    return convolve(use, x, weight, sliding_window(use, shape[2:], weight.array.shape[2:]), groups, bias)


@rule("ConvTranspose")
def _conv_transpose(use: Use) -> Value:
    """A convolution of the input with zeros between its entries, the kernel turned round."""
    x = use.activation(use.value(0))
    weight, bias, groups = _kernel(use)
    shape = use.shape(x)
    channels, each, *kernel = weight.array.shape
    rank = len(kernel)
    if len(shape) != rank + 2 or shape[1] != channels or channels % groups or not 1 <= rank <= 3:
        raise NetworkError(f"a weight of shape {weight.array.shape} in {groups} groups does not fit the input's shape {shape}")
    stride = tuple(use.attribute("strides") or (1,) * rank)
    dilation = tuple(use.attribute("dilations") or (1,) * rank)
    reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    extra = tuple(use.attribute("output_padding") or (0,) * rank)
    full = tuple((n - 1) * s + r + 1 + e for n, s, r, e in zip(shape[2:], stride, reach, extra, strict=True))
    pads = _transposed_pads(use, shape[2:], stride, full)
    spread = np.full((*shape[:2], *((n - 1) * s + 1 for n, s in zip(shape[2:], stride, strict=True))), -1)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = np.arange(math.prod(shape)).reshape(shape)
    widths = [(r - pads[i], r - pads[i + rank] + extra[i]) for i, r in enumerate(reach)]
    spread = padded(spread, [(0, 0), (0, 0), *widths], fill=-1)
    turned = np.flip(weight.array, axis=tuple(range(2, rank + 2)))
    turned = turned.reshape(groups, channels // groups, each, *kernel).swapaxes(1, 2)
    turned = turned.reshape(groups * each, channels // groups, *kernel)
    out = tuple(n - r for n, r in zip(spread.shape[2:], reach, strict=True))
    if min(out) < 1:
        raise NetworkError(f"its padding {pads} leaves nothing of the output")
    none, one = (0,) * rank, (1,) * rank
    window = Window(tuple(kernel), one, dilation, none, none, none, out)
    return convolve(use, select(use, x, spread, part="spread"), Constant(turned, weight.error), window, groups, bias)


def _transposed_pads(use: Use, space: Shape, stride: Shape, full: Shape) -> Shape:
    """What a transposed convolution cuts off its ``full`` output on both sides, stated or derived from its output's shape."""
    stated = tuple(use.attribute("pads") or (0,) * 2 * len(space))
    auto, wanted = use.attribute("auto_pad", "NOTSET"), use.attribute("output_shape")
    if wanted is None and auto in ("NOTSET", "VALID"):
        return stated
    target = tuple(n * s for n, s in zip(space, stride, strict=True)) if wanted is None else tuple(wanted)[-len(space) :]
    excess = [n - t for n, t in zip(full, target, strict=True)]
    if min(excess) < 0:
        raise use.refuse("its output is larger than its input makes it")
    less, more = tuple(e // 2 for e in excess), tuple(e - e // 2 for e in excess)
    return less + more if auto == "SAME_UPPER" else more + less


@rule("AveragePool")
def _average_pool(use: Use) -> Value:
    """The sum over the window, exact, then the division by how many entries it counts there."""
    x = use.activation(use.value(0))
    shape = use.shape(x)
    window = sliding_window(use, shape[2:], tuple(use.attribute("kernel_shape")))
    ones = Constant(np.ones((shape[1], 1, *window.kernel)))
    total = convolve(use, x, ones, window, groups=shape[1], part="sum")
    counted = np.ones((1, 1, *shape[2:]))
    sides = [(0, 0), (0, 0), *zip(window.before, window.after, strict=True)]
    counted = padded(counted, sides, fill=1.0 if use.attribute("count_include_pad", 0) else 0.0)
    counted = padded(counted, [(0, 0), (0, 0), *((0, o) for o in window.overhang)])
    none = (0,) * len(window.kernel)
    count = Convolution(
        in_shapes=(counted.shape,),
        out_shape=(1, 1, *window.out),
        weight=torch.ones(1, 1, *window.kernel, dtype=torch.float64),
        stride=window.stride,
        padding=none,
        dilation=window.dilation,
    ).linear(torch.from_numpy(counted)[None])[0]
    return scale(use, total, constants.divide(Constant(np.array(1.0)), Constant(count.numpy())))
