"""Serving pods die by kill -9 under load, again and again: what was acknowledged is in the store.

TORTURE_KILLS says how often. Prints a table and writes docs/results/torture-agent.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path

from evolving_agent.curation.read import read_experience
from evolving_agent.testing.scripted_model import ScriptedModel, served
from support.cluster import REPOSITORY
from support.pods import Pod, a_config
from support.sudden_death import Ledger, live_and_die, read_ids

KILLS = int(os.environ.get("TORTURE_KILLS", "100"))
PODS = 2  # live and die at the same time, on one store
MOST_ANSWERS = 60  # of one life: some die young, in their first file's first lines
RESULTS = REPOSITORY / "docs" / "results" / "torture-agent.json"


async def test_no_acknowledged_answer_or_feedback_is_lost_at_kill_9(tmp_path: Path) -> None:
    chance = random.Random(KILLS)
    ledger = Ledger()

    async def lives(pod: Pod, deaths: int) -> None:
        own = Ledger()
        for _ in range(deaths):
            await live_and_die(pod, own, chance.randint(1, MOST_ANSWERS))
        ledger.answers |= own.answers
        ledger.feedback |= own.feedback

    async with served(ScriptedModel().app) as url:
        pods = [Pod(tmp_path, a_config(url), f"support-{number}") for number in range(PODS)]
        for pod in pods:
            pod.write_config()
        async with asyncio.TaskGroup() as running:
            for number, pod in enumerate(pods):
                running.create_task(lives(pod, len(range(number, KILLS, PODS))))

    store = pods[0].store
    episodes, torn_episodes = read_ids(store.episode_files)
    reflections, torn_reflections = read_ids(store.reflection_files)
    counts = {
        "kills": KILLS,
        "acknowledged": len(ledger.answers),
        "lost": len(ledger.answers - episodes),
        "acknowledged_feedback": len(ledger.feedback),
        "lost_feedback": len(ledger.feedback - reflections),
        "torn_lines": torn_episodes + torn_reflections,
    }
    print("\n| what | count |\n| --- | ---: |")
    print("\n".join(f"| {what} | {count} |" for what, count in counts.items()))
    command = f"TORTURE_KILLS={KILLS} .venv/bin/python -m pytest -s tests/torture/agent"
    RESULTS.write_text(json.dumps({"command": command, **counts}, indent=2) + "\n")

    assert counts["acknowledged"] >= KILLS
    assert counts["lost"] == 0
    assert counts["lost_feedback"] == 0
    assert counts["torn_lines"] <= 2 * KILLS  # the line that was being written, of each log
    assert len(store.episode_files) == KILLS  # no life writes on in a file that may end in a torn line

    # kill -9 hardly ever cuts a write in two, so one cut is made here: the reader passes over it
    with store.episode_files[-1].open("ab") as file:
        file.write(b'{"type":"episode","id":"chatcmpl-')
    experience = read_experience(store)
    assert {episode.id for episode in experience.episodes} == episodes
    assert {reflection.id for reflection in experience.reflections} == reflections
