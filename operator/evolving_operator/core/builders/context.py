"""What every builder builds from."""

from __future__ import annotations

from dataclasses import dataclass

from evolving_operator.api.models import AccessMode, EvolvingAgentSpec


@dataclass(frozen=True)
class Images:
    """The images that are used where a spec names none."""

    agent: str
    trainer: str


@dataclass(frozen=True)
class BuildContext:
    """One agent, as its children see it: who it is, what it wants, and the operator's own images."""

    name: str
    namespace: str
    uid: str
    spec: EvolvingAgentSpec
    images: Images

    @property
    def agent_image(self) -> str:
        return self.spec.agent.image or self.images.agent

    @property
    def store_is_bound_to_one_node(self) -> bool:
        """A volume that cannot be mounted on two nodes ties all pods of the agent to one."""
        claim = self.spec.storage.claim
        return claim is not None and AccessMode.READ_WRITE_MANY not in claim.access_modes
