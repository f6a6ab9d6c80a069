"""Secrets that are shown once: tokens and the cookies of sessions.

A secret is `<prefix>_<id>_<random>`. The id finds its row in constant time and is no secret; the random part
has 256 bits. Only the SHA-256 of the whole is kept. A slow hash (bcrypt, argon2) protects passwords, which
people choose and which can be guessed: 256 random bits cannot be, and a fast hash lets every request be
checked.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

TOKEN, SESSION = "ambw", "ambws"
_SHAPE = re.compile(r"(ambws?)_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Secret:
    """A secret in its parts; `text` is what its owner keeps."""

    kind: str
    id: str
    text: str

    @property
    def digest(self) -> str:
        """What is stored of it, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def matches(self, digest: str) -> bool:
        """Whether this is the secret of a stored digest, in a time that does not tell how nearly."""
        return hmac.compare_digest(self.digest, digest)


def new_secret(kind: str) -> Secret:
    """A secret that nobody has seen."""
    public, private = secrets.token_hex(6), secrets.token_urlsafe(32)
    return Secret(kind, public, f"{kind}_{public}_{private}")


def read_secret(kind: str, text: str) -> Secret | None:
    """The parts of a secret of this kind; None for a text that is none."""
    shape = _SHAPE.fullmatch(text)
    return Secret(kind, shape[2], text) if shape and shape[1] == kind else None
