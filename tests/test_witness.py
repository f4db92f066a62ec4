"""Witnesses read back to the numbers that they were written from, in the layout that the formats ask for."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bourn.errors import SpecificationError, UsageError
from bourn.formats.vnnlib import parse
from bourn.formats.witness import STATUSES, parse_v1, result_file, standard_v2, vnncomp_v1

OLD = parse("(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (assert (<= X_0 Y_0))")
NEW = parse(
    """(vnnlib-version <2.0>)
    (declare-network f
        (declare-input X float32 [2,1]) (declare-input U float32 []) (declare-input N int64 [1])
        (declare-output Y float32 [1]) (declare-output Z real [1,2]))
    (assert (<= X[0,0] 1.0))"""
)
finite = st.floats(allow_nan=False, allow_infinity=False)


def test_the_form_of_version_1() -> None:
    assert vnncomp_v1(OLD, [0.5, -1e-7], [2.0]) == "((X_0 0.5)\n (X_1 -0.0000001)\n (Y_0 2.0))"


def test_the_form_of_version_2() -> None:
    text = standard_v2(NEW, [0.5, -1.0, 3.25, 7.0], [2.0, 0.0, -0.125])
    assert text.split("\n") == [
        *["X float32 [2,1]", "0.5", "-1.0"],
        *["U float32 []", "3.25"],
        *["N int64 [1]", "7"],
        *["Y float32 [1]", "2.0"],
        *["Z real [1,2]", "0.0", "-0.125"],
    ]


@given(st.tuples(finite, finite), st.lists(finite, min_size=1, max_size=3))
def test_values_read_back(x: tuple[float, float], y: list[float]) -> None:
    assert parse_v1(vnncomp_v1(OLD, x, y)) == (list(x), y)


@given(st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits))[0]).filter(math.isfinite))
def test_float32_values_read_back_from_any_container(value: float) -> None:
    texts = {
        vnncomp_v1(OLD, container, [0.0])
        for container in (
            torch.tensor([[value], [value]], dtype=torch.float32, requires_grad=True),
            np.array([value, value], dtype=np.float32),
            [value, value],
        )
    }
    assert len(texts) == 1
    assert parse_v1(texts.pop()) == ([value, value], [0.0])
    lines = standard_v2(NEW, [value, value, value, 0.0], [value] * 3).split("\n")
    assert float(lines[1]) == float(lines[-1]) == value


@given(st.lists(finite, min_size=6, max_size=6))
def test_numbers_have_no_exponent(values: list[float]) -> None:
    lines = standard_v2(NEW, [*values[:3], 1.0], values[3:]).split("\n")
    written = [line for line in lines if "[" not in line]
    assert [float(line) for line in written] == [*values[:3], 1.0, *values[3:]]
    assert not any("e" in line for line in written)


def test_result_files() -> None:
    assert result_file("sat", OLD, [0.5, 1.0], [2.0]) == "sat\n((X_0 0.5)\n (X_1 1.0)\n (Y_0 2.0))\n"
    assert result_file("sat", NEW, [0.5, -1.0, 3.25, 7.0], [2.0, 0.0, 1.0]).startswith("sat\nX float32 [2,1]\n0.5\n")
    for status in set(STATUSES) - {"sat"}:
        assert result_file(status, OLD, [0.5, 1.0], [2.0]) == f"{status}\n"
    with pytest.raises(UsageError, match="'sat' needs a witness"):
        result_file("sat", OLD)
    with pytest.raises(UsageError, match="'violated' is no result"):
        result_file("violated", OLD)


def test_witnesses_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="a witness of 1 inputs and 1 outputs for a question with 2 and 1"):
        vnncomp_v1(OLD, [0.5], [1.0])
    with pytest.raises(UsageError, match="a witness of 2 inputs and 0 outputs"):
        vnncomp_v1(OLD, [0.5, 1.0], [])
    with pytest.raises(UsageError, match="too few outputs: Z has 2 entries"):
        standard_v2(NEW, [0.0] * 4, [0.0] * 2)
    with pytest.raises(UsageError, match="1 inputs more"):
        standard_v2(NEW, [0.0] * 5, [0.0] * 3)
    for value in (math.nan, math.inf):
        with pytest.raises(UsageError, match="must be finite, but output 0 is"):
            vnncomp_v1(OLD, [0.5, 1.0], [value])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must read"),
        ("((X_0 1.0)", "must read"),
        ("(X_0 1.0) (Y_0 1.0)", "must read"),
        ("((X_1 1.0))", "X_1 where X_0 was expected"),
        ("((X_0 one))", "X_0 the value 'one'"),
    ],
)
def test_texts_that_are_no_witness(text: str, why: str) -> None:
    with pytest.raises(SpecificationError, match=why):
        parse_v1(text)
