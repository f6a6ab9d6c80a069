"""A prompt without its syntax, for scorers that read words: brackets and weights mean nothing to them."""

from __future__ import annotations

import re

from scoring.prompts.composition import compose
from scoring.prompts.emphasis import Span, parse_emphasis
from scoring.prompts.schedule import schedule


def plain_text(prompt: str, steps: int, second_steps: int | None = None) -> str:
    """What a prompt asks for in the end, of a second pass (hires fix) where there is one.

    Of what is edited the last stage counts; parts and words of a weight of 0 or less are left out, because
    nobody asks to see them. A prompt without syntax stays as it is, to the letter.
    """
    stages = schedule(prompt, steps) if second_steps is None else schedule(prompt, second_steps, steps)
    parts = [part.text for part in compose(stages[-1].text) if part.weight > 0]
    texts = ["".join(_word(piece) for piece in parse_emphasis(text)) for text in parts]
    text = ", ".join(texts)
    return prompt if text == prompt.rstrip() else _tidied(text)


def _word(piece: object) -> str:
    if isinstance(piece, Span):
        return piece.text if piece.weight > 0 else ""
    return ", "


def _tidied(text: str) -> str:
    """Without the commas and spaces that what was left out has left behind."""
    words = (word.strip() for word in re.split(r"[,\s]*,[,\s]*", text))
    return re.sub(r"\s+", " ", ", ".join(word for word in words if word))
