"""Replay in onnxruntime."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from bourn.errors import NetworkError, UsageError
from bourn.formats.replay import Replay
from onnx_models import W43, model, node, numbers


def test_replay_takes_one_point_at_a_time(tmp_path: Path) -> None:
    built = model([node("MatMul", "x w", "z"), node("Relu", "z")], {"x": ["N", 4]}, {"w": W43})
    (tmp_path / "net.onnx.gz").write_bytes(gzip.compress(built.SerializeToString()))
    (tmp_path / "net.onnx").write_bytes(built.SerializeToString())
    points = numbers(5, 4, dtype=np.float64)
    expected = np.maximum(points.astype(np.float32) @ W43, 0)
    sources: list[Callable[[], Replay]] = [
        lambda: Replay(built),
        lambda: Replay(built.SerializeToString(), optimise=False),
        lambda: Replay.from_file(tmp_path / "net.onnx"),
        lambda: Replay.from_file(str(tmp_path / "net.onnx.gz")),
    ]
    for source in sources:
        replay = source()
        np.testing.assert_allclose(replay.run(points), expected, rtol=1e-5, atol=1e-6)
        assert replay.run(points[0]).shape == (3,)
        assert replay.run(points).dtype == np.float64
    fed = replay.fed(points)
    assert (fed == points.astype(np.float32)).all()
    assert (replay.fed(points[1]) == fed[1]).all()
    assert (replay.run(fed) == replay.run(points)).all()


def test_replay_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    (tmp_path / "broken.onnx.gz").write_bytes(b"broken")
    for name in ("broken.onnx", "broken.onnx.gz", "none.onnx", "."):
        with pytest.raises(NetworkError, match=str(tmp_path)) as caught:
            Replay.from_file(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(NetworkError, match="not a tensor of floats"):
        Replay(model([node("Neg", "x")], {"x": [1, 2]}, element_type=TensorProto.INT64))
    with pytest.raises(NetworkError, match="not fixed"):
        Replay(model([node("Neg", "x")], {"x": [1, "n"]}))
    replay = Replay(model([node("Neg", "x")], {"x": [1, 2]}))
    for shape in ((3,), (2, 3), (1, 1, 2)):
        with pytest.raises(UsageError, match="do not fit"):
            replay.run(np.zeros(shape))
