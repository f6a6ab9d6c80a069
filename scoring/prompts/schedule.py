"""Prompt editing: `[from:to:when]`, `[to:when]`, `[from::when]`, and alternation, `[a|b]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_LEXEME = re.compile(r"[\[\]():|]|(?:\\.|[^\\\[\]():|])+")
_WHEN = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_CLOSES = {"]": "[", ")": "("}


@dataclass(frozen=True)
class Stage:
    """What a prompt says up to and with step `until`."""

    until: int
    text: str


def schedule(prompt: str, steps: int, earlier: int | None = None) -> tuple[Stage, ...]:
    """What a prompt says in the course of `steps`: stages in order, the last one until `steps`.

    A `when` with a point is a share of the steps, rounded down, one without is a step (A1111's rule since
    version 1.6). earlier: the steps of the pass before, where these are of the second pass of hires fix: the
    count goes on, so that shares from 1 to 2 and steps above `earlier` lie in this pass.
    Brackets that are neither editing nor alternation stay, they are emphasis. As in A1111 a prompt is not
    edited at all where it has a `|` outside of an alternation, or a backslash at a line's end.
    """
    if "[" not in prompt:
        return (Stage(steps, prompt),)
    clock = _Clock(steps, earlier)
    try:
        lexemes = _lexemes(prompt)
        _, switches = _read(lexemes, clock, 1)
        stages = [Stage(until, _read(lexemes, clock, until)[0]) for until in sorted({*switches, steps})]
    except _Unreadable:
        return (Stage(steps, prompt),)
    return tuple(
        stage
        for stage, following in zip(stages, [*stages[1:], None], strict=True)
        if following is None or following.text != stage.text
    )


def text_at(stages: Sequence[Stage], call: int) -> str:
    """What the UNet is told in its `call`-th call, counted from 0.

    A1111 compares this count from 0 with the stage's step from 1, so that `[a:b:5]` says b from the seventh
    call on, and `[a|b]` begins with two times a. We do the same: its images come out the same.
    """
    return next((stage.text for stage in stages if call <= stage.until), stages[-1].text)


@dataclass(frozen=True)
class _Clock:
    """The steps of a pass, and of the pass before it if there was one."""

    steps: int
    earlier: int | None

    def step(self, when: str) -> int:
        """The step until which holds what stands before `when`; below 1 for what is over already."""
        value = float(when)
        if "." in when:
            return int(min(self.steps, (value if self.earlier is None else value - 1) * self.steps))
        return int(min(self.steps, value - (self.earlier or 0)))


class _Unreadable(Exception):
    """A1111's grammar has no reading for the prompt."""


@dataclass
class _Frame:
    """An open bracket, and what has been read of its contents: texts, and the `:` and `|` between them."""

    bracket: str
    texts: list[str] = field(default_factory=lambda: [""])
    marks: list[str] = field(default_factory=list)
    last_is_plain: bool = True  # no bracket in the last text, so that it may be a number

    def append(self, text: str, *, plain: bool) -> None:
        self.texts[-1] += text
        self.last_is_plain &= plain

    def divide(self, mark: str) -> None:
        self.marks.append(mark)
        self.texts.append("")
        self.last_is_plain = True

    def verbatim(self) -> str:
        if "|" in self.marks:
            raise _Unreadable
        return self.bracket + ":".join(self.texts)


def _lexemes(prompt: str) -> list[str]:
    lexemes = _LEXEME.findall(prompt)
    if sum(map(len, lexemes)) != len(prompt):
        raise _Unreadable  # a backslash that escapes nothing
    return lexemes


def _read(lexemes: Sequence[str], clock: _Clock, step: int) -> tuple[str, set[int]]:
    """The text at `step`, and all steps at which it may change."""
    done = _Frame("")
    open_frames: list[_Frame] = []
    switches: set[int] = set()
    for lexeme in lexemes:
        frame = open_frames[-1] if open_frames else done
        if lexeme in ("[", "("):
            open_frames.append(_Frame(lexeme))
        elif lexeme in (":", "|") and frame is not done:
            frame.divide(lexeme)
        elif lexeme == "|":
            raise _Unreadable
        elif lexeme not in _CLOSES:
            frame.append(lexeme, plain=True)
        else:
            text = _closed(frame, lexeme, clock, step, switches) if _CLOSES[lexeme] == frame.bracket else None
            if text is None:
                # No reading for this bracket, so none for those around it: all that are open are text.
                done.append("".join(each.verbatim() for each in open_frames) + lexeme, plain=True)
                open_frames.clear()
            else:
                open_frames.pop()
                (open_frames[-1] if open_frames else done).append(text, plain=False)
    return done.texts[0] + "".join(each.verbatim() for each in open_frames), switches


def _closed(frame: _Frame, closing: str, clock: _Clock, step: int, switches: set[int]) -> str | None:
    """What a complete bracket says at `step`; None for one that means nothing. Adds to `switches`."""
    texts, marks = frame.texts, "".join(frame.marks)
    if not marks or (closing == ")" and marks == ":"):
        return frame.verbatim() + closing
    if closing == ")":
        return None
    if not marks.strip("|"):
        switches.update(range(1, clock.steps + 1))
        return texts[(step - 1) % len(texts)]
    when = _WHEN.fullmatch(texts[-1]) if frame.last_is_plain and marks in (":", "::") else None
    if when is None:
        return None
    until = clock.step(when[1])
    if until >= 1:
        switches.add(until)
    before, after = ("", *texts[:-1])[-2:]
    return before if step <= until else after
