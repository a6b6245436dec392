"""The HTTP API: OpenAI's chat completions and responses, feedback, health, readiness and metrics."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evolving_agent.contract import env
from evolving_agent.contract.config import Limits
from evolving_agent.contract.served import SERVED_PATH
from evolving_agent.runtime.chat_wire import ChatRequest, ChatStream, completion
from evolving_agent.runtime.delivery import CLIENT_CLOSED_REQUEST, json_response, streamed, whole
from evolving_agent.runtime.errors import RefusedError, RequestError, error_body
from evolving_agent.runtime.feedback import Feedback
from evolving_agent.runtime.logs import request_id
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.question import Question
from evolving_agent.runtime.request_body import read_json
from evolving_agent.runtime.responses_wire import (
    ResponsesAnswer,
    ResponsesRequest,
    completion_id,
)
from evolving_agent.runtime.service import AgentService
from evolving_agent.runtime.wire import invalid

MAX_SESSION_CHARS = 256
REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}")


@dataclass
class PodState:
    """What the routes know of the pod; `service` is there as soon as requests can be answered."""

    metrics: Metrics
    max_request_bytes: int = Limits().max_request_bytes
    service: AgentService | None = None
    waiting_for: tuple[str, str] = ("Starting", "the pod is starting")  # reason and message
    draining: bool = False

    @property
    def ready_service(self) -> AgentService:
        """Raises RefusedError while the pod starts."""
        if self.service is None:
            reason, message = self.waiting_for
            raise RefusedError(
                "not_ready", 503, f"not ready: {message}", kind="unavailable", code=reason, retry_after=1.0
            )
        return self.service


def build_app(state: PodState) -> ASGIApp:
    routes = _Routes(state)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)  # noqa: S101 (starlette's handlers are not generic)
        if isinstance(error, RefusedError):
            state.metrics.refused.labels(error.reason).inc()
        return json_response(error.body, error.status, error.headers)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/responses", routes.respond, methods=["POST"]),
            Route("/v1/responses/{response}", routes.response, methods=["GET"]),
            Route("/v1/responses/{response}", routes.delete_response, methods=["DELETE"]),
            Route("/v1/feedback", routes.feedback, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/healthz", routes.healthz),
            Route("/readyz", routes.readyz),
            Route("/metrics", routes.metrics),
            Route(SERVED_PATH, routes.served),
        ],
        exception_handlers={
            RequestError: refused,
            HTTPException: _http_error,
            ClientDisconnect: _hung_up,
            Exception: _internal_error,
        },
    )
    return _labelled(lambda: state.draining, app)


class _Routes:
    def __init__(self, state: PodState) -> None:
        self._state = state

    async def chat(self, request: Request) -> Response:
        service = self._state.ready_service
        asked = ChatRequest.parse(await read_json(request, self._state.max_request_bytes))
        work = await service.accept(_question(request, asked))
        if asked.stream:
            return await streamed(
                request, service, work, lambda: ChatStream(work.head, with_usage=asked.wants_usage)
            )
        return await whole(request, service, work, lambda result: completion(work.head, result))

    async def respond(self, request: Request) -> Response:
        service = self._state.ready_service
        asked = ResponsesRequest.parse(await read_json(request, self._state.max_request_bytes))
        work = await service.accept(_question(request, asked))
        stored = asked.is_stored and work.question.is_kept and service.conversations.kept

        def answer() -> ResponsesAnswer:
            return ResponsesAnswer(work.head, asked, stored=stored)

        if asked.stream:
            return await streamed(request, service, work, answer)
        return await whole(request, service, work, lambda result: answer().whole(result))

    async def response(self, request: Request) -> Response:
        conversations = self._state.ready_service.conversations
        return json_response(await conversations.response(completion_id(request.path_params["response"])))

    async def delete_response(self, request: Request) -> Response:
        response = request.path_params["response"]
        await self._state.ready_service.conversations.delete(completion_id(response))
        return json_response({"id": response, "object": "response", "deleted": True})

    async def feedback(self, request: Request) -> Response:
        service = self._state.ready_service
        body = await read_json(request, self._state.max_request_bytes)
        try:
            feedback = Feedback.model_validate(body)
        except ValidationError as error:
            raise invalid(error) from error
        answered = completion_id(feedback.completion_id)
        record = await service.feedback(feedback.model_copy(update={"completion_id": answered}))
        said = {"id": record.id, "object": "feedback", "completion_id": record.episode}
        return json_response(said, 201)

    async def models(self, _: Request) -> Response:
        service = self._state.ready_service
        names = dict.fromkeys((service.agent, service.configuration.own.model.id))
        data = [{"id": name, "object": "model", "created": 0, "owned_by": service.agent} for name in names]
        return json_response({"object": "list", "data": data})

    async def healthz(self, _: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """Ready pods may have problems: they answer, but somebody should look."""
        if self._state.draining:
            reason, message = "Draining", "the pod is shutting down"
        elif self._state.service is None:
            reason, message = self._state.waiting_for
        else:
            problems = [problem.message for problem in self._state.service.problems]
            return json_response({"status": "ready"} | ({"problems": problems} if problems else {}))
        return json_response({"status": "not ready", "reason": reason, "message": message}, 503)

    async def served(self, _: Request) -> Response:
        return json_response(self._state.ready_service.told().to_wire())

    async def metrics(self, _: Request) -> Response:
        return Response(self._state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _question(request: Request, asked: ChatRequest | ResponsesRequest) -> Question:
    """What the body asks, and what the headers say beside it."""
    question = asked.question(_session(request), dry_run=_dry_run(request))
    return replace(question, request_key=request.headers.get(env.REQUEST_KEY_HEADER, ""))


def _session(request: Request) -> str | None:
    return request.headers.get(env.SESSION_HEADER, "")[:MAX_SESSION_CHARS] or None


def _dry_run(request: Request) -> bool:
    return request.headers.get(env.DRY_RUN_HEADER, "").lower() == "true"


async def _http_error(_: Request, error: Exception) -> Response:
    """Unknown paths and methods, in OpenAI's shape."""
    assert isinstance(error, HTTPException)  # noqa: S101 (starlette's handlers are not generic)
    body = error_body(error.detail, "invalid_request_error")
    return json_response(body, error.status_code, dict(error.headers or {}))


async def _hung_up(_: Request, __: Exception) -> Response:
    """The client left while it sent its body."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _internal_error(_: Request, error: Exception) -> Response:
    """Starlette logs the exception itself, with its trace."""
    body = error_body("internal error of the agent; its log says more", "api_error", type(error).__name__)
    return json_response(body, 500)


def _labelled(draining: Callable[[], bool], app: ASGIApp) -> ASGIApp:
    """Gives every answer its request's ID; while draining, asks clients to come back on a new connection,
    which will lead to another pod.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        identity = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        request_id.set(identity)

        async def send_labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = identity
                if draining():
                    headers["Connection"] = "close"
            await send(message)

        return await app(scope, receive, send_labelled)

    return wrapped
