"""An OpenAI-compatible provider for tests and demos: chat, files and fine-tuning, in memory.

    python -m evolving_agent.testing.provider --port 8080

What it fine-tunes really answers as its training file taught (`taught_model`). `/control` injects faults
and counts what was asked of it:

    GET  /control/counters  how often what was asked
    POST /control           sets the faults named in the JSON body (see `Faults`), leaves the others
    POST /control/reset     no faults; counters, files, jobs and models stay
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from evolving_agent.testing.taught_model import UNTAUGHT_ANSWER, Answer, TaughtModel, TrainingFileError

Area = Literal["chat", "files", "jobs", "models"]
TERMINAL = {"succeeded", "failed", "cancelled"}


class Faults(BaseModel):
    """What goes wrong from now on. `errors_*` answer the next `errors_count` requests of an area."""

    model_config = ConfigDict(extra="forbid")

    outage: bool = False  # every request of the API is answered 503
    latency_seconds: float = 0.0
    errors_area: Area = "chat"
    errors_status: int = 500
    errors_count: int = 0
    commit_then_fail: int = 0  # the next job creations are carried out, and answered 500
    fail_next_job: str = ""  # the next job fails with this message
    training_not_available: bool = False  # job creation is answered 403
    degrade: str = ""  # this model answers wrongly; "*" means all
    gone: str = ""  # this model is answered 404
    job_seconds: float = 1.0  # from creation to success


class ProviderError(Exception):
    """An error in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None,
        kind: str = "invalid_request_error",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


# What "auto", or nothing, comes to.
_COMMON_DEFAULTS: dict[str, Any] = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0}
_METHOD_DEFAULTS = {"supervised": _COMMON_DEFAULTS, "dpo": _COMMON_DEFAULTS | {"beta": 0.1}}
_MOST_BETA = 2


