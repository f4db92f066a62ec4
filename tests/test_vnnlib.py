"""Questions read from VNN-LIB text mean what the text says: held to an evaluator of its own on exact points."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bourn.errors import EmptyInputSetError, SpecificationError
from bourn.formats.vnnlib import load, parse
from bourn.problem.problem import Question, Variable

HEAD_1 = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "X_2", "Y_0", "Y_1"))
HEAD_2 = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,2]) (declare-input U float32 [1]) (declare-output Y float32 [2]))
"""
NAMES_1 = ("X_0", "X_1", "X_2", "Y_0", "Y_1")
NAMES_2 = ("X[0,0]", "X[0,1]", "U[0]", "Y[0]", "Y[1]")

# --- Random questions, printed in both versions and evaluated directly -------------------------------------

Tree = tuple[object, ...]
Point = tuple[Fraction, ...]

literals = st.one_of(
    st.sampled_from(["0.0", "1.0", "-1.0", "0.1", "-0.25", "0.5", "0.3", "2.0", "1", "-3", "1e-1", "2.5E-1", "-1e0"]),
    st.decimals(-3, 3, places=3, allow_nan=False).map(lambda d: f"{d:.3f}"),
)
numbers = literals.map(lambda text: ("number", text))
variables = st.integers(0, 4).map(lambda i: ("variable", i))
expressions: st.SearchStrategy[Tree] = st.recursive(
    st.one_of(numbers, variables),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+-"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("*"), st.tuples(numbers, inner).flatmap(st.permutations)),
    ),
    max_leaves=4,
)
COMPARISONS: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "<=": Fraction.__le__,
    "<": Fraction.__lt__,
    ">=": Fraction.__ge__,
    ">": Fraction.__gt__,
    "==": Fraction.__eq__,
    "!=": lambda a, b: a != b,
}
symbols = st.sampled_from(list(COMPARISONS))
comparisons = st.one_of(
    st.tuples(symbols, variables, numbers), st.tuples(symbols, numbers, variables), st.tuples(symbols, expressions, expressions)
)
formulas: st.SearchStrategy[Tree] = st.recursive(
    comparisons,
    lambda inner: st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=6,
)
# The ends of the boxes are decimals, so the floats around them are the points to try.
entries = st.one_of(
    st.integers(-12, 12).map(lambda n: n / 4),
    literals.map(float).flatmap(lambda v: st.sampled_from([v, math.nextafter(v, 9.0), math.nextafter(v, -9.0)])),
)
points = st.lists(st.tuples(*[entries] * 5), min_size=20, max_size=20)


def arguments(tree: Tree) -> list[Tree]:
    inner = tree[1] if isinstance(tree[1], list) else list(tree[1:])
    assert isinstance(inner, list)
    return inner


def number(tree: Tree, at: Point) -> Fraction:
    if tree[0] == "number":
        return Fraction(str(tree[1]))
    if tree[0] == "variable":
        assert isinstance(tree[1], int)
        return at[tree[1]]
    first, *rest = [number(part, at) for part in arguments(tree)]
    if tree[0] == "*":
        return math.prod(rest, start=first)
    if tree[0] == "+":
        return sum(rest, start=first)
    return first - sum(rest) if rest else -first


def truth(tree: Tree, at: Point) -> bool:
    if tree[0] in ("and", "or"):
        return {"and": all, "or": any}[str(tree[0])](truth(part, at) for part in arguments(tree))
    left, right = arguments(tree)
    return COMPARISONS[str(tree[0])](number(left, at), number(right, at))


def show_1(tree: Tree) -> str:
    if tree[0] == "number":
        return str(tree[1])
    if tree[0] == "variable":
        return NAMES_1[int(str(tree[1]))]
    inner = " ".join(map(show_1, arguments(tree)))
    return f"(not (= {inner}))" if tree[0] == "!=" else f"({'=' if tree[0] == '==' else tree[0]} {inner})"


def show_2(tree: Tree) -> str:
    if tree[0] == "number":
        return str(tree[1])
    if tree[0] == "variable":
        return NAMES_2[int(str(tree[1]))]
    return f"({tree[0]} {' '.join(map(show_2, arguments(tree)))})"


def holds(question: Question, at: tuple[float, ...]) -> bool:
    x, y = at[: question.inputs], at[question.inputs :]
    inside = torch.tensor([x], dtype=torch.float64)
    return any(bool(case.box.contains(inside)) and case.specification.holds(x, y) for case in question.cases)


