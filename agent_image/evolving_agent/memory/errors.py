"""What memory raises, whatever it is kept in."""

from __future__ import annotations


class MemoryUnavailableError(Exception):
    """What is remembered cannot be read or written now; the message says why."""


class UnknownSchemaError(Exception):
    """The database was written by a newer version of this program."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the memory database has schema version {found}, this program knows {known}; "
            "run the version of the agent image that wrote it, or a newer one"
        )
