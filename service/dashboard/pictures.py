"""Small pictures of renders: made once, kept on disk, cached by browsers for good."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Response
from fastapi import Path as PathOf
from nicegui import ui
from PIL import Image

from service.api import pictures as answer
from service.api.context import Ctx
from service.api.kept import Keeps
from service.api.news import Until
from service.api.problems import responses
from service.images import image_path

Size = Literal[64, 128, 256, 512]
QUALITY = 84
METHOD = 2
"""Of WebP, 0 to 6: takes half the time of its default, 4, for files that are a twentieth longer."""
router = APIRouter(include_in_schema=False)


@router.get("/thumbnails/{size}/{sha256}.webp", response_class=Response, responses=responses(404))
def thumbnail(
    size: Annotated[int, PathOf(json_schema_extra={"enum": [64, 128, 256, 512]})],
    sha256: str,
    context: Ctx,
    keeps: Keeps,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A render, its longer side at most `size` pixels; one that is smaller comes as it is."""
    allowed = next((known for known in (64, 128, 256, 512) if size <= known), 512)
    settings = context.settings
    keeps.until(Until.CHANGE)

    def find() -> Path:
        return small_picture(image_path(settings.renders_dir, sha256), settings.thumbnails_dir, allowed)

    return answer.picture(f"{sha256}-{allowed}", if_none_match, find)


def small_picture(original: Path, folder: Path, size: int) -> Path:
    """The file of a picture whose longer side is at most `size` pixels: the original where that is so.

    Raises OSError where it cannot be read or written.
    """
    kept = folder / str(size) / original.stem[:2] / f"{original.stem}.webp"
    if kept.is_file():
        return kept
    with Image.open(original) as image:
        if max(image.size) <= size:
            return original
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=METHOD)
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Two browsers may ask for it at once: each writes its own, the last one stays.
    handle, temporary = tempfile.mkstemp(dir=kept.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        file.write(buffer.getvalue())
    Path(temporary).replace(kept)
    return kept


def thumbnail_url(sha256: str, size: Size = 256) -> str:
    """Where a small picture of a render is, under the service's root."""
    return f"/thumbnails/{size}/{sha256}.webp"


def image_url(sha256: str) -> str:
    """Where a render is as it was made."""
    return f"/api/v1/images/{sha256}.png"


def picture(sha256: str, words: str, *, size: Size = 256) -> ui.image:
    """A small picture of a render in this place. words: what it shows, for who cannot see it."""
    shown = ui.image(thumbnail_url(sha256, size)).classes("render")
    # Set as a value, not as props text: a prompt may hold quotes.
    shown.props["alt"] = words
    shown.props["loading"] = "lazy"
    return shown