@given(st.lists(formulas, min_size=1, max_size=4), points)
@pytest.mark.parametrize(("head", "show"), [(HEAD_1, show_1), (HEAD_2, show_2)], ids=["1.0", "2.0"])
def test_a_question_agrees_with_its_text(
    head: str, show: Callable[[Tree], str], trees: list[Tree], tried: list[tuple[float, ...]]
) -> None:
    text = head + "".join(f"(assert {show(tree)})\n" for tree in trees)
    exact = [tuple(map(Fraction, at)) for at in tried]
    try:
        question = parse(text)
    except EmptyInputSetError:
        assert not any(all(truth(tree, at) for tree in trees) for at in exact)
        return
    for at, point in zip(tried, exact, strict=True):
        assert holds(question, at) == all(truth(tree, point) for tree in trees), (text, at)
    for case in question.cases:
        assert case.box.inner is not None
        assert bool((case.box.lower <= case.box.inner[0]).all())
        assert bool((case.box.upper >= case.box.inner[1]).all())


# --- The normal form ---------------------------------------------------------------------------------------


def ask(*assertions: str) -> Question:
    return parse(HEAD_1 + "\n".join(f"(assert {a})" for a in assertions))


def rows(question: Question) -> list[str]:
    return [str(case.specification) for case in question.cases]


def test_bounds_become_the_box_rounded_both_ways() -> None:
    question = ask("(<= X_0 0.1)", "(>= X_0 -0.1)", "(<= X_1 0.5)", "(>= 2 (* 3 X_2))")
    (case,) = question.cases
    assert case.box.shape == (3,)
    assert case.box.inner is not None
    below, above = math.nextafter(0.1, 0.0), 0.1  # float64's 0.1 lies above the decimal
    assert case.box.upper[0, 0] == above
    assert case.box.inner[1][0, 0] == below
    assert case.box.lower[0, 0] == -above
    assert case.box.inner[0][0, 0] == -below
    assert case.box.upper[0, 1] == case.box.inner[1][0, 1] == 0.5
    assert case.box.lower[0, 1] == -math.inf
    assert case.box.inner[1][0, 2].item() < Fraction(2, 3) < case.box.upper[0, 2].item()
    assert rows(question) == ["(true)"]


def test_strictness_is_kept() -> None:
    question = ask("(< X_0 1)", "(> Y_0 1)", "(>= Y_1 2)")
    assert rows(question) == ["(X_0 - 1 < 0 and - Y_0 + 1 < 0 and - Y_1 + 2 <= 0)"]
    assert question.cases[0].box.upper[0, 0] == 1


def test_equality_on_an_input_is_a_point() -> None:
    (case,) = ask("(= X_0 0.25)", "(= Y_0 Y_1)").cases
    assert case.box.lower[0, 0] == case.box.upper[0, 0] == 0.25
    assert str(case.specification) == "(Y_0 - Y_1 <= 0 and - Y_0 + Y_1 <= 0)"


def test_difference_is_two_strict_rows() -> None:
    assert rows(ask("(!= Y_0 Y_1)")) == ["(Y_0 - Y_1 < 0) or (- Y_0 + Y_1 < 0)"]


def test_negation_turns_rows_and_connectives() -> None:
    assert rows(ask("(not (and (<= Y_0 1) (< Y_1 2)))")) == ["(- Y_0 + 1 < 0) or (- Y_1 + 2 <= 0)"]
    assert rows(ask("(not (or (<= X_0 1) (> Y_1 2)))")) == ["(- X_0 + 1 < 0 and Y_1 - 2 <= 0)"]


def test_boxes_that_are_equal_make_one_case() -> None:
    boxes = "(or (and (<= X_0 1) (>= X_0 0)) (and (>= X_0 0.0) (<= X_0 1.00)) (<= X_0 0.5))"
    question = ask("(>= X_0 -1)", "(<= X_0 1)", boxes, "(or (<= Y_0 0) (<= Y_1 0))")
    assert rows(question) == ["(Y_0 <= 0) or (Y_1 <= 0)"] * 2
    assert [case.box.lower[0, 0].item() for case in question.cases] == [0, -1]
    assert question.rows == 4


def test_conjunctions_without_inputs_are_dropped() -> None:
    question = ask("(>= X_0 0)", "(or (and (<= X_0 -1) (<= Y_0 0)) (<= Y_1 0))")
    assert rows(question) == ["(Y_1 <= 0)"]


