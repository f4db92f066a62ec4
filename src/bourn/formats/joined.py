"""Several networks of one question as one, over the inputs that they share; hidden nodes of the question as further outputs.

Every network is read and replayed by itself: its part of the input goes in, what comes out stands side by side with the others'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bourn.errors import SpecificationError, UsageError
from bourn.formats.model import Model, load
from bourn.network.affine import Concat, Reshape, Select
from bourn.network.graph import Graph, GraphBuilder, Input
from bourn.problem.problem import Question, Variable

if TYPE_CHECKING:
    from bourn.formats.replay import Replay

_NOT_ONE = "the question is about several networks or hidden nodes: it wants their files, for `bourn verify` to join"

Files = Mapping[str, str | Path]


def model_for(source: Any, question: Question, example: Any = None) -> Model:
    """The model that a question is about: :func:`bourn.load`, and of several networks, files by name, all in one.

    Raises :class:`bourn.errors.BournError` where files and declared networks do not fit each other.
    """
    if isinstance(source, Model):
        if question.joined and source.joined is None:
            raise UsageError(_NOT_ONE)
        return source
    if not isinstance(source, Mapping):
        if not question.joined:
            return load(source, example=example)
        if not isinstance(source, str | Path) or len(_own(question)) != 1:
            raise UsageError(f"the question is about {_listed(question)}: give a mapping from these names to ONNX files")
        source = {_own(question)[0]: source}
    files = assigned(question, source)
    return join(question, files) if question.joined else load(next(iter(files.values())))


def assigned(question: Question, files: Files) -> dict[str, str | Path]:
    """A file for every declared network, in order; raises :class:`UsageError` for one that is missing or too many.

    A network that is declared equal to another has the other's file.
    """
    declared = {network.name: network for network in question.networks}
    for name in files:
        if declared and name not in declared:
            raise UsageError(f"a file is given for network {name!r}, but the query declares {_listed(question)}")
    if not declared:  # VNN-LIB 1.0 names no network
        return dict(files)
    found: dict[str, str | Path] = {}
    for name, network in declared.items():
        if network.equal_to:
            found[name] = found[network.equal_to]
            if name in files and Path(files[name]).read_bytes() != Path(found[name]).read_bytes():
                raise UsageError(f"network {name!r} is declared equal to {network.equal_to!r} but given another file; leave it out")
        elif name in files:
            found[name] = files[name]
        else:
            raise UsageError(f"no file is given for network {name!r}, which the query declares; add --network {name}=FILE")
    return found


def _own(question: Question) -> list[str]:
    """The networks that have a file of their own."""
    return [network.name for network in question.networks if not network.equal_to]


def _listed(question: Question) -> str:
    return ", ".join(map(repr, question.network_names))


def join(question: Question, files: Files) -> Model:
    """The networks of the files, by name as the question declares them, as one model."""
    parts = [_part(question, name, Path(file)) for name, file in files.items() if not _is_another(question, name)]
    name = ", ".join(dict.fromkeys(Path(file).name for file in files.values()))
    return Model(_graph(question, parts), name=name, joined=Replays(tuple(p.replay for p in parts), tuple(p.places for p in parts)))


def _is_another(question: Question, name: str) -> bool:
    """Whether its outputs are those of a network before it."""
    if question.shared is None:
        return False
    places, seen = iter(question.shared.outputs), -1
    for variable in question.variables:
        own = [next(places) for _ in range(_size(variable))] if variable.kind == "output" else []
        if variable.network == name and own:
            return own[0] <= seen
        seen = max([seen, *own])
    return False


@dataclass(frozen=True, eq=False)
class _Part:
    """One network: its graph with hidden nodes among its outputs, and which entries of the joined input it reads, in order."""

    name: str
    file: Path
    graph: Graph
    replay: Replay
    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Replays:
    """Networks that are replayed one by one: ``places`` says which entries of the joined input each reads."""

    replays: tuple[Replay, ...]
    places: tuple[NDArray[np.int64], ...]

    def run(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """The outputs of all, side by side, at a flat point."""
        return np.concatenate([replay.run(np.asarray(x)[own]) for replay, own in zip(self.replays, self.places, strict=True)])

    def fed(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """The point as all of them see it: rounded to the element types of those that read it, one after the other."""
        point = np.array(x, dtype=np.float64)
        for replay, own in zip(self.replays, self.places, strict=True):
            point[own] = replay.fed(point[own])
        return point


def _part(question: Question, name: str, file: Path) -> _Part:
    from bourn.formats.onnx import from_bytes
    from bourn.formats.onnx_hidden import exposed
    from bourn.formats.replay import Replay

    own = [v for v in question.variables if v.network == name]
    hidden = [v.tensor for v in own if v.tensor]
    data = exposed(file, hidden) if hidden else None
    graph = load(file).graph if data is None else from_bytes(data, str(file))
    replay = Replay.from_file(file) if data is None else Replay(data, str(file))
    for kind, size in (("input", graph.nodes[0].size), ("output", graph.nodes[graph.output].size)):
        declared = sum(_size(v) for v in own if v.kind == kind)
        if declared != size:
            among = ", hidden nodes included," if hidden and kind == "output" else ""
            raise SpecificationError(f"network {name!r} is declared with {declared} {kind}s{among} but {file} has {size}")
    _check_outputs(graph, [v for v in own if v.kind == "output"])
    whole = np.arange(question.inputs) if question.shared is None else np.array(question.shared.inputs)
    owners = np.concatenate([np.full(_size(v), v.network == name) for v in question.variables if v.kind == "input"])
    return _Part(name, file, graph, replay, whole[owners])


def _check_outputs(graph: Graph, outputs: Sequence[Variable]) -> None:
    """Raise :class:`SpecificationError` where one of several outputs has another size than it is declared with."""
    last = graph.nodes[graph.output].operation
    if not isinstance(last, Concat) or len(last.in_shapes) != len(outputs):
        return
    for variable, size in zip(outputs, map(math.prod, last.in_shapes), strict=True):
        if size != _size(variable):
            raise SpecificationError(
                f"{variable.name} of network {variable.network!r} is declared with {_size(variable)} entries, but has {size}"
            )


def _size(variable: Variable) -> int:
    return math.prod(variable.shape)


def _graph(question: Question, parts: Sequence[_Part]) -> Graph:
    """All graphs in one.  Where every network reads the whole input in order, it has the first one's shape, else it is flat."""
    everything = np.arange(question.inputs)
    shape = parts[0].graph.input_shape if all(np.array_equal(p.places, everything) for p in parts) else (1, question.inputs)
    builder = GraphBuilder(shape, "inputs")
    flat = []
    for part in parts:
        number = _copied(builder, part, shape)
        own = builder.shape(number)
        flat.append(builder.add(Reshape(in_shapes=(own,), out_shape=(1, math.prod(own))), number, name=f"{part.name}.flat"))
    if len(flat) == 1:
        return builder.build(flat[0])
    shapes = tuple(builder.shape(v) for v in flat)
    joined = Concat(in_shapes=shapes, out_shape=(1, sum(s[1] for s in shapes)), axis=1)
    return builder.build(builder.add(joined, *flat, name="outputs"))


def _copied(builder: GraphBuilder, part: _Part, whole: tuple[int, ...]) -> int:
    """The network's nodes behind its part of the input; the number of its output."""
    own = part.graph.input_shape
    numbers = {0: 0}
    if own != whole or not np.array_equal(part.places, np.arange(math.prod(whole))):
        index = torch.from_numpy(np.ascontiguousarray(part.places)).reshape(own)
        numbers[0] = builder.add(Select(in_shapes=(whole,), out_shape=own, index=index), 0, name=f"{part.name}.input")
    for number, node in enumerate(part.graph.nodes[1:], start=1):
        assert not isinstance(node.operation, Input)
        arguments = (numbers[i] for i in node.inputs)
        numbers[number] = builder.add(node.operation, *arguments, name=f"{part.name}.{node.name}", source=node.source)
    return numbers[part.graph.output]


