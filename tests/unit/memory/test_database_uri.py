from __future__ import annotations

from urllib.parse import unquote

import pytest

from evolving_agent.memory.postgres.uri import InvalidURIError, driver_uri


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://ada:p%40ss@db.bank:5432/memory",
        "postgresql://ada@db/memory?sslmode=verify-full&sslrootcert=/etc/ca.crt",
        "postgresql://ada:x@one:5432,two:5433/memory?target_session_attrs=read-write",
        "postgresql://ada:x@[2001:db8::1]:5432/memory",
        "postgresql:///memory?host=/run/postgresql",
        "postgresql://db",
    ],
)
def test_a_uri_is_passed_on(uri: str) -> None:
    assert unquote(driver_uri(f" {uri}\n")) == unquote(uri)


def test_what_only_libpq_understands_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    uri = "postgresql://ada:secret@db/memory?sslmode=require&connect_timeout=10&channel_binding=require"

    assert driver_uri(uri) == "postgresql://ada:secret@db/memory?sslmode=require"
    (told,) = caplog.messages
    assert "channel_binding, connect_timeout" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "host=db user=ada password=secret",
        "mysql://ada:secret@db/memory",
        "postgresql://ada:se@cret@db/memory",
        "postgresql://ada:sec/ret@db/memory",
        "postgresql://ada:s@ec/ret@db/memory",
        "postgresql://ada:12#sec@db/memory",
        "postgresql://ada:12?sec@db/memory",
        "postgresql://ada:secret@db:port/memory",
        "postgresql://[secret",
    ],
)
def test_what_is_no_uri_is_refused_without_being_repeated(uri: str) -> None:
    with pytest.raises(InvalidURIError) as refused:
        driver_uri(uri)
    assert "sec" not in str(refused.value)
