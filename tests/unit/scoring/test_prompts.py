from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.prompts import (
    Break,
    Part,
    Span,
    Stage,
    compose,
    parse_emphasis,
    schedule,
    text_at,
    to_text,
)

RULE = settings(deadline=None)

# ---- emphasis


def spans(text: str) -> list[tuple[str, float] | str]:
    return ["BREAK" if isinstance(part, Break) else (part.text, part.weight) for part in parse_emphasis(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("a cat, sitting", [("a cat, sitting", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red)) cat", [("red", 1.1 * 1.1), (" cat", 1)]),
        ("[red]", [("red", 1 / 1.1)]),
        ("[[red]]", [("red", 1 / 1.1 / 1.1)]),
        ("([red])", [("red", 1 / 1.1 * 1.1)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("((red:1.3))", [("red", 1.3 * 1.1)]),  # a number multiplies what is inside it
        ("((red:1.3):0.5)", [("red", 1.3 * 0.5)]),
        ("([red:1.3])", [("red:1.3", 1 / 1.1 * 1.1)]),  # a number counts before a round bracket alone
        ("([red]:2)", [("red", 2 / 1.1)]),
        ("(a (b:2) c:3)", [("a ", 3), ("b", 2 * 3), (" c", 3)]),
        ("(red:0)", [("red", 0)]),
        ("(red:-1.5)", [("red", -1.5)]),
        ("(red:+.5)", [("red", 0.5)]),
        ("(red:2.)", [("red", 2)]),
        ("(red :  1.3 )", [("red ", 1.3)]),
        ("(red:)", [("red:", 1.1)]),
        ("(red:blue)", [("red:blue", 1.1)]),
        ("(red:1e1)", [("red:1e1", 1.1)]),
        ("(red:1.2.3)", [("red:1.2.3", 1.1)]),
        ("(red:1.2:1.3)", [("red:1.2", 1.3)]),
        ("()", []),
        # what is next to each other with one weight is one span
        ("(a)(b)", [("ab", 1.1)]),
        ("(a)[]( b)", [("a b", 1.1)]),
        # escapes
        (r"a \(b\) \[c\]", [("a (b) [c]", 1)]),
        (r"(\(b\):1.2)", [("(b)", 1.2)]),
        (r"a\\b", [(r"a\b", 1)]),
        (r"\\(a)", [("\\", 1), ("a", 1.1)]),
        (r"\a \: b" + "\\", [("a : b", 1)]),  # before anything else a backslash vanishes
        # unbalanced: what is open reaches to the end, what closes nothing is text
        ("(a", [("a", 1.1)]),
        ("a, ((b (c", [("a, ", 1), ("b ", 1.1 * 1.1), ("c", 1.1 * 1.1 * 1.1)]),
        ("[a (b", [("a ", 1 / 1.1), ("b", 1.1 / 1.1)]),
        ("a) b]", [("a) b]", 1)]),
        ("a:1.3)", [("a:1.3)", 1)]),
        ("(a] b)", [("a] b", 1.1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.1 / 1.1), (" c", 1 / 1.1)]),
        # breaks
        ("a BREAK b", [("a", 1), "BREAK", ("b", 1)]),
        ("BREAK\n\nb BREAK", ["BREAK", ("b", 1), "BREAK"]),
        ("BREAK BREAK", ["BREAK", "BREAK"]),
        ("BREAKFAST, break", [("BREAKFAST, break", 1)]),
        ("(a BREAK b:1.2)", [("a", 1.2), "BREAK", ("b", 1.2)]),
        ("(a)BREAK(b)", [("a", 1.1), "BREAK", ("b", 1.1)]),
    ],
)
def test_weights_are_those_worked_out_by_hand(text: str, wanted: list[tuple[str, float] | str]) -> None:
    parsed = spans(text)
    assert [part if part == "BREAK" else part[0] for part in parsed] == [
        part if part == "BREAK" else part[0] for part in wanted
    ]
    weights = [part[1] for part in parsed if not isinstance(part, str)]
    assert weights == pytest.approx([part[1] for part in wanted if not isinstance(part, str)])


def test_prompts_of_the_astolfomix_article() -> None:
    soft, softer, softest = 1 / 1.1, 1 / 1.1**2, 1 / 1.1**4
    assert [softer, softest] == pytest.approx([0.826446, 0.683013], abs=1e-6)
    assert spans(
        "(aesthetic:0), (quality:0), (anime:0), (race queen:0.98), [[braid]], [[bulge]], [astolfo], "
        "[[[[nascar, nurburgring]]]]"
    ) == [
        ("aesthetic", 0),
        (", ", 1),
        ("quality", 0),
        (", ", 1),
        ("anime", 0),
        (", ", 1),
        ("race queen", 0.98),
        (", ", 1),
        ("braid", pytest.approx(softer)),
        (", ", 1),
        ("bulge", pytest.approx(softer)),
        (", ", 1),
        ("astolfo", pytest.approx(soft)),
        (", ", 1),
        ("nascar, nurburgring", pytest.approx(softest)),
    ]
    assert spans("(worst:0), (low:0), (breasts:0.5)") == [
        ("worst", 0),
        (", ", 1),
        ("low", 0),
        (", ", 1),
        ("breasts", 0.5),
    ]


ANY_TEXT = st.one_of(
    st.text(),
    # what the syntax is made of, so that its rules meet each other
    st.lists(
        st.sampled_from(
            [*"()[]:|\\", "a", "b, ", " ", "\n", "1.3", "-0.5", "3", "BREAK", " AND ", "BRE", "AK"]
        )
    ).map("".join),
)


@st.composite
def balanced(draw: st.DrawFn) -> str:
    inner = st.deferred(lambda: texts)
    number = st.floats(-10, 10, allow_subnormal=False).map(lambda x: f"{x:.17f}")
    plain = st.sampled_from(["a", "cat, ", "red hat", r"\(x\)", r"\[", r"\\", " BREAK ", "16:9", " "])
    texts: st.SearchStrategy[str] = st.lists(
        st.one_of(
            plain,
            inner.map(lambda text: f"({text})"),
            inner.map(lambda text: f"[{text}]"),
            st.tuples(inner, number).map(lambda pair: f"({pair[0]}:{pair[1]})"),
        ),
        max_size=3,
    ).map("".join)
    return draw(texts)


@RULE
@given(balanced())
def test_a_balanced_prompt_comes_back_from_its_printed_form(text: str) -> None:
    parts = parse_emphasis(text)
    assert parse_emphasis(to_text(parts)) == parts


@RULE
@given(ANY_TEXT)
def test_any_text_is_parsed_and_none_of_it_lost(text: str) -> None:
    parts = parse_emphasis(text)
    assert parse_emphasis(to_text(parts)) == parts
    said = "".join(part.text for part in parts if isinstance(part, Span))
    assert [letter for letter in said if letter.isalpha()] == [
        letter for letter in re.sub(r"\bBREAK\b", "", _without_syntax(text)) if letter.isalpha()
    ]
    for before, after in pairwise(parts):
        assert isinstance(before, Break) or isinstance(after, Break) or before.weight != after.weight


def _without_syntax(text: str) -> str:
    return re.sub(r"[\\()\[\]:]", "~", text)


def test_the_printed_form() -> None:
    parts: list[Span | Break] = [Span("a ("), Span("b", 0.0), Break(), Span("c", 1e-7)]
    assert to_text(parts) == r"a \((b:0.0)()BREAK()(c:0.0000001)"
    assert parse_emphasis(to_text(parts)) == parts


# ---- composition


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", [("", 1)]),
        ("a cat", [("a cat", 1)]),
        ("a cat AND a dog", [("a cat", 1), (" a dog", 1)]),
        ("a :1.2 AND b :-0.5", [("a", 1.2), (" b", -0.5)]),
        ("a:2\nAND b: .5 AND c : 3. ", [("a", 2), (" b", 0.5), (" c", 3)]),
        ("AND a", [("", 1), (" a", 1)]),
        ("SAND AND HANDS", [("SAND", 1), (" HANDS", 1)]),
        ("(a:1.2) AND [b:c:0.5]", [("(a:1.2)", 1), (" [b:c:0.5]", 1)]),
        ("a:1:2", [("a:1", 2)]),
        ("a photo, 16:9", [("a photo, 16", 9)]),
        ("a:1e3", [("a:1e3", 1)]),
        ("a:b AND c:", [("a:b", 1), (" c:", 1)]),
    ],
)
def test_the_parts_of_a_prompt(prompt: str, wanted: list[tuple[str, float]]) -> None:
    assert compose(prompt) == tuple(Part(text, weight) for text, weight in wanted)


@RULE
@given(ANY_TEXT)
def test_any_prompt_has_a_part_more_than_it_has_ands(text: str) -> None:
    assert len(compose(text)) == len(re.findall(r"\bAND\b", text)) + 1


# ---- schedule


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a cat", [(10, "a cat")]),
        ("a [b] (c:1.2)", [(10, "a [b] (c:1.2)")]),
        ("a [b:c:4] d", [(4, "a b d"), (10, "a c d")]),
        ("a [b:4]", [(4, "a "), (10, "a b")]),
        ("a [b::4]", [(4, "a b"), (10, "a ")]),
        ("[b:c: 4 ]", [(4, "b"), (10, "c")]),
        ("[b : c : 4]", [(4, "b "), (10, " c ")]),
        ("[:4]", [(10, "")]),
        # a fraction of the 10 steps, rounded down: 2.9, 9.9, 0.5
        ("[b:c:.29]", [(2, "b"), (10, "c")]),
        ("[b:c:0.99]", [(9, "b"), (10, "c")]),
        ("[b:c:0.05]", [(10, "c")]),
        ("[b:c:1e-1]", [(1, "b"), (10, "c")]),
        # from 1 on it is a step
        ("[b:c:1]", [(1, "b"), (10, "c")]),
        ("[b:c:1.0]", [(1, "b"), (10, "c")]),
        ("[b:c:2.9]", [(2, "b"), (10, "c")]),
        ("[b:c:10]", [(10, "b")]),
        ("[b:c:99]", [(10, "b")]),
        ("[b:c:1e999]", [(10, "b")]),
        ("[b:c:0]", [(10, "c")]),
        ("[b:c:-3]", [(10, "c")]),
        # nested, and with emphasis inside
        ("a[b:[c:d:6]:3]e", [(3, "abe"), (6, "ace"), (10, "ade")]),
        ("[[b:c:2]:d:6]", [(2, "b"), (6, "c"), (10, "d")]),
        ("[(b:1.2):[[c]]:5]", [(5, "(b:1.2)"), (10, "[[c]]")]),
        (r"[b\:1:c\]:5]", [(5, r"b\:1"), (10, r"c\]")]),
        ("[a:b:2] [c:d:0.4]", [(2, "a c"), (4, "b c"), (10, "b d")]),
        ("[[a|b]:c:2]", [(1, "a"), (2, "b"), (10, "c")]),
        # no editing, so text
        ("[a:b]", [(10, "[a:b]")]),
        ("[a:b:c:5]", [(10, "[a:b:c:5]")]),
        ("[a:b:five]", [(10, "[a:b:five]")]),
        ("[a:b:[5]]", [(10, "[a:b:[5]]")]),
        ("[a:b:[5:6:1]]", [(1, "[a:b:5]"), (10, "[a:b:6]")]),
        ("a [b", [(10, "a [b")]),
        ("a b:5]", [(10, "a b:5]")]),
        ("[a (b] c:d:5]", [(10, "[a (b] c:d:5]")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("16:9 (a:b:c) [d:5]", [(5, "16:9 (a:b:c) "), (10, "16:9 (a:b:c) d")]),
        # where A1111's grammar has no reading, nothing is edited
        ("a|b [c:5]", [(10, "a|b [c:5]")]),
        ("(a|b) [c:5]", [(10, "(a|b) [c:5]")]),
        ("[a|b:c:5]", [(10, "[a|b:c:5]")]),
        ("[a|b [c:5]", [(10, "[a|b [c:5]")]),
        ("[c:5]\\", [(10, "[c:5]\\")]),
    ],
)
def test_what_is_said_until_which_of_ten_steps(prompt: str, wanted: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 10) == tuple(Stage(until, text) for until, text in wanted)


def test_alternation_goes_on_with_every_step() -> None:
    assert schedule("[a|(b:1.1)] cat", 4) == (
        Stage(1, "a cat"),
        Stage(2, "(b:1.1) cat"),
        Stage(3, "a cat"),
        Stage(4, "(b:1.1) cat"),
    )
    assert schedule("[fe|]male", 3) == (Stage(1, "female"), Stage(2, "male"), Stage(3, "female"))
    assert schedule("[a|b|c]", 5) == tuple(Stage(i + 1, "abcab"[i]) for i in range(5))
    assert schedule("[a|a]", 5) == (Stage(5, "a"),)
    assert schedule("[a|b [c:2]]", 4) == (
        Stage(1, "a"),
        Stage(2, "b "),
        Stage(3, "a"),
        Stage(4, "b c"),
    )


def test_calls_are_counted_from_0_as_a1111_does() -> None:
    edited = schedule("[a:b:5]", 20)
    assert [text_at(edited, call) for call in range(20)] == ["a"] * 6 + ["b"] * 14
    alternating = schedule("[a|b]", 6)
    assert [text_at(alternating, call) for call in range(6)] == ["a", "a", "b", "a", "b", "a"]
    assert text_at(alternating, 99) == "b"


@RULE
@given(ANY_TEXT, st.integers(1, 60))
def test_the_stages_of_any_text_cover_all_steps(text: str, steps: int) -> None:
    stages = schedule(text, steps)
    untils = [stage.until for stage in stages]
    assert untils == sorted(set(untils))
    assert untils[0] >= 1
    assert untils[-1] == steps
    for before, after in pairwise(stages):
        assert before.text != after.text


@RULE
@given(balanced(), balanced(), st.integers(1, 60), st.integers(1, 60))
def test_editing_says_one_text_and_then_the_other(before: str, after: str, steps: int, when: int) -> None:
    # ":" in a text outside of brackets would be one of the edit's own
    before, after = before.replace("16:9", "x"), after.replace("16:9", "y")
    stages = schedule(f"[{before}:{after}:{when}]", steps)
    assert [text_at(stages, step) for step in range(1, steps + 1)] == [
        before if step <= when else after for step in range(1, steps + 1)
    ]


def test_deep_brackets_are_no_problem() -> None:
    depth = 5_000
    assert schedule("[" * depth + "a" + ":1]" * depth, 2)[-1].text == "a"
    assert schedule("[" * depth + "a:1]", 2)[-1].text == "[" * (depth - 1) + "a"
    assert spans("(" * 500 + "a") == [("a", pytest.approx(1.1**500))]
