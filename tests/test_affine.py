"""Contracts of every affine operator: transpose, absolute value, and the counts on which the error bounds rest."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bourn.network import affine
from bourn.network.affine import Affine

Draw = Callable[..., int]


def _numbers(draw: st.DrawFn, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    values = torch.randint(-4, 5, shape, generator=generator)
    return values.to(torch.float64)


@st.composite
def dense(draw: st.DrawFn) -> Affine:
    n, m, k = (draw(st.integers(1, 4)) for _ in range(3))
    leading = draw(st.sampled_from([(), (1,), (k,), (1, k)]))
    return affine.Dense(in_shapes=((*leading, n),), out_shape=(*leading, m), weight=_numbers(draw, m, n))


@st.composite
def batched_dense(draw: st.DrawFn) -> Affine:
    k, n, m, s, t = (draw(st.integers(1, 3)) for _ in range(5))
    leading = [((), (s,)), ((1,), (s,)), ((s,), (s,)), ((s,), (1,)), ((t, 1), (s,)), ((1,), (t, s)), ((t, s), (1, s))]
    x, w = draw(st.sampled_from(leading))
    out = (*np.broadcast_shapes(x, w), k, m)
    return affine.BatchedDense(in_shapes=((*x, k, n),), out_shape=out, weight=_numbers(draw, *w, n, m))


@st.composite
def convolution(draw: st.DrawFn) -> Affine:
    dimensions = draw(st.sampled_from([1, 1, 2, 2, 3]))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    most = 6 if dimensions < 3 else 4
    kernel, stride, padding, dilation, space = each(1, 3), each(1, 3), each(0, 2), each(1, 2), each(1, most)
    groups, inner, outer, batch = (draw(st.integers(1, 2)) for _ in range(4))
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    space = tuple(max(n, r - 2 * p) for n, r, p in zip(space, reach, padding, strict=True))
    out = tuple((n + 2 * p - r) // s + 1 for n, p, r, s in zip(space, padding, reach, stride, strict=True))
    return affine.Convolution(
        in_shapes=((batch, groups * inner, *space),),
        out_shape=(batch, groups * outer, *out),
        weight=_numbers(draw, groups * outer, inner, *kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def _shape(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))


@st.composite
def scale(draw: st.DrawFn) -> Affine:
    shape = _shape(draw)
    factor = draw(st.sampled_from([shape, shape[-1:], (1,) * len(shape), ()]))
    return affine.Scale(in_shapes=(shape,), out_shape=shape, factor=_numbers(draw, *factor))


@st.composite
def offset(draw: st.DrawFn) -> Affine:
    shape = _shape(draw)
    return affine.Offset(in_shapes=(shape,), out_shape=shape, bias=_numbers(draw, *shape[-1:]))


@st.composite
def reshape(draw: st.DrawFn) -> Affine:
    shape = _shape(draw)
    return affine.Reshape(in_shapes=(shape,), out_shape=(1, math.prod(shape)))


@st.composite
def select(draw: st.DrawFn) -> Affine:
    shape, out = _shape(draw), _shape(draw)
    index = draw(st.lists(st.integers(-1, math.prod(shape) - 1), min_size=math.prod(out), max_size=math.prod(out)))
    return affine.Select(in_shapes=(shape,), out_shape=out, index=torch.tensor(index).reshape(out))


@st.composite
def signed_sum(draw: st.DrawFn) -> Affine:
    shape = _shape(draw)
    signs = tuple(draw(st.lists(st.sampled_from([1, -1]), min_size=1, max_size=3)))
    return affine.Sum(in_shapes=(shape,) * len(signs), out_shape=shape, signs=signs)


@st.composite
def concat(draw: st.DrawFn) -> Affine:
    shape = _shape(draw)
    axis = draw(st.integers(0, len(shape) - 1))
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    shapes = tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)
    return affine.Concat(in_shapes=shapes, out_shape=(*shape[:axis], sum(sizes), *shape[axis + 1 :]), axis=axis)


@st.composite
def reduce_sum(draw: st.DrawFn) -> Affine:
    shape = _shape(draw)
    axes = tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1)))))
    keeps = draw(st.booleans())
    out = tuple(1 if a in axes else size for a, size in enumerate(shape) if keeps or a not in axes)
    return affine.ReduceSum(in_shapes=(shape,), out_shape=out, axes=axes)


EXAMPLES: dict[type[Affine], st.SearchStrategy[Affine]] = {
    affine.Dense: dense(),
    affine.BatchedDense: batched_dense(),
    affine.Convolution: convolution(),
    affine.Scale: scale(),
    affine.Offset: offset(),
    affine.Reshape: reshape(),
    affine.Select: select(),
    affine.Sum: signed_sum(),
    affine.Concat: concat(),
    affine.ReduceSum: reduce_sum(),
}


def _matrices(operator: Affine) -> list[Tensor]:
    """The dense matrix (out, in) of every input, by applying the operator to the identity."""
    matrices = []
    for position, shape in enumerate(operator.in_shapes):
        size = math.prod(shape)
        inputs = [torch.zeros(size, *s, dtype=torch.float64) for s in operator.in_shapes]
        inputs[position] = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        matrices.append(operator.linear(*inputs).reshape(size, -1).T)
    return matrices


def test_every_operator_has_examples() -> None:
    assert set(Affine.__subclasses__()) == {*EXAMPLES, affine.Constant}


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda k: k.__name__)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_contract(kind: type[Affine], data: st.DataObject) -> None:
    """Small integers, so that everything is exact: all comparisons are equalities."""
    operator = data.draw(EXAMPLES[kind])
    matrices = _matrices(operator)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    xs = [torch.randint(-5, 6, (2, *s), generator=generator).to(torch.float64) for s in operator.in_shapes]
    rows = torch.randint(-5, 6, (2, *operator.out_shape), generator=generator).to(torch.float64)

    def applied(ms: list[Tensor]) -> Tensor:
        total = torch.stack([x.reshape(2, -1) @ m.T for x, m in zip(xs, ms, strict=True)]).sum(0)
        return total.reshape(2, *operator.out_shape)

    linear = operator.linear(*xs)
    assert torch.equal(linear, applied(matrices))
    assert torch.equal(operator.absolute(*xs), applied([m.abs() for m in matrices]))
    back = operator.transpose(rows)
    assert [tuple(b.shape) for b in back] == [(2, *s) for s in operator.in_shapes]
    for b, m in zip(back, matrices, strict=True):
        assert torch.equal(b.reshape(2, -1), rows.reshape(2, -1) @ m)

    # The counts of products bound the non-zero entries of a row over all inputs, and of a column of each.
    forward = int(torch.cat([m != 0 for m in matrices], dim=1).sum(1).max())
    backward = max(int((m != 0).sum(0).max()) for m in matrices)
    assert forward <= max(operator.forward_terms, 1)
    assert backward <= max(operator.transpose_terms, 1)
    entries = torch.cat([m.reshape(-1) for m in matrices])
    if operator.forward_terms == 0 or operator.transpose_terms == 0:
        assert bool(torch.isin(entries, torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)).all())

    bias = operator.bias
    assert torch.equal(operator.forward(*xs), linear if bias is None else linear + bias)


def test_constant() -> None:
    constant = affine.Constant(out_shape=(1, 3), bias=torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    assert constant.constant(2).tolist() == [[[1, 2, 3]], [[1, 2, 3]]]
    assert constant.transpose(torch.ones(2, 1, 3)) == ()
    for call in (constant.linear, constant.absolute):
        with pytest.raises(TypeError, match="no linear part"):
            call()
    with pytest.raises(TypeError, match="has inputs"):
        affine.Offset(in_shapes=((1,),), out_shape=(1,)).constant(1)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda k: k.__name__)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_to_device_keeps_everything(kind: type[Affine], data: st.DataObject) -> None:
    operator = data.draw(EXAMPLES[kind])
    moved = operator.to("cpu")
    assert type(moved) is kind
    assert moved.in_shapes == operator.in_shapes
    assert [t.tolist() for t in moved.tensors()] == [t.tolist() for t in operator.tensors()]
