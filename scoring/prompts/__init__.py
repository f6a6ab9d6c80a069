"""A1111's prompt syntax as data: what is said when, what together, and how loud.

The rules are those of stable-diffusion-webui (AUTOMATIC1111); docs/prompts.md lists them and where we differ.
"""

from __future__ import annotations

from scoring.prompts.composition import Part, compose
from scoring.prompts.emphasis import Break, Span, parse_emphasis, to_text
from scoring.prompts.schedule import Stage, schedule, text_at

__all__ = ["Break", "Part", "Span", "Stage", "compose", "parse_emphasis", "schedule", "text_at", "to_text"]
