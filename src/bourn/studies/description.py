"""What a study asks, of which networks and images: read from TOML or made from flags, checked, and plain data again.

Every table takes the keys that are fields of its class here, and no others.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bourn.errors import UsageError
from bourn.solvers.methods import BARRIER, METHODS, method

STUDIES = ("adversarial-error", "minimum-distortion", "ladder")

ATTACK, PREDICTIONS = "pgd", "predictions"
"""The name of the attack among methods, and what stands for a file of labels where the networks' predictions are meant."""

SPLITTING = "branch-and-bound"
"""The name of splitting neurons among methods: exact where it comes to its end."""

CASCADE = ("fast-lin", "crown", ATTACK)
"""What is asked before LP-ALL, whose verdict all of these imply."""


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message)


@dataclass(frozen=True)
class NetworkEntry:
    """A network: ``file`` is an ONNX file, or weights of Salman et al. 2019 (.pth, or a folder of .npy).

    ``mode``: how it was trained, for people; ``radii``: of the balls asked about, none where the radius is what is sought.
    """

    file: str
    name: str = ""
    mode: str = ""
    radii: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", re.sub(r"\.(onnx|onnx\.gz|pth)$", "", Path(self.file).name))
        for radius in self.radii:
            _check(0 <= radius < math.inf, f"radius {radius}: it must be at least 0 and finite")


@dataclass(frozen=True)
class ImageEntry:
    """Images: ``file`` is .npz, .npy or MNIST's IDX format, .gz or not; bytes are divided by 255.

    ``labels``: a file of labels, "predictions", or "" for those beside the images in a .npz file.  Which images: those numbered
    ``indices``, or else ``count`` from number ``first`` on, all by default.
    """

    file: str
    labels: str = ""
    first: int = 0
    count: int | None = None
    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(self.first >= 0, f"first = {self.first}: images are counted from 0")
        _check(self.count is None or self.count > 0, f"count = {self.count}: it must be above 0")
        _check(not self.indices or (self.first == 0 and self.count is None), "give either indices or first and count")
        _check(len(set(self.indices)) == len(self.indices), "indices: one stands there twice")


LOSSES = ("margin", "cross-entropy")


@dataclass(frozen=True)
class AttackEntry:
    """Projected gradient descent by signs: ``steps`` of size ``step`` from the image itself, then from random points.

    ``step`` 0: a quarter of the radius at first, a hundredth at last.  ``restarts``: from how many points in all.  ``loss``:
    what is followed, the least "margin" or the "cross-entropy" of all, as Salman et al. 2019 do; neither breaks all that the
    other breaks.
    """

    steps: int = 40
    step: float = 0.0
    restarts: int = 1
    loss: str = "margin"

    def __post_init__(self) -> None:
        _check(self.steps >= 0 and self.restarts >= 1, "attack: steps must be at least 0 and restarts at least 1")
        _check(0 <= self.step < math.inf, f"attack: step = {self.step} must be at least 0 and finite")
        _check(self.loss in LOSSES, f"attack: loss = {self.loss!r} must be one of {', '.join(LOSSES)}")


