from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from scoring.errors import InputError
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
from scoring.prompts.chunks import Token, split_into_chunks
from scoring.prompts.embeddings import EmbeddingFolder
from tests.unit.scoring.models import clip_tokenizer

RULE = settings(deadline=None)

# ---- emphasis


def spans(text: str) -> list[Any]:
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
        (r"a photo, 16:\9", [(r"a photo, 16:\9", 1)]),
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
        ("[b:c:1.0]", [(10, "b")]),
        ("[b:c:2.9]", [(10, "b")]),
        # without a point it is a step
        ("[b:c:1]", [(1, "b"), (10, "c")]),
        ("[b:c:1e-1]", [(10, "c")]),
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


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        # ten steps after ten: shares count on from 1, steps from 11
        ("a [b:.5] c", [(10, "a b c")]),
        ("a [b:1.5] c", [(5, "a  c"), (10, "a b c")]),
        ("[b:c:10]", [(10, "c")]),
        ("[b:c:13]", [(3, "b"), (10, "c")]),
        ("[b:c:2.0]", [(10, "b")]),
        ("[b:c:1.0]", [(10, "c")]),
        (
            "[a|b] [c:d:18]",
            [(until, f"{'ba'[until % 2]} {'c' if until <= 8 else 'd'}") for until in range(1, 11)],
        ),
    ],
)
def test_what_is_said_in_the_second_pass(prompt: str, wanted: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 10, earlier=10) == tuple(Stage(until, text) for until, text in wanted)


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


# ---- chunks

CAT, COMMA, RED = 2368, 267, 736


def tokenize(text: str) -> list[int]:
    ids: list[int] = clip_tokenizer()(text, add_special_tokens=False).input_ids
    return ids


def ids(prompt: str) -> list[list[int]]:
    chunks = split_into_chunks(parse_emphasis(prompt), tokenize, COMMA)
    return [[token.id for token in chunk] for chunk in chunks]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", [[]]),
        ("cat, red", [[CAT, COMMA, RED]]),
        ("cat " * 75, [[CAT] * 75]),
        ("cat " * 76, [[CAT] * 75, [CAT]]),
        ("cat " * 151, [[CAT] * 75, [CAT] * 75, [CAT]]),
        # cut behind a comma that is one of the last 20 tokens: the 56th is, the 55th is not
        ("cat " * 55 + ", " + "red " * 30, [[CAT] * 55 + [COMMA], [RED] * 30]),
        ("cat " * 54 + ", " + "red " * 30, [[CAT] * 54 + [COMMA] + [RED] * 20, [RED] * 10]),
        ("cat " * 74 + ", red", [[CAT] * 74 + [COMMA], [RED]]),
        # a comma that would be the 76th begins the next chunk
        ("cat " * 75 + ", red", [[CAT] * 75, [COMMA, RED]]),
        # the last comma counts, and only those of its own chunk
        (
            "cat, " * 30 + "red " * 100,
            [[CAT, COMMA] * 30, [RED] * 75, [RED] * 25],
        ),
        ("cat BREAK red", [[CAT], [RED]]),
        ("BREAK red", [[], [RED]]),
        ("cat BREAK BREAK red", [[CAT], [], [RED]]),
        ("cat BREAK", [[CAT]]),
        ("BREAK", [[]]),
    ],
)
def test_chunks(prompt: str, wanted: list[list[int]]) -> None:
    assert ids(prompt) == wanted


def test_every_token_carries_its_weight() -> None:
    chunks = split_into_chunks(parse_emphasis("cat (red:1.5), [cat] BREAK (cat:0)"), tokenize, COMMA)
    assert [[(token.id, token.weight) for token in chunk] for chunk in chunks] == [
        [(CAT, 1), (RED, 1.5), (COMMA, 1), (CAT, 1 / 1.1)],
        [(CAT, 0)],
    ]


@RULE
@given(st.lists(st.sampled_from(["cat ", ", ", "red ", "(red:0.5) "]), max_size=300).map("".join))
def test_chunks_hold_all_tokens_in_order(prompt: str) -> None:
    chunks = split_into_chunks(parse_emphasis(prompt), tokenize, COMMA)
    assert all(1 <= len(chunk) <= 75 for chunk in chunks) or not prompt
    said = [(token.id, token.weight) for chunk in chunks for token in chunk]
    assert said == [
        (token, part.weight)
        for part in parse_emphasis(prompt)
        if isinstance(part, Span)
        for token in tokenize(part.text)
    ]


# ---- embeddings


def rows(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, 16).contiguous()


def embedding_folder(folder: Path, **vectors: Tensor) -> EmbeddingFolder:
    for name, tensor in vectors.items():
        save_file({"emb_params": tensor}, folder / f"{name}.safetensors")
    return EmbeddingFolder(folder, tokenize, 16)


