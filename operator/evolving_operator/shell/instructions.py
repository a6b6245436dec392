"""Reads instructions that a spec only points to: now and then, since what is not ours is not watched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from evolving_agent.contract.refs import ConfigMapKeyRef
from evolving_operator.api.models import MAX_INSTRUCTIONS
from evolving_operator.cluster.errors import NotFound, NotServed, Refused
from evolving_operator.cluster.gateway import Gateway
from evolving_operator.cluster.kinds import CONFIG_MAP
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.observed import Instructions
from evolving_operator.core.reading import instructions_ref

READ_AGAIN_AFTER = timedelta(seconds=30)


@dataclass(frozen=True)
class _Read:
    ref: ConfigMapKeyRef
    found: Instructions
    due: datetime


class InstructionsReader:
    """One read of each named ConfigMap in `READ_AGAIN_AFTER`, however often its agent is looked at."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._read: dict[AgentKey, _Read] = {}

    async def read(self, key: AgentKey, agent: dict[str, Any] | None, now: datetime) -> None:
        """Raises ClusterError where the API server does not answer; what it refuses is a finding."""
        ref = None if agent is None else instructions_ref(agent)
        if ref is None:
            self._read.pop(key, None)
            return
        known = self._read.get(key)
        if known is None or known.ref != ref or known.due <= now:
            self._read[key] = _Read(ref, await self._found(key[0], ref), now + READ_AGAIN_AFTER)

    def read_anew(self) -> None:
        """Each of them, at its next `read`."""
        self._read = {
            key: replace(known, due=datetime.min.replace(tzinfo=UTC)) for key, known in self._read.items()
        }

    def found(self, key: AgentKey) -> Instructions:
        known = self._read.get(key)
        return Instructions() if known is None else known.found

    def due(self, key: AgentKey) -> datetime | None:
        """When to read again."""
        known = self._read.get(key)
        return None if known is None else known.due

    async def _found(self, namespace: str, ref: ConfigMapKeyRef) -> Instructions:
        try:
            raw = await self._gateway.read(CONFIG_MAP, namespace, ref.name)
        except NotFound:
            return Instructions(fault=f"there is no ConfigMap {ref.name!r} in {namespace!r}: create it.")
        except NotServed:
            raise  # these always are: that was not the API server
        except Refused as error:
            return Instructions(fault=f"ConfigMap {ref.name!r} cannot be read: {error}.")
        text = (raw.get("data") or {}).get(ref.key)
        if not text:
            return Instructions(fault=f"ConfigMap {ref.name!r} has no text under the key {ref.key!r}.")
        if len(text) > MAX_INSTRUCTIONS:
            return Instructions(
                fault=f"key {ref.key!r} of ConfigMap {ref.name!r} has {len(text)} characters; "
                f"{MAX_INSTRUCTIONS} are allowed."
            )
        return Instructions(text)
