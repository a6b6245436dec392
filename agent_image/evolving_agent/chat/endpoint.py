"""The door to the `openai` client: one OpenAI-compatible endpoint, and what its errors mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import openai

from evolving_agent.chat.answer_format import AnswerFormat
from evolving_agent.chat.client import Client
from evolving_agent.chat.retry import pause_before_retry, retry_after_seconds
from evolving_agent.contract.config import ModelAPI, ServedModel

AZURE_HOSTS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")
NO_KEY = "no-key-needed"  # the client insists on a key; servers that need none ignore it
MAX_DETAIL_CHARS = 300

# What the client and the Agents SDK stumble with over an answer that is no JSON, or not the API's.
_SHAPELESS = (AttributeError, LookupError, TypeError, ValueError)

logger = logging.getLogger(__name__)


class ModelErrorReason(StrEnum):
    UNREACHABLE = "ModelUnreachable"
    NOT_FOUND = "ModelNotFound"
    UNAUTHORIZED = "Unauthorized"
    RATE_LIMITED = "RateLimited"
    UPSTREAM = "UpstreamError"


class ModelError(Exception):
    """The endpoint did not answer. `permanent`: asking again changes nothing until somebody acts.

    `retry_after` is what the endpoint asked to wait, in seconds. `mended`: the endpoint is now known to want
    the request in another form, and asking again at once sends it so.
    """

    def __init__(
        self,
        reason: ModelErrorReason,
        message: str,
        *,
        permanent: bool,
        status: int | None = None,
        retry_after: float | None = None,
        mended: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.permanent = permanent
        self.status = status  # the endpoint's HTTP status, where it answered at all
        self.retry_after = retry_after
        self.mended = mended


@dataclass(frozen=True)
class Completion:
    """One plain answer of the model, and what it cost."""

    text: str
    input_tokens: int
    output_tokens: int


class ModelEndpoint:
    """A connection pool to one endpoint, with bounded concurrency.

    408, 409, 429 and 5xx answers and broken connections are asked again, at most `max_retries` times, with
    exponential backoff and jitter; `Retry-After` is honoured. No pause goes beyond the caller's deadline:
    then the error comes out at once. Over a call that runs the deadline is the caller's own
    (`asyncio.timeout`).

    A query in `base_url` goes with every request: some servers want an `api-version` there.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        connect_timeout_seconds: float = 5.0,
        timeout_seconds: float = 100.0,
        max_retries: int = 4,
        max_concurrency: int = 64,
    ) -> None:
        self.base_url = base_url
        parts = urlsplit(base_url)
        key = api_key or NO_KEY
        # Azure takes a key in a header of its own; a bearer there would have to be an Entra ID token
        azure = (parts.hostname or "").endswith(AZURE_HOSTS)
        self.client = Client(
            base_url=parts._replace(query="").geturl(),
            api_key=key,
            default_query=dict(parse_qsl(parts.query)) or None,
            default_headers={"api-key": key} if azure else None,
            timeout=openai.Timeout(timeout_seconds, connect=connect_timeout_seconds),
            max_retries=0,  # asked again by `pause_after`, which knows the deadline and holds no slot
        )
        self._max_retries = max_retries
        self._slots = asyncio.Semaphore(max_concurrency)
        self._completion_token_models: set[str] = set()
        self._schemaless_models: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.client.close()

    @asynccontextmanager
    async def calling(self, model: str, *, can_leave_schema: bool = False) -> AsyncIterator[None]:
        """Holds one of the endpoint's slots; errors of the client come out as ModelError.

        With `can_leave_schema` a refused JSON schema is a mended error: the caller can ask without it.
        """
        async with self._slots:
            try:
                yield
            except openai.APIError as error:
                raise self._translated(error, model, can_leave_schema) from error
            except _SHAPELESS as error:
                raise self.shapeless(model, f"{error!r:.200}") from error

    def shapeless(self, model: str, found: str) -> ModelError:
        """An answer with status 200 that is none of the API's."""
        return ModelError(
            ModelErrorReason.UPSTREAM,
            f"{self.base_url} (model {model!r}) answered in no form of the API ({found}); check that baseURL "
            "is the API's root (it usually ends in /v1), and endpoint.api",
            permanent=True,
        )

    async def pause_after(self, error: ModelError, failures: int, deadline: float | None = None) -> None:
        """Returns when it is time to ask again after so many failures; raises `error` where it is not to be.

        `deadline` is a time of `time.monotonic()`.
        """
        if error.mended:
            return
        if error.permanent or failures > self._max_retries:
            raise error
        pause = pause_before_retry(failures, error.retry_after, deadline)
        if pause is None:
            raise error
        await asyncio.sleep(pause)

    def wants_completion_tokens(self, model: str) -> bool:
        """Whether the model refused `max_tokens`: newer ones take `max_completion_tokens` in its place."""
        return model in self._completion_token_models

    async def complete(
        self,
        model: str,
        messages: list[Any],
        *,
        max_tokens: int,
        api: ModelAPI = ModelAPI.CHAT_COMPLETIONS,
        temperature: float | None = None,
        schema: dict[str, Any] | None = None,
    ) -> Completion:
        """One answer without tools to `messages` (role and content each). Raises ModelError.

        The server is asked to keep the answer to the JSON schema; one that refuses to is asked without.
        """
        failures = 0
        while True:
            try:
                return await self._complete(
                    model, messages, max_tokens=max_tokens, api=api, temperature=temperature, schema=schema
                )
            except ModelError as error:
                failures += 1
                await self.pause_after(error, failures)

    async def probe(self, model: str, api: ModelAPI = ModelAPI.CHAT_COMPLETIONS) -> None:
        """Returns when the model has answered one token; asks once. Raises ModelError."""
        ping = [{"role": "user", "content": "ping"}]
        try:
            await self._complete(model, ping, max_tokens=1, api=api, temperature=None)
        except ModelError as error:
            if not error.mended:
                raise
            await self._complete(model, ping, max_tokens=1, api=api, temperature=None)

    async def _complete(
        self,
        model: str,
        messages: list[Any],
        *,
        max_tokens: int,
        api: ModelAPI,
        temperature: float | None,
        schema: dict[str, Any] | None = None,
    ) -> Completion:
        settings: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        if schema is not None and model not in self._schemaless_models:
            settings |= AnswerFormat(schema, strict=True).settings(api)
        async with self.calling(model, can_leave_schema=True):
            if api is ModelAPI.RESPONSES:
                response = await self.client.responses.create(
                    model=model, input=messages, max_output_tokens=max(16, max_tokens), **settings
                )
                used = response.usage
                return Completion(
                    response.output_text, used.input_tokens if used else 0, used.output_tokens if used else 0
                )
            limit = "max_completion_tokens" if self.wants_completion_tokens(model) else "max_tokens"
            settings[limit] = max_tokens
            answer = await self.client.chat.completions.create(model=model, messages=messages, **settings)
        usage = answer.usage
        return Completion(
            text=(answer.choices[0].message.content or "") if answer.choices else "",
            input_tokens=usage.prompt_tokens if usage else 0,
            output_tokens=usage.completion_tokens if usage else 0,
        )

    def _translated(self, error: openai.APIError, model: str, can_leave_schema: bool) -> ModelError:
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
        if _refuses_max_tokens(error) and model not in self._completion_token_models:
            self._completion_token_models.add(model)
            logger.info("%s takes max_completion_tokens instead of max_tokens", where)
            return ModelError(
                ModelErrorReason.UPSTREAM, f"{where} refused max_tokens", permanent=False, mended=True
            )
        if can_leave_schema and _refuses_schema(error) and model not in self._schemaless_models:
            self._schemaless_models.add(model)
            logger.info("%s takes no JSON schema; it is asked without", where)
            return ModelError(
                ModelErrorReason.UPSTREAM, f"{where} refused a JSON schema", permanent=False, mended=True
            )
        return _from_status(error, where)


