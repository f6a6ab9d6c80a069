"""Whether the libraries that load models may ask a hub on the network: not unless it is allowed.

No path or id that somebody names reaches the network by itself; but a model's own config may name another
one that transformers or open_clip then fetches, and whoever writes the config chooses what is asked for.
"""

from __future__ import annotations

import os
import sys

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
NOT_ALLOWED = "nothing is fetched from a hub unless the setting allow_hub is on"


def keep_off_hub() -> None:
    """From now on nothing in this process, nor in those that it starts, asks a hub for anything.

    huggingface_hub, through which transformers, diffusers, timm and open_clip all ask, reads its variable
    when it is imported, and looks at what it read with every request.
    """
    for name in OFFLINE:
        os.environ[name] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        vars(constants)["HF_HUB_OFFLINE"] = True


def is_kept_off() -> bool:
    """Whether that was said, here or by whoever started this process."""
    return os.environ.get(OFFLINE[0], "").upper() in ("1", "ON", "YES", "TRUE")


def hint() -> str:
    """What to add to the error of a model that could not be loaded: it may want something of a hub."""
    return f" ({NOT_ALLOWED})" if is_kept_off() else ""
