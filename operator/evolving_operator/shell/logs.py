"""Logs as one JSON object per line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """The time in UTC, the level, the logger, the message, and every `extra` field."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


# Of a request that it repeats, and of watches that we begin again.
_NO_ERRORS = ("will retry", "will re-authenticate", "has failed: ")


def _as_warning(record: logging.LogRecord) -> bool:
    """kopf calls it an error when a watch has to wait for the API server; it is none while it is retried."""
    is_of_kopf = record.levelno == logging.ERROR and record.name.startswith("kopf")
    if is_of_kopf and any(text in record.getMessage() for text in _NO_ERRORS):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def configure(level: str) -> None:
    """All loggers to standard error. kopf reports only what went wrong: it handles every event of a watch."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_as_warning)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)
