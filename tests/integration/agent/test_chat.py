"""Chat over real HTTP: the official client, plain HTTP, streaming, errors."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from evolving_agent.testing.scripted_model import Reply

from tests.support.pods import running


async def test_the_official_client_gets_an_answer(make_pod: Any, upstream: Any) -> None:
    async with running(make_pod()) as pod, pod.client() as client:
        upstream.model.say(Reply(text="Hello there."))

        answer = await client.chat.completions.create(
            model="support", messages=[{"role": "user", "content": "Hi"}]
        )

        assert answer.choices[0].message.content == "Hello there."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model == "tiny"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 10
        (episode,) = pod.episodes()
        assert episode.id == answer.id
        assert (episode.answer, episode.arm, episode.error) == ("Hello there.", "active", None)
        assert episode.messages == [{"role": "user", "content": "Hi"}]
        assert answer.model_extra is not None
        assert answer.model_extra["evolving_agents"]["revision"] == "support-00000001"
