"""The order desk's database, as examples/database/schema.sql makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from support.examples import EXAMPLES
from support.postgres import postgres


@contextmanager
def shop_database() -> Iterator[str]:
    """The owner's connection string."""
    with postgres() as owner:
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute((EXAMPLES / "database/schema.sql").read_bytes())
        yield owner


def desk(owner: str) -> str:
    """The connection string of the agent's own role."""
    return owner.replace("user=owner", "user=order_desk")


def rows(owner: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(owner) as connection:
        return connection.execute("SELECT customer, article, amount FROM orders ORDER BY id").fetchall()
