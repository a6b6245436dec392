"""What is used of the driver's connections, which have no types of their own."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Row = Any  # its fields in the order of the query, as a tuple has them


class Connection(Protocol):
    """One connection, for one task at a time. Parameters are $1, $2, …"""

    async def execute(self, query: str, *parameters: Any) -> str:
        """The statement's tag, such as "DELETE 1"."""

    async def fetch(self, query: str, *parameters: Any) -> list[Row]: ...

    async def fetchval(self, query: str, *parameters: Any) -> Any:
        """The first field of the first row; None without a row."""

    def transaction(self) -> AbstractAsyncContextManager[object]: ...
