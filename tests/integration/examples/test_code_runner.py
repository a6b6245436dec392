"""examples/code-runner: programs of a model run for real, and are kept from everything else."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from evolving_agent.testing.scripted_model import Reply, ScriptedModel, served
from support.examples import config_of, load
from support.pods import Pod, running

code_runner = load("code-runner/code_runner.py")
sandbox = load("code-runner/sandbox.py")


async def run(code: str) -> str:
    """In a process of its own; the wall clock is of no interest on a busy machine."""
    result: str = await code_runner.run_program(code, wall_seconds=120)
    return result


async def test_the_agent_runs_a_program(model: tuple[ScriptedModel, str], tmp_path: Path) -> None:
    script, url = model
    app = code_runner.build_app()
    async with app.router.lifespan_context(app), served(app) as service:
        config = config_of("code-runner/agent.yaml", url, {"http://code-runner": service})
        async with running(Pod(tmp_path, config)) as pod:
            script.say(
                Reply(calls=(("run_python", {"code": "print(sum(n * n for n in range(1000)))"}),)),
                Reply(calls=(("run_python", {"code": "1 / 0"}),)),
                Reply(text="332833500"),
            )
            await pod.ask("What is the sum of the first thousand squares?")
            script.say(Reply(calls=(("run_python", {"code": "print(6 * 7)"}),)), Reply(text="42"))
            await pod.ask("And 6 times 7?", **{"X-Evolving-Dry-Run": "true"})

    good, bad = pod.episodes()[0].tool_calls
    assert good.result == "332833500\n"
    assert "ZeroDivisionError" in (bad.result or "")
    assert script.requests[-1]["messages"][-1]["content"] == "42\n"  # it reads: a dry run calls it


async def test_the_server_answers_under_the_name_of_its_service() -> None:
    app = code_runner.build_app()
    initialize = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    async with app.router.lifespan_context(app), served(app) as service, httpx.AsyncClient() as client:
        response = await client.post(
            f"{service}/mcp",
            json=initialize,
            headers={"Host": "code-runner", "Accept": "application/json, text/event-stream"},
        )

    assert response.status_code == 200
    assert "code-runner" in response.text


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import ctypes; n = ctypes.CDLL(None, use_errno=True).unshare(0x10000000); "
        "raise PermissionError(ctypes.get_errno()) if n else SystemExit('it could')",
    ],
    ids=["network", "fork", "subprocess", "kill", "unshare"],
)
async def test_the_kernel_refuses(code: str) -> None:
    output = await run(code)
    assert "PermissionError" in output
    assert "Ended with status 1" in output


async def test_threads_are_refused() -> None:
    output = await run("import threading; threading.Thread(target=print).start()")
    assert "can't start new thread" in output


async def test_there_is_no_environment_and_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "s3cret")
    first = await run(
        "import os; print(dict(os.environ), os.listdir()); open('left', 'w').write('x')\n"
        "print(os.path.basename(os.getcwd()))"
    )
    assert "s3cret" not in first
    assert "[]" in first
    assert first.splitlines()[-1] not in await run("import os; print(os.listdir('..'))")
    assert os.environ["A_SECRET"] == "s3cret"


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("while True: pass", "signal 9"),
        ("x = bytearray(10**9)", "MemoryError"),
        ("open('big', 'wb').write(bytes(2 * 2**20))", "File too large"),
        ("[open('/dev/null') for _ in range(100)]", "Too many open files"),
        ("while True: print('word ' * 1000)", "more than 65536 bytes of output"),
    ],
    ids=["cpu", "memory", "file", "files", "output"],
)
async def test_resources_are_limited(code: str, end: str) -> None:
    assert end in await run(code)


async def test_a_program_that_sleeps_is_stopped() -> None:
    assert (
        await code_runner.run_program("import time; time.sleep(3600)", wall_seconds=0.5)
        == "Stopped after 0.5 s."
    )


async def test_a_program_that_is_too_long_is_not_run() -> None:
    assert "Not run" in await run("#" * 70_000)


def test_no_program_runs_where_the_system_calls_are_unknown() -> None:
    with pytest.raises(RuntimeError, match="riscv64"):
        sandbox.filter_program("riscv64")
    assert len(sandbox.filter_program("aarch64")) % 8 == 0
