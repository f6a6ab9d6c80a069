"""The art styles of the zoo, by the word that names them in a caption."""

from __future__ import annotations

# style word in a caption -> iconify package; "3d" is a folder of pictures instead.
SVG_STYLES = {
    "noto": "noto",
    "twemoji": "twemoji",
    "flat": "fluent-emoji-flat",
    "classic": "noto-v1",
}
STYLES = (*SVG_STYLES, "3d")
# The UNet never sees this style: it is there to widen what the reward has seen.
REWARD_ONLY_STYLES = ("classic",)
