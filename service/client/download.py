"""A file that is fetched: it appears under its name when it is whole, and only if its hash is right."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

from service.client.errors import ClientError


class Download:
    """Bytes on their way to `file`, beside it under another name; nothing is left of what fails."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._partial = file.with_name(f".{file.name}.{os.getpid()}.part")
        self._hash = hashlib.sha256()

    def __enter__(self) -> Download:
        self._out = self._partial.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()
        self._partial.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """The next bytes."""
        self._out.write(chunk)
        self._hash.update(chunk)

    def finish(self, etag: str) -> Path:
        """Let the file appear. etag: of the answer, the file's sha256. Raises ClientError on another."""
        wanted, found = etag.strip('"'), self._hash.hexdigest()
        if wanted != found:
            raise ClientError(f"{self._file.name}: sha256 {found} came, {wanted} was announced; try again")
        self._out.flush()
        os.fsync(self._out.fileno())
        return self._partial.replace(self._file)