@dataclass(frozen=True)
class Description:
    """A study: one kind of question about every image, network, radius and method.

    ``clip``: the range of every entry of an input, or None; ``cascade``: the methods, and "pgd", that may decide an image before
    LP-ALL, a MILP or branch and bound does, cheapest first;
    ``precision``: of minimum-distortion's radii, relative, by method where they differ ("" for the
    others); ``losses``: whether ladders are to say where bounds are lost; ``bracket``: whether it is to be shown for images that
    LP-ALL leaves open that they lie beyond every layer-wise method; ``limit``: seconds of a MILP or of branch
    and bound for each image.

    Defaults are those of Salman et al. 2019: errors on balls clipped to [0, 1] with the labels given, distortions without clip
    and with the predictions for labels.
    """

    study: str
    networks: tuple[NetworkEntry, ...]
    images: ImageEntry
    name: str = ""
    methods: tuple[str, ...] = (BARRIER,)
    clip: tuple[float, float] | None = None
    cascade: tuple[str, ...] = ()
    attack: AttackEntry = field(default=AttackEntry())
    precision: Mapping[str, float] = field(default_factory=lambda: {"": 1e-3})
    losses: bool = True
    bracket: bool = True
    limit: float = 60.0

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.study)
        _check(bool(self.networks), "there is no network")
        _check(bool(self.methods), "there is no method")
        fits = self.study == "adversarial-error" or SPLITTING not in self.methods
        _check(fits, f"{SPLITTING}: only adversarial-error asks it; choose one of bourn methods")
        names = [n.name for n in self.networks]
        twice = next((n for n in names if names.count(n) > 1), None)
        _check(twice is None, f"two networks are called {twice!r}; one entry takes several radii")
        needs_radii = self.study != "minimum-distortion"
        for network in self.networks:
            _check(bool(network.radii) == needs_radii, f"network {network.name!r}: {_RADII[needs_radii]}")
        if self.clip is not None:
            _check(self.clip[0] <= self.clip[1], f"clip = {list(self.clip)}: the first number must be at most the second")
        _check(0 < self.limit < math.inf, f"limit = {self.limit}: it must be above 0 and finite")
        for stated in self.precision.values():
            _check(0 < stated < 1, f"precision = {stated}: it must be between 0 and 1")

    @classmethod
    def from_data(cls, data: Mapping[str, Any], source: str, folder: Path | None = None) -> Description:
        """From the tables of a TOML file called ``source``, with paths relative to ``folder``.

        Raises :class:`UsageError`, in one line that names the source, for an unknown key or anything else that does not fit.
        """
        try:
            return _Reading(folder).description(data)
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from None

    def as_data(self) -> dict[str, Any]:
        """As JSON: what :meth:`from_data` reads."""
        data: dict[str, Any] = _plain(dataclasses.asdict(self))
        data["clip"] = data["clip"] if self.clip is not None else False
        data["images"] = {key: value for key, value in data["images"].items() if value is not None}
        return data

    def precision_of(self, name: str) -> float:
        """The relative precision asked of a method's radius."""
        return self.precision.get(name, self.precision.get("", 1e-3))


_RADII = {
    True: "it needs radii, such as radii = [0.1]",
    False: "the radius is what is sought, so it takes no radii",
}


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class _Reading:
    """Tables to values; every complaint names the key."""

    folder: Path | None

    def description(self, data: Mapping[str, Any]) -> Description:
        _known(data, Description, "")
        study = _text(data, "study", "")
        _check(study in STUDIES, f"study = {study!r}: there are {', '.join(STUDIES)}")
        _check("networks" in data and "images" in data, "a study needs [[networks]] and [images]")
        images = _table(data["images"], "images")
        _known(images, ImageEntry, "images.")
        settings = _table(data.get("attack", {}), "attack")
        _known(settings, AttackEntry, "attack.")
        methods = tuple(_method(name) for name in _list(data, "methods", str, _METHODS[study]))
        return Description(
            study,
            tuple(self.network(entry, i) for i, entry in enumerate(_list(data, "networks", Mapping, ()))),
            self.images(images, study),
            _text(data, "name", ""),
            methods,
            _clip(data.get("clip", study != "minimum-distortion")),
            _cascade(data.get("cascade", study == "adversarial-error")),
            _attack(settings, study),
            _precision(data.get("precision", 1e-3)),
            _switch(data, "losses", True),
            _switch(data, "bracket", True),
            float(_number(data, "limit", float, 60.0)),
        )

    def network(self, entry: Mapping[str, Any], number: int) -> NetworkEntry:
        where = f"networks[{number}]."
        _known(entry, NetworkEntry, where)
        radii = tuple(float(r) for r in _list(entry, f"{where}radii", (int, float), ()))
        file = self.path(_text(entry, f"{where}file", None), f"{where}file")
        return NetworkEntry(file, _text(entry, f"{where}name", ""), _text(entry, f"{where}mode", ""), radii)

    def images(self, entry: Mapping[str, Any], study: str) -> ImageEntry:
        labels = _text(entry, "images.labels", PREDICTIONS if study == "minimum-distortion" else "")
        return ImageEntry(
            self.path(_text(entry, "images.file", None), "images.file"),
            labels if labels in ("", PREDICTIONS) else self.path(labels, "images.labels"),
            _number(entry, "images.first", int, 0),
            _number(entry, "images.count", int, None),
            tuple(_list(entry, "images.indices", int, ())),
        )

    def path(self, text: str, key: str) -> str:
        """A path with variables of the environment, written ${NAME}, put in."""
        for name in re.findall(r"\$\{(\w+)\}", text):
            _check(name in os.environ, f"{key} = {text!r}: the environment has no {name}; set it")
        stated = Path(re.sub(r"\$\{(\w+)\}", lambda m: os.environ[m[1]], text))
        return str(stated if self.folder is None or stated.is_absolute() else self.folder / stated)


