"""Episodes are found again, by whichever pod is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolving_agent.store.experience_log import ExperienceLog, find_episode, new_episode_id
from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import Episode, ToolCall
from support.journals import Observed


def an_episode(identity: str) -> Episode:
    return Episode(
        id=identity,
        time="2030-01-01T00:00:00Z",
        agent="support",
        revision="support-00000001",
        model="tiny",
        arm="active",
        messages=[{"role": "user", "content": "Hi"}],
        system="You are.",
        tool_calls=[ToolCall(name="route", arguments={"team": "cards"}, result="ok")],
        answer="Hello",
    )


async def test_an_episode_is_found_again_by_its_id_from_any_pod(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    episode = an_episode(new_episode_id("support-6b9f.x-1"))
    log = ExperienceLog(layout, "support-6b9f.x-1", Observed())
    await log.append_episode(an_episode(new_episode_id("support-6b9f.x-1")))
    await log.append_episode(episode)
    assert await log.episode(episode.id) is episode
    await log.close()

    other = ExperienceLog(layout, "support-2", Observed())
    assert await other.episode(episode.id) == episode
    assert await other.episode(new_episode_id("support-6b9f.x-1")) is None
    await other.close()


@pytest.mark.parametrize(
    "identity", ["", "x", "chatcmpl-../../etc-1700000000000deadbeef", "chatcmpl-pod-17deadbeef"]
)
def test_an_id_that_none_of_ours_is_finds_nothing(tmp_path: Path, identity: str) -> None:
    assert find_episode(StoreLayout(tmp_path), identity) is None


async def test_torn_and_foreign_lines_do_not_hide_an_episode(tmp_path: Path) -> None:
    layout = StoreLayout(tmp_path)
    episode = an_episode(new_episode_id("pod"))
    log = ExperienceLog(layout, "pod", Observed())
    await log.append_episode(episode)
    await log.close()
    (path,) = layout.episode_files
    good = path.read_bytes()
    path.write_bytes(b'{"type":"episode"\n\xff\xfe\n' + good[:40] + b"\n" + good + good[:60])

    assert find_episode(layout, episode.id) == episode
