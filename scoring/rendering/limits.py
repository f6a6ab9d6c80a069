"""How many images a device holds at once, kept in a file, so that the next process begins with it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scoring.rendering.components import Components, dtype_name
from scoring.rendering.memory import Kind

log = logging.getLogger(__name__)


class _Limit(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    memory: int
    model: str
    dtype: str
    doing: str
    width: int
    height: int
    rows: int
    most: int = Field(ge=1)


class _Limits(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limits: list[_Limit] = []


class BatchLimits:
    """The limits of one model on one device, in a JSON file that holds those of others too.

    file: made when the first limit is put; one that can't be read is begun anew, and a warning says so. It
    may be deleted at any time: what is needed is then measured again, for whatever memory is free by then.
    device: its name; memory: its bytes in all. model: what tells the model's architecture, see `model_key`.
    """

    def __init__(self, file: Path, *, device: str, memory: int, model: str, dtype: torch.dtype) -> None:
        self._file = file
        self._key = {"device": device, "memory": memory, "model": model, "dtype": dtype_name(dtype)}

    def known(self) -> dict[Kind, int]:
        """What the file says of this model on this device."""
        return {_kind(limit): limit.most for limit in self._read() if self._is_ours(limit)}

    def put(self, kind: Kind, most: int) -> int:
        """Keep a limit, and return the one that holds: the smaller of it and what the file has already.

        So every process that shares the file batches in the same way. Of two processes that put a limit in
        the same moment one may lose it, and measures it again when it is next needed.
        """
        all_limits = self._read()
        others = [limit for limit in all_limits if not (self._is_ours(limit) and _kind(limit) == kind)]
        before = [limit.most for limit in all_limits if limit not in others]
        holds = min([most, *before])
        limit = _Limit.model_validate({**self._key, **kind._asdict(), "most": holds})
        self._write(_Limits(limits=[*others, limit]))
        return holds

    def _is_ours(self, limit: _Limit) -> bool:
        return all(getattr(limit, name) == value for name, value in self._key.items())

    def _read(self) -> list[_Limit]:
        try:
            return _Limits.model_validate_json(self._file.read_bytes()).limits
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            log.warning("%s can't be read and is begun anew: %s", self._file, error)
            return []

    def _write(self, limits: _Limits) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._file.parent, prefix=f".{self._file.name}.")
        with os.fdopen(handle, "w") as out:
            out.write(limits.model_dump_json(indent=1))
        os.replace(temporary, self._file)


def model_key(components: Components) -> str:
    """Tells models apart that need different memory: a hash of the configs of UNet and VAE."""
    configs: list[dict[str, Any]] = [
        {name: value for name, value in dict(part.config).items() if not name.startswith("_")}
        for part in (components.unet, components.vae)
    ]
    return hashlib.sha256(json.dumps(configs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _kind(limit: _Limit) -> Kind:
    return Kind(limit.doing, limit.width, limit.height, limit.rows)
