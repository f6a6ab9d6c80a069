"""What a scorer that reads words is told of a prompt."""

from __future__ import annotations

import pytest

from scoring.prompts.plain import plain_text


@pytest.mark.parametrize(
    "prompt", ["a red apple", "a  cat ,two dogs", "portrait, 85 mm", " spaced ", "", "naïve café, 猫"]
)
def test_a_prompt_without_syntax_stays_to_the_letter(prompt: str) -> None:
    assert plain_text(prompt, 20) == prompt


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a (red:1.3) apple", "a red apple"),
        ("[[jeans]], ((braid))", "jeans, braid"),
        # Of the log of AstolfoMix-SD2: weights of 0 take words out of the prompt.
        (
            "(aesthetic:0), (quality:0), (boy:0), (construction helmet:0.98), [astolfo]",
            "construction helmet, astolfo",
        ),
        ("a cat BREAK a dog", "a cat, a dog"),
        ("a cat AND a dog :1.2 AND rain :-0.5", "a cat, a dog"),
        ("a [cat:dog:0.5]", "a dog"),
        (r"a \(real\) bracket", "a (real) bracket"),
    ],
)
def test_what_is_asked_for_remains(prompt: str, said: str) -> None:
    assert plain_text(prompt, 20) == said


def test_the_second_pass_has_the_last_word() -> None:
    assert plain_text("a [cat:dog:1.5]", 20) == "a cat"
    assert plain_text("a [cat:dog:1.5]", 20, 10) == "a dog"
