"""The URI of a database, as PostgreSQL's own programs take it."""

from __future__ import annotations

import logging
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

_SCHEMES = ("postgresql", "postgres")
_HOST = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]*)(:\d{1,5})?")
_DATABASE = re.compile(r"(/[^/@]*)?")
_PARAMETER = re.compile(r"[A-Za-z_][\w.]*")
# What libpq alone understands. The driver would send these to the server, which refuses the connection.
_LIBPQ_ONLY = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "require_auth",
        "sslcertmode",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)

logger = logging.getLogger(__name__)


class InvalidURIError(ValueError):
    """The text is no URI of a PostgreSQL database. The message never holds any of it: it may be a secret."""


def driver_uri(uri: str) -> str:
    """The URI without what only libpq understands. Raises InvalidURIError."""
    try:
        parts = urlsplit(uri.strip())
    except ValueError as error:
        raise InvalidURIError("it cannot be parsed") from error
    if parts.scheme not in _SCHEMES:
        raise InvalidURIError("it does not begin with postgresql://")
    login, _, hosts = parts.netloc.rpartition("@")
    # what is left of a password with such characters must not pass for a host or a database
    asked = parse_qsl(parts.query, keep_blank_values=True)
    told_apart = (
        all(_HOST.fullmatch(host) for host in hosts.split(","))
        and _DATABASE.fullmatch(parts.path)
        and all(_PARAMETER.fullmatch(name) for name, _ in asked)
    )
    if "@" in login or not told_apart or parts.fragment:
        raise InvalidURIError(
            "its parts cannot be told from each other (in a password, @ : / ? # must be percent-encoded)"
        )
    if dropped := sorted({name for name, _ in asked if name in _LIBPQ_ONLY}):
        logger.warning("these parameters of the memory database's URI have no effect: %s", ", ".join(dropped))
    query = urlencode([(name, value) for name, value in asked if name not in _LIBPQ_ONLY])
    # put together by hand: without a host (then it is in the query) urlunsplit would leave the // out
    return f"postgresql://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")
