"""The door to the `openai` client: one OpenAI-compatible endpoint, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import openai

from evolving_agent.contract.config import ModelAPI

CONNECT_TIMEOUT_SECONDS = 5.0
NO_KEY = "no-key-needed"  # the client insists on a key; servers that need none ignore it
MAX_DETAIL_CHARS = 300


class ModelErrorReason(StrEnum):
    UNREACHABLE = "ModelUnreachable"
    NOT_FOUND = "ModelNotFound"
    UNAUTHORIZED = "Unauthorized"
    RATE_LIMITED = "RateLimited"
    UPSTREAM = "UpstreamError"


class ModelError(Exception):
    """The endpoint did not answer. `permanent`: asking again changes nothing until somebody acts."""

    def __init__(
        self, reason: ModelErrorReason, message: str, *, permanent: bool, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent
        self.status = status  # the endpoint's HTTP status, where it answered at all


@dataclass(frozen=True)
class Completion:
    """One plain answer of the model, and what it cost."""

    text: str
    input_tokens: int
    output_tokens: int


class ModelEndpoint:
    """A connection pool to one endpoint, with bounded concurrency.

    429, 408, 409 and 5xx answers and broken connections are asked again, with exponential backoff and
    jitter (`Retry-After` is honoured), at most `max_retries` times. A deadline over all attempts is the
    caller's: `asyncio.timeout` around the call.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        attempt_timeout_seconds: float = 100.0,
        max_retries: int = 4,
        max_concurrency: int = 64,
    ) -> None:
        self.base_url = base_url
        self.client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or NO_KEY,
            timeout=openai.Timeout(attempt_timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            max_retries=max_retries,
        )
        self._slots = asyncio.Semaphore(max_concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.client.close()

    @asynccontextmanager
    async def calling(self, model: str) -> AsyncIterator[None]:
        """Holds one of the endpoint's slots; errors of the client come out as ModelError."""
        async with self._slots:
            try:
                yield
            except openai.APIError as error:
                raise self._translated(error, model) from error

    async def complete(
        self,
        model: str,
        messages: list[Any],
        *,
        max_tokens: int,
        api: ModelAPI = ModelAPI.CHAT_COMPLETIONS,
        temperature: float | None = None,
    ) -> Completion:
        """One answer without tools to `messages` (role and content each). Raises ModelError."""
        return await self._complete(
            self.client, model, messages, max_tokens=max_tokens, api=api, temperature=temperature
        )

    async def probe(self, model: str, api: ModelAPI = ModelAPI.CHAT_COMPLETIONS) -> None:
        """Returns when the model has answered one token; asks once. Raises ModelError."""
        once = self.client.with_options(max_retries=0)
        ping = [{"role": "user", "content": "ping"}]
        await self._complete(once, model, ping, max_tokens=1, api=api, temperature=None)

    async def _complete(
        self,
        client: openai.AsyncOpenAI,
        model: str,
        messages: list[Any],
        *,
        max_tokens: int,
        api: ModelAPI,
        temperature: float | None,
    ) -> Completion:
        settings: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        async with self.calling(model):
            if api is ModelAPI.RESPONSES:
                response = await client.responses.create(
                    model=model, input=messages, max_output_tokens=max(16, max_tokens), **settings
                )
                used = response.usage
                return Completion(
                    response.output_text, used.input_tokens if used else 0, used.output_tokens if used else 0
                )
            answer = await client.chat.completions.create(
                model=model, messages=messages, max_tokens=max_tokens, **settings
            )
        usage = answer.usage
        return Completion(
            text=(answer.choices[0].message.content or "") if answer.choices else "",
            input_tokens=usage.prompt_tokens if usage else 0,
            output_tokens=usage.completion_tokens if usage else 0,
        )

    def _translated(self, error: openai.APIError, model: str) -> ModelError:
        where = f"{self.base_url} (model {model!r})"
        if isinstance(error, openai.APITimeoutError):
            return ModelError(
                ModelErrorReason.UNREACHABLE,
                f"{where} did not answer in time; is the server overloaded?",
                permanent=False,
            )
        if isinstance(error, openai.APIConnectionError):
            return ModelError(
                ModelErrorReason.UNREACHABLE,
                f"cannot connect to {where}: {_root_cause(error)}; check baseURL and that the server runs",
                permanent=False,
            )
        if not isinstance(error, openai.APIStatusError):
            return ModelError(
                ModelErrorReason.UPSTREAM,
                f"{where} broke off its answer: {_shortened(error.message)}",
                permanent=False,
            )
        return _from_status(error, where)


class Endpoints:
    """The endpoints of all base URLs that configurations name, with one key; made at their first use."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key
        self._endpoints: dict[str, ModelEndpoint] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()))

    def at(self, base_url: str) -> ModelEndpoint:
        if base_url not in self._endpoints:
            self._endpoints[base_url] = ModelEndpoint(base_url, self._api_key)
        return self._endpoints[base_url]


def _from_status(error: openai.APIStatusError, where: str) -> ModelError:
    status, said = error.status_code, _shortened(error.message)
    match status:
        case 401 | 403:
            reason, advice, permanent = ModelErrorReason.UNAUTHORIZED, "check apiKeySecretRef", True
        case 404:
            reason, permanent = ModelErrorReason.NOT_FOUND, True
            advice = "check the model's name, and that baseURL is the API's root (it usually ends in /v1)"
        case 429:
            # an exhausted quota is no rate: it does not come back by waiting
            permanent = error.code == "insufficient_quota"
            reason = ModelErrorReason.RATE_LIMITED
            advice = "raise the quota" if permanent else "lower the load or raise the limit"
        case _:
            reason, permanent = ModelErrorReason.UPSTREAM, status < 500
            advice = "the request was refused" if permanent else "the server failed"
    return ModelError(
        reason, f"{where} answered {status}: {said}; {advice}", permanent=permanent, status=status
    )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _shortened(str(error) or type(error).__name__)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_DETAIL_CHARS else text[:MAX_DETAIL_CHARS] + "…"
