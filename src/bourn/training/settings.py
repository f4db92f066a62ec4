"""What is trained, on what and how: a TOML file of a few tables, read strictly.

A key that is not known is an error that names it, for a misspelt setting would otherwise be a default in silence.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from bourn.errors import UsageError
from bourn.formats.toml import read_toml

T = TypeVar("T")

MODES = ("normal", "adversarial", "dual-bound", "interval")
"""Ways of training, each a loss of :mod:`bourn.training.losses`."""


@dataclass(frozen=True)
class Data:
    """``name``: a data set of :mod:`bourn.training.data`; ``test``: how many of its images are kept for the test."""

    name: str = "digits"
    test: int = 360

    def __post_init__(self) -> None:
        _check(self.test >= 10, "test", self.test, "at least 10")


@dataclass(frozen=True)
class Window:
    """A convolution: output ``channels``, square ``kernel``, ``stride`` and ``padding`` on every side."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _check(0 <= self.padding < self.kernel, "padding", self.padding, "at least 0 and less than the kernel")


@dataclass(frozen=True)
class Network:
    """ReLU networks: ``convolutions``, then dense layers with ``hidden`` neurons each, then one with an output a class."""

    hidden: tuple[int, ...] = (32, 32)
    convolutions: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        _check(all(n >= 1 for n in self.hidden), "hidden", list(self.hidden), "a list of numbers of neurons, each at least 1")


@dataclass(frozen=True)
class Training:
    """How one network is trained: by Adam, with a cosine from ``learning_rate`` to 0.

    ``radius``: of the l-infinity ball around every image, cut at [0, 1].  It is 0 for ``warm_up`` epochs, then grows evenly
    to its value over ``ramp`` epochs.  ``steps``: of the adversary, for mode adversarial.  ``kappa``, for mode interval: the
    weight of the plain loss, which is 1 at first and gets to this while the radius grows.  ``batch``: images a step.
    ``seed``: of the first weights, the order of the images and the adversary's starts.
    """

    radius: float = 0.1
    epochs: int = 60
    warm_up: int = 0
    ramp: int = 30
    batch: int = 50
    learning_rate: float = 1e-3
    steps: int = 7
    kappa: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "steps"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("warm_up", "ramp"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _check(0 <= self.radius < 1, "radius", self.radius, "at least 0 and below 1, for pixels are in [0, 1]")
        _check(0 < self.learning_rate <= 1, "learning_rate", self.learning_rate, "above 0 and at most 1")
        _check(0 <= self.kappa <= 1, "kappa", self.kappa, "between 0 and 1")
        _check(0 <= self.seed < 2**63, "seed", self.seed, "at least 0 and below 2^63")

    def strength(self, time: float) -> float:
        """The share of the radius that is reached after ``time`` epochs."""
        if time < self.warm_up:
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, (time - self.warm_up) / self.ramp)


@dataclass(frozen=True)
class Study:
    """Networks of one shape, trained on the same data, one a mode."""

    data: Data
    network: Network
    modes: Mapping[str, Training]


def read(path: str | Path) -> Study:
    """The study in a TOML file; raises :class:`UsageError` that names what is wrong, and where."""
    tables = read_toml(path)
    try:
        return study(tables)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def study(tables: Mapping[str, Any]) -> Study:
    """The study of the tables [data], [network] and [training], each of which may be left out.

    [training] may hold ``modes``, a list of :data:`MODES` (by default all), and for each a table, [training.interval] say,
    with settings that hold for it alone.  Raises :class:`UsageError`.
    """
    _known(tables, ("data", "network", "training"), "the file")
    data, network, training = (_table(tables.get(name, {}), f"[{name}]") for name in ("data", "network", "training"))
    modes = _typed(tuple[str, ...], training.get("modes", list(MODES)), "[training] modes")
    wrong = [mode for mode in modes if mode not in MODES]
    if wrong or not modes or len(set(modes)) != len(modes):
        raise UsageError(f"[training] modes is {list(modes)}; it must be a list, without repetition, of {', '.join(MODES)}")
    own = {mode: _table(training[mode], f"[training.{mode}]") for mode in MODES if mode in training}
    shared = {key: value for key, value in training.items() if key != "modes" and key not in own}
    _known(shared, (*_keys(Training), "modes", *MODES), "[training]")
    unused = [mode for mode in own if mode not in modes]
    if unused:
        raise UsageError(f"[training.{unused[0]}] is about a mode that is not among [training] modes")
    settings = {}
    made(Training, shared, "[training]")  # so that an error there is not said to be in a mode's own table
    for mode in modes:
        where = f"[training.{mode}]" if mode in own else "[training]"
        _known(own.get(mode, {}), _keys(Training), where)
        settings[mode] = made(Training, {**shared, **own.get(mode, {})}, where)
    return Study(made(Data, data, "[data]"), made(Network, network, "[network]"), settings)


def made(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A dataclass from a TOML table, whose keys are its fields; raises :class:`UsageError` that says ``where``."""
    _known(table, _keys(cls), where)
    hints = get_type_hints(cls)
    values = {key: _typed(hints[key], value, f"{where} {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except TypeError:
        needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]  # type: ignore[arg-type]
        raise UsageError(f"{where} lacks {', '.join(name for name in needed if name not in table)}") from None
    except UsageError as error:
        raise UsageError(f"{where} {error}") from None


def _keys(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


def _known(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            raise UsageError(f"{where} has the unknown key {key!r}; it may have {', '.join(keys)}")


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is to be a table, not {value!r}")
    return value


def _typed(kind: Any, value: Any, where: str) -> Any:
    """The value as its field's type: a number, a string, a list of these, or a list of tables."""
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where} is {value!r}; it must be a list")
        return tuple(_typed(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return made(kind, _table(value, where), where)
    words = {int: "a whole number", float: "a number", str: "a string"}[kind]
    fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    if not fits or (kind is float and not math.isfinite(value)):
        raise UsageError(f"{where} is {value!r}; it must be {words}")
    return kind(value)


def _check(fits: bool, name: str, value: object, wanted: str) -> None:
    if not fits:
        raise UsageError(f"{name} is {value}; it must be {wanted}")
