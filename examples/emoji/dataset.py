"""Captioned emoji pictures, drawn from registry packages: the data set of the zoo.

`npm install --ignore-scripts` beside this file brings the artwork (licences in ATTRIBUTION.md);
`python -m examples.emoji.dataset` draws it into one file, 64 x 64 RGB on white.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import resvg_py
from PIL import Image

from examples.emoji.styles import STYLES, SVG_STYLES

HERE = Path(__file__).parent
SIZE = 64

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animals": (
        "animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine",
        "animal-bug",
    ),
    "food": (
        "food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet", "drink",
    ),
    "faces": (
        "face-smiling", "face-affection", "face-tongue", "face-glasses", "face-hat",
        "face-negative", "face-costume", "cat-face",
    ),
    "outdoors": (
        "plant-flower", "plant-other", "sky-weather", "transport-ground", "transport-water",
        "transport-air",
    ),
    "things": ("sport", "musical-instrument", "clothing", "heart"),
}  # fmt: skip

# Signs, near-duplicates and pictures nobody could name at this size.
LEFT_OUT = frozenset(
    """
    bus stop|motorway|railway track|construction|station|seat|suspension railway|mountain railway
    aerial tramway|mountain cableway|manual wheelchair|motorized wheelchair|airplane departure
    airplane arrival|oil drum|waxing crescent moon|first quarter moon|waxing gibbous moon
    waning gibbous moon|last quarter moon|waning crescent moon|new moon face|last quarter moon face
    new moon|milky way|thermometer|sun behind small cloud|sun behind large cloud|wind face|fog
    umbrella on ground|snowman without snow|guide dog|service dog|pig nose|microbe|wing
    black bird|phoenix|spider web|distorted face|orca|root vegetable|pouring liquid|flatbread
    ice|mate|beverage box|goal net|cricket game|field hockey|lacrosse|flag in hole
    heart decoration|revolving hearts|growing heart|beating heart|heart exclamation|love letter
    mending heart|briefs|hair pick|prayer beads|folding hand fan|clutch bag|safety vest|trombone
    leafless tree|rosette|empty nest|wilted flower|tram car|mountain railway|light rail|railway car
    """.replace("\n", "|")
    .strip()
    .split("|")
)


@dataclass(frozen=True)
class Picture:
    """One drawing: `hexcode` names the concept, `concept` is its English label."""

    concept: str
    category: str
    style: str
    rgb: npt.NDArray[np.uint8]


def concepts(packages: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (hexcode, label, category) for every emoji that the zoo knows."""
    data = packages / "emojibase-data"
    subgroups: dict[str, str] = json.loads((data / "meta/groups.json").read_text())["subgroups"]
    category_of = {sub: cat for cat, subs in CATEGORIES.items() for sub in subs}
    left_out = {name.strip() for name in LEFT_OUT}
    for emoji in json.loads((data / "en/data.json").read_text()):
        category = category_of.get(subgroups.get(str(emoji.get("subgroup")), ""))
        if category and emoji["label"] not in left_out:
            yield emoji["hexcode"].lower(), emoji["label"].lower(), category


def on_white(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Flatten a transparent picture onto white and shrink it to SIZE."""
    rgba = picture.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


class SvgStyle:
    """One iconify package: SVG bodies by name, names by code point."""

    def __init__(self, folder: Path, names: dict[str, str]) -> None:
        self.icons: dict[str, Any] = json.loads((folder / "icons.json").read_text())
        self.names = json.loads((folder / "chars.json").read_text()) or names

    def draw(self, hexcode: str) -> npt.NDArray[np.uint8] | None:
        name = self.names.get(hexcode) or self.names.get(hexcode.replace("-fe0f", ""))
        icon = self.icons["icons"].get(name)
        if icon is None:
            return None
        width = icon.get("width", self.icons["width"])
        height = icon.get("height", self.icons["height"])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=4 * SIZE, height=4 * SIZE)
        return on_white(Image.open(io.BytesIO(bytes(png))))


def draw_all(packages: Path) -> Iterator[Picture]:
    """Draw every concept in every style that has it."""
    noto_names = json.loads((packages / "@iconify-json/noto/chars.json").read_text())
    svg = {
        style: SvgStyle(packages / "@iconify-json" / name, noto_names) for style, name in SVG_STYLES.items()
    }
    folder_3d = packages / "@lobehub/fluent-emoji-3d/assets"
    for hexcode, concept, category in concepts(packages):
        for style, source in svg.items():
            if (rgb := source.draw(hexcode)) is not None:
                yield Picture(concept, category, style, rgb)
        file_3d = folder_3d / f"{hexcode}.webp"
        if file_3d.exists():
            yield Picture(concept, category, "3d", on_white(Image.open(file_3d)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=HERE / "node_modules")
    parser.add_argument("--out", type=Path, default=Path("zoo-work/data.npz"))
    args = parser.parse_args()
    if not args.packages.is_dir():
        parser.error(f"{args.packages} is not there: run `npm install --ignore-scripts` in {HERE}")
    pictures = list(draw_all(args.packages))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        args.out,
        rgb=np.stack([p.rgb for p in pictures]),
        concept=np.array([p.concept for p in pictures]),
        category=np.array([p.category for p in pictures]),
        style=np.array([p.style for p in pictures]),
    )
    counts = {s: sum(p.style == s for p in pictures) for s in STYLES}
    print(f"{len(pictures)} pictures of {len({p.concept for p in pictures})} concepts: {counts}")


if __name__ == "__main__":
    main()