def _method_of(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The training method that a job's creation asks for, and its hyperparameters. Raises ProviderError."""
    method = body.get("method") or {"type": "supervised"}
    name = method.get("type")
    if name not in _METHOD_DEFAULTS:
        raise _invalid(
            "method.type", f"Invalid value: '{name}'. Supported values are: 'supervised' and 'dpo'."
        )
    if other := sorted(method.keys() - {"type", name}):
        raise _invalid(f"method.{other[0]}", f"'{other[0]}' is not allowed with method '{name}'.")
    given = (method.get(name) or {}).get("hyperparameters") or body.get("hyperparameters") or {}
    defaults, path = _METHOD_DEFAULTS[name], f"method.{name}.hyperparameters"
    chosen = dict(defaults)
    for key, value in given.items():
        if key not in defaults:
            raise _invalid(f"{path}.{key}", f"Unknown parameter: '{path}.{key}'.", "unknown_parameter")
        if value == "auto":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise _invalid(f"{path}.{key}", f"Invalid value: {value!r}. Expected a number above 0.")
        if key == "beta" and value > _MOST_BETA:
            raise _invalid(f"{path}.{key}", f"Invalid value: {value!r}. Expected at most {_MOST_BETA}.")
        chosen[key] = value
    return name, chosen


def _invalid(param: str, message: str, code: str = "invalid_value") -> ProviderError:
    return ProviderError(400, message, code, param=param)


@dataclass
class StoredFile:
    id: str
    filename: str
    purpose: str
    content: bytes
    created: int

    def to_wire(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass
class Job:
    """A fine-tuning job. Its status follows the clock whenever somebody looks."""

    id: str
    model: str
    training_file: str
    suffix: str
    metadata: dict[str, str]
    method: str
    hyperparameters: dict[str, Any]
    seed: int
    created: float
    seconds: float
    fails_with: str
    status: str = "validating_files"
    finished: float | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    error: dict[str, Any] | None = None
    events: list[tuple[float, str]] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "fine_tuning.job",
            "created_at": int(self.created),
            "finished_at": int(self.finished) if self.finished is not None else None,
            "model": self.model,
            "fine_tuned_model": self.fine_tuned_model,
            "organization_id": "org-test",
            "result_files": [],
            "status": self.status,
            "training_file": self.training_file,
            "validation_file": None,
            "hyperparameters": {name: self.hyperparameters[name] for name in _COMMON_DEFAULTS},
            "method": {"type": self.method, self.method: {"hyperparameters": self.hyperparameters}},
            "trained_tokens": self.trained_tokens,
            "error": self.error,
            "seed": self.seed,
            "metadata": self.metadata,
            "user_provided_suffix": self.suffix or None,
        }


class Provider:
    """The provider's state and its HTTP handlers."""

    def __init__(self, base_models: list[str], job_seconds: float = 1.0) -> None:
        self.faults = Faults(job_seconds=job_seconds)
        self._default_job_seconds = job_seconds
        self.counters: Counter[str] = Counter()
        self._models = {name: TaughtModel() for name in base_models}
        self._files: dict[str, StoredFile] = {}
        self._jobs: dict[str, Job] = {}
        self._numbers = itertools.count(1)

    # --- control ---------------------------------------------------------------------------------

    async def show_counters(self, _: Request) -> Response:
        return JSONResponse({"fine_tuning_jobs_created": 0, "files_created": 0} | self.counters)

    async def set_control(self, request: Request) -> Response:
        wanted = self.faults.model_dump() | await request.json()
        try:
            self.faults = Faults.model_validate(wanted)
        except ValidationError as problem:
            return PlainTextResponse(str(problem), status_code=400)
        return JSONResponse(self.faults.model_dump())

    async def reset_control(self, _: Request) -> Response:
        self.faults = Faults(job_seconds=self._default_job_seconds)
        return JSONResponse(self.faults.model_dump())

    async def guarded(
        self, area: Area, request: Request, handle: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Counts a request of the API, lets the faults in force happen, and shapes errors."""
        self.counters["requests"] += 1
        self.counters[f"requests_{area}"] += 1
        try:
            if self.faults.outage:
                raise ProviderError(503, "The server is overloaded or not ready yet.", None, "server_error")
            if self.faults.errors_count > 0 and area == self.faults.errors_area:
                self.faults.errors_count -= 1
                code = "rate_limit_exceeded" if self.faults.errors_status == 429 else None
                raise ProviderError(self.faults.errors_status, "An injected error.", code, "server_error")
            response = await handle(request)
        except ProviderError as error:
            response = JSONResponse(error.body, status_code=error.status)
        # The work is done by now: a client that gives up while it waits does not undo it.
        await asyncio.sleep(self.faults.latency_seconds)
        return response

    # --- models and chat -------------------------------------------------------------------------

    async def list_models(self, _: Request) -> Response:
        self._advance_jobs()
        names = [name for name in self._models if name != self.faults.gone]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def delete_model(self, request: Request) -> Response:
        """Only fine-tuned ones can be deleted, as at the original."""
        name = request.path_params["model"]
        self._advance_jobs()
        if name not in self._models:
            raise ProviderError(404, f"The model '{name}' does not exist", "model_not_found")
        if not name.startswith("ft:"):
            raise ProviderError(403, f"You have insufficient permissions to delete '{name}'.", None)
        del self._models[name]
        self.counters["models_deleted"] += 1
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self._advance_jobs()
        name = body.get("model", "")
        if name not in self._models or name == self.faults.gone:
            raise ProviderError(404, f"The model `{name}` does not exist.", "model_not_found")
        self.counters[f"chat:{name}"] += 1
        offered = frozenset(
            tool["function"]["name"] for tool in body.get("tools") or () if "function" in tool
        )
        if self.faults.degrade in (name, "*"):
            answer = Answer(UNTAUGHT_ANSWER)
        else:
            answer = self._models[name].answer(body["messages"], offered)
        prompt_tokens = sum(len(str(message.get("content") or "").split()) for message in body["messages"])
        completion = _Completion(f"chatcmpl-{next(self._numbers)}", name, answer, prompt_tokens)
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            return StreamingResponse(completion.events(with_usage), media_type="text/event-stream")
        return JSONResponse(completion.whole())

    # --- files -----------------------------------------------------------------------------------

    async def create_file(self, request: Request) -> Response:
        async with request.form() as form:
            upload = form["file"]
            if not isinstance(upload, UploadFile):
                raise ProviderError(400, "'file' must be a file", None)
            stored = StoredFile(
                id=f"file-{next(self._numbers)}",
                filename=upload.filename or "",
                purpose=str(form.get("purpose", "")),
                content=await upload.read(),
                created=int(time.time()),
            )
        self._files[stored.id] = stored
        self.counters["files_created"] += 1
        return JSONResponse(stored.to_wire())

    async def list_files(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose")
        newest_first = [f for f in reversed(self._files.values()) if purpose in (None, f.purpose)]
        return _page(request, [(file.id, file.to_wire()) for file in newest_first])

    async def show_file(self, request: Request) -> Response:
        return JSONResponse(self._file(request.path_params["file"]).to_wire())

    async def file_content(self, request: Request) -> Response:
        return Response(self._file(request.path_params["file"]).content)

    async def delete_file(self, request: Request) -> Response:
        file = self._file(request.path_params["file"])
        del self._files[file.id]
        self.counters["files_deleted"] += 1
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    def _file(self, file_id: str) -> StoredFile:
        if file_id not in self._files:
            raise ProviderError(404, f"No such File object: {file_id}", "file_not_found")
        return self._files[file_id]

    # --- fine-tuning -----------------------------------------------------------------------------

    async def create_job(self, request: Request) -> Response:
        body = await request.json()
        if self.faults.training_not_available:
            raise ProviderError(
                403, "Fine-tuning is not available to this organization.", "training_not_available"
            )
        if body.get("model") not in self._models:
            raise ProviderError(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
        self._file(body.get("training_file", ""))
        method, hyperparameters = _method_of(body)
        job = Job(
            id=f"ftjob-{next(self._numbers)}",
            model=body["model"],
            training_file=body["training_file"],
            suffix=body.get("suffix") or "",
            metadata=body.get("metadata") or {},
            method=method,
            hyperparameters=hyperparameters,
            seed=body.get("seed") or 0,
            created=time.time(),
            seconds=self.faults.job_seconds,
            fails_with=self.faults.fail_next_job,
        )
        job.events.append((job.created, "Created fine-tuning job"))
        self.faults.fail_next_job = ""
        self._jobs[job.id] = job
        self.counters["fine_tuning_jobs_created"] += 1
        if self.faults.commit_then_fail > 0:
            self.faults.commit_then_fail -= 1
            raise ProviderError(500, "The server had an error.", None, "server_error")
        return JSONResponse(job.to_wire())

    async def list_jobs(self, request: Request) -> Response:
        self._advance_jobs()
        wanted = {
            name.removeprefix("metadata[").removesuffix("]"): value
            for name, value in request.query_params.items()
            if name.startswith("metadata[")
        }
        jobs = [job for job in reversed(self._jobs.values()) if wanted.items() <= job.metadata.items()]
        return _page(request, [(job.id, job.to_wire()) for job in jobs])

    async def show_job(self, request: Request) -> Response:
        return JSONResponse(self._job(request).to_wire())

    async def cancel_job(self, request: Request) -> Response:
        job = self._job(request)
        if job.status in TERMINAL:
            raise ProviderError(400, f"Job has already {job.status}.", "job_not_cancellable")
        job.status, job.finished = "cancelled", time.time()
        self.counters["fine_tuning_jobs_cancelled"] += 1
        return JSONResponse(job.to_wire())

    async def job_events(self, request: Request) -> Response:
        job = self._job(request)
        rows = [
            (
                f"{job.id}-{number}",
                {
                    "id": f"{job.id}-{number}",
                    "object": "fine_tuning.job.event",
                    "created_at": int(at),
                    "level": "info",
                    "message": message,
                    "type": "message",
                },
            )
            for number, (at, message) in reversed(list(enumerate(job.events)))
        ]
        return _page(request, rows)

    def _job(self, request: Request) -> Job:
        self._advance_jobs()
        job = self._jobs.get(request.path_params["job"])
        if job is None:
            raise ProviderError(404, "No such fine-tuning job", "fine_tune_not_found")
        return job

    def _advance_jobs(self) -> None:
        now = time.time()
        for job in self._jobs.values():
            if job.status in TERMINAL:
                continue
            elapsed = now - job.created
            if elapsed < job.seconds:
                job.status = "running" if elapsed > job.seconds / 3 else "validating_files"
            elif job.fails_with:
                self._fail(job, now, "job_failed", job.fails_with)
            else:
                self._finish(job, now)

    def _finish(self, job: Job, now: float) -> None:
        content = self._file(job.training_file).content
        try:
            taught = TaughtModel.from_file(content, job.method)
        except TrainingFileError as problem:
            message = f"The job failed due to an invalid training file. Invalid file format. {problem}"
            self._fail(job, now, "invalid_training_file", message, "training_file")
            return
        base = job.model.removeprefix("ft:").split(":")[0]
        job.fine_tuned_model = f"ft:{base}:test:{job.suffix}:{job.id.removeprefix('ftjob-')}"
        job.trained_tokens = len(content) // 4 * job.hyperparameters["n_epochs"]
        job.status, job.finished = "succeeded", now
        job.events.append((now, "The job has successfully completed"))
        self._models[job.fine_tuned_model] = taught

    def _fail(self, job: Job, now: float, code: str, message: str, param: str | None = None) -> None:
        job.status, job.finished = "failed", now
        job.error = {"code": code, "message": message, "param": param}
        job.events.append((now, message))


@dataclass(frozen=True)
class _Completion:
    id: str
    model: str
    answer: Answer
    prompt_tokens: int

    @property
    def _finish_reason(self) -> str:
        return "tool_calls" if self.answer.tool_calls else "stop"

    def _tool_calls(self) -> list[dict[str, Any]]:
        return [
            {
                "id": f"call_{self.id}_{number}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for number, (name, arguments) in enumerate(self.answer.tool_calls)
        ]

    def _usage(self) -> dict[str, int]:
        said = (self.answer.content or "", *(arguments for _, arguments in self.answer.tool_calls))
        completion = sum(len(text.split()) for text in said)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.answer.content}
        if self.answer.tool_calls:
            message["tool_calls"] = self._tool_calls()
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason, "logprobs": None}
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [choice],
            "usage": self._usage(),
        }

    async def events(self, with_usage: bool) -> AsyncIterator[str]:
        """The same as server-sent events: the text word by word, a tool call's arguments after its name."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in _pieces(self.answer.content or "")]
        for index, call in enumerate(self._tool_calls()):
            arguments = call["function"]["arguments"]
            opening = call | {"index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
            deltas.append({"tool_calls": [opening]})
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
        for delta in deltas:
            yield self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])
        yield self._chunk([{"index": 0, "delta": {}, "finish_reason": self._finish_reason}])
        if with_usage:
            yield self._chunk([], self._usage())
        yield "data: [DONE]\n\n"

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.model,
            "choices": choices,
            "usage": usage,
        }
        return f"data: {json.dumps(chunk)}\n\n"


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)] if text else []


