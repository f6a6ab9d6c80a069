"""The form of an A1111 infotext: the prompt, the negative prompt, and one line of settings.

    a cat
    Negative prompt: a dog
    Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 512x512

Values that hold a comma, a colon or a line break are JSON strings. The rules are those of
`modules/infotext_utils.py` and `create_infotext` in `modules/processing.py` of stable-diffusion-webui.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scoring.errors import InputError

_NEGATIVE = "Negative prompt:"
_LABEL = "parameters"  # the name of the PNG chunk; people copy it with the text
_FIRST_SETTING = re.compile(r"Steps: *\d")
_SETTING = re.compile(
    r'\s*(?P<key>[^,:"\s][^,:"]*):\s*(?P<value>"(?:\\.|[^\\"])*"(?=\s*(?:,|$))|[^,]*)(?:,|$)'
)
_FEWEST = 3
_EXACT_PROMPT, _EXACT_NEGATIVE = "Exact prompt", "Exact negative prompt"


@dataclass(frozen=True)
class Infotext:
    """An infotext taken apart. settings: by A1111's names, in their order, values unquoted.

    leftovers: what stands in the line of settings and is none.
    """

    prompt: str
    negative_prompt: str
    settings: Mapping[str, str]
    leftovers: Sequence[str] = ()


def write_lines(prompt: str, negative_prompt: str, settings: Mapping[str, str]) -> str:
    """The infotext of these parts.

    Prompts that its form can't hold as they are (blanks at the ends of a line, a line that begins with
    "Negative prompt:") are given once more, as settings that A1111 shows and passes over.
    """
    prompts = f"{prompt}\n{_NEGATIVE} {negative_prompt}" if negative_prompt else prompt
    exact = {}
    if _prompts(prompts.strip().split("\n")) != (prompt, negative_prompt):
        exact = {_EXACT_PROMPT: prompt, _EXACT_NEGATIVE: negative_prompt}
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in {**settings, **exact}.items())
    return f"{prompts}\n{line}".strip()


def split_infotext(text: str, source: str) -> Infotext:
    """Take an infotext apart. Raises InputError, naming `source`, for a text that is none or was cut."""
    *lines, last = text.strip().split("\n")
    settings, leftovers = _settings(last.strip(), source)
    if len(settings) < _FEWEST:
        raise InputError(
            f"{source}: not an A1111 infotext, or one that was cut: its last line must be that of the "
            f"settings, 'Steps: 20, Sampler: Euler, CFG scale: 7, …', but is {_start(last)}; copy all of it"
        )
    prompt, negative_prompt = _prompts(lines)
    return Infotext(
        prompt=settings.pop(_EXACT_PROMPT, prompt),
        negative_prompt=settings.pop(_EXACT_NEGATIVE, negative_prompt),
        settings=settings,
        leftovers=leftovers,
    )


def split_infotexts(text: str) -> list[str]:
    """The infotexts of a text that holds one or more, one behind the other; the last may be none."""
    texts: list[list[str]] = [[]]
    for line in text.split("\n"):
        texts[-1].append(line)
        if _FIRST_SETTING.match(line.strip()):
            texts.append([])
    return [joined for lines in texts if (joined := "\n".join(lines).strip())]


def _prompts(lines: Sequence[str]) -> tuple[str, str]:
    parts: list[list[str]] = [[], []]
    for number, line in enumerate(line.strip() for line in lines):
        if number == 0 and line == _LABEL:
            continue
        if line.startswith(_NEGATIVE):
            parts[1].append(line.removeprefix(_NEGATIVE).strip())
        else:
            parts[1 if parts[1] else 0].append(line)
    prompt, negative_prompt = ("\n".join(part) for part in parts)
    return prompt.strip(), negative_prompt.strip()


def _settings(line: str, source: str) -> tuple[dict[str, str], list[str]]:
    settings: dict[str, str] = {}
    leftovers: list[str] = []
    position = 0
    while position < len(line):
        if found := _SETTING.match(line, position):
            settings[found["key"].strip()] = _unquoted(found["value"], found["key"].strip(), source)
            position = found.end()
        else:
            end = line.find(",", position)
            if end < 0 and settings:
                raise _cut(source, line)
            end = len(line) if end < 0 else end
            leftovers.append(line[position:end].strip())
            position = end + 1
    if settings and line.endswith(","):
        raise _cut(source, line)
    return settings, leftovers


def _cut(source: str, line: str) -> InputError:
    return InputError(f"{source}: the infotext was cut: it ends in {line[-40:]!r}; copy all of it")


def _quoted(value: str) -> str:
    plain = value == value.strip() and value and not value.startswith('"')
    return value if plain and not set(value) & set(",:\n\r") else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str, key: str, source: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    if re.sub(r"\\.", "", value).count('"') % 2:
        raise InputError(
            f"{source}: the infotext was cut: the value of {key!r} begins with a quotation mark and does not "
            f"end with one: {_start(value)}; copy all of it"
        )
    try:
        text = json.loads(value, strict=False)
    except (ValueError, RecursionError):
        return value.strip()
    return text if isinstance(text, str) else value.strip()


def _start(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
