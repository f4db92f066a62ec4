"""Networks, questions and certificates for the tests of the checker."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import bourn
from bourn.plans import Bounding, Plan
from bourn.problem.problem import problems
from bourn_check.arithmetic import arithmetic
from bourn_check.network import Network
from onnx_models import model, node, numbers


def mlp(seed: int, widths: Sequence[int] = (5, 4), inputs: int = 3, outputs: int = 2, activation: str = "Relu") -> onnx.ModelProto:
    """Gemm layers with an activation between them."""
    nodes, constants, before = [], {}, "x"
    for k, width in enumerate((*widths, outputs)):
        size = inputs if k == 0 else widths[k - 1]
        constants[f"W{k}"], constants[f"b{k}"] = numbers(width, size, seed=seed * 10 + k), numbers(width, seed=seed * 10 + k + 5)
        last = k == len(widths)
        nodes.append(node("Gemm", f"{before} W{k} b{k}", "y" if last else f"z{k}", transB=1))
        if not last:
            nodes.append(node(activation, f"z{k}", f"a{k}"))
        before = f"a{k}"
    return model(nodes, {"x": [1, inputs]}, constants)


def convolutional(seed: int) -> onnx.ModelProto:
    """A bit of everything that the checker reads."""
    constants = {
        "K": numbers(4, 2, 3, 3, seed=seed) / 3,
        "c": numbers(4, seed=seed + 1),
        "G": numbers(4, 2, 2, 2, seed=seed + 2),
        "scale": np.abs(numbers(4, seed=seed + 3)) + 0.5,
        "shift": numbers(4, seed=seed + 4),
        "mean": numbers(4, seed=seed + 5),
        "var": np.abs(numbers(4, seed=seed + 6)) + 0.5,
        "low": np.array(-0.5, np.float32),
        "high": np.array(1.5, np.float32),
        "half": np.array(0.3, np.float32),
        "shape": np.array([0, -1], np.int64),
        "pads": np.array([0, 0, 1, 0, 0, 0, 0, 1], np.int64),
        "from": np.array([1], np.int64),
        "to": np.array([9], np.int64),
        "axis": np.array([1], np.int64),
        "W": numbers(7, 3, seed=seed + 7) / 3,
        "v": numbers(3, seed=seed + 8),
    }
    nodes = [
        node("Conv", "x K c", "z1", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "z1 scale shift mean var", "n1"),
        node("LeakyRelu", "n1", "a1", alpha=0.1),
        node("Pad", "a1 pads", "p1"),
        node("Conv", "p1 G -".removesuffix(" -"), "z2", group=2, kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        node("Clip", "z2 low high", "a2"),
        node("AveragePool", "a2", "m2", kernel_shape=[2, 2], strides=[2, 1]),
        node("Transpose", "m2", "t2", perm=[0, 2, 3, 1]),
        node("Mul", "t2 half", "s2"),
        node("Abs", "s2", "a3"),
        node("ReduceMean", "a3", "r3", axes=[1, 2], keepdims=0),
        node("GlobalAveragePool", "a2", "g2"),
        node("Reshape", "g2 shape", "f2"),
        node("Sub", "r3 f2", "d"),
        node("Concat", "d r3", "j", axis=1),
        node("Slice", "j from to axis", "k"),
        node("MatMul", "k W", "w"),
        node("Add", "w v", "y1"),
        node("Relu", "y1", "y2"),
        node("Div", "y2 half", "y"),
    ]
    return model(nodes, {"x": [1, 2, 6, 6]}, constants)


def specification(lower: np.ndarray, upper: np.ndarray, outputs: int, *asserts: str) -> str:
    """A VNN-LIB 1.0 text: a box, and assertions on outputs."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))] + [f"(declare-const Y_{j} Real)" for j in range(outputs)]
    for i, (a, b) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
        lines += [f"(assert (>= X_{i} {a!r}))", f"(assert (<= X_{i} {b!r}))"]
    return "\n".join([*lines, *asserts])


