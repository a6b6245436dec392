"""Requests that are answered with an error, in OpenAI's shape."""

from __future__ import annotations

import math
from typing import Any

from evolving_agent.chat.endpoint import ModelError

_STATUS_OF_PERMANENT = {400: 400, 413: 400, 422: 400}  # the request itself was refused: the client's to mend


class RequestError(Exception):
    """`status` and the fields of OpenAI's error object; `retry_after` in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind, code, param)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}


class RefusedError(RequestError):
    """A request that never reached the agent; `reason` is what the metric calls it."""

    def __init__(self, reason: str, status: int, message: str, **more: Any) -> None:
        super().__init__(status, message, **more)
        self.reason = reason


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def of_model(error: ModelError) -> RequestError:
    """What the client of the agent is told: the endpoint's key and name are not the client's to mend."""
    wait = error.retry_after
    if error.status == 429:
        return RequestError(429, error.message, kind="rate_limit_error", code=error.reason, retry_after=wait)
    if error.status in _STATUS_OF_PERMANENT:
        return RequestError(_STATUS_OF_PERMANENT[error.status], error.message, code=error.reason)
    status = 502 if error.permanent else 503
    return RequestError(status, error.message, kind="upstream_error", code=error.reason, retry_after=wait)
