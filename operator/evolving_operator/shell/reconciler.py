"""Observe, decide, execute: for one agent at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from evolving_operator.api import names
from evolving_operator.api.models import AgentRevisionStatus, EvolvingAgentStatus
from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    NameTaken,
    NotFound,
    NotServed,
    Refused,
)
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.cluster.kinds import AGENT, kind_of
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.builders.context import Images
from evolving_operator.core.children import gives_owner
from evolving_operator.core.clock import Timers
from evolving_operator.core.debts import decide_debts, served_by
from evolving_operator.core.decide import decide, undecided
from evolving_operator.core.health import CONTESTED_AFTER
from evolving_operator.core.observed import Correction, Heard, Observed, ObservedAgent, Refusal
from evolving_operator.core.ownership import owned_fields
from evolving_operator.core.plan import (
    Action,
    Apply,
    Counting,
    Create,
    Delete,
    Manifest,
    ObjectRef,
    Plan,
    WriteStatus,
)
from evolving_operator.core.reading import read_observed, read_orphaned, read_revisions
from evolving_operator.core.situation import applied_hash
from evolving_operator.shell.instructions import InstructionsReader

logger = logging.getLogger(__name__)

Raw = dict[str, Any]


class LiveTraffic(Protocol):
    """What pods tell themselves of their requests; nobody is asked but those that `follow` names."""

    def follow(self, key: AgentKey, counting: Counting | None) -> None: ...

    def heard(self, key: AgentKey) -> Mapping[str, Heard]: ...


class _Unheard:
    """For where no pod can be asked."""

    def follow(self, key: AgentKey, counting: Counting | None) -> None:
        pass

    def heard(self, key: AgentKey) -> Mapping[str, Heard]:
        return {}


AgentTransition = Callable[[AgentKey, EvolvingAgentStatus, EvolvingAgentStatus], None]
AgentEnd = Callable[[AgentKey], None]
RevisionTransition = Callable[[AgentKey, AgentRevisionStatus | None, AgentRevisionStatus], None]

_NAME_TAKEN = (
    "an object of this name is there that is not the agent's, or that is being deleted. Delete it; or give "
    "it the label {label}: {agent}, and it becomes the agent's, and goes with it."
)
# What the API server refused may be accepted later (a quota is raised, a policy removed).
_REFUSAL_RETRY = timedelta(seconds=10)
# Of an object whose creation was answered by nobody, the watch tells within seconds.
_TAKEN_GRACE = timedelta(seconds=30)
_TAKEN_RETRY_SECONDS = 1.0
# Of an agent that is gone, or about to go, the watch tells by then.
_GONE_RETRY_SECONDS = 1.0
# An agent that another installation looks after has as much news as one of our own.
_ASKED_AGAIN = timedelta(seconds=30)
# A child that somebody keeps changing is set right at once a few times, then later each time.
_FIRST_CORRECTION_DELAY = timedelta(seconds=10)
_LAST_CORRECTION_DELAY = timedelta(seconds=600)
_CORRECTIONS_ARE_FORGOTTEN_AFTER = timedelta(seconds=1800)
# What is set in place of a field of ours: both together are invalid.
_RIVALS: Mapping[str, Raw] = {"PodDisruptionBudget": {"minAvailable": None}}
_CLOCK_SLEW = timedelta(seconds=1)  # by so much a clock may be set back that is kept right
# Decisions in a row that wrote something. Three or four are usual.
_MOST_ROUNDS = 30
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 20.0


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    retry_at: datetime


@dataclass(frozen=True)
class _Corrected:
    correction: Correction
    at: datetime
    retry_at: datetime


class Reconciler:
    """Holds nothing that a restart would miss: all it knows is in the cache, and that in the cluster.

    Children that were just applied are about to be answered by their controllers. What there is to say of
    them waits for that, `patience` at most: it is said once, not once for each answer.
    """

    def __init__(
        self,
        gateway: Gateway,
        cache: Cache,
        images: Images,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        patience: timedelta = timedelta(0),
        traffic: LiveTraffic | None = None,
        on_agent: AgentTransition = lambda *_: None,
        on_revision: RevisionTransition = lambda *_: None,
        on_end: AgentEnd = lambda _: None,
    ) -> None:
        self._gateway = gateway
        self._cache = cache
        self._images = images
        self._clock = clock
        self._patience = patience
        self._traffic = traffic or _Unheard()
        self._on_agent = on_agent
        self._on_revision = on_revision
        self._on_end = on_end
        self._instructions = InstructionsReader(gateway)
        # By kind, name, and whether it was to be deleted.
        self._refused: dict[AgentKey, dict[tuple[str, str, bool], _Refused]] = {}
        self._corrected: dict[AgentKey, dict[tuple[str, str], _Corrected]] = {}
        self._applied_at: dict[AgentKey, datetime] = {}
        # Since when names cannot be had: by an object that the watch does not tell of as the agent's.
        self._taken: dict[AgentKey, dict[tuple[str, str], datetime]] = {}
        self._rounds: dict[AgentKey, int] = {}
        self._decided_upon: set[AgentKey] = set()
        self._looked_at = datetime.fromtimestamp(0, UTC)
        self._elsewhere: dict[AgentKey, datetime] = {}  # agents that others look after: when to ask again

    async def reconcile(self, key: AgentKey) -> float | None:
        """Bring one agent nearer to what it should be.

        Returns the seconds after which it is to be looked at again: 0 where something was done, since
        what was done may allow the next step; None where nothing is known to be due. Raises ClusterError.
        """
        now = self._clock()
        if now < self._looked_at - _CLOCK_SLEW:
            self._wait_no_longer(now)
        self._looked_at = now
        agent = self._cache.agent(key)
        await self._instructions.read(key, agent, now)
        observed = None if agent is None else self._observe(key, agent, now)
        if observed is None:
            self._corrected.pop(key, None)
            self._applied_at.pop(key, None)
            self._taken.pop(key, None)
            if key in self._decided_upon:  # not one that others look after, whenever something of it changes
                self._decided_upon.discard(key)
                self._on_end(key)
            plan = await self._plan_for_what_is_left(key, now)
        else:
            plan = await self._decided(key, observed, now)
            if gives_owner(observed, plan.actions) and not await self._is_there_to_stay(observed.agent):
                return _GONE_RETRY_SECONDS
        self._traffic.follow(key, plan.counting)
        deeds, words = _deeds_and_words(plan.actions)
        for action in deeds:
            if not await self._execute(key, observed, action):
                return 0.0
            if isinstance(action, Apply):
                # Since the first of them: what is written again and again may not keep all from being told.
                self._applied_at.setdefault(key, now)
        wait, pause = self._wait_for_answers(key, now), self._pause(key, plan)
        if words and wait > 0:
            return max(wait, pause)
        for action in words:
            if not await self._execute(key, observed, action):
                break
        if plan.actions:
            return max(pause, _TAKEN_RETRY_SECONDS) if self._nothing_came_of(key, plan.actions) else pause
        self._forget_what_is_over(key, now)
        due = [refused.retry_at for refused in self._refused.get(key, {}).values()]
        due += [corrected.retry_at for corrected in self._corrected.get(key, {}).values()]
        due += [moment for moment in (plan.requeue_at, self._instructions.due(key)) if moment is not None]
        coming = [(moment - now).total_seconds() for moment in due if moment > now]
        return min(coming) if coming else None

    def _wait_no_longer(self, now: datetime) -> None:
        """The clock has been set back: what was to be waited for until a time by the old one is due."""
        self._applied_at.clear()
        self._taken.clear()
        self._elsewhere.clear()
        self._instructions.read_anew()
        for refused in self._refused.values():
            refused |= {name: replace(item, retry_at=now) for name, item in refused.items()}
        for corrected in self._corrected.values():
            corrected |= {name: replace(item, at=now, retry_at=now) for name, item in corrected.items()}

    async def _decided(self, key: AgentKey, observed: Observed, now: datetime) -> Plan:
        """The decision. Where there can be none, the agent's status says so, and what happened is raised."""
        self._decided_upon.add(key)
        try:
            return decide(observed, now)
        except Exception as error:
            for action in undecided(observed, error, now).actions:
                await self._execute(key, observed, action)
            raise

    async def _is_there_to_stay(self, agent: ObservedAgent) -> bool:
        """Asked of the API server itself, where what the watch has told may be too old."""
        try:
            live = (await self._gateway.read(AGENT, agent.namespace, agent.name))["metadata"]
        except NotFound:
            return False
        return live["uid"] == agent.uid and "deletionTimestamp" not in live

    def _nothing_came_of(self, key: AgentKey, actions: Sequence[Action]) -> bool:
        """Whether all that was to be done was there already: the next decision would be the same."""
        created = {_named(action.manifest) for action in actions if isinstance(action, Create)}
        taken = {name: since for name, since in self._taken.pop(key, {}).items() if name in created}
        if taken:
            self._taken[key] = taken
        return all(isinstance(action, Create) and _named(action.manifest) in taken for action in actions)

    def _wait_for_answers(self, key: AgentKey, now: datetime) -> float:
        """Seconds until patience with the controllers of what was last applied is at its end."""
        if key not in self._applied_at:
            return 0.0
        wait = (self._applied_at[key] + self._patience - now).total_seconds()
        if wait <= 0:
            del self._applied_at[key]
        return wait

    def _pause(self, key: AgentKey, plan: Plan) -> float:
        """Seconds until the next decision, where each of many in a row has found something to write.

        An admission webhook may change what is written so that it never is what was asked for.
        """
        if not plan.actions:
            self._rounds.pop(key, None)
            return 0.0
        self._rounds[key] = self._rounds.get(key, 0) + 1
        more = self._rounds[key] - _MOST_ROUNDS
        if more < 0:
            return 0.0
        if more == 0:
            written = ", ".join(sorted({_object_of(action) for action in plan.actions}))
            extra = {"namespace": key[0], "agent": key[1], "objects": written}
            logger.warning("written again and again: does somebody change it on its way in?", extra=extra)
        return min(_LAST_PAUSE, _FIRST_PAUSE * float(1 << min(more, 20)))

    async def _plan_for_what_is_left(self, key: AgentKey, now: datetime) -> Plan:
        """Of an agent that is not known: it is gone, or another installation looks after it."""
        owned = self._cache.owned(key)
        debts, jobs = read_orphaned(owned)
        if not debts:
            self._elsewhere.pop(key, None)
            return Plan()
        asked_again = self._elsewhere.get(key)
        if asked_again is not None and now < asked_again:
            return Plan(requeue_at=asked_again)
        # By a list, which there is only where the kind is served: what is done about a debt cannot be undone.
        found, living = await self._gateway.find(AGENT, *key), frozenset[str | None]()
        if found is None:
            self._elsewhere.pop(key, None)
        else:
            uid = found["metadata"]["uid"]
            living = served_by(uid, read_revisions(owned, key[1], uid), jobs.values())
            self._elsewhere[key] = now + _ASKED_AGAIN
        timers = Timers(now)
        actions = tuple(decide_debts(debts, jobs, living, self._refusals(key, now), timers))
        return Plan(actions, timers.earliest)

    def _forget_what_is_over(self, key: AgentKey, now: datetime) -> None:
        """What could have been tried again by now, and was not: it is no longer wanted, or at peace."""
        refused = {name: item for name, item in self._refused.pop(key, {}).items() if item.retry_at > now}
        if refused:
            self._refused[key] = refused
        corrected = {
            name: item
            for name, item in self._corrected.pop(key, {}).items()
            if now - item.at < _CORRECTIONS_ARE_FORGOTTEN_AFTER
        }
        if corrected:
            self._corrected[key] = corrected

    def _observe(self, key: AgentKey, agent: Raw, now: datetime) -> Observed:
        """Everything that is known about the agent."""
        corrections = tuple(
            replace(corrected.correction, is_due=corrected.retry_at <= now)
            for corrected in self._corrected.get(key, {}).values()
        )
        refusals = self._refusals(key, now)
        return read_observed(
            agent,
            self._cache.owned(key),
            self._images,
            refusals=refusals,
            corrections=corrections,
            heard=self._traffic.heard(key),
            instructions=self._instructions.found(key),
        )

    def _refusals(self, key: AgentKey, now: datetime) -> tuple[Refusal, ...]:
        return tuple(
            replace(refused.refusal, is_due=refused.retry_at <= now)
            for refused in self._refused.get(key, {}).values()
        )

    async def _execute(self, key: AgentKey, observed: Observed | None, action: Action) -> bool:
        """Whether the rest of the plan may follow."""
        match action:
            case Apply(manifest) | Create(manifest):
                is_written = await self._write(key, action, manifest)
                return is_written or not action.is_required
            case WriteStatus(manifest) if observed is not None:
                return await self._write_status(key, observed, manifest)
            case Delete(ref):
                await self._delete(key, ref)
        return True

    async def _delete(self, key: AgentKey, ref: ObjectRef) -> None:
        """What may not be deleted stays, and is noted for the conditions: nothing else waits for its end."""
        named, told = (ref.kind, ref.name), {"object": f"{ref.kind}/{ref.name}", "namespace": ref.namespace}
        try:
            remaining = await self._gateway.delete(ref)
        except NotFound:
            remaining = None
        except Refused as error:
            logger.warning("not deleted", extra={**told, "error": str(error)})
            self._note_refusal(key, Refusal(*named, None, error.reason, str(error)))
            return
        self._take_back_refusal(key, (*named, True))
        if remaining is None:
            self._cache.forget(ref.kind, ref.namespace, ref.name, ref.uid)
        else:
            self._cache.put(_typed(remaining, ref.api_version, ref.kind))
        logger.info("deleted", extra=told)

    async def _write(self, key: AgentKey, action: Apply | Create, manifest: Manifest) -> bool:
        """False for a refused object: it is noted for the conditions."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            if isinstance(action, Apply):
                stored = await (self._apply_new(key, action) if action.is_new else self._apply(action))
            else:
                stored = await self._gateway.create(manifest)
        except AlreadyExists:
            # Somebody took the lock before us: an earlier run of this very decision, most of the time.
            if kind != "Event":
                self._note_taken(key, manifest)
            return True
        except Refused as error:
            more = f" ({', '.join(error.fields)})" if isinstance(error, Invalid) and error.fields else ""
            if isinstance(error, NotServed):
                more = ". Is its CustomResourceDefinition installed, and its namespace there?"
            logger.warning("refused", extra={"object": f"{kind}/{name}", "error": str(error)})
            if kind == "Event":
                return False  # nothing depends on it, and nothing would ever take the note back
            self._note_refused_write(key, manifest, error.reason, f"{str(error).strip()}{more}")
            if isinstance(action, Apply) and action.otherwise is not None:
                await self._write_instead(action.otherwise)
            return False
        self._taken.get(key, {}).pop((kind, name), None)
        self._take_back_refusal(key, (kind, name, False))
        if kind != "Event":
            self._cache.put(_typed(stored, manifest["apiVersion"], kind))
            logger.info("wrote", extra={"object": f"{kind}/{name}", "namespace": key[0]})
        if isinstance(action, Apply) and action.corrects:
            self._note_correction(key, kind, name, action.corrects, owned_fields(stored))
        return True

    async def _write_instead(self, manifest: Manifest) -> None:
        """What can be had of a refused object."""
        try:
            stored = await self._gateway.apply(manifest)
        except (Refused, NotFound):
            return  # why, the refusal of the whole object tells
        self._cache.put(_typed(stored, manifest["apiVersion"], manifest["kind"]))

    async def _apply_new(self, key: AgentKey, action: Apply) -> Raw:
        """What others have under this name is not taken over: it would go with the agent.

        It may be our own all the same: the watch lags behind, or somebody took the agent's label away.
        """
        manifest = action.manifest
        try:
            return await self._gateway.apply_new(manifest)
        except Conflict:
            kind, metadata = kind_of(manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
            found = await self._gateway.find(kind, metadata["namespace"], metadata["name"])
            if found is None:
                raise
            if not _is_ours(found, manifest):
                raise NameTaken(_NAME_TAKEN.format(label=names.LABEL_AGENT, agent=key[1])) from None
        return await self._apply(action)

    async def _apply(self, action: Apply) -> Raw:
        """An apply leaves alone what others added to a list, even where both together are invalid.

        A second port of the same name is such a thing. Then the list is set back as a whole first, and what
        cannot stand beside a field of ours is taken away. Whether that is what is wrong only the API server
        can tell: where no fields are named, and nobody has edited any, the object is at fault by itself.
        """
        try:
            return await self._gateway.apply(action.manifest)
        except Invalid as error:
            if not (action.corrects or error.fields):
                raise
            refusal = error
        try:
            await self._gateway.overwrite(_without_rivals(action.manifest))
        except (Refused, NotFound):
            raise refusal from None  # it tells of the object that is wanted, and not of a part of it
        return await self._gateway.apply(action.manifest)

    def _note_refused_write(self, key: AgentKey, manifest: Manifest, reason: str, message: str) -> None:
        self._note_refusal(key, Refusal(*_named(manifest), applied_hash(manifest), reason, message))

    def _note_refusal(self, key: AgentKey, refusal: Refusal) -> None:
        of = (refusal.kind, refusal.name, refusal.applied_hash is None)
        known = self._refused.setdefault(key, {}).get(of)
        if known is not None and known.refusal.applied_hash == refusal.applied_hash:
            refusal = replace(refusal, count=known.refusal.count + 1)
        self._refused[key][of] = _Refused(refusal, self._clock() + _REFUSAL_RETRY)

    def _take_back_refusal(self, key: AgentKey, of: tuple[str, str, bool]) -> None:
        refused = self._refused.get(key, {})
        refused.pop(of, None)
        if not refused:
            self._refused.pop(key, None)

    def _note_taken(self, key: AgentKey, manifest: Manifest) -> None:
        """What has the name is told of, unless it turns out to be ours within seconds."""
        now, named = self._clock(), _named(manifest)
        since = self._taken.setdefault(key, {}).setdefault(named, now)
        known = self._refused.get(key, {}).get((*named, False))
        is_told = known is not None and known.refusal.reason == NameTaken.reason
        if is_told or now - since >= _TAKEN_GRACE:
            del self._taken[key][named]
            self._note_refused_write(
                key,
                manifest,
                NameTaken.reason,
                _NAME_TAKEN.format(label=names.LABEL_AGENT, agent=key[1]),
            )

    def _note_correction(
        self, key: AgentKey, kind: str, name: str, fields: tuple[str, ...], owned: str
    ) -> None:
        """Remembered for a while, so that who else insists on these fields is not fought at full speed."""
        now, known = self._clock(), self._corrected.get(key, {}).get((kind, name))
        is_insisted_on = known is not None and not set(fields).isdisjoint(known.correction.fields)
        count = known.correction.count + 1 if known is not None and is_insisted_on else 1
        delay = timedelta(0)
        if count >= CONTESTED_AFTER:
            delay = min(_LAST_CORRECTION_DELAY, _FIRST_CORRECTION_DELAY * 2 ** (count - CONTESTED_AFTER))
        item = _Corrected(Correction(kind, name, count, fields, owned), now, now + delay)
        self._corrected.setdefault(key, {})[(kind, name)] = item

    async def _write_status(self, key: AgentKey, observed: Observed, manifest: Manifest) -> bool:
        """False for a revision's that is refused: it is noted for the conditions."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        name = metadata["name"]
        try:
            stored = await self._gateway.apply_status(manifest)
        except NotFound:
            # Or its kind has no status any more, which is answered in the same words.
            if (
                await self._gateway.find(kind_of(manifest["apiVersion"], kind), metadata["namespace"], name)
                is None
            ):
                self._cache.forget(kind, metadata["namespace"], name, metadata.get("uid"))
            raise
        except Refused as error:
            if kind == names.AGENT_KIND:
                raise  # there is no other place to tell it
            logger.warning("refused", extra={"object": f"{kind}/{name}", "error": str(error)})
            self._note_refused_write(key, manifest, error.reason, str(error))
            return False
        self._take_back_refusal(key, (kind, name, False))
        self._cache.put(_typed(stored, manifest["apiVersion"], kind))
        if kind == names.AGENT_KIND:
            after = EvolvingAgentStatus.model_validate(manifest["status"])
            self._on_agent(key, observed.agent.status, after)
            return True
        revision = observed.revisions.get(name)
        self._on_revision(
            key, revision.status if revision else None, AgentRevisionStatus.model_validate(manifest["status"])
        )
        return True


