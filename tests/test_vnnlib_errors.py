"""VNN-LIB files that cannot be read and texts that are malformed: always one line that says what and where."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bourn.errors import BournError, SpecificationError
from bourn.formats.vnnlib import load, parse

HEAD_1 = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "X_2", "Y_0", "Y_1"))
HEAD_2 = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,2]) (declare-input U float32 [1]) (declare-output Y float32 [2]))
"""

def test_files_plain_and_gzipped(tmp_path: Path) -> None:
    text = f"{HEAD_1}(assert (<= Y_0 1)) ; ≤\n"
    plain, packed = tmp_path / "a.vnnlib", tmp_path / "b.vnnlib.gz"
    plain.write_text(text, encoding="utf-8")
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, str(packed)):
        assert str(load(path).cases[0].specification) == "(Y_0 - 1 <= 0)"
    assert load(plain).source == str(plain)


def unreadable(folder: Path) -> Iterator[tuple[Path, str]]:
    contents = {
        "cut.gz": (gzip.compress(HEAD_1.encode() * 100)[:-12], "cannot read"),
        "broken.gz": (b"\x1f\x8b\x08\x00" + b"\0" * 6 + b"\xff" * 20, "cannot read"),
        "latin": (b"\xff\xfe\x00", "not UTF-8"),
        "zero": ((HEAD_1 + "\0").encode(), "NUL"),
        "empty": (b"", "no input is declared"),
    }
    for name, (data, why) in contents.items():
        (folder / name).write_bytes(data)
        yield folder / name, why
    yield folder / "missing", "No such file"
    yield folder, "Is a directory"


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    for path, why in unreadable(tmp_path):
        with pytest.raises(SpecificationError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


# --- Malformed texts ---------------------------------------------------------------------------------------

MALFORMED_1 = {
    "(assert (<= X_0 1)": "f, line 6: this '(' is never closed",
    "(assert (<= X_0 1)))": "f, line 6: a ')' that closes nothing",
    "\n(assert (<= X_7 1))": "f, line 7: the assertion names X_7, which is not declared",
    "(assert (<= X_7 Y_0))": "names X_7, which is not declared",
    "(assert (<= foo 1))": "names foo, which is not declared",
    "(assert (<= (* X_0 Y_0) 1))": "line 6: the row is not linear: it multiplies",
    "(assert (<= (/ 1 X_0) 1))": "the row is not linear: it divides by a variable",
    "(assert (<= (/ X_0 0) 1))": "a division by zero",
    "(assert (<= (/ 2) 1))": "'/' needs at least two arguments",
    "(assert (<= (^ X_0 2) 1))": "unknown operator '^'",
    "(assert (=> (<= X_0 1) (<= X_0 2)))": "unknown operator '=>'",
    "(assert (<= X_0 1 2))": "'<=' compares two expressions, not 3",
    "(assert (<= X_0))": "'<=' compares two expressions, not 1",
    "(assert (and))": "'and' has no arguments",
    "(assert (not (<= X_0 1) (<= X_0 2)))": "'not' takes one formula, not 2",
    "(assert)": "'assert' takes one formula, not 0",
    "(assert (<= X_0 1) (<= X_1 1))": "'assert' takes one formula, not 2",
    "(assert X_0)": "X_0 where a comparison was expected",
    "(assert (+ X_0 1))": "an expression where a comparison was expected",
    "(assert (<= (<= X_0 1) 1))": "a comparison where an expression was expected",
    "(assert (<= X_0 ()))": "'' is not a number",
    "(assert ((<= X_0 1)))": "a list that starts with a list",
    "(check (<= X_0 1))": "unknown command 'check'",
    "()": "unknown command ''",
    "nonsense": "'nonsense' outside an assertion",
    "(<= X_0 1)": "outside an assertion",
    "(assert (<= X_0 1.2.3))": "'1.2.3' is not a number",
    "(assert (<= X_0 1/3))": "'1/3' is not a number",
    "(assert (<= X_0 1_000))": "'1_000' is not a number",
    "(assert (<= X_0 -nan))": "'-nan' is not a number",
    "(assert (<= X_0 ٣))": "'٣' is not a number",
    "(assert (<= X_0 1e999999999))": "beyond what bourn reads",
    f"(assert (<= X_0 {'9' * 5000}))": "beyond what bourn reads",
    "(declare-const X_0 Real)": "X_0 is declared twice",
    "(declare-const Z_0 Real)": "Z_0 is declared, but inputs are called X_0",
    "(declare-const X_03 Real)": "X_03 is declared, but",
    "(declare-const X_3 Bool)": "a declaration must read (declare-const X_0 Real)",
    "(declare-const)": "a declaration must read",
    "(declare-const X_4 Real)": "f: 4 inputs are declared, but X_3 is not among them",
    "(declare-const Y_3 Real)": "f: 3 outputs are declared, but Y_2 is not among them",
    f"(declare-const Y_{'9' * 5000} Real)": "beyond what bourn reads",
}
MALFORMED_2 = {
    "(assert (<= X[0,0] 1.0)": "f, line 3: syntax error at column ",
    "\n(assert (<= X[0,7] 1.0))": "f, line 4: Index out of bounds for variable: X[0,7]",
    "(assert (<= Q[0] 1.0))": "f, line 3: Undeclared variable: Q",
    "\n\n(assert (<= (* Y[0] U[0]) 1.0))": "f, line 5: the row is not linear",
    "(assert (and))": "f, line 3: syntax error at column ",
    "(assert (not (<= Y[0] 1.0)))": "f, line 3: syntax error at column ",
    "": "f, line 2: syntax error at column 112, at the end",
    "(assert (<= Y[0] 1e9999999))": "f, line 3: the number 1e9999999 is beyond",
    "(declare-const X_0 Real)": "f, line 3: syntax error at column ",
}
NETWORK = "(declare-network {} {} (declare-input {} float32 [1]) {} (declare-output {} {} [1]))"
WHOLE = {
    "": "no input is declared",
    "; only a comment": "no input is declared",
    "(declare-const X_0 Real)": "no output is declared",
    "(vnnlib-version <3.0>)": "f: VNN-LIB 3.0 is not supported; bourn reads 1.0 and 2.0",
    "; c\n(vnnlib-version <2.1>)": "VNN-LIB 2.1 is not supported",
    "(declare-network f)": "unknown command 'declare-network'",
    "(vnnlib-version <2.0>)": "f, line 1: syntax error",
    f"(vnnlib-version <2.0>){NETWORK.format('f', '', 'X', '', 'Y', 'thing')}(assert (<= Y[0] 1.0))": "Y has element type thing",
    f"(vnnlib-version <2.0>){NETWORK.format('f', '', 'X', '', 'Y', 'complex64')}(assert (<= X[0] 1.0))": "element type complex64",
    "(vnnlib-version <2.0>)(declare-network f (declare-input X real [99999,99999]) (declare-output Y real [1]))"
    "(assert (<= Y[0] 1.0))": "more than 100,000,000 inputs",
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((HEAD_1 + text, message) for text, message in MALFORMED_1.items()),
        *((HEAD_2 + text, message) for text, message in MALFORMED_2.items()),
        *WHOLE.items(),
    ],
)
def test_malformed_texts_are_explained(text: str, message: str) -> None:
    with pytest.raises(SpecificationError) as caught:
        parse(text, "f")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("f")
    assert len(str(caught.value)) < 300


WORDS = r"""
( ) ( ) ( ) (assert (or (and (not (<= (>= (< (= (+ (- (* (/ <= X_0 Y_0 X[0,0] Y[1] U 1 -1 0.5 1e3 1e-9 . e ; " [ ] < >
assert declare-const (declare-const Real <2.0> (vnnlib-version (declare-network
"""


@given(st.sampled_from([HEAD_1, HEAD_2, ""]), st.lists(st.sampled_from([*WORDS.split(), "\n"]), max_size=25).map(" ".join))
def test_no_text_raises_anything_else(head: str, text: str) -> None:
    complaint = ""
    try:
        parse(head + text)
    except BournError as error:
        complaint = str(error)
    assert "\n" not in complaint