@dataclass(frozen=True)
class Files:
    """A network, a question about it and a certificate."""

    network: Path
    specification: Path
    certificate: Path

    @property
    def arguments(self) -> tuple[Path, Path, Path]:
        return self.certificate, self.network, self.specification


def proved(folder: Path, network: onnx.ModelProto, method: str, radius: float = 0.3, seed: int = 0) -> Files:
    """Files for the hardest bounds that the method just proves: either output, or both together, falls so low."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder / "net.onnx", folder / "prop.vnnlib", folder / "proof.bourn")
    files.network.write_bytes(network.SerializeToString())
    loaded = bourn.load(files.network)
    inputs, outputs = int(np.prod(loaded.graph.input_shape)), int(np.prod(loaded.graph.output_shape))
    center = np.random.default_rng(seed).normal(size=inputs).round(2)
    ends = (center - radius).round(3), (center + radius).round(3)
    files.specification.write_text(specification(*ends, outputs, "(assert (or (and (<= Y_0 0) (<= Y_1 0)) (<= Y_1 0)))"))
    plan = Plan((Bounding(bourn.method(method)),))
    # What the method proves of each output, to ask for a little less.
    (problem,) = problems(loaded.graph, bourn.verify(loaded, files.specification, plan=plan).question)
    rows = [bourn.Row.of({j: 1}) for j in (0, 1)]
    bounds = bourn.method(method).prepare(loaded.graph, problem.box).minimise(problem.objectives(rows)).bound[0].tolist()
    low = [b - 1e-3 * (1 + abs(b)) for b in bounds]
    asked = f"(assert (or (and (<= Y_0 {low[0]!r}) (<= Y_1 {low[1] + 9!r})) (<= Y_1 {low[1]!r})))"
    files.specification.write_text(specification(*ends, outputs, asked))
    result = bourn.verify(files.network, files.specification, plan=plan)
    assert result.status == "unsat", result
    bourn.write_certificate(result, files.certificate)
    return files


Manifest = dict[str, Any]
Arrays = dict[str, np.ndarray]
Chunks = list[dict[str, Any]]


def contents(path: Path) -> tuple[Manifest, Arrays, Chunks]:
    """A certificate's manifest, arrays and chunks."""
    with zipfile.ZipFile(path) as own:
        arrays = {n[7:-4]: np.load(own.open(n)) for n in own.namelist() if n.endswith(".npy")}
        count = sum(n.startswith("chunks/") for n in own.namelist())
        return json.loads(own.read("manifest.json")), arrays, [json.loads(own.read(f"chunks/{i}.json")) for i in range(count)]


def rewritten(path: Path, manifest: Manifest, arrays: Arrays, chunks: Chunks) -> None:
    """Write a certificate's file from its parts."""
    with zipfile.ZipFile(path, "w") as own:
        for name, values in arrays.items():
            with own.open(f"arrays/{name}.npy", "w") as member:
                np.lib.format.write_array(member, values, version=(1, 0))
        for number, chunk in enumerate(chunks):
            own.writestr(f"chunks/{number}.json", json.dumps(chunk))
        own.writestr("manifest.json", json.dumps(manifest))


def changed(files: Files, change: Callable[[Manifest, Arrays, Chunks], object]) -> Files:
    """The same files with another certificate."""
    manifest, arrays, chunks = contents(files.certificate)
    change(manifest, arrays, chunks)
    other = Files(files.network, files.specification, files.certificate.with_name("changed.bourn"))
    rewritten(other.certificate, manifest, arrays, chunks)
    return other


def evaluated(net: Network, x: np.ndarray, name: str = "float") -> np.ndarray:
    own = arithmetic(name)
    values = net.evaluate(own.exact(x.astype(np.float64)[None]), own)
    middle: np.ndarray = (values.lower()[0] + values.upper()[0]) / 2
    return middle