def _page(request: Request, rows: list[tuple[str, dict[str, Any]]]) -> Response:
    """One page of a list, newest first, by the API's `after` and `limit`."""
    after, limit = request.query_params.get("after"), int(request.query_params.get("limit", "20"))
    start = next((number + 1 for number, (row_id, _) in enumerate(rows) if row_id == after), 0)
    data = [row for _, row in rows[start : start + limit]]
    return JSONResponse({"object": "list", "data": data, "has_more": start + limit < len(rows)})


def application(provider: Provider) -> Starlette:
    """The ASGI application around a provider's state."""

    def api(path: str, method: str, area: Area, handle: Callable[[Request], Awaitable[Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await provider.guarded(area, request, handle)

        return Route(f"/v1{path}", endpoint, methods=[method])

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/control/counters", provider.show_counters),
            Route("/control", provider.set_control, methods=["POST"]),
            Route("/control/reset", provider.reset_control, methods=["POST"]),
            api("/models", "GET", "models", provider.list_models),
            api("/models/{model}", "DELETE", "models", provider.delete_model),
            api("/chat/completions", "POST", "chat", provider.chat),
            api("/files", "POST", "files", provider.create_file),
            api("/files", "GET", "files", provider.list_files),
            api("/files/{file}", "GET", "files", provider.show_file),
            api("/files/{file}/content", "GET", "files", provider.file_content),
            api("/files/{file}", "DELETE", "files", provider.delete_file),
            api("/fine_tuning/jobs", "POST", "jobs", provider.create_job),
            api("/fine_tuning/jobs", "GET", "jobs", provider.list_jobs),
            api("/fine_tuning/jobs/{job}", "GET", "jobs", provider.show_job),
            api("/fine_tuning/jobs/{job}/cancel", "POST", "jobs", provider.cancel_job),
            api("/fine_tuning/jobs/{job}/events", "GET", "jobs", provider.job_events),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible provider for tests, in memory.")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - it runs in a pod
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--model", action="append", help="name of a base model (repeatable; default: base-model)"
    )
    parser.add_argument("--job-seconds", type=float, default=1.0, help="how long a fine-tuning job takes")
    options = parser.parse_args()
    provider = Provider(options.model or ["base-model"], options.job_seconds)
    uvicorn.run(application(provider), host=options.host, port=options.port, ws="none", log_level="warning")


if __name__ == "__main__":
    main()
