"""Contact sheets: each picture in its cell, names and notes beside them, all of it legible."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops

from optimizer.contact_sheet import contact_sheet
from tests.unit.optimizer.pictures import places_of

COLUMNS = ("a", "b", "a_name-that_is-much.wider_than_its-cell")
PAPER = (255, 255, 255)


def picture(seed: int, width: int = 24, height: int = 24) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def rows(count: int = 2, columns: int = 3) -> dict[str, list[Image.Image]]:
    return {f"row {y}": [picture(100 * y + x) for x in range(columns)] for y in range(count)}


def inked(sheet: Image.Image, box: tuple[int, int, int, int]) -> bool:
    part = sheet.crop(box)
    return ImageChops.difference(part, Image.new("RGB", part.size, PAPER)).getbbox() is not None


def test_every_picture_stands_in_its_row_and_column() -> None:
    given = rows()
    places = [[places_of(contact_sheet(given, COLUMNS), one) for one in row] for row in given.values()]
    assert all(len(found) == 1 for row in places for found in row), "each once, pixel by pixel"
    lefts = [[found[0][0] for found in row] for row in places]
    tops = [[found[0][1] for found in row] for row in places]
    assert lefts[0] == lefts[1] == sorted(set(lefts[0]))
    assert [len(set(row)) for row in tops] == [1, 1]
    assert tops[0][0] < tops[1][0]


def test_names_and_notes_stand_beside_the_pictures_and_inside_the_sheet() -> None:
    given = rows()
    sheet = contact_sheet(given, COLUMNS, cell=80)
    above = contact_sheet(
        given, COLUMNS, cell=80, column_notes={"a_name-that_is-much.wider_than_its-cell": "#1"}
    )
    assert above.height > sheet.height
    beside = contact_sheet(given, COLUMNS, cell=80, row_notes={"row 0": "wider than its row"})
    assert (beside.width > sheet.width, beside.height) == (True, sheet.height)
    assert contact_sheet(given, COLUMNS, cell=80, title=["Title", "more"]).height > sheet.height + 20
    pitch = 80 + 2
    left, top = sheet.width - 3 * pitch, sheet.height - 2 * pitch
    for x in range(3):
        assert inked(sheet, (left + pitch * x, 0, left + pitch * x + 80, top))
    for y in range(2):
        assert inked(sheet, (0, top + pitch * y, left - 2, top + pitch * y + 80))
    edges = [(0, 0, sheet.width, 1), (0, 0, 1, sheet.height), (sheet.width - 2, 0, sheet.width, sheet.height)]
    assert not any(inked(sheet, edge) for edge in edges), "nothing runs over the edge"
    gaps = [(left + pitch * x - 2, 0, left + pitch * x, top) for x in (1, 2)]
    assert not any(inked(sheet, gap) for gap in gaps), "a long name ends inside its column"


def test_many_columns_follow_in_bands_of_equal_length() -> None:
    given, columns = rows(2, 7), [f"model {i}" for i in range(7)]
    one, several = contact_sheet(given, columns), contact_sheet(given, columns, per_band=3)
    assert several.width < one.width < 3 * several.width
    places = [places_of(several, picture)[0] for picture in given["row 0"]]
    tops = [top for _, top in places]
    assert [tops.count(top) for top in dict.fromkeys(tops)] == [3, 3, 1]
    assert tops == sorted(tops)
    second_band = [places_of(several, picture)[0] for picture in given["row 1"]][:3]
    assert all(tops[0] < top < tops[3] for _, top in second_band), "a band has all rows"
    # The names above the second band: between its first picture and the last one of the first band.
    assert inked(several, (places[3][0], second_band[0][1] + 24, places[3][0] + 24, tops[3]))


def test_pictures_keep_their_proportions_and_are_scaled_to_the_cell() -> None:
    plain = Image.new("RGB", (20, 40), "red")
    wide = Image.new("RGB", (40, 20), "blue")
    sheet = np.asarray(contact_sheet({"r": [plain, wide]}, ["a", "b"], cell=60))
    red, blue = (np.argwhere((sheet == colour).all(-1)) for colour in ((255, 0, 0), (0, 0, 255)))
    assert (red.max(0) - red.min(0) + 1).tolist() == [120, 60]
    assert (blue.max(0) - blue.min(0) + 1).tolist() == [30, 60]
    assert abs(red.mean(0)[0] - blue.mean(0)[0]) <= 1, "side by side around one line"


def test_a_missing_picture_says_why() -> None:
    sheet = contact_sheet({"r": [picture(1), "failed: black"]}, ["a", "b"], cell=90)
    cell = np.asarray(sheet)[-92:-2, -92:-2]
    grey = (cell == (0xEC, 0xEC, 0xEC)).all(-1).mean()
    assert 0.5 < grey < 1, "writing on grey"


def test_forty_long_names_stay_legible() -> None:
    columns = [f"realisticVisionV{i}_v51HyperVAE-fp16.no-ema" for i in range(40)]
    given = {"a prompt of many words that goes on and on, seed 1": [picture(i) for i in range(40)]}
    sheet = contact_sheet(given, columns, cell=96, per_band=8)
    assert sheet.width < 8 * 100 + 300
    for name in ("日本語モデル", "x" * 300, ""):
        contact_sheet({name: [picture(0)]}, [name or " "], cell=16)


def test_what_makes_no_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        contact_sheet({"one": rows()["row 0"][:2]}, COLUMNS)
    with pytest.raises(ValueError, match="a row and a column"):
        contact_sheet({}, COLUMNS)
    with pytest.raises(ValueError, match="1 or more"):
        contact_sheet(rows(), COLUMNS, cell=0)
