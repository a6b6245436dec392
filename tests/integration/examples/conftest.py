from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from evolving_agent.contract import env
from evolving_agent.testing.scripted_model import ScriptedModel, served
from support.examples import EXAMPLES
from support.order_desk import desk, shop_database


@pytest.fixture
async def model() -> AsyncIterator[tuple[ScriptedModel, str]]:
    """The scripted model and where it listens."""
    model = ScriptedModel()
    async with served(model.app) as url:
        yield model, url


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ConfigMaps and Secrets are mounted."""
    monkeypatch.setenv(env.FILES, str(tmp_path / "files"))
    return tmp_path / "files"


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The owner's connection string of a shop's database."""
    with shop_database() as owner:
        yield owner


@pytest.fixture
def orders(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same without orders; the module `order_desk` is installed and knows the way there."""
    with psycopg.connect(database) as connection:
        connection.execute("TRUNCATE orders")
    monkeypatch.setenv("ORDERS_DSN", desk(database))
    monkeypatch.syspath_prepend(str(EXAMPLES / "database"))
    return database
