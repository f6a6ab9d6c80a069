"""Reasons of failures in classes: a metric may not have a label for every sentence."""

from __future__ import annotations

import re

_CLASSES = (
    ("memory", r"out of memory|memory of the|cannot allocate"),
    ("black_image", r"\bblack\b"),
    ("nan", r"\bnan\b|\binf(inity)?\b|not finite"),
    ("same_score", r"to the last bit"),
    ("disk", r"\bdisk\b|no space left|cannot write"),
    ("worker_died", r"worker .* died"),
    ("votes", r"\bvotes?\b"),
    ("scorer", r"\bscorer\b|\bscore\b"),
    ("model", r"\bmodel\b|\bcheckpoint\b|safetensors|\bsha256\b"),
)
CLASSES = (*(name for name, _ in _CLASSES), "other")


def reason_class(reason: str | None) -> str:
    """The class of a failure's reason, one of CLASSES."""
    text = (reason or "").lower()
    return next((name for name, words in _CLASSES if re.search(words, text)), "other")
