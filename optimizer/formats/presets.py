"""Block-weight presets: the names people know, and the files that hold them.

A preset of merge-block-weighted and auto-MBW has 25 numbers, IN00..IN11, M00, OUT00..OUT11; one of
supermerger and model-mixer has BASE before them, and for SDXL BASE and 19 numbers. None of them has
TIME_EMBED, OUT or LABEL_EMB, and those tools disagree on what moves them. Here they move as in
merge-block-weighted, where the presets come from: the time embedding (and SDXL's label embedding) with IN00,
the output layer with the last output block. BASE is what text encoder and VAE get there; here they are A's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.blocks import BLOCKS, SDXL_BLOCKS, BlockWeights
from optimizer.formats.text import read_alpha, read_lines
from scoring.errors import InputError

_UNNAMED = ("TIME_EMBED", "OUT", "LABEL_EMB")
PRESET_BLOCKS: tuple[str, ...] = tuple(block for block in BLOCKS if block not in _UNNAMED)
"""The 25 blocks of a preset for SD1 and SD2, in its order."""
SDXL_PRESET_BLOCKS: tuple[str, ...] = tuple(block for block in SDXL_BLOCKS if block not in _UNNAMED)
"""The 19 blocks of a preset for SDXL, in its order."""
_LONGEST_NAME = 100
_SD1_ALONE = frozenset(PRESET_BLOCKS) - frozenset(SDXL_PRESET_BLOCKS)

_LENGTHS: Mapping[int, tuple[tuple[str, ...], bool]] = {
    25: (PRESET_BLOCKS, False),
    26: (PRESET_BLOCKS, True),
    19: (SDXL_PRESET_BLOCKS, False),
    20: (SDXL_PRESET_BLOCKS, True),
}


@dataclass(frozen=True)
class Preset:
    """Block weights with a name. weights: of the 25 or 19 blocks; base: BASE where the preset has one."""

    name: str
    weights: BlockWeights
    base: float | None = None

    def block_weights(self, last_output: str) -> BlockWeights:
        """A weight for every block. last_output: OUT11, or OUT08 for SDXL.

        A preset of 25 has all blocks of SDXL too: supermerger uses those of the same names.
        """
        first = self.weights["IN00"]
        last = self.weights.get(last_output, self.weights["OUT08"])
        return {**self.weights, "TIME_EMBED": first, "OUT": last, "LABEL_EMB": first}

    def lacks(self, blocks: Sequence[str]) -> list[str]:
        """Those of `blocks` that it has no weight for."""
        return [block for block in blocks if block not in self.weights and block not in _UNNAMED]


def start_points(names: Sequence[str], blocks: Sequence[str], file: Path | None = None) -> list[BlockWeights]:
    """The weights of presets for these blocks, to begin a search with.

    file: where presets are looked for before the well-known ones. Raises InputError for unknown names, and
    for a preset of SDXL where the blocks are those of SD1 or SD2.
    """
    presets = read_presets(file) if file else []
    return [weights_for(find_preset(name, presets, blocks), blocks) for name in names]


def find_preset(name: str, presets: Sequence[Preset] = (), blocks: Sequence[str] = ()) -> Preset:
    """A preset by name, those given before the well-known ones. Raises InputError for an unknown name.

    blocks: which it is to weigh, as a file may have two of a name, one for SDXL.
    """
    named = [preset for preset in presets if preset.name == name]
    if named:
        fitting = [preset for preset in named if not preset.lacks(blocks)]
        # The shortest that fits: for SDXL the one that was made for it.
        return min(fitting or named, key=lambda preset: len(preset.weights))
    if name not in WELL_KNOWN:
        known = [*dict.fromkeys(preset.name for preset in presets), *WELL_KNOWN]
        raise InputError(f"there is no preset {name!r}; known: {', '.join(known)}")
    return WELL_KNOWN[name]


def weights_for(preset: Preset, blocks: Sequence[str]) -> BlockWeights:
    """The preset's weights of these blocks, which are those of SDXL where none of SD1's own is among them.

    Raises InputError where it has none for one of them.
    """
    missing = preset.lacks(blocks)
    if missing:
        raise InputError(
            f"preset {preset.name!r} is one for SDXL and has no weight for {', '.join(missing)}; take one of "
            "25 or 26 numbers"
        )
    weights = preset.block_weights("OUT08" if _SD1_ALONE.isdisjoint(blocks) else "OUT11")
    return {block: weights[block] for block in blocks}


def read_presets(path: Path) -> list[Preset]:
    """The presets of a file: lines of a name, a tab or colon, and numbers with commas.

    Reads merge-block-weighted's `preset.tsv`, supermerger's `mbwpresets.txt` and model-mixer's
    `mbwpresets.tsv`. Raises InputError that names the file, the line and the remedy.
    """
    found: dict[tuple[str, int], Preset] = {}
    for number, line in read_lines(path):
        preset = _read_line(f"{path}, line {number}", line)
        if preset is None:
            continue
        earlier = found.setdefault((preset.name, len(preset.weights)), preset)
        if earlier != preset:
            raise InputError(f"{path}, line {number}: a second {preset.name!r} with other numbers; rename it")
    if not found:
        raise InputError(
            f"{path}: holds no preset; a line is a name, a tab, and 25 or 26 numbers with commas"
        )
    return list(found.values())


def _read_line(where: str, line: str) -> Preset | None:
    name, separator, numbers = _split(line)
    if not separator:
        raise InputError(f"{where}: has no tab or colon between a name and its numbers; correct it")
    if name == "preset_name":
        return None
    if not 0 < len(name) <= _LONGEST_NAME:
        raise InputError(f"{where}: a name has 1 to {_LONGEST_NAME} characters, and this one {len(name)}")
    cells = numbers.split(",")
    if len(cells) not in _LENGTHS:
        order = "; 27 numbers come in three orders, give the names of the blocks instead"
        raise InputError(
            f"{where}: preset {name!r} has {len(cells)} numbers; it needs 25 (IN00..OUT11) or 26 (BASE), "
            f"for SDXL 19 or 20{order if len(cells) == len(BLOCKS) else ''}"
        )
    blocks, has_base = _LENGTHS[len(cells)]
    names = ["BASE", *blocks] if has_base else list(blocks)
    values = {
        block: read_alpha(cell, where, f"{block} of preset {name!r}")
        for block, cell in zip(names, cells, strict=True)
    }
    base = values.pop("BASE", None)
    return Preset(name, values, base)


def _split(line: str) -> tuple[str, str, str]:
    # The first tab, else the last colon: a name may hold one.
    name, separator, numbers = line.partition("\t") if "\t" in line else line.rpartition(":")
    return name.strip(), separator, numbers


def _curve(name: str, height: Callable[[float], float]) -> Preset:
    """A preset from a curve over the depth: 0 at IN00, 1 at OUT11."""
    deepest = len(PRESET_BLOCKS) - 1
    return Preset(name, {block: height(i / deepest) for i, block in enumerate(PRESET_BLOCKS)})


def _levels(name: str, text: str) -> Preset:
    """A preset of few levels, a character per block: `-` is 0, `h` a half, `#` 1."""
    levels = {"-": 0.0, "h": 0.5, "#": 1.0}
    characters = re.sub(r"\s", "", text)
    return Preset(name, {b: levels[c] for b, c in zip(PRESET_BLOCKS, characters, strict=True)})


def _smoothstep(x: float) -> float:
    return 3 * x**2 - 2 * x**3


def _fold(x: float) -> float:
    """x when it goes up to 1 and back to 0 in turns: 1.25 becomes 0.75."""
    return 1 - abs(1 - x % 2)


def _folded_inside(waves: int) -> Callable[[float], float]:
    return lambda x: _smoothstep(_fold(waves * x))


def _folded_outside(waves: int) -> Callable[[float], float]:
    return lambda x: _fold(waves * _smoothstep(x))


def _cosine(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


def _true_cubic_hermite(x: float) -> float:
    # The polynomial begins at 1/24; the preset begins at 0 all the same.
    return (1 + 100 * x - 231 * x**2 + 154 * x**3) / 24 if x else 0.0


def _fake_cubic_hermite(x: float) -> float:
    return (25 * x - 57 * x**2 + 38 * x**3) / 6


def _reversed(height: Callable[[float], float]) -> Callable[[float], float]:
    return lambda x: 1 - height(x)


def _well_known() -> dict[str, Preset]:
    curves: dict[str, Callable[[float], float]] = {
        "GRAD_V": lambda x: abs(1 - 2 * x),
        "GRAD_A": lambda x: 1 - abs(1 - 2 * x),
        "FLAT_25": lambda _: 0.25,
        "FLAT_75": lambda _: 0.75,
        "ALL_A": lambda _: 0.0,
        "ALL_B": lambda _: 1.0,
        "SMOOTHSTEP": _smoothstep,
        "REVERSE-SMOOTHSTEP": _reversed(_smoothstep),
        "NORMAL-SIGMOID": _smoothstep,
        "REVERSE-SIGMOID": _reversed(_smoothstep),
        "COSINE": _cosine,
        "REVERSE_COSINE": _reversed(_cosine),
        "TRUE_CUBIC_HERMITE": _true_cubic_hermite,
        "TRUE_REVERSE_CUBIC_HERMITE": _reversed(_true_cubic_hermite),
        "FAKE_CUBIC_HERMITE": _fake_cubic_hermite,
        "FAKE_REVERSE_CUBIC_HERMITE": _reversed(_fake_cubic_hermite),
    }
    for waves in (2, 3, 4):
        curves[f"SMOOTHSTEP*{waves}"] = _folded_outside(waves)
        curves[f"R_SMOOTHSTEP*{waves}"] = _reversed(_folded_outside(waves))
        curves[f"SMOOTHSTEP/{waves}"] = _folded_inside(waves)
        curves[f"R_SMOOTHSTEP/{waves}"] = _reversed(_folded_inside(waves))
    levels = {
        "WRAP08": "####-------- - --------####",
        "WRAP12": "######------ - ------######",
        "WRAP14": "#######----- - -----#######",
        "WRAP16": "########---- - ----########",
        "MID12_50": "-----hhhhhhh h hhhhhh------",
        "OUT07": "------------ - -----#######",
        "OUT12": "------------ - ############",
        "OUT12_5": "------------ h ############",
        "RING08_SOFT": "-----h###h-- - --h###h-----",
        "RING08_5": "------####-- - --####------",
        "RING10_5": "-----#####-- - --#####-----",
        "RING10_3": "------#####- - -#####------",
    }
    presets = [_levels(*item) for item in levels.items()] + [_curve(*item) for item in curves.items()]
    return {preset.name: preset for preset in presets}


WELL_KNOWN: Mapping[str, Preset] = _well_known()
"""The presets that merge-block-weighted, supermerger and model-mixer ship, by their names."""
