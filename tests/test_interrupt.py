"""Ctrl-C and a reader that goes away: the right exit status, no verdict, no stack trace."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
COMMAND = [sys.executable, "-c", "from bourn.cli import main; main()"]
SLOW = """
import sys, time
import bourn.verification
def never(*_, **__):
    print("working", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)
bourn.verification.Run.work = never
from bourn.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_ends_without_a_verdict() -> None:
    arguments = ["verify", str(EXAMPLES / "digits_mlp.onnx"), str(EXAMPLES / "digits_robust_3.vnnlib")]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "working" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.split("\n")[-2:-1] == ["bourn: interrupted; no verdict"]
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are POSIX")
def test_a_closed_pipe_ends_quietly() -> None:
    with subprocess.Popen([*COMMAND, "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        status = process.wait(timeout=60)
    assert status == 141
    assert err == ""