def test_boxes_that_exclude_each_other_are_dropped_on_the_way() -> None:
    parts = [f"(or {' '.join(f'(and (>= X_{i} {k}) (<= X_{i} {k}.5))' for k in range(9))})" for i in (0, 0, 0, 1)]
    assert len(ask(*parts).cases) == 81


def test_constant_rows() -> None:
    assert rows(ask("(<= 0 1)", "(<= Y_0 0)")) == ["(Y_0 <= 0)"]
    assert rows(ask("(or (and (< 1 1) (<= Y_0 0)) (<= Y_1 0))")) == ["(Y_1 <= 0)"]
    assert rows(ask("(<= (- Y_0 Y_0) 1)")) == ["(true)"]
    assert rows(ask("(>= X_0 0)", "(or (< 1 1) (> 1 2))")) == ["false"]


def test_empty_boxes_are_an_error_that_names_the_input() -> None:
    with pytest.raises(EmptyInputSetError, match=r"X_1 is at least 0.5 and at most 0.25"):
        ask("(<= X_1 0.25)", "(>= X_1 0.5)")
    with pytest.raises(EmptyInputSetError, match=r"X_0 is at least 1.00000e\+400 and at most -1.00000e\+400"):
        ask("(<= X_0 -1e400)", "(>= X_0 1e400)")
    with pytest.raises(EmptyInputSetError, match="X_2 is at least 2 and at most 1"):
        ask("(<= X_2 1)", "(or (>= X_2 2) (and (>= X_2 3) (<= Y_0 0)))")
    with pytest.raises(EmptyInputSetError, match=r"f: the input set is empty: X\[0,1\] is at least 1 and at most 0"):
        parse(f"{HEAD_2}(assert (<= X[0,1] 0.0)) (assert (>= X[0,1] 1.0))", "f")


@pytest.mark.parametrize("count", [3, 12])
def test_too_many_conjunctions_are_refused(count: int) -> None:
    choice = f"(or {' '.join(f'(<= Y_0 {k})' for k in range(200))})"
    with pytest.raises(SpecificationError, match="conjunctions; bourn takes up to 1,000,000"):
        ask(*[choice] * count)
    with pytest.raises(SpecificationError, match="line 6: the question comes to"):
        ask(f"(and {' '.join([choice] * count)})")


def test_what_both_versions_hold_is_the_same() -> None:
    question = parse(f"{HEAD_2}(assert (<= (+ (* 2.0 Y[1]) X[0,1] (- U[0])) -3.0))", "somewhere")
    assert rows(question) == ["(2 Y_1 + X_1 - X_2 + 3 <= 0)"]
    assert (question.inputs, question.outputs, question.version) == (3, 2, "2.0")
    assert question.network_names == ("f",)
    assert question.source == "somewhere"
    assert question.variables == (
        Variable("X", "input", "float32", (1, 2), "f"),
        Variable("U", "input", "float32", (1,), "f"),
        Variable("Y", "output", "float32", (2,), "f"),
    )
    assert ask("(<= Y_0 0)").variables == (Variable("X", "input", "real", (3,)), Variable("Y", "output", "real", (2,)))


def test_tensors_are_flattened_row_major_one_after_the_other() -> None:
    inputs = "(declare-input A real [2,3,2]) (declare-input B real []) (declare-input C real [2,2])"
    head = f"(vnnlib-version <2.0>)(declare-network f {inputs} (declare-output V real [2]) (declare-output W real [3,2]))"
    question = parse(f"{head}(assert (<= (+ A[1,2,0] (* 2.0 B) (* 3.0 C[1,0])) (+ V[1] W[2,1])))")
    assert rows(question) == ["(- Y_1 - Y_7 + X_10 + 2 X_12 + 3 X_15 <= 0)"]
    assert (question.inputs, question.outputs) == (17, 8)
    for name in ("A[1,2,0]", "B", "C[1,0]"):
        with pytest.raises(EmptyInputSetError) as caught:
            parse(f"{head}(assert (and (<= {name} 0.0) (>= {name} 1.0)))")
        assert f"{name} is at least 1 and at most 0" in str(caught.value)


