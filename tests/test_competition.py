"""bourn compete: instances.csv to answers in a store, each instance in a process of its own; and VNN-COMP's scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bourn.cli.main import run
from bourn.errors import UsageError
from bourn.studies.competition import Answer, Instance, compete, contradictions, read_expected, read_instances, vnncomp_results
from bourn.studies.store import Store

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """A folder as VNN-COMP has them: one instance that holds, one whose network is missing on the way to its answer."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("digits_mlp.onnx", "digits_robust_3.vnnlib"):
        shutil.copy(EXAMPLES / name, folder)
    (folder / "broken.vnnlib").write_text("(assert")
    rows = "digits_mlp.onnx,digits_robust_3.vnnlib,60\ndigits_mlp.onnx,broken.vnnlib,60\n"
    (folder / "instances.csv").write_text(rows)
    return folder


def test_a_benchmark_is_answered_once(benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, results, known = tmp_path / "store.db", tmp_path / "results.csv", tmp_path / "known.csv"
    known.write_text("benchmark,onnx,vnnlib,result\ndigits,digits_mlp.onnx,digits_robust_3.vnnlib,unsat\n")
    command = ["compete", str(benchmark), "--store", str(store), "--results", str(results)]
    assert run([*command, "--expected", str(known)]) == 0
    printed = capsys.readouterr()
    assert "no contradiction" in printed.out
    assert "[2/2, about 0 s left]" in printed.err
    first, second = results.read_text().splitlines()
    assert first.startswith("digits,digits_mlp.onnx,digits_robust_3.vnnlib,0,unsat,")
    assert second.startswith("digits,digits_mlp.onnx,broken.vnnlib,0,error,")
    # Again: nothing is run, for all is in the store; and a known answer that differs is loud.
    known.write_text("benchmark,onnx,vnnlib,result\ndigits,digits_mlp.onnx,digits_robust_3.vnnlib,sat\n")
    assert run([*command, "--expected", str(known)]) == 1
    printed = capsys.readouterr()
    assert "left]" not in printed.err
    assert "WRONG: digits digits_mlp.onnx digits_robust_3.vnnlib: unsat, but sat is known" in printed.err
    assert run(["study", "table", str(store)]) == 0
    assert "digits" in capsys.readouterr().out
    assert run(["report", str(store), "-o", str(tmp_path / "page.html")]) == 0


def test_what_was_answered_is_kept(benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end in the middle loses what was running, and a process that overstays is killed."""
    monkeypatch.setattr("bourn.studies.competition._COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    instances = read_instances([benchmark], timeout=0.3)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with Store(tmp_path / "store.db") as store:
        with pytest.raises(KeyboardInterrupt):
            compete(instances, store, report=stop)
        assert len(store) == 1
        answers = compete(instances, store)
        assert len(store) == 2
    assert [a.result for _, a in answers] == ["timeout", "timeout"]
    assert all(0.3 <= a.seconds < 5 for _, a in answers)


@pytest.mark.parametrize(
    ("row", "said"),
    [("net.onnx,prop.vnnlib", "seconds"), ("net.onnx,prop.vnnlib,0", "above 0"), ("[('f',q,3", "is to be")],
)
def test_a_bad_row_is_one_line(row: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "instances.csv").write_text(row + "\n")
    with pytest.raises(UsageError, match=said):
        read_instances([tmp_path])


def test_bad_files_are_one_line(benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (benchmark / "instances.csv").write_text("gone.onnx,broken.vnnlib,3\n")
    for arguments in ([str(tmp_path / "none.csv")], [str(benchmark)], [str(benchmark), "--only", "other"]):
        assert run(["compete", *arguments, "--store", str(tmp_path / "store.db")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("bourn: ")
    with pytest.raises(UsageError, match="columns"):
        read_expected(benchmark / "broken.vnnlib")


def test_several_networks_and_zipped_files(tmp_path: Path) -> None:
    (tmp_path / "instances.csv").write_text("\"[('f', 'a.onnx'), ('g', 'b.onnx')]\",q.vnnlib,9\n")
    (tmp_path / "a.onnx.gz").touch()
    (instance,) = read_instances([tmp_path])
    assert instance.command(1.0)[-7:] == [
        str(tmp_path / "q.vnnlib"), "--network", f"f={tmp_path / 'a.onnx.gz'}", "--network", f"g={tmp_path / 'b.onnx'}",
        "--timeout", "8.0",
    ]  # fmt: skip
    assert '"[(' in vnncomp_results([(instance, Answer("unknown", 1.0))])


def test_only_sat_and_unsat_contradict() -> None:
    instance = Instance(Path("b/instances.csv"), "n", (("", "n"),), "q", 1.0)
    known = {("b", "n", "q"): "sat"}
    for result, wrong in (("sat", 0), ("unsat", 1), ("unknown", 0), ("timeout", 0), ("error", 0)):
        assert len(contradictions([(instance, Answer(result, 1.0))], known)) == wrong


@pytest.mark.skipif(sys.platform == "win32", reason="the scripts are bash")
def test_the_scripts_write_the_result_file(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}

    def script(name: str, *arguments: object) -> int:
        command = ["bash", str(ROOT / "vnncomp" / name), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    files: Callable[[str], tuple[Path, Path]] = lambda query: (EXAMPLES / "digits_mlp.onnx", EXAMPLES / query)  # noqa: E731
    result = tmp_path / "result.txt"
    for query, answer in (("digits_robust_3.vnnlib", "unsat"), ("digits_attackable.vnnlib", "sat")):
        assert script("prepare_instance.sh", "v1", "digits", *files(query)) == 0
        assert script("run_instance.sh", "v1", "digits", *files(query), result, 60) == 0
        assert result.read_text().splitlines()[0] == answer
    assert script("prepare_instance.sh", "v1", "digits", *files("none.vnnlib")) != 0
    assert script("run_instance.sh", "v1", "digits", *files("none.vnnlib"), result, 60) != 0
    assert result.read_text() == "error\n"
    assert script("install_tool.sh", "v9") != 0
