"""`POST /v1/feedback`: a person's word on an answer, as a reflection on its episode."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evolving_agent.runtime.reflection import new_reflection_id, query_of
from evolving_agent.store.records import (
    Correction,
    Episode,
    ReflectionRecord,
    ReflectionSource,
    utc_now,
)

GOOD_SCORE = 50  # from here on an answer counts as a success


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt field would be lost feedback


class CorrectTool(_Body):
    name: str = Field(min_length=1)
    arguments: dict[str, Any] = {}


class FeedbackCorrection(_Body):
    answer: str | None = None
    tool: CorrectTool | None = None

    @model_validator(mode="after")
    def _corrects_something(self) -> Self:
        if self.answer is None and self.tool is None:
            raise ValueError("a correction needs answer or tool")
        return self


class Feedback(_Body):
    """At least one of score, thumbs, comment and correction."""

    completion_id: str
    score: int | None = Field(default=None, ge=0, le=100)
    thumbs: Literal["up", "down"] | None = None
    comment: str = ""
    correction: FeedbackCorrection | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.score is None and self.thumbs is None and not self.comment and self.correction is None:
            raise ValueError("feedback needs at least one of score, thumbs, comment and correction")
        return self

    @property
    def effective_score(self) -> int | None:
        if self.score is None and self.thumbs is not None:
            return 100 if self.thumbs == "up" else 0
        return self.score

    @property
    def outcome(self) -> str:
        if self.correction is not None:
            return "failure"
        score = self.effective_score
        if score is None:
            return "unknown"
        return "success" if score >= GOOD_SCORE else "failure"

    def on(self, episode: Episode) -> ReflectionRecord:
        correction = None
        if self.correction is not None:
            tool = self.correction.tool
            correction = Correction(
                answer=self.correction.answer,
                tool_name=tool.name if tool else None,
                tool_arguments=tool.arguments if tool else None,
            )
        return ReflectionRecord(
            id=new_reflection_id(),
            episode=episode.id,
            time=utc_now(),
            agent=episode.agent,
            revision=episode.revision,
            source=ReflectionSource.FEEDBACK,
            query=query_of(episode),
            outcome=self.outcome,
            score=self.effective_score,
            tool_trace=episode.tool_calls,
            answer=episode.answer,
            correction=correction,
            comment=self.comment,
        )
