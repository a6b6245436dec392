"""What people have without this project, a process: `Runner.run` of the Agents SDK, and nothing around it.

Reads one load per line (JSON) from standard input, drives it, answers with one line of samples.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict

import openai
from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled

from benchmarks.agent.load import INSTRUCTIONS, MODEL, Answer, Load, drive
from evolving_agent.chat.items import ResponseTextDeltaEvent


async def main(model_url: str) -> None:
    set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=f"{model_url}/v1", api_key="any")
    agent = Agent(name="support", instructions=INSTRUCTIONS, model=OpenAIChatCompletionsModel(MODEL, client))

    async def ask(load: Load) -> Answer:
        if not load.stream:
            return Answer(str((await Runner.run(agent, load.question)).final_output))
        first_piece = None
        streamed = Runner.run_streamed(agent, load.question)
        async for event in streamed.stream_events():
            if (
                first_piece is None
                and event.type == "raw_response_event"
                and isinstance(event.data, ResponseTextDeltaEvent)
                and event.data.delta
            ):
                first_piece = time.perf_counter()
        return Answer(str(streamed.final_output), first_piece)

    while line := await asyncio.to_thread(sys.stdin.readline):
        samples = await drive(Load(**json.loads(line)), ask)
        sys.stdout.write(json.dumps(asdict(samples)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
