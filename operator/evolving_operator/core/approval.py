"""A person's approval of a revision, and for how long it counts."""

from __future__ import annotations

from evolving_operator.api.models import Decision
from evolving_operator.core.observed import ObservedRevision


def is_approved(revision: ObservedRevision) -> bool:
    """Whether an approval has still to be acted upon: it promotes once, and not what it did not mean.

    `status.decidedGeneration` follows the spec's generation while the revision is served, while it is a
    candidate that nobody has approved, and when an approved candidate's trial goes wrong.
    """
    decided = revision.status.decided_generation or 0
    return revision.spec.decision is Decision.APPROVED and revision.generation > decided
