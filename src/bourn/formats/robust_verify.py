"""The trained networks of Salman et al. 2019, whose files hold weights alone: the layers follow from their shapes."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bourn.errors import NetworkError

_KEY = re.compile(r"(\d+)\.(weight|bias)")

_STRIDES = {4: 2, 3: 1}
"""Stride by kernel size; every convolution has padding 1."""

_SHAPES = {1: (1, 1, 28, 28), 3: (1, 3, 32, 32)}
"""Input shape by number of channels: MNIST and CIFAR-10."""


class Normalise(nn.Module):
    """(x - mean) / 0.225 channel by channel, as the CIFAR-10 networks were trained."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(0.225))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def paper_network(weights: str | Path | Mapping[str, Tensor]) -> nn.Sequential:
    """The network, for images in [0, 1] of shape :func:`input_shape`.

    ``weights`` is a state dict, a ``.pth`` file of one, or a folder of MIPVerify's ``W1.npy, B1.npy, ...``.
    Raises :class:`NetworkError` where it cannot be read or is not one of these networks.
    """
    if isinstance(weights, Mapping):
        return _network(weights, "the state dict")
    path = Path(weights)
    return _network(_folder(path) if path.is_dir() else _state_dict(path), str(path))


def input_shape(network: nn.Module) -> tuple[int, ...]:
    """(1, 3, 32, 32) for a network of CIFAR-10, (1, 1, 28, 28) for one of MNIST."""
    return _SHAPES[3 if any(isinstance(m, Normalise) for m in network.modules()) else 1]


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise NetworkError(f"{path}: is not a readable state dict: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise NetworkError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    return dict(loaded)


def _folder(path: Path) -> dict[str, Tensor]:
    """MIPVerify's arrays, whose weights are (in, out), with the keys of a state dict."""
    state: dict[str, Tensor] = {}
    layer = 1
    try:
        while (path / f"W{layer}.npy").exists():
            key = 2 * layer - 1
            state[f"{key}.weight"] = torch.from_numpy(np.load(path / f"W{layer}.npy").T.copy())
            state[f"{key}.bias"] = torch.from_numpy(np.load(path / f"B{layer}.npy").reshape(-1))
            layer += 1
    except (OSError, ValueError, EOFError) as error:
        raise NetworkError(f"{path}: layer {layer} cannot be read: {' '.join(str(error).split())}") from None
    if not state:
        raise NetworkError(f"{path}: holds no W1.npy")
    return state


def _network(state: Mapping[str, Tensor], source: str) -> nn.Sequential:
    keys = {key: _KEY.fullmatch(key) for key in state}
    strange = [key for key, match in keys.items() if match is None]
    if strange or not state:
        raise NetworkError(f"{source}: is not a flat Sequential of linear and convolution layers ({', '.join(strange[:3])})")
    positions = sorted({int(match[1]) for match in keys.values() if match is not None})
    layers: list[nn.Module] = []
    for position in range(positions[-1] + 1):
        if position not in positions:
            # Between layers with weights stand ReLUs, and before the first linear one, which is two dimensional, a flatten.
            following = min(p for p in positions if p > position)
            flattens = following == position + 1 and _is_first_linear(state, following)
            layers.append(nn.Flatten() if flattens else nn.ReLU())
            continue
        layers.append(_layer(state, position, source))
    network = nn.Sequential(*layers).to(next(iter(state.values())).dtype)
    try:
        network.load_state_dict(dict(state))
        first = state[f"{positions[0]}.weight"]
        if first.dim() == 4 and first.shape[1] == 3:
            network = nn.Sequential(Normalise().to(first.dtype), *network)
        with torch.no_grad():
            network(torch.zeros(input_shape(network), dtype=first.dtype))
    except (RuntimeError, KeyError) as error:
        raise NetworkError(f"{source}: its weights do not fit together: {' '.join(str(error).split())[:200]}") from None
    return network.eval()


def _is_first_linear(state: Mapping[str, Tensor], position: int) -> bool:
    ranks = {int(key.split(".")[0]): w.dim() for key, w in state.items() if key.endswith(".weight")}
    return position == min((p for p, rank in ranks.items() if rank == 2), default=None)


def _layer(state: Mapping[str, Tensor], position: int, source: str) -> nn.Module:
    weight: Any = state.get(f"{position}.weight")
    shape = () if weight is None else tuple(weight.shape)
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    if len(shape) == 4 and shape[2] == shape[3] and shape[2] in _STRIDES:
        return nn.Conv2d(shape[1], shape[0], shape[2], stride=_STRIDES[shape[2]], padding=1)
    raise NetworkError(f"{source}: layer {position} has a weight of shape {shape}, which no network of the paper has")
