"""An MCP server with one tool, `run_python`: runs a program in a sandbox and tells what it printed.

Each program is a process of its own (see sandbox.py) with an empty environment, an empty temporary directory
that is deleted afterwards, and a time limit. One runs at a time: programs of two users never see each other's
files.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import tempfile
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.types import ToolAnnotations
from starlette.applications import Starlette

SANDBOX = Path(__file__).with_name("sandbox.py")
WALL_SECONDS = 10.0
MAX_OUTPUT_BYTES = 64 * 1024
MAX_CODE_BYTES = 64 * 1024
_PR_SET_DUMPABLE = 4


async def run_program(code: str, wall_seconds: float = WALL_SECONDS) -> str:
    """What the program printed, and how it ended where it did not end well."""
    if len(code.encode()) > MAX_CODE_BYTES:
        return f"Not run: the program is longer than {MAX_CODE_BYTES} bytes."
    with tempfile.TemporaryDirectory() as directory:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-B", str(SANDBOX)),
            cwd=directory,
            env={},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(wall_seconds):
                output, too_long = await _talk(process, code.encode())
                status = await process.wait() if not too_long else None
        except TimeoutError:
            return f"Stopped after {wall_seconds:g} s."
        finally:
            if process.returncode is None:
                process.kill()  # it could start no other process
            await process.wait()
    text = output.decode(errors="replace")
    if too_long:
        return f"{text}\nStopped: more than {MAX_OUTPUT_BYTES} bytes of output."
    if status and status < 0:
        return f"{text}\nStopped by signal {-status}: a limit of time, memory or file size."
    return f"{text}\nEnded with status {status}." if status else text or "(no output)"


async def _talk(process: asyncio.subprocess.Process, code: bytes) -> tuple[bytes, bool]:
    """The output up to its bound, and whether there was more."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process has no pipes")
    try:
        process.stdin.write(code)
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended before it read: its output says why
    process.stdin.close()
    output = b""
    while chunk := await process.stdout.read(65_536):
        output += chunk
        if len(output) > MAX_OUTPUT_BYTES:
            return output[:MAX_OUTPUT_BYTES], True
    return output, False


def build_app() -> Starlette:
    server = MCPServer("code-runner")
    one_at_a_time = asyncio.Lock()

    # it changes nothing outside of itself: evaluations and shadow runs may call it
    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def run_python(code: str) -> str:
        """Runs a Python program (standard library, no network, 5 s, 256 MiB) and gives what it prints."""
        async with one_at_a_time:
            return await run_program(code)

    # stateless: any replica answers; the host says that names other than localhost are welcome
    return server.streamable_http_app(stateless_http=True, host="0.0.0.0")  # noqa: S104


def keep_programs_out() -> None:
    """Makes this process's memory and environment unreadable for the programs, which run as the same user."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    keep_programs_out()
    uvicorn.run(build_app(), host="0.0.0.0", port=8000, log_level="warning")  # noqa: S104 -- a pod serves its Service
