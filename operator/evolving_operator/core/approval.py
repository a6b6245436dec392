"""A person's approval of a revision, and for how long it counts: it promotes once."""

from __future__ import annotations

from evolving_operator.api.models import Decision
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.situation import Situation

_AS_CREATED = 1


def is_approved(situation: Situation, revision: ObservedRevision) -> bool:
    """Whether a person approved it, and that has still to be acted upon."""
    is_news = revision.generation > decided_generation(situation, revision)
    return is_news and revision.spec.decision is Decision.APPROVED


def decided_generation(situation: Situation, revision: ObservedRevision) -> int:
    """Generation of the spec up to which its decisions have been acted upon.

    All are while it is served, and while it is a candidate that nobody has approved; where it was given up
    or taken back, those until then. What it was created with is nobody's word: it comes from a backup, and
    generations begin anew there.
    """
    status = situation.status
    recorded = min(revision.status.decided_generation or _AS_CREATED, revision.generation)
    is_active = status.active is not None and status.active.revision == revision.name
    is_candidate = status.candidate is not None and status.candidate.revision == revision.name
    if is_active or (is_candidate and revision.spec.decision is not Decision.APPROVED):
        return revision.generation
    rollout = status.rollout
    given_up = rollout.decided_generation if rollout and rollout.revision == revision.name else None
    return max(recorded, min(given_up or 0, revision.generation))