class Endpoints:
    """The endpoints that configurations name, with one key; made at their first use."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key
        self._endpoints: dict[tuple[str, int, int, int], ModelEndpoint] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()))

    def of(self, served: ServedModel) -> ModelEndpoint:
        """One for all models of a base URL that are asked under the same limits."""
        connect, silence = served.connect_timeout_seconds, served.timeout_seconds
        key = served.base_url, connect, silence, served.max_concurrent_calls
        if key not in self._endpoints:
            self._endpoints[key] = ModelEndpoint(
                served.base_url,
                self._api_key,
                connect_timeout_seconds=connect,
                timeout_seconds=silence,
                max_concurrency=served.max_concurrent_calls,
            )
        return self._endpoints[key]


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
            reason, permanent = ModelErrorReason.UPSTREAM, status < 500 and status not in (408, 409)
            advice = "the request was refused" if permanent else "the server failed"
    return ModelError(
        reason,
        f"{where} answered {status}: {said}; {advice}",
        permanent=permanent,
        status=status,
        retry_after=retry_after_seconds(error.response.headers),
    )


def _refuses_max_tokens(error: openai.APIStatusError) -> bool:
    return error.status_code == 400 and (
        (error.code == "unsupported_parameter" and error.param == "max_tokens")
        or "max_completion_tokens" in error.message
    )


def _refuses_schema(error: openai.APIStatusError) -> bool:
    said = f"{error.param} {error.message}"
    return error.status_code in (400, 422) and any(
        setting in said for setting in ("response_format", "json_schema", "text.format")
    )


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _shortened(str(error) or type(error).__name__)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_DETAIL_CHARS else text[:MAX_DETAIL_CHARS] + "…"
