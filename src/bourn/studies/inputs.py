"""A study's networks and images, read from their files, with hashes of what is in them."""

from __future__ import annotations

import gzip
import hashlib
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bourn.errors import NetworkError, UsageError
from bourn.network.graph import Graph
from bourn.studies.description import PREDICTIONS, ImageEntry, NetworkEntry

_IDX = {8: np.uint8, 9: np.int8, 11: np.int16, 12: np.int32, 13: np.float32, 14: np.float64}
"""Element types of the IDX format by their code."""


@dataclass(frozen=True, eq=False)
class NetworkFile:
    """A network as the bytes of an ONNX file, which a process elsewhere can be sent, and the hash of what it was read from."""

    entry: NetworkEntry
    hash: str
    data: bytes
    graph: Graph


@dataclass(frozen=True, eq=False)
class Images:
    """Images (N, n), flat in float64, their numbers in the file, and labels (N,) unless the predictions are to be taken."""

    numbers: tuple[int, ...]
    pixels: np.ndarray
    labels: np.ndarray | None

    def shaped(self, graph: Graph) -> torch.Tensor:
        """The images in a network's input shape, (N, *shape); raises :class:`UsageError` where their sizes differ."""
        size = math.prod(graph.input_shape)
        if self.pixels.shape[1] != size:
            raise UsageError(f"the images have {self.pixels.shape[1]} numbers each, the network's input {size}")
        return torch.from_numpy(self.pixels).reshape(-1, *graph.input_shape)


def read_network(entry: NetworkEntry) -> NetworkFile:
    """A network of a study; raises :class:`bourn.errors.NetworkError` where it cannot be read."""
    from bourn.formats.onnx import from_bytes, read_model

    path = Path(entry.file)
    if path.suffix == ".pth" or path.is_dir():
        from bourn.formats.robust_verify import input_shape, paper_network
        from bourn.formats.torch import export

        module = paper_network(path)
        data = export(module, input_shape(module))
        files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
        content = b"".join(file.name.encode() * path.is_dir() + file.read_bytes() for file in files)
    else:
        data = content = read_model(path).SerializeToString(deterministic=True)
    graph = from_bytes(data, str(path))
    if math.prod(graph.output_shape) < 2:
        raise NetworkError(f"{path}: has {math.prod(graph.output_shape)} output, so there are no classes to tell apart")
    return NetworkFile(entry, hashlib.sha256(content).hexdigest(), data, graph)


def read_images(entry: ImageEntry) -> Images:
    """A study's images; raises :class:`UsageError` where a file or an image of it is not there, or is not of numbers."""
    found = _arrays(entry.file)
    pixels = _named(found, ("images", "image", "x"), entry.file)
    if pixels.ndim < 2:
        raise UsageError(f"{entry.file}: an array of shape {pixels.shape} holds no images; the first dimension counts them")
    numbers = _numbers(entry, len(pixels))
    chosen = pixels[list(numbers)].reshape(len(numbers), -1)
    # As torchvision scales bytes: in float32.
    scaled = chosen.astype(np.float32) / np.float32(255) if chosen.dtype == np.uint8 else chosen
    scaled = np.ascontiguousarray(scaled, dtype=np.float64)
    if not np.isfinite(scaled).all():
        raise UsageError(f"{entry.file}: holds NaN or infinity")
    if entry.labels == PREDICTIONS:
        return Images(numbers, scaled, None)
    source = entry.labels or entry.file
    beside = found if not entry.labels else _arrays(entry.labels)
    if not entry.labels and not {"labels", "label", "y"} & set(beside):
        raise UsageError(f"{source}: has no array 'labels'; state images.labels, a file or \"{PREDICTIONS}\"")
    labels = _named(beside, ("labels", "label", "y"), source)
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu":
        raise UsageError(f"{source}: {labels.dtype} of shape {labels.shape} are no labels of {len(pixels)} images")
    return Images(numbers, scaled, labels[list(numbers)].astype(np.int64))


def hash_of(image: np.ndarray) -> str:
    """SHA-256 of an image's numbers in float64."""
    return hashlib.sha256(np.ascontiguousarray(image, dtype="<f8").tobytes()).hexdigest()


def predictions(graph: Graph, images: torch.Tensor) -> torch.Tensor:
    """The classes (N,) that a network predicts, in float64."""
    with torch.no_grad():
        return torch.cat([graph.evaluate(some).flatten(1).argmax(1) for some in torch.split(images, 500)])


def _numbers(entry: ImageEntry, there: int) -> tuple[int, ...]:
    numbers = entry.indices or tuple(range(entry.first, entry.first + (entry.count or max(0, there - entry.first))))
    missing = [i for i in numbers if not 0 <= i < there] or [entry.first] * (not numbers)
    if missing:
        raise UsageError(f"{entry.file}: there is no image {missing[0]}; it holds {there}, counted from 0")
    return numbers


def _named(arrays: dict[str, np.ndarray], names: tuple[str, ...], source: str) -> np.ndarray:
    name = next((n for n in names if n in arrays), next(iter(arrays), None))
    if name is None or arrays[name].dtype.kind not in "fiu":
        raise UsageError(f"{source}: holds no array of numbers")
    return arrays[name]


def _arrays(file: str) -> dict[str, np.ndarray]:
    """The arrays of a file, by name where it has any; raises :class:`UsageError`."""
    try:
        packed = Path(file).read_bytes()
        data = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
        return _idx(data) if data[:2] == b"\0\0" else _numpy(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, IndexError, zipfile.BadZipFile, zlib.error):
        raise UsageError(f"{file}: is no .npz, .npy or IDX file of numbers") from None


def _idx(data: bytes) -> dict[str, np.ndarray]:
    """MNIST's format: two zeros, the element type's code, the number of dimensions, their sizes, the numbers, big end first."""
    dimensions = data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dimensions, 4))
    kind: Any = np.dtype(_IDX[data[2]]).newbyteorder(">")
    numbers = np.frombuffer(data, kind, offset=4 + 4 * dimensions)
    return {"": numbers.reshape(shape).astype(_IDX[data[2]])}


def _numpy(file: str) -> dict[str, np.ndarray]:
    with Path(file).open("rb") as stream:
        found = np.load(stream, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"": found}
        with found:
            return {name: found[name] for name in found.files}
