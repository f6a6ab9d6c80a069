"""Pictures as answers. Their names are hashes of what they show: who has one never needs it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import Response

from service.api.conditional import matches

FOREVER = "private, max-age=31536000, immutable"
"""Private: a shared cache between would give it to who shows no token."""
TYPES = {".png": "image/png", ".webp": "image/webp"}


class Png(Response):
    """An image as it was rendered."""

    media_type = "image/png"


def picture(name: str, if_none_match: str | None, find: Callable[[], Path]) -> Response:
    """The picture of this name, which `find` finds a file of; 304 for who has it already.

    It is read whole, in the thread that answers: a file that is sent bit by bit needs a thread for each bit.
    """
    headers = {"Cache-Control": FOREVER, "ETag": f'"{name}"'}
    if matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    path = find()
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=headers)
