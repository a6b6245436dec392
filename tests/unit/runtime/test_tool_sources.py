"""Sources of functions, and the threads of blocking ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from evolving_agent.contract.tools import ToolEffect
from evolving_agent.runtime.tools import source as source_module
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition
from evolving_agent.runtime.tools.source import Source, SourceError
from evolving_agent.runtime.tools.threads import BusyError, DaemonThreads
from evolving_agent.runtime.trace import RunTrace


async def _nothing(_arguments: dict[str, object], _scope: RunScope) -> str:
    return ""


FUNCTION = ToolDefinition("look", "Looks.", {"type": "object"}, ToolEffect.READ, 1, _nothing)


class Server:
    """Fails as often as it is told to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked = 0
        self.seen: list[bool] = []
        self.source = Source("desk", self.load, self.seen.append)

    async def load(self) -> list[ToolDefinition]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        return [FUNCTION]


async def test_a_source_is_loaded_once_however_many_runs_wait_for_it() -> None:
    server = Server()
    await asyncio.gather(*(server.source.load() for _ in range(5)))

    assert server.source.loaded == [FUNCTION]
    assert (server.asked, server.seen, server.source.problem) == (1, [True], "")


async def test_after_a_failure_a_source_is_left_alone_for_a_while() -> None:
    server = Server(OSError("down"))
    await server.source.load()
    await server.source.load()

    assert server.source.loaded is None
    assert (server.asked, server.seen) == (1, [False])
    assert "down" in server.source.problem


async def test_a_source_that_comes_back_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "FIRST_PAUSE_SECONDS", 0.0)
    server = Server(OSError("down"), ExceptionGroup("several", [OSError("still down")]))
    for _ in range(3):
        await server.source.load()

    assert server.source.loaded == [FUNCTION]
    assert (server.seen, server.source.problem) == ([False, False, True], "")


async def test_what_is_broken_for_good_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "FIRST_PAUSE_SECONDS", 0.0)
    server = Server(SourceError("a typo in line 3", permanent=True))
    for _ in range(3):
        await server.source.load()

    assert server.asked == 1
    assert server.source.problem == "serving without the tools of desk: a typo in line 3"


async def test_later_attempts_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(source_module, "PATIENCE_SECONDS", 0.01)
    forever = asyncio.Event()

    class Hanging(Server):
        async def load(self) -> list[ToolDefinition]:
            if self.asked:
                await forever.wait()
            return await super().load()

    server = Hanging(OSError("down"))
    await server.source.load()
    await server.source.load()  # the request that begins the second attempt goes on without it

    assert server.source.loaded is None
    await server.source.close()


async def test_threads_give_results_and_errors() -> None:
    threads = DaemonThreads()

    assert await threads.run(threading.current_thread, "who") is not threading.current_thread()
    with pytest.raises(LookupError, match="no such thing"):
        await threads.run(_raising(LookupError("no such thing")), "raises")
    with pytest.raises(RuntimeError, match="SystemExit"):
        await threads.run(_raising(SystemExit(1)), "leaves")
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(_raising(StopIteration()), "stops")


async def test_threads_that_hang_are_given_up_and_bounded() -> None:
    threads, release = DaemonThreads(limit=2), threading.Event()
    hanging = [asyncio.create_task(threads.run(release.wait, "hangs")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="2 calls"):
        await threads.run(release.wait, "one too many")
    hanging[0].cancel()
    await asyncio.gather(hanging[0], return_exceptions=True)
    with pytest.raises(BusyError):  # given up, but it still runs
        await threads.run(release.wait, "one too many")

    release.set()
    assert await hanging[1] is True
    assert await threads.run(lambda: "free", "free") == "free"


def _raising(error: BaseException) -> Callable[[], str]:
    def work() -> str:
        raise error

    return work


def test_keys_differ_between_calls_and_repeat_with_the_request() -> None:
    def keys(request: str, episode: str) -> list[str]:
        scope = RunScope(RunTrace(), episode=episode, request_key=request)
        first = scope.idempotency_key("order", {"a": 1, "b": 2})
        return [first, scope.idempotency_key("order", {"b": 2, "a": 1}), scope.idempotency_key("order", {})]

    assert len(set(keys("", "e1"))) == 3  # the order of arguments is the same call, made again
    assert keys("r1", "e1") == keys("r1", "e2")
    assert not set(keys("", "e1")) & set(keys("", "e2"))