# --- Spellings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("literal", ["0.015625", "15.625e-3", ".015625", "+0.15625E-1", "1.5625e-02", "0015625e-6"])
def test_spellings_of_a_number(literal: str) -> None:
    texts = [f"{HEAD_1}(assert (<= Y_0 {literal}))", f"{HEAD_2}(assert (<= Y[0] {literal}))"]
    assert [rows(parse(text)) for text in texts] == [["(Y_0 - 0.015625 <= 0)"]] * 2


@given(literals | st.from_regex(r"-?[0-9]{1,8}(\.[0-9]{1,20})?(e-?[0-9]{1,2})?", fullmatch=True))
def test_numbers_are_exact(literal: str) -> None:
    for text in (f"{HEAD_1}(assert (>= Y_0 {literal}))", f"{HEAD_2}(assert (>= Y[0] {literal}))"):
        (row,) = parse(text).cases[0].specification.conjunctions[0].rows
        assert row.constant == Fraction(literal)


def test_layout_and_comments_do_not_matter() -> None:
    text = ";(vnnlib-version <2.0>)\n(declare-fun X_0 ()\tReal)(declare-const Y_0 Real) ; (assert (\r\n(assert(<=\nX_0;)\n1.))"
    assert rows(parse(text)) == ["(true)"]
    spread = HEAD_2.replace("float32", "Real ; a comment (\n") + "(assert (or (<= X[0,0]\t1) ; 1e5 )\n (>= Y[0] 2)))"
    assert [v.element_type for v in parse(spread).variables] == ["real"] * 3


def test_integers_stay_integers_where_variables_are() -> None:
    head = HEAD_2.replace("X float32", "X int64")
    assert parse(f"{head}(assert (<= X[0,0] 3))(assert (>= X[0,0] 1))(assert (<= Y[0] 1.5))").cases[0].box.upper[0, 0] == 3
    with pytest.raises(SpecificationError, match="line 3: Type mismatch"):
        parse(f"{head}(assert (<= X[0,0] Y[0]))")


@pytest.mark.parametrize(("opening", "closing"), [("(and ", ")"), ("(or ", ")"), ("(not ", ")")])
def test_deep_nesting_of_formulas(opening: str, closing: str) -> None:
    assert len(ask(opening * 50_000 + "(<= Y_0 1)" + closing * 50_000).cases) == 1


def test_deep_nesting_of_expressions() -> None:
    assert rows(ask(f"(<= {'(- ' * 50_001}Y_0{')' * 50_001} 1)")) == ["(- Y_0 - 1 <= 0)"]
    assert rows(ask(f"(<= {'(+ Y_0 ' * 50_000}1{')' * 50_000} 1)")) == ["(50000 Y_0 <= 0)"]


def test_deep_nesting_in_version_2_is_refused_before_it_overflows_the_parser() -> None:
    def nested(depth: int) -> str:
        return f"{HEAD_2}(assert {'(and ' * depth}(<= Y[0] 1.0){')' * depth})"

    assert rows(parse(nested(900))) == ["(Y_0 - 1 <= 0)"]
    with pytest.raises(SpecificationError, match="nest deeper than 1000 levels"):
        parse(nested(200_000))


# --- Real files --------------------------------------------------------------------------------------------


def test_competition_files_are_read(data_folder: Path) -> None:
    found = 0
    for folder in sorted((data_folder / "vnncomp2022").glob("*/vnnlib")):
        for path in sorted(folder.iterdir())[::20]:
            question = load(path)
            found += 1
            assert question.cases, path
            assert all(bool(torch.isfinite(case.box.lower).all()) for case in question.cases), path
    assert found


def test_both_versions_of_a_file_ask_the_same(data_folder: Path) -> None:
    found = 0
    for path in sorted((data_folder / "vnnlib2").glob("*/*")):
        benchmark, name = path.parent.name, path.name.replace(".v2.", ".")
        new, old = load(path), load(data_folder / "vnncomp2022" / benchmark / "vnnlib" / name)
        found += 1
        assert (new.inputs, new.outputs, len(new.cases)) == (old.inputs, old.outputs, len(old.cases))
        for a, b in zip(new.cases, old.cases, strict=True):
            assert torch.equal(a.box.lower, b.box.lower)
            assert torch.equal(a.box.upper, b.box.upper)
            assert a.box.inner is not None
            assert b.box.inner is not None
            assert all(map(torch.equal, a.box.inner, b.box.inner))
            assert set(a.specification.conjunctions) == set(b.specification.conjunctions)
    assert found
