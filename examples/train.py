"""Makes the files of this folder: two small ReLU networks for 8x8 digits, and questions about them.

Trains a fully connected and a convolutional network against an adversary (projected gradient descent)
on scikit-learn's digits, scaled to [0, 1], and writes them as ONNX next to this file, with VNN-LIB
specifications and the images they are about.  Takes about a minute on one core:

    python examples/train.py
"""

from __future__ import annotations

import argparse
from decimal import Decimal
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bourn.training.attack import attack, margin
from bourn.training.data import load
from bourn.training.settings import Data

TRAINING_RADIUS = 0.1
"""l-infinity radius of the adversary in training, for pixels in [0, 1]."""
TEST_RADIUS = 0.05
"""The radius at which adversarial accuracy is measured."""
ROBUST_RADIUS = Decimal("0.05")
ATTACKABLE_RADIUS = Decimal("0.15")
PIXELS, CLASSES = 64, 10


def mlp() -> nn.Sequential:
    """64-32-32-10."""
    return nn.Sequential(nn.Linear(PIXELS, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def cnn() -> nn.Sequential:
    """Two strided convolutions (8x4x4, 16x2x2) and two dense layers; reads images (N, 1, 8, 8)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, CLASSES),
    )


def train(net: nn.Sequential, x: Tensor, y: Tensor, epochs: int, noise: torch.Generator) -> None:
    """Adam on adversarial examples; the radius grows over the first third of the epochs."""
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        radius = TRAINING_RADIUS * min(1.0, 3 * (epoch + 1) / epochs)
        for batch in torch.split(torch.randperm(len(x), generator=noise), 128):
            hard = attack(net, x[batch], y[batch], radius, 7, noise)
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(hard), y[batch]))
            optimiser.step()
        schedule.step()


def to_onnx(net: nn.Sequential, shape: tuple[int, ...], name: str) -> onnx.ModelProto:
    """The network as ONNX (opset 17, batch 1): hidden layers are called hidden_1, hidden_2, ..."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    last = max(i for i, layer in enumerate(net) if isinstance(layer, (nn.Linear, nn.Conv2d)))
    value, hidden = "image", 0
    for i, layer in enumerate(net):
        if isinstance(layer, nn.ReLU):
            result = f"hidden_{hidden}"
            nodes.append(helper.make_node("Relu", [value], [result], name=f"relu_{hidden}"))
        elif isinstance(layer, nn.Flatten):
            result = "features"
            nodes.append(helper.make_node("Flatten", [value], [result], name="flatten", axis=1))
        elif isinstance(layer, (nn.Linear, nn.Conv2d)):
            hidden += 1
            step = "scores" if i == last else f"hidden_{hidden}"
            result = "scores" if i == last else f"{step}_in"
            inputs = [value, f"{step}_weight", f"{step}_bias"]
            for parameter, parameter_name in zip((layer.weight, layer.bias), inputs[1:], strict=True):
                assert parameter is not None
                weights.append(numpy_helper.from_array(parameter.detach().numpy().astype(np.float32), parameter_name))
            if isinstance(layer, nn.Linear):
                nodes.append(helper.make_node("Gemm", inputs, [result], name=f"dense_{hidden}", transB=1))
            else:
                stride, padding = list(layer.stride), [1, 1, 1, 1]
                nodes.append(helper.make_node("Conv", inputs, [result], name=f"conv_{hidden}", strides=stride, pads=padding))
        else:
            raise TypeError(f"no ONNX operator for {layer}")
        value = result
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="bourn examples")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def ball(image: Tensor, radius: Decimal) -> list[tuple[Decimal, Decimal]]:
    """Each pixel's exact ends: radius around a multiple of 1/16, cut at 0 and 1."""
    pixels = [Decimal(float(p)) for p in image.flatten()]
    return [(max(p - radius, Decimal("0.0")), min(p + radius, Decimal("1.0"))) for p in pixels]


def header(number: int, label: int, radius: Decimal, network: str) -> list[str]:
    """What the file asks, as comments."""
    return [
        f"; Digits test image {number}, which shows a {label}.  Asks for an image whose every pixel is within {radius}",
        f"; of it and in [0, 1], and for which another class's score is at least class {label}'s.  For {network}.",
        f"; unsat: the class {label} is certain on the whole ball.  sat: it is not.",
    ]


def vnnlib_1(image: Tensor, number: int, label: int, radius: Decimal, network: str) -> str:
    """The question "can another class win?" in VNN-LIB 1.0."""
    lines = header(number, label, radius, network)
    lines += [f"(declare-const X_{i} Real)" for i in range(PIXELS)]
    lines += [f"(declare-const Y_{j} Real)" for j in range(CLASSES)]
    for i, (low, high) in enumerate(ball(image, radius)):
        lines += [f"(assert (>= X_{i} {low}))", f"(assert (<= X_{i} {high}))"]
    others = " ".join(f"(and (>= Y_{j} Y_{label}))" for j in range(CLASSES) if j != label)
    return "\n".join([*lines, f"(assert (or {others}))", ""])


def vnnlib_2(image: Tensor, number: int, label: int, radius: Decimal, network: str, shape: tuple[int, ...]) -> str:
    """The same question in VNN-LIB 2.0, for a network that reads ``shape``."""
    size = ",".join(map(str, (1, *shape)))
    lines = ["(vnnlib-version <2.0>)", *header(number, label, radius, network)]
    lines += ["(declare-network digits", f"  (declare-input X real [{size}])", f"  (declare-output Y real [1,{CLASSES}]))"]
    for place, (low, high) in zip(np.ndindex(1, *shape), ball(image, radius), strict=True):
        pixel = f"X[{','.join(map(str, place))}]"
        lines.append(f"(assert (and (>= {pixel} {low}) (<= {pixel} {high})))")
    others = " ".join(f"(>= Y[0,{j}] Y[0,{label}])" for j in range(CLASSES) if j != label)
    return "\n".join([*lines, f"(assert (or {others}))", ""])


def first(where: Tensor) -> int:
    """The first place that is true."""
    return int(where.nonzero()[0])


def measure(net: nn.Sequential, x: Tensor, y: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which test images are classified right, and which of them still are under attack."""
    right = margin(net(x), y) > 0
    attacked = attack(net, x, y, TEST_RADIUS, 40, noise)
    return right, right & (margin(net(attacked), y) > 0)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    data = load(Data("digits", test=360))
    x_train, y_train, x_test, y_test = data.x.flatten(1), data.y, data.test_x.flatten(1), data.test_y
    square = (1, 8, 8)
    right_by_both = torch.ones(len(x_test), dtype=torch.bool)
    nets: dict[str, nn.Sequential] = {}
    for name, make, shape, epochs in (("digits_mlp", mlp, (PIXELS,), 120), ("digits_cnn", cnn, square, 80)):
        torch.manual_seed(0)
        noise = torch.Generator().manual_seed(0)
        net = nets[name] = make()
        train(net, x_train.reshape(-1, *shape), y_train, epochs, noise)
        right, safe = measure(net, x_test.reshape(-1, *shape), y_test, noise)
        right_by_both &= right
        print(f"{name}: {right.double().mean():.2%} right, {safe.double().mean():.2%} under attack at radius {TEST_RADIUS}")
        onnx.save(to_onnx(net, shape, name), out / f"{name}.onnx")

    three, label = first(right_by_both & (y_test == 3)), 3
    for spec_name, text in (
        ("digits_robust_3", vnnlib_1(x_test[three], three, label, ROBUST_RADIUS, "either network")),
        ("digits_robust_3_cnn.v2", vnnlib_2(x_test[three], three, label, ROBUST_RADIUS, "digits_cnn.onnx", square)),
    ):
        (out / f"{spec_name}.vnnlib").write_text(text)

    noise = torch.Generator().manual_seed(0)
    fooled = right_by_both.clone()
    for name, net in nets.items():
        shape = (PIXELS,) if name == "digits_mlp" else square
        points = attack(net, x_test.reshape(-1, *shape), y_test, 0.9 * float(ATTACKABLE_RADIUS), 40, noise)
        fooled &= margin(net(points), y_test) < 0
    weak = first(fooled)
    text = vnnlib_1(x_test[weak], weak, int(y_test[weak]), ATTACKABLE_RADIUS, "either network")
    (out / "digits_attackable.vnnlib").write_text(text)

    shown = sorted({three, weak, *(first(right_by_both & (y_test == digit)) for digit in range(CLASSES))})
    np.savez(out / "digits_images.npz", number=shown, image=x_test[shown].numpy(), label=y_test[shown].numpy())
    print(f"robust: test image {three}; attackable: test image {weak}, a {int(y_test[weak])}")


if __name__ == "__main__":
    main()
