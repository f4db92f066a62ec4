"""Products, sums, convolutions, means over windows, and batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from bourn_check.network import Scale, Sum
from bourn_check.readers.onnx_moves import stated_axes
from bourn_check.readers.onnx_reading import Array, Node, Reader, Rules


def _gemm(reader: Reader, node: Node) -> None:
    weight = node.weights(1).T if node.attribute("transB") else node.weights(1)
    if node.attribute("transA") or node.attribute("alpha", 1.0) != 1.0 or (node.attribute("beta", 1.0) != 1.0 and node.given(2)):
        raise reader.fail("transA and factors other than 1 are not read")
    shape = (node.shape()[0], weight.shape[1])
    if node.shape() != (shape[0], weight.shape[0]):
        raise reader.fail(f"a product of {node.shape()} and {weight.shape}")
    product = reader.linear(node.inputs[0], weight[None], shape, "" if node.given(2) else node.outputs[0])
    if node.given(2):
        reader.shift(product, node.weights(2), node.outputs[0])


def _matmul(reader: Reader, node: Node) -> None:
    constant = 1 if node.is_constant(1) else 0
    weight, shape = node.weights(constant), node.shape(1 - constant)
    if weight.ndim != 2 or shape[-1 if constant else -2 :][:1] != weight.shape[0 if constant else 1 :][:1]:
        raise reader.fail(f"a product of {node.shape(0)} and {node.shape(1)}")
    if constant or len(shape) == 1:
        matrix = weight if constant else weight.T
        reader.linear(node.inputs[1 - constant], matrix[None], (*shape[:-1], matrix.shape[1]), node.outputs[0])
        return
    turned = node.move(np.swapaxes(node.index(1), -1, -2), 1)
    product = reader.linear(turned, weight.T[None], (*reader.shapes[turned][:-1], weight.shape[0]))
    index = np.arange(math.prod(reader.shapes[product])).reshape(reader.shapes[product])
    node.move(np.swapaxes(index, -1, -2), product, node.outputs[0])


def _batch_norm(reader: Reader, node: Node) -> None:
    shape = (1, -1, *(1,) * (len(node.shape()) - 2))
    scale, bias, mean, variance = (node.weights(i) for i in range(1, 5))
    if node.attribute("training_mode") or len(node.outputs) != 1 or len(node.shape()) < 2:
        raise reader.fail("in training mode it is no function")
    epsilon = Fraction(float(np.float32(node.attribute("epsilon", 1e-5))))
    roots = tuple(Fraction(v) + epsilon for v in variance.tolist())
    if min(roots) <= 0:
        raise reader.fail("a variance is not positive")
    name = reader.shift(node.inputs[0], -mean.reshape(shape))
    channel = np.broadcast_to(np.arange(len(scale)).reshape(shape), node.shape()).ravel().astype(np.int64)
    name = reader.add(Scale(tuple(Fraction(v) for v in scale.tolist()), channel, roots), [name], node.shape())
    reader.shift(name, bias.reshape(shape), node.outputs[0])


def _sum(reader: Reader, node: Node) -> None:
    """Add and Sub, of tensors or constants."""
    names, signs = [node.activation(i) for i in (0, 1)], (1, -1 if node.op_type == "Sub" else 1)
    shape = tuple(np.broadcast_shapes(*(reader.shapes[n] for n in names)))
    wide = [reader.wide(name, shape) for name in names]
    reader.add(Sum(signs), wide, shape, node.outputs[0])


def _product(reader: Reader, node: Node) -> None:
    """Mul and Div by constants."""
    constant = 1 if node.is_constant(1) or node.op_type == "Div" else 0
    shape = tuple(np.broadcast_shapes(node.shape(0), node.shape(1)))
    own = reader.wide(node.inputs[1 - constant], shape)
    reader.scaled(own, node.weights(constant), node.op_type == "Div", node.outputs[0])


# Windows


def windows(node: Node, kernel: Sequence[int]) -> Array:
    """Flat numbers of the entries under every window, (C, *positions, *kernel); -1 in the padding."""
    index, dims = node.index(), len(kernel)
    if index.shape[0] != 1 or index.ndim != dims + 2 or node.attribute("ceil_mode"):
        raise node.reader.fail(f"an input of shape {index.shape} for windows {list(kernel)}, or ceil_mode")
    strides, dilations = node.ints("strides") or (1,) * dims, node.ints("dilations") or (1,) * dims
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads, auto = node.ints("pads") or (0,) * (2 * dims), node.attribute("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        need = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(index.shape[2:], strides, reach, strict=True)]
        less, more = [n // 2 for n in need], [n - n // 2 for n in need]
        pads = (*less, *more) if auto == b"SAME_UPPER" else (*more, *less)
    elif auto not in (b"NOTSET", b"VALID"):
        raise node.reader.fail(f"auto_pad {auto!r}")
    if min(pads) < 0:
        raise node.reader.fail("pads below 0")
    padded = np.pad(index[0], [(0, 0), *zip(pads[:dims], pads[dims:], strict=True)], constant_values=-1)
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(1, dims + 1)))
    return views[(slice(None), *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))]


def _conv(reader: Reader, node: Node) -> None:
    weight, groups = node.weights(1), int(node.attribute("group", 1))
    found, dims = windows(node, weight.shape[2:]), weight.ndim - 2
    channels, positions, kernel = len(found), found.shape[1 : 1 + dims], weight.shape[2:]
    if weight.shape[1] * groups != channels or len(weight) % groups or (node.ints("kernel_shape") or kernel) != kernel:
        raise reader.fail(f"a kernel of shape {weight.shape} for {channels} channels")
    count, inner = math.prod(positions), weight.shape[1] * math.prod(kernel)
    apart = found.reshape(groups, weight.shape[1], count, -1).transpose(2, 0, 1, 3)
    patches = node.move(apart.reshape(count, groups * inner))
    matrix = weight.reshape(groups, len(weight) // groups, inner).transpose(0, 2, 1)
    product = reader.linear(patches, matrix, (count, len(weight)))
    index = np.arange(count * len(weight)).reshape(count, -1).T.reshape(1, len(weight), *positions)
    moved = node.move(index, product, "" if node.given(2) else node.outputs[0])
    if node.given(2):
        reader.shift(moved, node.weights(2).reshape(1, -1, *(1,) * dims), node.outputs[0])


def _mean(reader: Reader, node: Node, index: Array, shape: Sequence[int], count_padding: bool) -> None:
    """The mean over the last axis of flat numbers (n, k)."""
    summed = reader.linear(node.move(index), np.ones((1, index.shape[-1], 1)), shape)
    counts = np.full(len(index), index.shape[-1]) if count_padding else (index >= 0).sum(-1)
    reader.scaled(summed, counts.reshape(shape).astype(np.float64), True, node.outputs[0])


def _average_pool(reader: Reader, node: Node) -> None:
    kernel = node.ints("kernel_shape") or ()
    found = windows(node, kernel)
    shape = (1, *found.shape[: 1 + len(kernel)])
    _mean(reader, node, found.reshape(math.prod(shape), -1), shape, bool(node.attribute("count_include_pad", 0)))


def over_axes(reader: Reader, node: Node, globally: bool) -> tuple[Array, Sequence[int]]:
    """Flat numbers (n, k) of what is reduced, and the shape of the result."""
    index = node.index()
    axes = list(range(2, index.ndim)) if globally else stated_axes(node, 18)
    axes = sorted(a % index.ndim for a in (axes if axes is not None else range(index.ndim)))
    if not axes or node.attribute("noop_with_empty_axes"):
        raise reader.fail("nothing is reduced")
    kept = [a for a in range(index.ndim) if a not in axes]
    flat = index.transpose(*kept, *axes).reshape(math.prod(index.shape[a] for a in kept), -1)
    keep = globally or bool(node.attribute("keepdims", 1))
    return flat, [1 if a in axes else index.shape[a] for a in range(index.ndim) if keep or a not in axes]


def _reduced(reader: Reader, node: Node) -> None:
    _mean(reader, node, *over_axes(reader, node, node.op_type == "GlobalAveragePool"), True)


AFFINE: Rules = {
    **dict.fromkeys(("Add", "Sub"), _sum),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _reduced),
    **dict.fromkeys(("Mul", "Div"), _product),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Neg": lambda reader, node: reader.add(Sum((-1,)), node.inputs, node.shape(), node.outputs[0]),
}