_METHODS = {
    "adversarial-error": (BARRIER,),
    "minimum-distortion": ("fast-lin", BARRIER, ATTACK),
    "ladder": tuple(m.name for m in METHODS),
}

_ATTACKS = {
    "adversarial-error": AttackEntry(step=0.01, loss="cross-entropy"),
    "minimum-distortion": AttackEntry(restarts=5),
    "ladder": AttackEntry(steps=100, restarts=5),
}


def _known(table: Mapping[str, Any], cls: type, where: str) -> None:
    names = [f.name for f in dataclasses.fields(cls)]
    for key in table:
        _check(key in names, f"unknown key {where + key!r}; there are {', '.join(names)}")


def _table(value: Any, key: str) -> Mapping[str, Any]:
    _check(isinstance(value, Mapping), f"{key}: is to be a table")
    table: Mapping[str, Any] = value
    return table


def _text(table: Mapping[str, Any], key: str, default: str | None) -> str:
    value = table.get(key.split(".")[-1], default)
    _check(value is not None, f"{key} is missing")
    _check(isinstance(value, str), f"{key} = {value!r}: is to be a text in quotes")
    return str(value)


def _number(table: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = table.get(key.split(".")[-1], default)
    if value is default:
        return default
    fits = isinstance(value, int) or (kind is float and isinstance(value, float))
    _check(fits and not isinstance(value, bool), f"{key} = {value!r}: is to be {'an integer' if kind is int else 'a number'}")
    return kind(value)


def _list(table: Mapping[str, Any], key: str, kind: Any, default: Sequence[Any]) -> Sequence[Any]:
    value = table.get(key.split(".")[-1], default)
    fits = isinstance(value, list | tuple) and all(isinstance(v, kind) and not isinstance(v, bool) for v in value)
    _check(fits, f"{key} = {value!r}: is to be a list of {_KINDS[kind]}")
    own: Sequence[Any] = value
    return own


_KINDS = {str: "texts", int: "integers", (int, float): "numbers", Mapping: "tables"}


def _attack(table: Mapping[str, Any], study: str) -> AttackEntry:
    usual = _ATTACKS[study]
    found = AttackEntry(
        _number(table, "attack.steps", int, usual.steps),
        _number(table, "attack.step", float, usual.step),
        _number(table, "attack.restarts", int, usual.restarts),
        _text(table, "attack.loss", usual.loss),
    )
    _check(study != "minimum-distortion" or found.step == 0, "attack.step: steps follow the radius here; leave it out")
    return found


def _switch(table: Mapping[str, Any], key: str, default: bool) -> bool:
    value = table.get(key, default)
    _check(isinstance(value, bool), f"{key} = {value!r}: is to be true or false")
    return bool(value)


def _method(name: str) -> str:
    return name if name in (ATTACK, SPLITTING) else method(name).name


def _clip(value: Any) -> tuple[float, float] | None:
    if isinstance(value, bool):
        return (0.0, 1.0) if value else None
    fits = isinstance(value, list | tuple) and len(value) == 2 and all(type(v) in (int, float) for v in value)
    _check(fits, f"clip = {value!r}: is to be [low, high] or false")
    return float(value[0]), float(value[1])


def _cascade(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return CASCADE if value else ()
    names = tuple(_method(name) for name in _list({"cascade": value}, "cascade", str, ()))
    _check(BARRIER not in names, f"cascade: {BARRIER} is what it ends in, and not to be named")
    return names


def _precision(value: Any) -> dict[str, float]:
    table = {"": value} if type(value) in (int, float) else _table(value, "precision")
    for key, own in table.items():
        _check(type(own) in (int, float), f"precision.{key} = {own!r}: is to be a number")
    return {_method(key) if key else "": float(own) for key, own in table.items()}