def _without_rivals(manifest: Manifest) -> Manifest:
    """For a merge patch, where a null takes away."""
    rivals = _RIVALS.get(manifest["kind"])
    return manifest if rivals is None else manifest | {"spec": manifest["spec"] | rivals}


def _named(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _is_ours(found: Raw, manifest: Manifest) -> bool:
    """By the agent's label, its owner reference, or the record of an apply of ours."""
    metadata, wanted = found["metadata"], manifest["metadata"]
    agent = wanted["labels"][names.LABEL_AGENT]
    owners = {owner["uid"] for owner in metadata.get("ownerReferences") or ()}
    return (
        (metadata.get("labels") or {}).get(names.LABEL_AGENT) == agent
        or any(owner["uid"] in owners for owner in wanted.get("ownerReferences", ()))
        or owned_fields(found) != ""
    )


def _typed(stored: Raw, api_version: str, kind: str) -> Raw:
    """Some answers leave the type out."""
    return {"apiVersion": api_version, "kind": kind, **stored}


def _object_of(action: Action) -> str:
    if isinstance(action, Delete):
        return f"{action.ref.kind}/{action.ref.name}"
    return "/".join(_named(action.manifest))


def _deeds_and_words(actions: Sequence[Action]) -> tuple[Sequence[Action], Sequence[Action]]:
    """What changes something, and what at the end of the plan only tells: Events and the agent's status."""
    end = len(actions)
    while end and _only_tells(actions[end - 1]):
        end -= 1
    return actions[:end], actions[end:]


def _only_tells(action: Action) -> bool:
    match action:
        case WriteStatus(manifest):
            return bool(manifest["kind"] == names.AGENT_KIND)
        case Create(manifest):
            return bool(manifest["kind"] == "Event")
        case _:
            return False
