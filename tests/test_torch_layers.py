"""PyTorch layers and their compositions become graphs that compute the same, and say what they cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import networks
from bourn.formats.replay import Replay
from bourn.formats.torch import export, from_module
from bourn.problem.input_set import box
from bourn.relaxations.product import Product
from bourn.solvers.methods import method


class Attention(nn.Module):
    """Self-attention with a residual connection, a layer norm and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.forward_part = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        count, width = x.shape[1], x.shape[2]
        q, k, v = self.project(x).reshape(1, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        shares = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // self.heads), dim=-1)
        mixed = (shares @ v).transpose(1, 2).reshape(1, count, width)
        h: Tensor = self.norm(x + self.out(mixed))
        return torch.add(h, self.forward_part(h))


class Scaled(nn.Module):
    """PyTorch's own attention function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, 2 * x, torch.tanh(x))


class Extremes(nn.Module):
    """Maxima and minima of all kinds."""

    def forward(self, x: Tensor) -> Tensor:
        pair = torch.maximum(x, x.flip(1)) + torch.minimum(x, 0.5 * x.flip(0)) + x.abs()
        return torch.cat([pair.amax(dim=1), pair.amin(dim=-1), pair.max(dim=1).values, x.clamp(min=0.1).sqrt().mean(dim=1)], dim=-1)


class Arithmetic(nn.Module):
    """Powers, quotients and roots, a layer norm written out among them."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-3)
        powers = x**3 / (1 + x.exp()) + torch.pow(2.0, x)
        return torch.cat([normed, powers, torch.logsumexp(x, -1, keepdim=True), x.norm(dim=-1, keepdim=True)], dim=-1)


class RootMeanSquare(nn.Module):
    """RMSNorm written out, for want of an export of PyTorch's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


# PyTorch's own normalisation layers check sizes in a way of which its tracer warns.
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "attention": (Attention(4, 2), (1, 3, 4)),
    "scaled attention": (Scaled(), (1, 2, 3, 4)),
    "extremes": (Extremes(), (1, 3, 4)),
    "arithmetic": (Arithmetic(), (1, 3, 4)),
    "LayerNorm": (nn.LayerNorm((3, 4)), (1, 2, 3, 4)),
    "GroupNorm": (nn.GroupNorm(2, 4), (1, 4, 3, 2)),
    "InstanceNorm2d": (nn.InstanceNorm2d(2, affine=True), (1, 2, 3, 4)),
    "root mean square": (RootMeanSquare(), (1, 3, 4)),
    "GELU": (nn.GELU(), (1, 5)),
    "GELU by tanh": (nn.GELU(approximate="tanh"), (1, 5)),
    "SiLU": (nn.SiLU(), (1, 5)),
    "Mish": (nn.Mish(), (1, 5)),
    "CELU": (nn.CELU(0.7), (1, 5)),
    "ELU": (nn.ELU(0.7), (1, 5)),
    "SELU": (nn.SELU(), (1, 5)),
    "Softplus": (nn.Softplus(), (1, 5)),
    "LogSigmoid": (nn.LogSigmoid(), (1, 5)),
    "Hardsigmoid": (nn.Hardsigmoid(), (1, 5)),
    "Hardswish": (nn.Hardswish(), (1, 5)),
    "PReLU": (nn.PReLU(3), (1, 3, 2, 2)),
    "PReLU of one slope": (nn.PReLU(), (1, 5)),
    "Softmax": (nn.Softmax(dim=1), (1, 4, 2)),
    "Softmin": (nn.Softmin(dim=-1), (1, 3)),
    "LogSoftmax": (nn.LogSoftmax(dim=-1), (1, 4)),
    "MaxPool2d": (nn.MaxPool2d(2), (1, 2, 4, 6)),
    "MaxPool2d, padded": (nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), (1, 2, 4, 6)),
    "MaxPool1d": (nn.MaxPool1d(3, stride=1, dilation=2), (1, 2, 8)),
    "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d(1), (1, 2, 4, 5)),
    "Upsample": (nn.Upsample(scale_factor=2), (1, 2, 2, 3)),
    "Upsample, bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 2, 3)),
    "Upsample, aligned": (nn.Upsample(size=(4, 5), mode="bilinear", align_corners=True), (1, 2, 2, 3)),
    "PixelShuffle": (nn.PixelShuffle(2), (1, 4, 2, 3)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (1, 2, 3, 3)),
    "convolutional": (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2), nn.SiLU(), nn.Flatten(), nn.Softmax(-1)),
        (1, 1, 8, 8),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    module, shape = LAYERS[name]
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    module.eval()
    graph = from_module(module, shape)
    x = torch.randn(4, *shape[1:], generator=networks.random(1))
    with torch.no_grad():
        expected = torch.stack([module(own[None])[0] for own in x]).to(torch.float64).reshape(4, -1)
    y = graph.evaluate(x.to(torch.float64)[:, None]).reshape(4, -1)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    replay = Replay(export(module, shape))
    np.testing.assert_allclose(replay.run(x.reshape(4, -1).numpy().astype(np.float64)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_bounds_of_layers_hold(name: str) -> None:
    module, shape = LAYERS[name]
    graph = from_module(module, shape)
    center = torch.randn(1, *graph.input_shape, dtype=torch.float64, generator=networks.random(3))
    question = box(center - 0.02, center + 0.02)
    values = graph.evaluate(question.sample(500, networks.random(4))[0])
    for chosen in ("ibp", "crown", "deepz"):
        bounds = method(chosen).prepare(graph, question).node(graph.output)
        slack = 1e-10 * (1 + values.abs())
        assert bool((values >= bounds.lower - slack).all() & (values <= bounds.upper + slack).all()), chosen
        assert bool(bounds.lower.isfinite().all()), chosen


def test_what_is_one_function_is_one_node() -> None:
    for name in ("GELU", "SiLU", "CELU", "Hardsigmoid", "PReLU of one slope", "Softmin", "Softmax", "LogSoftmax"):
        graph = from_module(*LAYERS[name])
        assert not any(isinstance(graph.nodes[v].operation, Product) for v in graph.nonlinear), name
