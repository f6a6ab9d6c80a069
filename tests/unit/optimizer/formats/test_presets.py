"""Presets: the well-known names have their numbers, and the files of all tools are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimizer.blocks import BLOCKS, SDXL_BLOCKS
from optimizer.formats.presets import WELL_KNOWN, find_preset, read_presets, start_points
from scoring.errors import InputError
from tests.unit.optimizer.formats.mbwrt_files import INS, OUTS, write

ORDER = [*INS, "M00", *OUTS]
# As they stand in the preset files of merge-block-weighted and supermerger (without BASE).
NUMBERS = {
    "GRAD_V": "1,0.9166666667,0.8333333333,0.75,0.6666666667,0.5833333333,0.5,0.4166666667,0.3333333333,0.25,"
    "0.1666666667,0.0833333333,0,0.0833333333,0.1666666667,0.25,0.3333333333,0.4166666667,0.5,0.5833333333,"
    "0.6666666667,0.75,0.8333333333,0.9166666667,1.0",
    "GRAD_A": "0,0.0833333333,0.1666666667,0.25,0.3333333333,0.4166666667,0.5,0.5833333333,0.6666666667,0.75,"
    "0.8333333333,0.9166666667,1.0,0.9166666667,0.8333333333,0.75,0.6666666667,0.5833333333,0.5,0.4166666667,"
    "0.3333333333,0.25,0.1666666667,0.0833333333,0",
    "FLAT_25": ",".join(["0.25"] * 25),
    "FLAT_75": ",".join(["0.75"] * 25),
    "WRAP08": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1",
    "WRAP12": "1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1",
    "WRAP14": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1,1",
    "WRAP16": "1,1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1",
    "MID12_50": "0,0,0,0,0,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0,0,0,0,0,0",
    "OUT07": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1,1",
    "OUT12": "0,0,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1,1,1,1",
    "OUT12_5": "0,0,0,0,0,0,0,0,0,0,0,0,0.5,1,1,1,1,1,1,1,1,1,1,1,1",
    "RING08_SOFT": "0,0,0,0,0,0.5,1,1,1,0.5,0,0,0,0,0,0.5,1,1,1,0.5,0,0,0,0,0",
    "RING08_5": "0,0,0,0,0,0,1,1,1,1,0,0,0,0,0,1,1,1,1,0,0,0,0,0,0",
    "RING10_5": "0,0,0,0,0,1,1,1,1,1,0,0,0,0,0,1,1,1,1,1,0,0,0,0,0",
    "RING10_3": "0,0,0,0,0,0,1,1,1,1,1,0,0,0,1,1,1,1,1,0,0,0,0,0,0",
}
# Single blocks of the curves: (preset, number of the block in ORDER, value in those files).
POINTS = [
    ("SMOOTHSTEP", 1, 0.00506365740740741),
    ("NORMAL-SIGMOID", 10, 0.376157407407407),
    ("REVERSE-SIGMOID", 23, 0.00506365740740744),
    ("REVERSE-SMOOTHSTEP", 5, 0.887876157407407),
    ("SMOOTHSTEP*2", 13, 0.875289351851852),
    ("R_SMOOTHSTEP*2", 11, 0.124710648148148),
    ("SMOOTHSTEP*3", 10, 0.871527777777778),
    ("SMOOTHSTEP*3", 15, 0.0507812500000004),
    ("R_SMOOTHSTEP*3", 22, 0.0590277777777777),
    ("SMOOTHSTEP*4", 9, 0.734375),
    ("SMOOTHSTEP*4", 12, 0.0),
    ("SMOOTHSTEP*4", 17, 0.822337962962962),
    ("R_SMOOTHSTEP*4", 10, 0.50462962962963),
    ("SMOOTHSTEP/2", 1, 0.0196759259259259),
    ("SMOOTHSTEP/2", 14, 0.925925925925926),
    ("R_SMOOTHSTEP/2", 20, 0.740740740740741),
    ("SMOOTHSTEP/3", 9, 0.95703125),
    ("SMOOTHSTEP/3", 17, 0.04296875),
    ("R_SMOOTHSTEP/3", 15, 0.95703125),
    ("SMOOTHSTEP/4", 5, 0.925925925925926),
    ("SMOOTHSTEP/4", 13, 0.0740740740740741),
    ("R_SMOOTHSTEP/4", 18, 0.0),
    ("COSINE", 7, 0.80438071450436),
    ("REVERSE_COSINE", 1, 0.00427756931309475),
    ("TRUE_CUBIC_HERMITE", 0, 0.0),
    ("TRUE_CUBIC_HERMITE", 1, 0.199031876929012),
    ("TRUE_CUBIC_HERMITE", 16, 0.442901234567901),
    ("TRUE_REVERSE_CUBIC_HERMITE", 0, 1.0),
    ("TRUE_REVERSE_CUBIC_HERMITE", 12, 0.479166666666667),
    ("FAKE_CUBIC_HERMITE", 8, 0.567901234567901),
    ("FAKE_REVERSE_CUBIC_HERMITE", 23, 0.157576195987653),
]


@pytest.mark.parametrize("name", NUMBERS)
def test_well_known_presets_have_their_numbers(name: str) -> None:
    preset = WELL_KNOWN[name]
    assert list(preset.weights) == ORDER
    numbers = [float(number) for number in NUMBERS[name].split(",")]
    assert list(preset.weights.values()) == pytest.approx(numbers, abs=1e-9)


@pytest.mark.parametrize(("name", "place", "value"), POINTS)
def test_well_known_curves_go_through_their_points(name: str, place: int, value: float) -> None:
    assert WELL_KNOWN[name].weights[ORDER[place]] == pytest.approx(value, abs=1e-9)


def test_every_well_known_preset_is_tested_and_is_a_merge() -> None:
    assert set(WELL_KNOWN) == {*NUMBERS, *(name for name, *_ in POINTS), "ALL_A", "ALL_B"}
    for preset in WELL_KNOWN.values():
        assert all(0 <= alpha <= 1 for alpha in preset.block_weights("OUT11").values())
    assert set(WELL_KNOWN["ALL_A"].block_weights("OUT11").values()) == {0.0}
    assert set(WELL_KNOWN["ALL_B"].block_weights("OUT11").values()) == {1.0}


def test_what_a_preset_does_not_name_moves_with_its_neighbour(tmp_path: Path) -> None:
    distinct = ",".join(str(i / 25) for i in range(25))
    (preset,) = read_presets(write(tmp_path / "presets.tsv", f"MINE\t{distinct}"))
    weights = preset.block_weights("OUT11")
    assert weights["TIME_EMBED"] == weights["IN00"] == weights["LABEL_EMB"] == 0
    assert weights["OUT"] == weights["OUT11"] == 24 / 25
    assert weights["M00"] == 12 / 25


def test_a_start_point_has_the_weights_of_the_blocks_that_are_asked_for() -> None:
    (one, two) = start_points(["GRAD_V", "OUT12_5"], ["IN01", "M00", "OUT11", "OUT", "TIME_EMBED"])
    assert one == pytest.approx({"IN01": 22 / 24, "M00": 0.0, "OUT11": 1.0, "OUT": 1.0, "TIME_EMBED": 1.0})
    assert two == {"IN01": 0.0, "M00": 0.5, "OUT11": 1.0, "OUT": 1.0, "TIME_EMBED": 0.0}
    assert list(start_points(["GRAD_A"], BLOCKS)[0]) == list(BLOCKS)
    # On SDXL the blocks of the same names are used.
    (on_xl,) = start_points(["SMOOTHSTEP"], SDXL_BLOCKS)
    assert list(on_xl) == list(SDXL_BLOCKS)
    assert on_xl["OUT"] == on_xl["OUT08"] == pytest.approx(0.95703125)
    assert on_xl["LABEL_EMB"] == on_xl["IN00"] == 0.0
    with pytest.raises(InputError, match=r"there is no preset 'GRAD'; known: .*GRAD_V"):
        start_points(["GRAD"], BLOCKS)


def test_files_of_all_tools_are_read(tmp_path: Path) -> None:
    numbers = [i / 100 for i in range(26)]
    text = (
        "preset_name\tpreset_weights\r\n"
        f"WITH_BASE\t{','.join(map(str, numbers))}\r\n"
        f"of: mine:{','.join(map(str, numbers[1:]))}\n"
        f"WITH_BASE\t{','.join(map(str, numbers[:20]))}\n"
        f"SMALL\t{','.join(map(str, numbers[:19]))}\n"
    )
    with_base, colon, for_xl, small = read_presets(write(tmp_path / "presets.tsv", text))
    assert (with_base.name, with_base.base, with_base.weights["IN00"]) == ("WITH_BASE", 0.0, 0.01)
    assert with_base.weights["OUT11"] == 0.25
    assert (colon.name, colon.base, colon.weights["IN00"]) == ("of: mine", None, 0.01)
    assert (for_xl.base, for_xl.weights["IN00"], for_xl.weights["OUT08"]) == (0.0, 0.01, 0.19)
    assert "IN09" not in for_xl.weights
    assert small.block_weights("OUT08")["OUT"] == small.weights["OUT08"] == 0.18
    presets = [with_base, colon, for_xl, small]
    assert find_preset("WITH_BASE", presets, BLOCKS) is with_base
    assert find_preset("WITH_BASE", presets, SDXL_BLOCKS) is for_xl
    assert find_preset("GRAD_V", presets, BLOCKS) is WELL_KNOWN["GRAD_V"]


def test_a_preset_of_sdxl_does_not_fit_sd1(tmp_path: Path) -> None:
    file = write(tmp_path / "xl.tsv", "XL\t" + ",".join(["0.5"] * 20))
    assert start_points(["XL"], SDXL_BLOCKS, file)[0] == dict.fromkeys(SDXL_BLOCKS, 0.5)
    with pytest.raises(InputError, match=r"'XL' is one for SDXL and has no weight for IN09, .*25 or 26 num"):
        start_points(["XL"], BLOCKS, file)


HALVES = ",".join(["0.5"] * 25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"A\t{HALVES},0.5,0.5", r"line 1: preset 'A' has 27 numbers; .*27 numbers come in three orders"),
        (
            f"A\t{HALVES}\nB\t0.5,0.5",
            r"line 2: preset 'B' has 2 numbers; it needs 25 \(IN00\.\.OUT11\) or 26",
        ),
        (f"A\t{HALVES[:-3]}nan", r"line 1: OUT11 of preset 'A' is nan"),
        (f"A\t{HALVES[:-3]}", r"line 1: OUT11 of preset 'A' is '', which is no number"),
        (f"A\t2{HALVES}", r"line 1: IN00 of preset 'A' is 20\.5; it must lie from 0"),
        (f"A\t{HALVES}\nA\t0{HALVES[3:]}", r"line 2: a second 'A' with other numbers; rename it"),
        (f"{'A' * 101}\t{HALVES}", r"line 1: a name has 1 to 100 characters, and this one 101"),
        (f"\t{HALVES}", r"line 1: a name has 1 to 100 characters, and this one 0"),
        (f"A {HALVES}", r"line 1: has no tab or colon between a name and its numbers"),
        ("preset_name\tpreset_weights", r"holds no preset; a line is a name, a tab"),
        ("", r"holds no preset"),
    ],
)
def test_bad_files_name_the_line_and_the_remedy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_presets(write(tmp_path / "presets.tsv", text))


def test_the_same_preset_twice_is_one(tmp_path: Path) -> None:
    file = write(tmp_path / "presets.tsv", f"A\t{HALVES}\nA\t{HALVES}\n")
    assert len(read_presets(file)) == 1
