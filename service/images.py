"""Rendered images on disk, each under the sha256 of its PNG."""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from scoring.probes.images import png_text
from service.errors import NotFound
from service.processes import is_alive

TEMPORARY = ".tmp"
"""Folder, within that of the renders, of files that are being written: `<host>.<process>.<random>.tmp`."""


def store_images(renders_dir: Path, images: Sequence[Image.Image]) -> list[str]:
    """Write images durably and return their sha256; the same picture of the same probe is kept once.

    An image that carries its infotext (`scoring.probes.images.labelled`) has it in its file: A1111 shows it.
    A file that is there already gets the present time: `service.afterwards.gc` leaves alone what is young,
    since the row that names it comes a moment later. Raises OSError when one cannot be written (then no
    temporary file is left behind).
    """
    encoded = [_png(image) for image in images]
    hashes = [hashlib.sha256(data).hexdigest() for data in encoded]
    paths = [path_of(renders_dir, sha256) for sha256 in hashes]
    _write(renders_dir, {path: data for path, data in zip(paths, encoded, strict=True) if not _touch(path)})
    return hashes


def path_of(renders_dir: Path, sha256: str) -> Path:
    """Where an image lies, or would."""
    return renders_dir / sha256[:2] / f"{sha256}.png"


def image_path(renders_dir: Path, sha256: str) -> Path:
    """Where a stored image lies. Raises NotFound for a hash that is none or is not stored."""
    path = path_of(renders_dir, sha256)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not path.is_file():
        raise NotFound(f"there is no image {sha256!r}; the renders of a trial list their images")
    return path


def sweep_temporaries(renders_dir: Path) -> None:
    """Remove what processes of this machine that are gone left half written."""
    for left in (renders_dir / TEMPORARY).glob(f"{socket.gethostname()}.*.tmp"):
        if not is_alive(int(left.name.split(".")[-3])):
            left.unlink(missing_ok=True)


def _touch(path: Path) -> bool:
    """Whether a file is there; it is young from now on."""
    try:
        os.utime(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, pnginfo=png_text(image))
    return buffer.getvalue()


def _write(renders_dir: Path, files: Mapping[Path, bytes]) -> None:
    temporaries: dict[Path, Path] = {}
    if not files:
        return
    folder, prefix = renders_dir / TEMPORARY, f"{socket.gethostname()}.{os.getpid()}."
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".tmp")
            temporaries[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
        # After all are written: one journal commit of the file system then serves several of them.
        for path, temporary in temporaries.items():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException as error:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A write that fails does not say where.
            raise OSError(error.errno, error.strerror, str(renders_dir)) from error
        raise
