"""A person's approval of a revision, and for how long it counts: it promotes once."""

from __future__ import annotations

from evolving_operator.api.models import Decision, RevisionState
from evolving_operator.core.observed import ObservedRevision
from evolving_operator.core.situation import Situation

_RULED_OUT = frozenset({RevisionState.REJECTED, RevisionState.ROLLED_BACK})
_AT_REST = _RULED_OUT | {RevisionState.PREVIOUS, RevisionState.RETIRED}


def is_approved(situation: Situation, candidate: ObservedRevision) -> bool:
    """Whether a person approved the candidate, and not before it was last ruled out or replaced."""
    return candidate.spec.decision is Decision.APPROVED and not is_spent_here(situation, candidate)


def is_spent_here(situation: Situation, candidate: ObservedRevision) -> bool:
    """Whether the candidate's approval is of a time before this candidacy."""
    current = situation.status.evaluation
    if current is None or current.revision != candidate.name or current.decided_generation is None:
        return False
    is_old = candidate.generation <= current.decided_generation
    return is_old and candidate.spec.decision is Decision.APPROVED


def spent_generation(revision: ObservedRevision | None) -> int | None:
    """Generation of the spec whose decision counts no more, where a revision becomes the candidate again."""
    if revision is None or revision.status.state not in _AT_REST:
        return None
    return revision.status.decided_generation


def is_asked_back(revision: ObservedRevision) -> bool:
    """Whether a person approved it after it had been ruled out or replaced: it is to serve (again)."""
    decided = spent_generation(revision)
    is_news = decided is not None and revision.generation > decided
    return is_news and revision.spec.decision is Decision.APPROVED


def is_spent(revision: ObservedRevision) -> bool:
    """Whether it was approved, and ruled out after that."""
    is_ruled_out = revision.status.state in _RULED_OUT and not is_asked_back(revision)
    return is_ruled_out and revision.spec.decision is Decision.APPROVED
