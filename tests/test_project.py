"""The project's own papers: licence, commands, links, examples, and what must not stand in any file."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bourn._version import __version__

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pages() -> list[str]:
    """Every page of prose, relative to the root."""
    found = [*ROOT.glob("*.md"), *(p for folder in ("docs", "examples", "benchmarks") for p in (ROOT / folder).rglob("*.md"))]
    return sorted(p.relative_to(ROOT).as_posix() for p in found)


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads(read("pyproject.toml"))["project"]
    return table


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """Every tracked file's text, bytes read as Latin-1."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]
    if done.returncode or "pyproject.toml" not in names:
        pytest.skip("not a git checkout")
    return {name: (ROOT / name).read_text(encoding="latin-1") for name in names}


def hits(tracked: dict[str, str], pattern: str) -> list[str]:
    regex = re.compile(pattern, re.IGNORECASE)
    return [f"{name}: {m.group()}" for name, text in tracked.items() for m in regex.finditer(text)]


def test_licence_is_mit() -> None:
    text = read("LICENSE")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 the bourn authors\n")
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in text
    assert project()["license"] == "MIT"
    assert "LICENSE" in project()["license-files"]


def test_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == __version__


def test_python_range_has_both_ends_and_holds_this_python() -> None:
    allowed = SpecifierSet(project()["requires-python"])
    assert {s.operator for s in allowed} == {">=", "<"}
    assert sys.version.split()[0] in allowed


def test_constraints_pin_what_the_project_needs_and_nothing_else() -> None:
    needed = [*project()["dependencies"], *(r for extra in project()["optional-dependencies"].values() for r in extra)]
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    pins = {pin.name: pin.specifier for pin in map(Requirement, lines)}
    assert set(pins) == {Requirement(r).name for r in needed}
    for requirement in map(Requirement, needed):
        (pin,) = pins[requirement.name]
        assert pin.operator == "=="
        assert pin.version in requirement.specifier, f"{requirement} does not allow the pinned {pin.version}"


def test_readme_commands_are_those_that_ci_runs() -> None:
    blocks = re.findall(r"^```(?:sh|bash|console|shell)\n(.*?)^```", read("README.md"), re.MULTILINE | re.DOTALL)
    installing = [line.strip() for block in blocks for line in block.splitlines() if "pip install" in line]
    ci = [line.strip() for line in read(".ci/run").splitlines()]
    assert len(installing) >= 2, "the README shows how to install and verify, and how to test"
    missing = [line for line in installing if line.removeprefix("$ ") not in ci]
    assert not missing, f"the README's commands are to be run by .ci/run as they stand: {missing}"
    wanted = [line for line in ci if line.startswith("python -m pip install -c constraints.txt")]
    assert wanted == [line.removeprefix("$ ") for line in installing if line.removeprefix("$ ") in wanted]


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", t)]
    missing = [t for t in targets if not ((ROOT / page).parent / t.split("#")[0]).exists()]
    named = set(re.findall(r"`((?:src|docs|examples|benchmarks|tests|\.ci)/[\w./-]*)`", text))
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"{page} names what is not there: {missing}"


def test_readme_names_files_that_exist() -> None:
    named = set(re.findall(r"\b(?:examples|benchmarks|docs|tests)/[\w./-]*\w", read("README.md")))
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"the README names what is not there: {missing}"


def test_ci_is_executable_and_strict() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o100
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")


# The patterns are written so that they do not find themselves.
@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w.}])/(?:wor[k]|roo[t]|tm[p]|hom[e]|op[t]|User[s]|mn[t])\b"),
        ("a package registry", r"pyp[i]\.org|pythonhoste[d]\.org|download\.pytorc[h]\.org|anacond[a]\.(?:org|com)|file:/{2}"),
        ("who or what wrote it", r"co-authore[d]-by|generate[d] (?:by|with) (?!torch|onnx)|language[ ]model|\bAI-[a-z]+ed\b"),
        ("unfinished work", r"\bTO[D]O\b|\bFIXM[E]\b|\bXX[X]\b"),
    ],
    ids=["machine paths", "registries", "authorship", "unfinished work"],
)
def test_no_file_tells(tracked: dict[str, str], what: str, pattern: str) -> None:
    found = hits({n: t for n, t in tracked.items() if not n.endswith((".onnx", ".npz", ".png"))}, pattern)
    assert not found, f"{what} stands in a tracked file: {found}"


def test_tracked_files_are_small(tracked: dict[str, str]) -> None:
    large = {name: len(text) for name, text in tracked.items() if len(text) > 200_000}
    assert not large, f"over 200 kB: {large}"


def scores(network: str, images: np.ndarray) -> np.ndarray:
    """The example network's outputs, one image at a time, for images (N, 64)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(EXAMPLES / network, providers=["CPUExecutionProvider"])
    (declared,) = session.get_inputs()
    rows = [session.run(None, {declared.name: image.reshape(declared.shape)})[0] for image in images.astype(np.float32)]
    return np.concatenate(rows)


@pytest.mark.parametrize("network", ["digits_mlp.onnx", "digits_cnn.onnx"])
def test_example_networks_are_as_good_as_their_readme_says(network: str) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    _, x, _, y = train_test_split(images / 16, labels, test_size=360, stratify=labels, random_state=0)
    right = float(np.mean(scores(network, x).argmax(1) == y))
    row = next(line for line in read("examples/README.md").splitlines() if line.startswith(f"| `{network}`") and "%" in line)
    assert f"{right:.2%}".replace("%", " %") in row

    saved = np.load(EXAMPLES / "digits_images.npz")
    assert np.array_equal(saved["image"], x[saved["number"]].astype(np.float32))
    assert np.array_equal(saved["label"], y[saved["number"]])
    assert set(saved["label"]) == set(range(10))
    assert np.array_equal(scores(network, saved["image"]).argmax(1), saved["label"])


@pytest.mark.parametrize(("spec", "radius"), [("digits_robust_3", 0.05), ("digits_attackable", 0.15)])
def test_example_specifications_are_about_the_saved_three(spec: str, radius: float) -> None:
    text = read(f"examples/{spec}.vnnlib")
    saved = np.load(EXAMPLES / "digits_images.npz")
    (image,) = saved["image"][saved["label"] == 3]
    for sign, end in ((">=", np.maximum(image - radius, 0)), ("<=", np.minimum(image + radius, 1))):
        stated = {int(i): float(v) for i, v in re.findall(rf"\(assert \({sign} X_(\d+) ([\d.]+)\)\)", text)}
        assert [stated[i] for i in range(64)] == pytest.approx(end, abs=1e-7)
    assert [int(j) for j in re.findall(r"\(and \(>= Y_(\d) Y_3\)\)", text)] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
