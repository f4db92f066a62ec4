"""The ONNX reader against the standard's own examples."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bourn.errors import NetworkError, UnsupportedOperatorError
from bourn.formats.onnx import (
    from_model,
    supported_operators,
)
from bourn.formats.onnx_reading import RULES
from onnx_models import Array

REFUSED = {
    "test_batchnorm_example_training_mode": "inference",
    "test_batchnorm_epsilon_training_mode": "inference",
    "test_convtranspose_output_shape": "larger than its input makes it",
    "test_reduce_sum_empty_set": "is not fixed",
    "test_reduce_sum_empty_set_non_reduced_axis_zero": "is not fixed",
    "test_reshape_allowzero_reordered": "cannot reshape",
    "test_split_zero_size_splits_opset13": "splits",
    "test_split_zero_size_splits_opset18": "splits",
    "test_pow": "whole numbers",
    "test_reduce_l1_empty_set": "is not fixed",
    "test_reduce_l2_empty_set": "is not fixed",
    "test_reduce_log_sum_empty_set": "is not fixed",
    "test_reduce_log_sum_exp_empty_set": "is not fixed",
    "test_reduce_max_empty_set": "is not fixed",
    "test_reduce_min_empty_set": "is not fixed",
    "test_reduce_sum_square_empty_set": "is not fixed",
    "test_resize_downsample_scales_linear_align_corners": "differ on align_corners",
}
"""Examples that are rightly not read: random at run time, of empty tensors, or of an output that the standard leaves open."""

REFUSED_KINDS = {
    "resize_downsample_scales_cubic": "read|differ",
    "resize_downsample_sizes_cubic": "read",
    "resize_upsample_scales_cubic": "read",
    "resize_upsample_sizes_cubic": "read",
    "linear_antialias": "antialias",
    "nearest_not_larger": "keep_aspect_ratio_policy",
    "nearest_not_smaller": "keep_aspect_ratio_policy",
    "tf_crop_and_resize": "are not read",
}
"""The same by a part of the name: ways to resize."""

UNDEFINED = ("test_l2normalization_axis_0",)
"""Examples with 0 / 0, which is no number in real arithmetic."""

ROUNDING_CASTS = tuple(
    f"test_cast{like}_{source}_to_FLOAT16{expanded}"
    for source in ("FLOAT", "DOUBLE")
    for like, expanded in (("", ""), ("like", "_expanded"))
)


@pytest.fixture(scope="session")
def standard_examples() -> dict[str, list[Any]]:
    """The single-node test cases of the onnx package by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    found: dict[str, list[Any]] = {}
    for case in cases:
        if case.model is not None and len(case.model.graph.node) == 1:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def _with_constants(case: Any) -> tuple[onnx.ModelProto, Array, Array] | None:
    """The case with all inputs but the first made constants, its input and its output; None if it is not about floats."""
    inputs, outputs = case.data_sets[0]
    floats = (np.float16, np.float32, np.float64)
    if not inputs or not all(isinstance(v, np.ndarray) for v in [*inputs, outputs[0]]):
        return None
    if inputs[0].dtype not in floats or outputs[0].dtype not in floats:
        return None
    built = onnx.ModelProto()
    built.CopyFrom(case.model)
    built.graph.initializer.extend(
        numpy_helper.from_array(v, i.name) for i, v in zip(built.graph.input[1:], inputs[1:], strict=True)
    )
    del built.graph.input[1:], built.graph.output[1:]
    return built, inputs[0], outputs[0]


def test_every_operator_is_tested(standard_examples: dict[str, list[Any]]) -> None:
    assert set(supported_operators()) <= set(standard_examples)


@pytest.mark.parametrize("op_type", supported_operators())
def test_standard_examples(op_type: str, standard_examples: dict[str, list[Any]]) -> None:
    for case in standard_examples[op_type]:
        prepared = _with_constants(case)
        if prepared is None:
            continue
        built, x, expected = prepared
        refused = [] if case.name in REFUSED else [why for kind, why in REFUSED_KINDS.items() if kind in case.name]
        if case.name in REFUSED or refused:
            with pytest.raises(NetworkError, match=REFUSED.get(case.name, refused[0] if refused else "")):
                from_model(built)
            continue
        if case.name in UNDEFINED:
            continue
        try:
            graph = from_model(built)
        except UnsupportedOperatorError:
            # What a nonlinearity refuses is its own affair.
            if op_type in RULES:
                raise
            continue
        with torch.no_grad():
            y = graph.evaluate(torch.from_numpy(x.astype(np.float64))[None])[0].numpy()
        assert y.shape == expected.shape, case.name
        tolerance = 1e-2 if expected.dtype == np.float16 or x.dtype == np.float16 else 1e-4
        np.testing.assert_allclose(y, expected.astype(np.float64), rtol=tolerance, atol=tolerance, err_msg=case.name)
