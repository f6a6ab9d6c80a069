"""The labelled grid: each picture in its cell, labels in the margins only."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from examples.emoji.grid import grid

COLOURS = {"one": ("red", "green", "blue"), "another": ("cyan", "black", "yellow")}
COLUMNS = ("a", "b", "a name that is much wider than its cell")


def rows() -> dict[str, list[Image.Image]]:
    return {row: [Image.new("RGB", (8, 8), colour) for colour in own] for row, own in COLOURS.items()}


def test_every_picture_fills_its_cell() -> None:
    picture = grid(rows(), COLUMNS, cell=40)
    left, top = picture.width - 3 * 40, picture.height - 2 * 40
    for y, colours in enumerate(COLOURS.values()):
        for x, colour in enumerate(colours):
            cell = picture.crop((left + 40 * x, top + 40 * y, left + 40 * x + 40, top + 40 * y + 40))
            assert ImageChops.difference(cell, Image.new("RGB", (40, 40), colour)).getbbox() is None


def test_labels_stand_in_the_margins_and_are_cut_to_their_column() -> None:
    picture = grid(rows(), COLUMNS, cell=40)
    left, top = picture.width - 3 * 40, picture.height - 2 * 40

    def inked(box: tuple[int, int, int, int]) -> bool:
        part = picture.crop(box)
        return ImageChops.difference(part, Image.new("RGB", part.size, "white")).getbbox() is not None

    assert all(inked((left + 40 * x, 0, left + 40 * x + 40, top)) for x in range(3))
    assert all(inked((0, top + 40 * y, left, top + 40 * y + 40)) for y in range(2))
    assert not inked((picture.width - 2, 0, picture.width, top)), "the long name ends inside its column"
    assert not inked((left - 4, top, left, picture.height)), "the widest row name has room"


def test_a_row_with_a_missing_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        grid({"one": rows()["one"][:2]}, COLUMNS)
