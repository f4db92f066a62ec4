"""PyTorch modules and the paper's trained networks become graphs that compute the same."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bourn.errors import NetworkError
from bourn.formats.onnx import from_bytes
from bourn.formats.replay import Replay
from bourn.formats.robust_verify import input_shape, paper_network
from bourn.formats.torch import export, from_module
from bourn.network.affine import Convolution, Dense, Offset


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x)) + x
        return torch.cat([self.second(h), 2 * h.view(h.size(0), -1).mean(dim=1, keepdim=True)], dim=1)


MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "perceptron": (nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), (1, 1, 2, 3)),
    "convolutional": (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.1),
            nn.AvgPool2d(2, padding=1),
            nn.ConvTranspose2d(4, 2, 2, stride=2),
            nn.ReflectionPad2d(1),
            nn.Hardtanh(-0.5, 1.0),
            nn.Dropout(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.ReLU6(),
            nn.Linear(2, 3),
        ),
        (1, 2, 6, 8),
    ),
    "residual": (Residual(), (1, 4)),
}


def _randomise(module: nn.Module, seed: int = 0) -> None:
    """Weights, and batch norm's statistics, that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(drawn.abs() + 0.1 if name.endswith("running_var") else drawn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, dtype: torch.dtype) -> None:
    module, shape = MODULES[name]
    module = module.to(dtype)
    _randomise(module)
    module.train()
    graph = from_module(module, shape)
    assert module.training
    assert all(m.training for m in module.modules())
    assert graph.input_shape == shape
    module.eval()
    x = torch.randn(4, *shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = module(x.to(dtype)).to(torch.float64).reshape(4, -1)
        y = graph.evaluate(x[:, None]).reshape(4, -1)
    # Attributes of an ONNX file are float32, whatever the weights are.
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6 if name == "convolutional" else 1e-12
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    if name == "convolutional" and dtype == torch.float64:
        pytest.skip("onnxruntime has no convolution of doubles to replay with")
    replay = Replay(export(module, torch.zeros(shape, dtype=dtype)))
    np.testing.assert_allclose(replay.run(x.reshape(4, -1).numpy()), expected, rtol=tolerance, atol=tolerance)


def test_weights_stay_as_the_module_holds_them() -> None:
    """Neither constant folding nor the fusion of batch norms, which would round."""
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    _randomise(module, 3)
    graph = from_module(module, (1, 1, 2, 2))
    operations = [n.operation for n in graph.nodes]
    convolution = next(o for o in operations if isinstance(o, Convolution))
    linear = next(o for o in operations if isinstance(o, Dense))
    state = {k: v.to(torch.float64) for k, v in module.state_dict().items()}
    assert torch.equal(convolution.weight, state["0.weight"])
    assert torch.equal(linear.weight, state["4.weight"])
    shifted = convolution.bias
    assert shifted is not None
    centre = next((o.bias for o in operations if isinstance(o, Offset)), None)
    if centre is None:
        # The convolution has taken the shift by the mean along, exactly.
        assert torch.equal(shifted.reshape(-1), state["0.bias"] - state["1.running_mean"])


def test_modules_that_cannot_be_exported() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("two\nlines")

    with pytest.raises(NetworkError, match="two lines"):
        export(Broken(), (1, 2))


def _digits(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    images = np.frombuffer(gzip.decompress((folder / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    pixels = torch.from_numpy(images.reshape(-1, 1, 28, 28)[:count].astype(np.float64) / 255)
    return pixels, torch.from_numpy(labels[:count].astype(np.int64))


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("experiment_1/NOR_MLP_B.pth", 0.95),
        ("experiment_1/ADV_MLP_B_0.1.pth", 0.95),
        ("experiment_1/MIPVerify_data/weights/mnist/RSL18a/linf0.1", 0.95),
        ("experiment_2/mnist_cnn_small_NOR.pth", 0.97),
        ("experiment_2/mnist_cnn_small_LPD.pth", 0.97),
        ("experiment_2/mnist_cnn_deep_2_ADV.pth", 0.97),
        ("experiment_2/mnist_MLP_9_100_NOR.pth", 0.95),
    ],
)
def test_digits_are_recognised(data_folder: Path, name: str, accuracy: float) -> None:
    network = paper_network(data_folder / "robust-verify-benchmark" / "weights" / name)
    assert input_shape(network) == (1, 1, 28, 28)
    images, labels = _digits(data_folder, 200)
    graph = from_module(network, input_shape(network))
    y = graph.evaluate(images[:, None])[:, 0]
    assert (y.argmax(1) == labels).double().mean() >= accuracy


def test_pictures_are_recognised(data_folder: Path) -> None:
    network = paper_network(data_folder / "robust-verify-benchmark" / "weights" / "experiment_2" / "cifar_cnn_small_NOR.pth")
    assert input_shape(network) == (1, 3, 32, 32)
    with np.load(data_folder / "cifar10" / "cifar10_test_first1017.npz") as data:
        images, labels = torch.from_numpy(data["x"][:200] / 255), torch.from_numpy(data["y"][:200].astype(np.int64))
    exported = export(network, input_shape(network))
    y = from_bytes(exported).evaluate(images[:, None])[:, 0]
    assert (y.argmax(1) == labels).double().mean() >= 0.75
    np.testing.assert_allclose(Replay(exported).run(images[:3].reshape(3, -1).numpy()), y[:3], rtol=1e-4, atol=1e-4)


def test_every_trained_network_is_read(data_folder: Path) -> None:
    paths = sorted((data_folder / "robust-verify-benchmark" / "weights").glob("*/*.pth"))
    assert paths
    for path in paths:
        network = paper_network(path)
        assert network(torch.zeros(input_shape(network))).shape == (1, 10)


def test_state_dicts_that_do_not_fit(tmp_path: Path) -> None:
    def refused(state: dict[str, Tensor], why: str) -> None:
        with pytest.raises(NetworkError, match=why) as caught:
            paper_network(state)
        assert "\n" not in str(caught.value)

    good = {f"{i}.{k}": v for i, m in ((1, nn.Linear(784, 3)), (3, nn.Linear(3, 2))) for k, v in m.state_dict().items()}
    assert paper_network(good)(torch.zeros(1, 1, 28, 28)).shape == (1, 2)
    refused({}, "not a flat Sequential")
    refused({"features.weight": torch.zeros(2, 2)}, "features.weight")
    refused({**good, "1.weight": torch.zeros(3, 100)}, "do not fit together")
    refused({**good, "3.weight": torch.zeros(2, 2, 2)}, "layer 3 has a weight of shape")
    refused({k: v for k, v in good.items() if k != "3.weight"}, "layer 3 has a weight of shape")
    refused({k: v for k, v in good.items() if k != "3.bias"}, "do not fit together")
    refused({"0.weight": torch.zeros(2, 1, 5, 5), "0.bias": torch.zeros(2)}, "layer 0 has a weight of shape")
    refused({"0.weight": torch.zeros(2, 2, 3, 3), "0.bias": torch.zeros(2)}, "do not fit together")

    (tmp_path / "text.pth").write_bytes(b"not a state dict")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "half").mkdir()
    np.save(tmp_path / "half" / "W1.npy", np.zeros((784, 2), dtype=np.float32))
    for name, why in [
        ("none.pth", "not a readable"),
        ("text.pth", "not a readable"),
        ("list.pth", "not a state dict"),
        ("folder", "no W1"),
        ("half", "layer 1"),
    ]:
        with pytest.raises(NetworkError, match=why) as caught:
            paper_network(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
