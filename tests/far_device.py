"""A device that is not there: torch's tensors, kept apart from the CPU's as a GPU's are.

Every tensor on ``far`` wraps one of the CPU, every operation on it runs there, and an operation that mixes both kinds, or reads a
far tensor as NumPy, fails as it would on a GPU.  So what runs here runs on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "far"
_ACROSS = ("copy_", "_to_copy")
"""Operations between devices."""
_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_")
"""Operations on a far tensor whose indices may be near."""
_FROM_NUMBERS = (torch.tensor, torch.as_tensor)


class Far(Tensor):
    """A tensor on the pretended device; ``near``: where its numbers are."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        make: Any = torch.Tensor._make_wrapper_subclass
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        made: Far = make(cls, near.shape, **layout, dtype=near.dtype, device=torch.device(NAME, 0))
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __getitem__(self, index: Any) -> Far:
        return Far(self.near[tree_map(_near, index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        assert isinstance(value, Far) or not isinstance(value, Tensor) or value.dim() == 0, "a near tensor into a far one"
        self.near[tree_map(_near, index)] = _near(value)

    def item(self) -> Any:
        return self.near.item()

    def __float__(self) -> float:
        return float(self.near)

    def __int__(self) -> int:
        return int(self.near)

    def __bool__(self) -> bool:
        return bool(self.near)

    def __index__(self) -> int:
        return self.near.__index__()

    def tolist(self) -> Any:
        return self.near.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a far tensor is not NumPy's")

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a far tensor is not NumPy's")


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    far = [t for t in tensors if isinstance(t, Far)]
    mixed = bool(far) and any(t.dim() > 0 for t in tensors if not isinstance(t, Far))
    if mixed and not (name in _ACROSS or (name in _INDEX and isinstance(args[0], Far))):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    there = {**tree_map(_near, dict(kwargs)), **({} if asked is None else {"device": torch.device("cpu")})}
    found = func(*tree_map(_near, list(args)), **there)
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    is_far = asked == NAME if asked is not None else bool(far)
    return tree_map(lambda t: Far(t) if is_far and isinstance(t, Tensor) else t, found)


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes what is asked for on the device by name."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Numbers into tensors on the device, which torch does below its dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = dict(kwargs or {})
        if func in _FROM_NUMBERS and given.get("device") is not None and torch.device(given["device"]).type == NAME:
            device = given.pop("device")
            return func(*args, **given).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], Far):
            return args[0].near.new_tensor(*args[1:], **given).to(NAME)
        return func(*args, **given)


@cache
def _register() -> bool:
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    except ImportError:
        return False
    _setup_privateuseone_for_python_backend(NAME)
    return True


@contextmanager
def far_device() -> Iterator[str]:
    """The device's name, usable inside the block; skips the test where this torch cannot pretend one."""
    if not _register():
        pytest.skip(f"torch {torch.__version__} cannot pretend a device in Python")
    with _Functions(), _Dispatch():  # type: ignore[no-untyped-call]
        yield NAME
