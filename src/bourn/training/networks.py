"""The networks that are trained, as torch modules and as graphs of the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from bourn.errors import UsageError
from bourn.network.affine import Convolution, Dense, Reshape
from bourn.network.graph import Graph, GraphBuilder
from bourn.relaxations.relu import ReLU
from bourn.training.settings import Network

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Trained:
    """A network twice: ``module`` maps (B, channels, height, width) to scores (B, classes); ``graph`` holds the module's own
    parameters, so that bounds on it can be differentiated, and change as it is trained."""

    module: nn.Sequential
    graph: Graph


def build(settings: Network, shape: Shape, classes: int, seed: int) -> Trained:
    """The network for inputs of ``shape`` (1, channels, height, width), with torch's usual random weights, drawn by ``seed``.

    Torch's own random state is left as it was.  Raises :class:`UsageError` where a convolution does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _module(settings, shape, classes)
    return Trained(module, as_graph(module, shape))


def _module(settings: Network, shape: Shape, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels, height, width = shape[1:]
    for number, window in enumerate(settings.convolutions):
        if window.kernel > min(height, width) + 2 * window.padding:
            raise UsageError(
                f"[network] convolutions[{number}] has a kernel of {window.kernel}, "
                f"but reads {height}x{width} with a padding of {window.padding}"
            )
        layers += [nn.Conv2d(channels, window.channels, window.kernel, window.stride, window.padding), nn.ReLU()]
        channels = window.channels
        height, width = ((n + 2 * window.padding - window.kernel) // window.stride + 1 for n in (height, width))
    layers.append(nn.Flatten())
    for before, after in pairwise((channels * height * width, *settings.hidden, classes)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def as_graph(module: nn.Sequential, shape: Shape) -> Graph:
    """The module as a graph that shares its parameters, of whatever type they are; ``shape`` with its leading 1."""
    builder = GraphBuilder(shape)
    last = 0
    for name, layer in module.named_children():
        before = builder.shape(last)
        if isinstance(layer, nn.ReLU):
            last = builder.add(ReLU(), last, name=name)
        elif isinstance(layer, nn.Flatten):
            size = builder.node(last).size
            last = builder.add(Reshape(in_shapes=(before,), out_shape=(1, size)), last, name=name)
        elif isinstance(layer, nn.Linear):
            after = (1, layer.out_features)
            last = builder.add(Dense(in_shapes=(before,), out_shape=after, weight=layer.weight, bias=layer.bias), last, name=name)
        elif isinstance(layer, nn.Conv2d):
            last = builder.add(_convolution(layer, before), last, name=name)
        else:
            raise TypeError(f"no operator for {layer}")
    return builder.build(last)


def _convolution(layer: nn.Conv2d, before: Shape) -> Convolution:
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    assert not isinstance(padding, str)
    assert layer.bias is not None
    space = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(before[2:], kernel, stride, padding, strict=True))
    return Convolution(
        in_shapes=(before,),
        out_shape=(1, layer.out_channels, *space),
        bias=layer.bias[:, None, None],
        weight=layer.weight,
        stride=stride,
        padding=padding,
        dilation=(1, 1),
    )
