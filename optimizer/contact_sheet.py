"""Contact sheets: pictures in named rows and columns, as A1111's XYZ grid has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Cell = Image.Image | str
"""A picture, or what is said in its place."""

_INK, _FAINT, _PAPER, _EMPTY = "#111111", "#6b6b6b", "#ffffff", "#ececec"
_SMALLEST_FONT, _LARGEST_FONT = 11, 40
_CELL_PER_FONT = 14
_MOST_LINES = 8
_SMALLER = 0.8  # a note's font in that of its label
# Names of models have no spaces: they are broken behind these first.
_BREAKS = "_-.,+/ "


@dataclass
class _Text:
    """Lines in one font, drawn centred or from the left."""

    lines: list[str]
    font: ImageFont.FreeTypeFont
    colour: str

    @property
    def line_height(self) -> int:
        ascent, descent = self.font.getmetrics()
        return ascent + descent

    @property
    def height(self) -> int:
        return self.line_height * len(self.lines)

    @property
    def width(self) -> int:
        return math.ceil(max((self.font.getlength(line) for line in self.lines), default=0))

    def draw(self, pen: ImageDraw.ImageDraw, x: float, y: float, anchor: str) -> None:
        """anchor: of every line at x, "l", "m" or "r"; y is where the first one begins."""
        for i, line in enumerate(self.lines):
            pen.text((x, y + i * self.line_height), line, self.colour, self.font, anchor=f"{anchor}a")


@dataclass
class _Label:
    """A name with what is noted below it."""

    parts: list[_Text] = field(default_factory=list)

    @property
    def height(self) -> int:
        return sum(part.height for part in self.parts)

    @property
    def width(self) -> int:
        return max((part.width for part in self.parts), default=0)

    def draw(self, pen: ImageDraw.ImageDraw, x: float, y: float, anchor: str) -> None:
        for part in self.parts:
            part.draw(pen, x, y, anchor)
            y += part.height


def contact_sheet(
    rows: Mapping[str, Sequence[Cell]],
    columns: Sequence[str],
    *,
    cell: int | None = None,
    title: Sequence[str] = (),
    row_notes: Mapping[str, str] | None = None,
    column_notes: Mapping[str, str] | None = None,
    per_band: int | None = None,
) -> Image.Image:
    """Rows of pictures on white, each row's name to its left and each column's above it.

    rows: name -> one picture a column, or a text where there is none. cell: the width of a picture in pixels,
    the widest one's own unless given; all are scaled to fit into it, in proportion. title: lines above
    everything. row_notes, column_notes: name -> what is said below it in smaller letters. per_band: so many
    columns at most stand side by side; the others follow below with all names repeated. Names are wrapped.

    Raises ValueError without rows or columns, for a row that has not as many pictures as there are columns,
    and for a size below 1.
    """
    if not rows or not columns:
        raise ValueError("a contact sheet needs a row and a column")
    if any(size is not None and size < 1 for size in (cell, per_band)):
        raise ValueError(f"cell {cell} and per_band {per_band} must be 1 or more")
    wide, high = _cell_size([one for row in rows.values() for one in row], cell)
    font = min(max(wide // _CELL_PER_FONT, _SMALLEST_FONT), _LARGEST_FONT)
    gap = max(2, wide // 64)
    beside, above_it = row_notes or {}, column_notes or {}
    names = {row: _label(row, beside.get(row, ""), font, max(wide, 12 * font)) for row in rows}
    heads = [_label(column, above_it.get(column, ""), font, max(wide - font // 2, 1)) for column in columns]
    left = max(name.width for name in names.values()) + 2 * font
    inner = max(high, *(name.height for name in names.values()))
    pitch = inner + gap
    bands = _bands(len(columns), per_band)
    width = left + max(map(len, bands)) * (wide + gap)
    titles = _title(title, font, width - 2 * font)
    tops = [max(heads[x].height for x in band) + 2 * gap for band in bands]
    above = titles.height + font if titles.parts else 0
    height = above + sum(tops) + len(bands) * len(rows) * pitch + (len(bands) - 1) * font + gap
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    titles.draw(pen, font, font // 2, "l")
    y = above
    for band, top in zip(bands, tops, strict=True):
        for place, x in enumerate(band):
            middle = left + place * (wide + gap) + wide / 2
            heads[x].draw(pen, middle, y + top - gap - heads[x].height, "m")
        for i, (row, cells) in enumerate(rows.items()):
            begin = y + top + i * pitch
            names[row].draw(pen, left - font, begin + (inner - names[row].height) / 2, "r")
            shown = [one for one, _ in zip(cells, columns, strict=True)]
            for place, x in enumerate(band):
                corner = (left + place * (wide + gap), begin + (inner - high) // 2)
                _put(sheet, pen, shown[x], corner, (wide, high))
        y += top + len(rows) * pitch + font
    return sheet


def _cell_size(cells: Sequence[Cell], wide: int | None) -> tuple[int, int]:
    sizes = [one.size for one in cells if isinstance(one, Image.Image)]
    if wide is None:
        wide = max((width for width, _ in sizes), default=_CELL_PER_FONT * _SMALLEST_FONT)
    return wide, max((round(wide * height / width) for width, height in sizes), default=wide)


def _bands(columns: int, per_band: int | None) -> list[range]:
    """The columns side by side, in bands of equal length as far as that goes."""
    count = math.ceil(columns / (per_band or columns))
    each = math.ceil(columns / count)
    return [range(start, min(start + each, columns)) for start in range(0, columns, each)]


def _put(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    (left, top), (wide, high) = corner, size
    if isinstance(cell, str):
        pen.rectangle((left, top, left + wide - 1, top + high - 1), fill=_EMPTY)
        text = _text(cell, _SMALLEST_FONT, _FAINT, wide - 4)
        del text.lines[max(1, high // text.line_height) :]
        text.draw(pen, left + wide / 2, top + (high - text.height) / 2, "m")
        return
    scale = min(wide / cell.width, high / cell.height)
    scaled = (max(1, round(cell.width * scale)), max(1, round(cell.height * scale)))
    picture = cell if scaled == cell.size else cell.resize(scaled, Image.Resampling.LANCZOS)
    sheet.paste(picture, (left + (wide - scaled[0]) // 2, top + (high - scaled[1]) // 2))


def _title(lines: Sequence[str], font: int, width: int) -> _Label:
    """The first line in large letters, the others as notes."""
    sizes = [round(1.2 * font), *[font] * len(lines)]
    colours = [_INK, *[_FAINT] * len(lines)]
    return _Label(
        [_text(line, size, colour, width) for line, size, colour in zip(lines, sizes, colours, strict=False)]
    )


def _label(text: str, note: str, font: int, width: int) -> _Label:
    label = _Label([_text(text, font, _INK, width)])
    if note:
        label.parts.append(_text(note, max(round(_SMALLER * font), _SMALLEST_FONT - 1), _FAINT, width))
    return label


def _text(text: str, size: int, colour: str, width: int) -> _Text:
    font = _font(size)
    lines = [line for given in text.splitlines() for line in _wrapped(given, font, width)]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][:-1] + "…"]
    return _Text(lines, font, colour)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels, a letter at least, broken behind `_BREAKS` where it can."""
    lines = []
    while text := text.strip():
        fits = 1
        while fits < len(text) and font.getlength(text[: fits + 1].rstrip()) <= width:
            fits += 1
        if fits < len(text):
            nice = max(text.rfind(mark, 0, fits) for mark in _BREAKS) + 1
            # A line that is nearly empty looks worse than a word that is cut.
            if nice > fits // 3:
                fits = nice
        lines.append(text[:fits].rstrip())
        text = text[fits:]
    return lines


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib's: Pillow's own lacks Greek and Cyrillic, and no other is on every machine.
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
