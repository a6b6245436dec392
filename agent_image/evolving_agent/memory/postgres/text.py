"""Texts as PostgreSQL takes them."""

from __future__ import annotations

import hashlib

_MAX_KEY_BYTES = 1024  # an index takes 2.7 kB at most
_DIGEST_CHARS = 32


def storable(text: str) -> str:
    """Without NUL, which PostgreSQL's texts cannot hold, and without what no UTF-8 can hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def key(text: str) -> str:
    """The text itself, or where it is too long for an index, one that stands for it."""
    text = storable(text)
    encoded = text.encode()
    if len(encoded) <= _MAX_KEY_BYTES:
        return text
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST_CHARS]
    return encoded[: _MAX_KEY_BYTES - _DIGEST_CHARS].decode(errors="ignore") + digest
