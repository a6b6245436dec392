"""How live requests ended, by who was to answer them: what decides whether a revision may stay."""

from __future__ import annotations

from evolving_agent.contract.config import Traffic
from evolving_agent.contract.served import ServedAs, ServedCount, ServedCounts
from evolving_agent.runtime.traffic import Arm

_JUDGED = frozenset(ServedAs)
_CANCELLED = "cancelled"
_OK = "ok"


class ServedTally:
    """Counts anew when another trial begins, so that both sides are of the same time."""

    def __init__(self, traffic: Traffic) -> None:
        self._trial = _trial(traffic)
        self._counts: dict[tuple[str, ServedAs], tuple[int, int]] = {}

    def follow(self, traffic: Traffic) -> None:
        if (trial := _trial(traffic)) != self._trial:
            self._trial = trial
            self._counts.clear()

    def ended(self, arm: Arm, outcome: str) -> None:
        """Of one live request. What another answered in its place is told of the arm that was to answer."""
        if outcome == _CANCELLED or arm.name not in _JUDGED:
            return
        key = (arm.config_hash, ServedAs(arm.name))
        requests, errors = self._counts.get(key, (0, 0))
        self._counts[key] = (requests + 1, errors + (outcome != _OK))

    def counts(self) -> ServedCounts:
        return ServedCounts(
            trial=self._trial,
            counts=tuple(
                ServedCount(config=config, served_as=served_as, requests=requests, errors=errors)
                for (config, served_as), (requests, errors) in sorted(self._counts.items())
            ),
        )


def _trial(traffic: Traffic) -> str | None:
    share = traffic.canary or traffic.shadow
    return None if share is None else traffic.trial or share.config