def said(prompt: str, embeddings: EmbeddingFolder) -> list[list[int | float]]:
    """Tokens by their ids, vectors by their first number."""

    def shown(token: Token) -> int | float:
        return token.id if token.vector is None else float(token.vector[0])

    chunks = split_into_chunks(parse_emphasis(prompt), tokenize, COMMA, embeddings)
    return [[shown(token) for token in chunk] for chunk in chunks]


def test_a_name_is_replaced_by_its_vectors_whatever_its_case(tmp_path: Path) -> None:
    embeddings = embedding_folder(tmp_path, EasyNegative=rows(0.5, 1.5))
    assert said("cat, easynegative red", embeddings) == [[CAT, COMMA, 0.5, 1.5, RED]]
    assert said("EASYNEGATIVE", embeddings) == [[0.5, 1.5]]
    assert 0.5 not in said("easynegatives easy negative", embeddings)[0]
    chunks = split_into_chunks(parse_emphasis("(easynegative:1.2)"), tokenize, COMMA, embeddings)
    assert [token.weight for token in chunks[0]] == [1.2, 1.2]


def test_the_longest_name_is_taken(tmp_path: Path) -> None:
    names = {"red": rows(1), "red cat": rows(2), "red cat 2": rows(3)}
    embeddings = embedding_folder(tmp_path, **names)
    assert said("red cat 2", embeddings) == [[3]]
    assert said("red cat, red red cat 3", embeddings) == [[2, COMMA, 1, 2, *tokenize("3")]]


def test_vectors_of_an_embedding_stay_in_one_chunk(tmp_path: Path) -> None:
    embeddings = embedding_folder(tmp_path, hat=rows(*[0.5] * 10))
    assert said("cat " * 66 + "hat", embeddings) == [[CAT] * 66, [0.5] * 10]
    assert said("cat " * 65 + "hat", embeddings) == [[CAT] * 65 + [0.5] * 10]
    # and move with the text behind a comma
    assert said("cat " * 60 + ", hat" + " red" * 5, embeddings) == [
        [CAT] * 60 + [COMMA],
        [0.5] * 10 + [RED] * 5,
    ]


def test_the_formats_of_embeddings(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    one, two = rows(1), rows(2, 3)
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": two}, "name": "x"}, tmp_path / "a1111.pt"
    )
    torch.save({"string_to_param": {"*": torch.nn.Parameter(two)}}, tmp_path / "parameter.pt")
    torch.save({"<concept>": one[0]}, tmp_path / "below" / "concept.bin")
    save_file({"clip_l": two.half()}, tmp_path / "forge.safetensors")
    (tmp_path / "notes.txt").write_text("no embedding")
    embeddings = EmbeddingFolder(tmp_path, tokenize, 16)
    assert said("a1111 BREAK parameter BREAK concept BREAK forge", embeddings) == [
        [2, 3],
        [2, 3],
        [1],
        [2, 3],
    ]


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code in an embedding was run')",))


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({"emb_params": torch.zeros(2, 768)}, "vectors 768 wide, the model's text encoder 16"),
        ({"string_to_param": {"*": torch.zeros(1, 1024)}}, "vectors 1024 wide"),
        ({"clip_l": torch.zeros(1, 16), "clip_g": torch.zeros(1, 1280)}, "SDXL's two text encoders"),
        ({"emb_params": torch.zeros(76, 16)}, "has 76 vectors, 75 fit"),
        ({"emb_params": torch.full((1, 16), float("nan"))}, "NaN or infinity"),
        ({"emb_params": torch.zeros(0, 16)}, "shape (0, 16)"),
        ({"emb_params": torch.zeros(1, 16, dtype=torch.long)}, "int64 of shape (1, 16)"),
        ({"emb_params": torch.zeros(1, 2, 16)}, "shape (1, 2, 16)"),
        ({"a": torch.zeros(1, 16), "b": torch.zeros(1, 16)}, "must hold exactly one tensor"),
        ({"name": "hat"}, "must hold exactly one tensor"),
        ([1], "must hold exactly one tensor"),
        ({"emb_params": Code()}, "would run code when read"),
        (None, "can't be read as an embedding"),
    ],
)
def test_an_embedding_that_cannot_be_used_is_named_when_a_prompt_names_it(
    contents: Any, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "hat.pt"
    if contents is None:
        path.write_bytes(b"")
    else:
        torch.save(contents, path)
    embeddings = EmbeddingFolder(tmp_path, tokenize, 16)
    assert said("a cat", embeddings) == [[320, CAT]]
    with pytest.raises(InputError) as caught:
        said("a hat", embeddings)
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def test_broken_files_twins_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "red.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    embeddings = embedding_folder(tmp_path, hat=rows(1), Hat=rows(2))
    with pytest.raises(InputError, match=r"red\.safetensors can't be read as an embedding"):
        said("red", embeddings)
    with pytest.raises(
        InputError, match=r"Hat\.safetensors and .*hat\.safetensors are embeddings of one name"
    ):
        said("hat", embeddings)
    with pytest.raises(InputError, match="no such folder of embeddings"):
        EmbeddingFolder(tmp_path / "none", tokenize, 16)
