"""Convolutions and average pools, with all their attributes, compute what onnxruntime computes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bourn.errors import UnsupportedOperatorError
from bourn.formats.onnx import from_model
from onnx_models import agrees, model, node, numbers


@st.composite
def windows(draw: st.DrawFn, ceil: bool) -> tuple[dict[str, Any], list[int]]:
    """Attributes of a sliding window and the spatial shape under it."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = 1) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rank * count, max_size=rank * count))

    kernel = each(1, 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": each(1, 3)}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
    else:
        attributes["pads"] = [min(p, k - 1) for p, k in zip(each(0, 2, 2), kernel * 2, strict=True)]
        if draw(st.booleans()):
            attributes["dilations"] = each(1, 2)
    if ceil and draw(st.booleans()):
        attributes["ceil_mode"] = 1
    return attributes, each(5, 7 if rank < 3 else 5)


@given(window=windows(ceil=False), groups=st.integers(1, 2), opset=st.sampled_from([8, 11, 22]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_convolutions(window: tuple[dict[str, Any], list[int]], groups: int, opset: int) -> None:
    attributes, space = window
    weight = numbers(groups * 2, 3, *attributes["kernel_shape"])
    built = node("Conv", "x w b", group=groups, **attributes)
    agrees(model([built], {"x": [1, groups * 3, *space]}, {"w": weight, "b": numbers(groups * 2, seed=9)}, opset=opset))


@given(window=windows(ceil=False), groups=st.integers(1, 2), extra=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_transposed_convolutions(window: tuple[dict[str, Any], list[int]], groups: int, extra: bool) -> None:
    attributes, space = window
    if len(space) > 2 and groups > 1:
        return
    if extra and "auto_pad" not in attributes:
        attributes["output_padding"] = [min(1, s - 1) for s in attributes["strides"]]
    if any(k < s for k, s in zip(attributes["kernel_shape"], attributes["strides"], strict=True)) and "auto_pad" in attributes:
        return
    weight = numbers(groups * 3, 2, *attributes["kernel_shape"])
    built = node("ConvTranspose", "x w b", group=groups, **attributes)
    agrees(model([built], {"x": [1, groups * 3, *space]}, {"w": weight, "b": numbers(groups * 2, seed=9)}))


@given(window=windows(ceil=True), includes=st.booleans())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_average_pools(window: tuple[dict[str, Any], list[int]], includes: bool) -> None:
    attributes, space = window
    built = model([node("AveragePool", "x", count_include_pad=int(includes), **attributes)], {"x": [1, 2, *space]}, opset=19)
    triples = list(zip(space, attributes["kernel_shape"], attributes["strides"], strict=True))
    auto = attributes.get("auto_pad", "NOTSET")
    overhangs = auto == "VALID" and "ceil_mode" in attributes and any((n - k) % s for n, k, s in triples)
    skips = auto.startswith("SAME") and any((-(-n // s) - 1) * s + k < n for n, k, s in triples)
    if overhangs or skips:
        with pytest.raises(UnsupportedOperatorError, match="differ"):
            from_model(built)
    else:
        agrees(built)
