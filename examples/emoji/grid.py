"""A labelled grid of pictures, for contact sheets and the demo's result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN = 2
_TOP = 14


def grid(rows: Mapping[str, Sequence[Image.Image]], columns: Sequence[str], cell: int = 64) -> Image.Image:
    """Rows of pictures on white, each row's name to its left and the columns' names above.

    rows: name -> one picture per column, each scaled to a square of `cell` pixels; a column's name is cut
    where it is wider than that. Raises ValueError without rows, and for a row that has not as many pictures
    as there are columns.
    """
    font = ImageFont.load_default()
    left = round(max(font.getlength(name) for name in rows)) + 6 * _MARGIN
    out = Image.new("RGB", (left + cell * len(columns), _TOP + cell * len(rows)), "white")
    pen = ImageDraw.Draw(out)
    for x, column in enumerate(columns):
        label = column
        while font.getlength(label) > cell - 2 * _MARGIN:
            label = label[:-1]
        pen.text((left + x * cell + _MARGIN, 1), label, fill="black", font=font)
    for y, (row, pictures) in enumerate(rows.items()):
        top = _TOP + y * cell
        pen.text((_MARGIN, top + cell // 2 - 6), row, fill="black", font=font)
        for x, (picture, _) in enumerate(zip(pictures, columns, strict=True)):
            out.paste(picture.resize((cell, cell), Image.Resampling.LANCZOS), (left + x * cell, top))
    return out
