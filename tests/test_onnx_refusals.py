"""What the ONNX reader refuses, and how it says so."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bourn.errors import NetworkError, UnsupportedOperatorError
from bourn.formats.onnx import (
    OPSETS,
    diagnose,
    from_bytes,
    from_model,
    load,
    supported_operators,
)
from bourn.formats.replay import Replay
from onnx_models import W43, model, node, numbers


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("Pow", "x x")], "depends on the network's input"),
        ([node("Relu", "x", "z"), node("NoSuchOperator", "z")], "NoSuchOperator"),
        ([node("Cast", "x", "z", to=TensorProto.INT64), node("Gather", "c z")], "rounds to INT64"),
        ([node("Cast", "x", "z", to=TensorProto.FLOAT16), node("Cast", "z", to=TensorProto.FLOAT)], "rounds to FLOAT16"),
        ([node("Reshape", "c x")], "depends on the network's input"),
        ([node("Floor", "x")], "Floor"),
        ([node("Clip", "x x")], "parameters depend"),
        ([node("Clip", "x one zero")], "not at most"),
        ([node("Dropout", "x", "z mask"), node("Relu", "mask")], "mask"),
        ([node("Flatten", "x", axis=1, strange=3)], "strange"),
        ([node("Dropout", "x zero yes")], "training mode"),
        ([node("Identity", "x", domain="my.own")], "my.own.Identity"),
    ],
)
def test_unsupported(nodes: list[onnx.NodeProto], why: str) -> None:
    constants = {"c": numbers(2, 2), "one": np.array(1.0), "zero": np.array(0.0), "yes": np.array(True)}
    with pytest.raises(UnsupportedOperatorError, match=why.replace(".", r"\.")) as caught:
        from_model(model(nodes, {"x": [2, 2]}, constants))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("MatMul", "x w")], "MatMul node 'y'"),
        ([node("Add", "x w")], "Add node 'y'"),
        ([node("Add", "x")], "input 2 is missing"),
        ([node("Add", "x missing")], "nothing produces it"),
        ([node("Relu", "z"), node("Relu", "x", "z")], "before it is used"),
        ([node("Conv", "x w")], "does not fit"),
        ([node("Conv", "x n", kernel_shape=[1])], "no spatial axes"),
        ([node("Concat", "x w", axis=1)], "joins shapes"),
        ([node("Transpose", "x", perm=[0, 5])], "Transpose node 'y'"),
        ([node("Reshape", "x five")], "Reshape node 'y'"),
        ([node("Gather", "x five", axis=0)], "Gather node 'y'"),
        ([node("Split", "x five", "y")], "splits"),
        ([node("Add", "x n")], "NaN or infinite"),
        ([node("Mul", "x i")], "accuracy|NaN or infinite"),
        ([node("MatMul", "x x3", "y")], "nothing produces it"),
    ],
)
def test_malformed(nodes: list[onnx.NodeProto], why: str) -> None:
    constants = {
        "w": numbers(3, 2, 2),
        "five": np.array([5]),
        "n": np.array([np.nan, 1, 1], dtype=np.float32),
        "i": np.array([np.inf, 1, 1], dtype=np.float32),
    }
    with pytest.raises(NetworkError, match=why) as caught:
        from_model(model(nodes, {"x": [2, 3]}, constants), "net.onnx")
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_read(tmp_path: Path) -> None:
    def refused(path: Path, why: str) -> None:
        with pytest.raises(NetworkError, match=why) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    good = model([node("MatMul", "x w")], {"x": [1, 4]}, {"w": W43}).SerializeToString()
    refused(tmp_path / "none.onnx", "cannot be read")
    refused(tmp_path, "cannot be read")
    for name, data, why in [
        ("empty.onnx", b"", "no network"),
        ("text.onnx", b"this is not a network", "not a readable ONNX file"),
        ("cut.onnx", good[:-30], "not a readable ONNX file"),
        ("plain.onnx.gz", good, "cannot be read"),
        ("cut.onnx.gz", gzip.compress(good)[:-20], "cannot be read"),
        ("rotten.onnx.gz", gzip.compress(good)[:30] + b"rotten" * 20, "cannot be read"),
    ]:
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, why)
    (tmp_path / "good.onnx.gz").write_bytes(gzip.compress(good))
    assert load(str(tmp_path / "good.onnx.gz")).output_shape == (1, 3)
    assert from_bytes(good).output_shape == (1, 3)

    for built, name, why in [
        (model([node("Relu", "x")], {"x": [1, "n"]}), "open.onnx", "shape of input 'x' is not fixed"),
        (model([node("Relu", "x")], {}), "noinput.onnx", "no input"),
        (model([node("Relu", "x")], {"x": [1, 2]}, opset=7), "old.onnx", "operator set 7 is not read; 8 to"),
        (model([node("Relu", "x")], {"x": [1, 2]}, opset=OPSETS[-1] + 1), "new.onnx", "is not read"),
        (model([node("Relu", "x")], {"x": [1, 2]}, element_type=TensorProto.INT64), "integers.onnx", "does not hold floats"),
        (model([node("Relu", "x", "z")], {"x": [1, 2]}), "nowhere.onnx", "'y' is read but nothing produces it"),
    ]:
        (tmp_path / name).write_bytes(built.SerializeToString())
        refused(tmp_path / name, why)


def test_external_data(tmp_path: Path) -> None:
    built = model([node("MatMul", "x w")], {"x": [1, 40]}, {"w": numbers(40, 30)})
    path = tmp_path / "outside.onnx"
    onnx.save_model(built, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load(path).output_shape == (1, 30)
    assert Replay.from_file(path).run(np.zeros(40)).shape == (30,)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(NetworkError, match="not a readable ONNX file"):
        load(path)


def test_diagnose_names_every_obstacle(tmp_path: Path) -> None:
    nodes = [
        node("Alien", "x", "a", name="first"),
        node("Relu", "a", "b"),
        node("Foreign", "b", "c"),
        node("Pow", "x x", "d"),
        node("Sum", "c d"),
        node("Alien", "x", "unused"),
    ]
    path = tmp_path / "strange.onnx"
    path.write_bytes(model(nodes, {"x": [1, 2]}).SerializeToString())
    found = [(o.node, o.op_type) for o in diagnose(path)]
    expected = [("first", "Alien"), ("c", "Foreign"), ("d", "Pow")]
    assert found == [e for e in expected if e[1] not in supported_operators() or e[1] == "Pow"]
    assert all(o.reason for o in diagnose(path))
    path.write_bytes(model([node("Relu", "x")], {"x": [1, 2]}).SerializeToString())
    assert diagnose(path) == []
