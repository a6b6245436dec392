"""What a decision consists of: actions in the order in which they are to be taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ObjectRef:
    """Names one object. With a `uid`, an object of the same name that came later is not meant."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str | None = None


@dataclass(frozen=True)
class Apply:
    """Make the live object like this one: all of it, by server-side apply."""

    manifest: Manifest
    corrects: tuple[str, ...] = ()  # the drifted fields, where it does nothing else than to set them right
    is_required: bool = False  # where the API server refuses it, the rest of the plan does not follow
    is_new: bool = False  # none of the agent's is known: an object of this name may be somebody else's
    otherwise: Manifest | None = None  # applied where the API server refuses the manifest, which is told


@dataclass(frozen=True)
class Create:
    """Create it once; where it exists already, that is as good. Names are deterministic: they are locks."""

    manifest: Manifest
    is_required: bool = False  # where the API server refuses it, the rest of the plan does not follow


@dataclass(frozen=True)
class Delete:
    """Delete it; where it is gone already, that is as good."""

    ref: ObjectRef

    @property
    def names(self) -> tuple[str, str]:
        """Kind and name of what is to go."""
        return self.ref.kind, self.ref.name


@dataclass(frozen=True)
class WriteStatus:
    """Apply a status. The manifest names the resourceVersion that was decided upon: a stale one conflicts."""

    manifest: Manifest


Action = Apply | Create | Delete | WriteStatus


@dataclass(frozen=True)
class Counting:
    """Pods that are asked how their live requests end, and what is wrong with them."""

    pods: tuple[tuple[str, str], ...]  # name and address
    every_seconds: float
    at_once: bool = True  # else at some time within the first `every_seconds`: not all agents' at once


@dataclass(frozen=True)
class Plan:
    """Actions in order: after a failed one, none of the rest is taken. No actions: converged."""

    actions: tuple[Action, ...] = ()
    requeue_at: datetime | None = None
    counting: Counting | None = None
