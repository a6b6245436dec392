"""The model server of the measurement, a process: one answer, after the time that the
question names. Prints its URL.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

from benchmarks.agent.load import ANSWER, MODEL
from evolving_agent.testing.scripted_model import Reply, ScriptedModel, last_user_text, served

_TIME = re.compile(r"after (\d+) ms")


def _reply(body: dict[str, Any]) -> Reply:
    asked = _TIME.search(last_user_text(body))  # the agent's first question, whether it is there, names none
    return Reply(text=ANSWER, seconds=int(asked[1]) / 1000 if asked else 0.0)


async def main() -> None:
    model = ScriptedModel(_reply, [MODEL])
    async with served(model.app) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
