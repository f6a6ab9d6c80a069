"""The infotext of an image file, where A1111 puts it and looks for it."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from scoring.errors import InputError
from scoring.probes.infotext import to_infotext
from scoring.probes.probe import Probe

_FORMATS = ("PNG", "JPEG", "WEBP")
_MOST_PIXELS = 40_000_000
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PARAMETERS = "parameters"
"""The name of the PNG text chunk, and of the entry in an image's `info`."""

_EXIF, _USER_COMMENT = 0x8769, 0x9286
_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"


def infotext_of_image(path: Path) -> str:
    """The infotext in a PNG's text chunk `parameters` (tEXt, zTXt or iTXt), or in the EXIF user comment of
    another image.

    Raises InputError for a file that is no image, and for an image that has none.
    """
    try:
        with warnings.catch_warnings():
            # Of what may be a bomb; its pixels are only decoded where there are few enough.
            warnings.simplefilter("ignore")
            # By name alone Pillow would try every format it knows, and run other programs for some.
            with Image.open(path, formats=_FORMATS) as image:
                text = _text(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        # Pillow's parsers let out whatever a broken chunk or tag makes them raise.
        raise InputError(f"{path}: can't be read as an image: {error}; take another copy of it") from error
    if not text:
        raise InputError(
            f"{path}: no infotext in it; programs that save or send images often drop it: take the file that "
            "A1111 wrote, or type the settings into a YAML file"
        )
    return text


def labelled(image: Image.Image, probe: Probe) -> Image.Image:
    """The image, with the infotext of the probe that it shows in its `info`; see `png_text`."""
    image.info[PARAMETERS] = to_infotext(probe)
    return image


def png_text(image: Image.Image) -> PngInfo | None:
    """The text chunks to save an image with: its infotext, where it has one. A text that is not latin-1 goes
    into an iTXt chunk, as Pillow and so A1111 do it."""
    text = image.info.get(PARAMETERS)
    if text is None:
        return None
    chunks = PngInfo()
    chunks.add_text(PARAMETERS, text)
    return chunks


def _text(image: Image.Image) -> str:
    if isinstance(image, PngImageFile):
        if text := image.info.get(PARAMETERS):
            return str(text)
        width, height = image.size
        if width * height > _MOST_PIXELS:
            raise InputError(
                f"no infotext before its {width} x {height} pixels, and so many are not read to look behind "
                "them; type the settings into a YAML file"
            )
        # The chunk may stand behind the picture: `text` reads all of it.
        return str(image.text.get(PARAMETERS, ""))
    comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT, b"")
    if isinstance(comment, str):
        return comment
    if comment.startswith(_UNICODE):
        return str(comment[8:].decode("utf-16-be", errors="replace"))
    return str(comment.removeprefix(_ASCII).decode("utf-8", errors="replace"))
