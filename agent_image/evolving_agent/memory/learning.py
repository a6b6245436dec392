"""What a reflection leaves in memory: its lesson, and what would have been the right answer."""

from __future__ import annotations

import json

from evolving_agent.memory.graph import Memory
from evolving_agent.store.records import Correction, ReflectionRecord, ReflectionSource


async def learn_from(memory: Memory, reflection: ReflectionRecord) -> None:
    """Enters it at once, for all pods of the agent. Raises MemoryUnavailableError."""
    if reflection.correction is not None and (answer := _as_text(reflection.correction)):
        await memory.correct(
            reflection.query,
            answer,
            source=reflection.episode,
            certain=reflection.source is ReflectionSource.FEEDBACK,
        )
    if reflection.lesson:
        await memory.learn(
            reflection.task_type, reflection.lesson, reflection.query, source=reflection.episode
        )


def _as_text(correction: Correction) -> str:
    parts = []
    if correction.tool_name is not None:
        arguments = json.dumps(correction.tool_arguments or {}, ensure_ascii=False)
        parts.append(f"call {correction.tool_name} with {arguments}")
    if correction.answer:
        parts.append(correction.answer)
    return "; ".join(parts)
