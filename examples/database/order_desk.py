"""The tools of the order desk: plain functions on a PostgreSQL database.

SQL is fixed and values are parameters: nothing that a model writes becomes SQL. `idempotency_key` is filled
in by the runtime and never shown to the model: an order that comes twice, because a client asked again after
a broken connection, is placed once.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

import psycopg
from psycopg.rows import dict_row
from pydantic import Field

Article = Literal["apples", "bread", "cheese"]
CONNECT_SECONDS = 5
STATEMENT_MILLISECONDS = 5000


def place_order(
    customer: Annotated[str, Field(min_length=1, max_length=100)],
    article: Article,
    amount: Annotated[int, Field(ge=1, le=100)],
    idempotency_key: str,
) -> dict[str, str | int]:
    """Places an order for a customer. Do so only when the customer has confirmed it.

    Args:
        customer: The customer's name.
        article: What is ordered.
        amount: How many.
    """
    with _connection() as connection:
        placed = connection.execute(
            """
            INSERT INTO orders (customer, article, amount, idempotency_key)
            VALUES (%(customer)s, %(article)s, %(amount)s, %(key)s)
            ON CONFLICT (idempotency_key) DO NOTHING
            RETURNING id
            """,
            {"customer": customer, "article": article, "amount": amount, "key": idempotency_key},
        ).fetchone()
        if placed is None:  # the same request came again
            placed = connection.execute(
                "SELECT id FROM orders WHERE idempotency_key = %s", (idempotency_key,)
            ).fetchone()
    if placed is None:
        raise LookupError("the order is neither new nor known: it was deleted meanwhile")
    return {"order": placed["id"], "customer": customer, "article": article, "amount": amount}


def orders_of(customer: str) -> list[dict[str, str | int]]:
    """The latest ten orders of a customer, newest first.

    Args:
        customer: The customer's name.
    """
    with _connection() as connection:
        return connection.execute(
            "SELECT id AS order, article, amount FROM orders WHERE customer = %s ORDER BY id DESC LIMIT 10",
            (customer,),
        ).fetchall()


def _connection() -> psycopg.Connection[dict[str, str | int]]:
    """One for each call, in a transaction that a failing statement undoes. A busy desk puts a pool here."""
    return psycopg.connect(
        os.environ["ORDERS_DSN"],
        row_factory=dict_row,
        connect_timeout=CONNECT_SECONDS,
        options=f"-c statement_timeout={STATEMENT_MILLISECONDS}",
    )
