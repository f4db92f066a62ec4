"""The house's order: which module may import which, and the soft limits on their size."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "bourn"

# Bottom first: a module imports only from its own layer and those before it.  "bourn" is the package's
# own __init__.py, which re-exports lazily and so may name everything; nothing below it may import it.
LAYERS = (
    "_version",
    "errors",
    "deadline",
    "processes",
    "device",
    "rounding",
    "interval",
    "relaxations",
    "network",
    "problem",
    "formats",
    "program",
    "certificates",
    "solvers",
    "crossing",
    "attacks",
    "radii",
    "bounding",
    "ladders",
    "views",
    "layer_losses",
    "plans",
    "deciding",
    "unknowns",
    "verification",
    "proof_cases",
    "proof_sets",
    "proving",
    "proof_trees",
    "proof_neurons",
    "proof_values",
    "proofs",
    "training",
    "studies",
    "report",
    "cli",
    "__main__",
    "bourn",
)

FILE_LINES, FUNCTION_LINES = 400, 60
# Soft limits: an entry needs a reason why the thing is better in one piece.
LONG_FILES: dict[str, str] = {
    "tests/networks.py": "one vocabulary of random networks, and its exact oracle, for all tests",
}
LONG_FUNCTIONS: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def python_files() -> list[Path]:
    return sorted(p for folder in ("src", "tests", "benchmarks", "examples") for p in (ROOT / folder).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(path: Path) -> list[str]:
    """The module's name in parts, the package's own file under the package's name."""
    parts = ["bourn", *path.relative_to(SOURCE).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in the file, wherever it stands; `from a import b` gives a.b."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path)[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"


def layer_of(name: str) -> str:
    """The layer that an imported name of bourn belongs to; what is no module of it comes from the package itself."""
    parts = name.split(".")
    own = parts[1] if len(parts) > 1 else ""
    is_module = own and ((SOURCE / own).is_dir() or (SOURCE / f"{own}.py").is_file())
    return own if is_module else "bourn"


def users_of(package: str) -> set[str]:
    """Files of src/bourn that import ``package``, relative to it."""
    return {
        path.relative_to(SOURCE).as_posix() for path in modules() for _, name in imported(path) if name.split(".")[0] == package
    }


@pytest.mark.parametrize("path", modules(), ids=place)
def test_imports_go_only_upward(path: Path) -> None:
    own = layer_of(".".join(dotted(path)))
    assert own in LAYERS, f"{place(path)} belongs to no layer: give {own!r} its place in LAYERS"
    wrong = [
        f"line {line}: {name}"
        for line, name in imported(path)
        if name.split(".")[0] == "bourn" and LAYERS.index(layer_of(name)) > LAYERS.index(own)
    ]
    assert not wrong, f"{place(path)} ({own}) imports from a later layer: {wrong}"


def test_names_are_traced_to_their_layers() -> None:
    assert layer_of("bourn.network.graph.Graph") == "network"
    assert layer_of("bourn.errors.UsageError") == layer_of("bourn.errors") == "errors"
    assert layer_of("bourn.__version__") == layer_of("bourn") == "bourn"
    assert "bourn.rounding.up" in [name for _, name in imported(SOURCE / "interval.py")]


def test_outside_libraries_stay_in_their_rooms() -> None:
    highspy = users_of("highspy")
    assert len(highspy) <= 2, f"highspy is imported in {sorted(highspy)}; two files are to know it"
    onnx = {p for p in users_of("onnx") if not (p.startswith("formats/onnx") or p == "formats/torch.py")}
    assert not onnx, f"onnx is imported outside formats/onnx*.py and formats/torch.py: {sorted(onnx)}"
    onnxruntime = users_of("onnxruntime") - {"formats/replay.py"}
    assert not onnxruntime, f"onnxruntime is imported outside formats/replay.py: {sorted(onnxruntime)}"


def test_the_library_never_prints() -> None:
    found = [
        f"{place(path)}:{node.lineno}"
        for path in modules()
        if not dotted(path)[-1].startswith("cli") and "cli" not in dotted(path)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not found, f"print() in the library, which logs instead: {found}"


HEAVY = ("torch", "onnx", "onnxruntime", "scipy", "highspy", "sklearn")


@pytest.mark.parametrize(
    ("module", "heavy"), [("bourn", HEAVY), ("bourn.cli", HEAVY), ("bourn.studies.engines", HEAVY), ("bourn.deciding", HEAVY[1:])]
)
def test_importing_is_light(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"importing {module} imports {done.stdout.strip()}"


def test_files_are_short() -> None:
    long = {place(p): count for p in python_files() if (count := len(p.read_text(encoding="utf-8").splitlines())) > FILE_LINES}
    unexplained = {name: count for name, count in long.items() if name not in LONG_FILES}
    assert not unexplained, f"over {FILE_LINES} lines; is there a second room in one of them? {unexplained}"
    assert not set(LONG_FILES) - set(long), "an entry of LONG_FILES is no longer needed"


def functions(path: Path) -> Iterator[tuple[str, Function]]:
    """Every function of the file with its qualified name."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function]]:
        for node in body:
            if isinstance(node, Function):
                yield prefix + node.name, node
            if isinstance(node, Function | ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(tree(path).body, "")


def test_functions_are_short() -> None:
    long: dict[str, int] = {}
    for path in python_files():
        for name, node in functions(path):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > FUNCTION_LINES:
                long[f"{place(path)}:{name}"] = count
    unexplained = {name: count for name, count in long.items() if name not in LONG_FUNCTIONS}
    assert not unexplained, f"over {FUNCTION_LINES} lines: {unexplained}"
    assert not set(LONG_FUNCTIONS) - set(long), "an entry of LONG_FUNCTIONS is no longer needed"


@cache
def classes() -> dict[str, ast.ClassDef]:
    """Every class of src/bourn by its name."""
    return {node.name: node for path in modules() for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)}


def overrides(cls: ast.ClassDef, method: str) -> bool:
    """Whether a base class has the method too; of a class from elsewhere we suppose it."""
    for base in cls.bases:
        name = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
        if name in ("ABC", "Protocol", "object"):
            continue
        known = classes().get(name)
        if known is None or known is cls or overrides(known, method):
            return True
        if any(isinstance(n, Function) and n.name == method for n in known.body):
            return True
    return False


def one_return_property(node: ast.stmt) -> bool:
    """A property that only returns an expression: its name and that expression say what it is."""
    if not isinstance(node, Function):
        return False
    names = [d.attr if isinstance(d, ast.Attribute) else d.id if isinstance(d, ast.Name) else "" for d in node.decorator_list]
    return bool({"property", "cached_property"} & set(names)) and len(node.body) == 1 and isinstance(node.body[0], ast.Return)


def undocumented(body: list[ast.stmt], prefix: str, cls: ast.ClassDef | None = None) -> Iterator[str]:
    """Public classes, functions and methods without a docstring, those that override another's aside."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        inherited = cls is not None and isinstance(node, Function) and overrides(cls, node.name)
        if ast.get_docstring(node) is None and not inherited and not one_return_property(node):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.", node)


@pytest.mark.parametrize("path", modules(), ids=place)
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(tree(path)) or path.name == "_version.py", f"{place(path)} has no docstring"
    missing = list(undocumented(tree(path).body, ""))
    assert not missing, f"{place(path)}: no docstring on {missing}"


def test_every_folder_is_a_package_that_says_what_it_is() -> None:
    files = sorted({path.parent / "__init__.py" for path in modules()})
    missing = [place(f) for f in files if not f.is_file() or not ast.get_docstring(tree(f))]
    assert not missing, f"missing, or without a docstring: {missing}"
