"""Where a picture stands in a sheet, by comparing pixels."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image


def places_of(sheet: Image.Image, picture: Image.Image) -> list[tuple[int, int]]:
    """(left, top) of every place where the sheet shows exactly these pixels."""
    whole, part = np.asarray(sheet.convert("RGB")), np.asarray(picture.convert("RGB"))
    high, wide, _ = part.shape
    if high > whole.shape[0] or wide > whole.shape[1]:
        return []
    starts = sliding_window_view(whole[: whole.shape[0] - high + 1], wide, axis=1)
    first = (starts == part[0].T).all(axis=(2, 3))
    return [
        (int(left), int(top))
        for top, left in np.argwhere(first)
        if (whole[top : top + high, left : left + wide] == part).all()
    ]
