"""Wildcards and variants in prompts, through the library dynamicprompts: `__colour__`, `{red|blue}`.

They are expanded when probes are read, and what is expanded is what is kept. The library reads its own signs
alone: what A1111 gives a meaning to is passed by it untouched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from dynamicprompts.enums import SamplingMethod
from dynamicprompts.sampling_context import SamplingContext
from dynamicprompts.wildcards import WildcardManager
from dynamicprompts.wildcards.values import WildcardValues
from pyparsing import ParseBaseException

from scoring.display import shown
from scoring.errors import InputError
from scoring.probes.checked import checked_probe
from scoring.probes.probe import Probe

Mode = Literal["none", "random", "combinatorial"]
MOST_COMBINATIONS = 1000

_WILDCARD = re.compile(r"__[~!@]?[\w*.][\w\-/*. ]*?(\([^()]*\))?__")
_VARIANT = re.compile(r"\{(?=[^{}]*(\||\$\$))[^{}]*\}")
# The library would take these for comments, variables, wraps and wildcards, or change them.
_SIGNS = re.compile(r"%(?!\{)|\$(?!\{)|#|//|/\*|\t|__+")
_SIGNS_IN_BRACES = re.compile(r"\$\$")
_PRIVATE = 0xF0000


def wildcard_mode(value: Any, source: str) -> Mode:
    """`value` as a mode; "" and None are `none`. Raises InputError for another one."""
    if value in (None, ""):
        return "none"
    modes: tuple[Mode, ...] = get_args(Mode)
    mode = next((mode for mode in modes if value == mode), None)
    if mode is None:
        raise InputError(f"{source}: wildcards: {shown(value)} is none of {', '.join(modes)}")
    return mode


def wildcard_in(fields: Mapping[str, Any]) -> str | None:
    """The first wildcard or variant in the prompts among a probe's fields."""
    hires = fields.get("hires")
    for part in (fields, hires if isinstance(hires, Mapping) else {}):
        for text in (part.get("prompt"), part.get("negative_prompt")):
            if isinstance(text, str) and (found := _WILDCARD.search(text) or _VARIANT.search(text)):
                return found[0]
    return None


def expanded(probe: Probe, mode: Mode, folder: Path | None, source: str) -> list[Probe]:
    """The probes that a probe stands for.

    mode: `none` leaves its prompts alone; `random` chooses, by the probe's seed; `combinatorial` takes every
    combination. folder: of wildcard files. Raises InputError, naming `source`, for a wildcard that has no
    file, for signs that don't fit together, and for more than 1,000 combinations.
    """
    if mode == "none":
        return [probe]
    context = SamplingContext(
        default_sampling_method=SamplingMethod(mode),
        wildcard_manager=_Wildcards(folder, source),
        rand=Random(probe.seed),
    )
    one = 1 if mode == "random" else None
    fields = probe.model_dump()
    texts = [_texts(text, context, one, source) for text in _prompts(fields)]
    combinations = list(islice(product(*texts), MOST_COMBINATIONS + 1))
    if len(combinations) > MOST_COMBINATIONS:
        raise InputError(
            f"{source}: the wildcards make more than {MOST_COMBINATIONS} combinations; take wildcards: random"
        )
    return [checked_probe(_with_prompts(fields, chosen), source) for chosen in combinations]


class _Wildcards(WildcardManager):
    """Wildcard files of which each must be there."""

    def __init__(self, folder: Path | None, source: str) -> None:
        super().__init__(folder if folder and folder.is_dir() else None)
        self._folder, self._source = folder, source

    def get_values(self, wildcard: str) -> WildcardValues:
        values = super().get_values(wildcard)
        if not len(values):
            raise InputError(
                f"{self._source}: there is no wildcard file for __{wildcard}__; put {wildcard}.txt into the "
                f"wildcards folder, {self._folder or 'which is not set'}, one choice a line"
            )
        return values


def _prompts(fields: Mapping[str, Any]) -> list[str]:
    """All prompts of a probe; where there is none, an empty one."""
    hires = fields["hires"] or {}
    return [
        fields["prompt"],
        fields["negative_prompt"],
        hires.get("prompt") or "",
        hires.get("negative_prompt") or "",
    ]


def _with_prompts(fields: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    prompt, negative_prompt, hires_prompt, hires_negative_prompt = texts
    hires = fields["hires"] and {
        **fields["hires"],
        **({"prompt": hires_prompt} if fields["hires"]["prompt"] else {}),
        **({"negative_prompt": hires_negative_prompt} if fields["hires"]["negative_prompt"] else {}),
    }
    return {**fields, "prompt": prompt, "negative_prompt": negative_prompt, "hires": hires}


def _texts(template: str, context: SamplingContext, count: int | None, source: str) -> list[str]:
    """What a template stands for: `count` texts, or all of them, but not far above what is allowed."""
    if "{" not in template and not _WILDCARD.search(template):
        return [template]
    try:
        texts = context.sample_prompts(_hidden(template), count)
        return [_shown_again(str(text)) for text in islice(texts, MOST_COMBINATIONS + 1)]
    except InputError:
        raise
    except (ParseBaseException, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{source}: the wildcards of {shown(template)} can't be read: {error}; close every "
            "brace, or take wildcards: none where braces are meant as they are"
        ) from error
    except RecursionError as error:
        raise InputError(
            f"{source}: a wildcard of {shown(template)} leads to itself; break the circle"
        ) from error


def _hidden(template: str) -> str:
    """The template with all that is A1111's, or plain text, under characters that the library passes by."""
    hidden = _positions(_SIGNS, template) - _positions(_WILDCARD, template)
    counted = _positions(_SIGNS_IN_BRACES, template)
    brackets: list[str] = []
    shown = []
    for position, sign in enumerate(template):
        if sign in "[{":
            brackets.append(sign)
        elif sign in "]}" and brackets and brackets[-1] + sign in ("[]", "{}"):
            brackets.pop()
        alternates = sign == "|" and brackets[-1:] != ["{"]
        counts = position in counted and brackets[-1:] == ["{"]
        hides = alternates or (position in hidden and not counts)
        shown.append(chr(_PRIVATE + ord(sign)) if hides else sign)
    return "".join(shown)


def _positions(pattern: re.Pattern[str], text: str) -> set[int]:
    return {position for found in pattern.finditer(text) for position in range(*found.span())}


def _shown_again(text: str) -> str:
    return "".join(
        chr(ord(sign) - _PRIVATE) if _PRIVATE <= ord(sign) < _PRIVATE + 128 else sign for sign in text
    )
