"""The kinds that the operator knows, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from evolving_operator.api import names


@dataclass(frozen=True)
class Kind:
    """One namespaced kind.

    `selector` limits what is listed and watched to what may be ours. Of a `bare` kind only the metadata is
    ever looked at, managed fields included, so that is all the API server is asked for.
    """

    api_version: str
    kind: str
    plural: str
    selector: str = ""
    bare: bool = False

    @property
    def group(self) -> str:
        """ "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Below the server's root. Without a namespace: of all namespaces."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [root]
        if namespace is not None:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)


_OURS = names.LABEL_AGENT

AGENT = Kind(names.API_VERSION, names.AGENT_KIND, names.AGENT_PLURAL)
REVISION = Kind(names.API_VERSION, names.REVISION_KIND, names.REVISION_PLURAL)
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
EVENT = Kind("events.k8s.io/v1", "Event", "events")

OWNED = (
    REVISION,
    Kind("apps/v1", "Deployment", "deployments", _OURS),
    Kind("v1", "Service", "services", _OURS, bare=True),
    Kind("v1", "ServiceAccount", "serviceaccounts", _OURS, bare=True),
    Kind("v1", "ConfigMap", "configmaps", _OURS),
    Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", _OURS, bare=True),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", _OURS, bare=True),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", _OURS, bare=True),
    Kind("batch/v1", "CronJob", "cronjobs", _OURS, bare=True),
    Kind("batch/v1", "Job", "jobs", _OURS),
    Kind("v1", "Pod", "pods", _OURS),
)
CACHED = (AGENT, *OWNED)

_BY_NAME = {(kind.api_version, kind.kind): kind for kind in (*CACHED, LEASE, EVENT)}


def kind_of(api_version: str, kind: str) -> Kind:
    """Raises KeyError for a kind that the operator has nothing to do with."""
    return _BY_NAME[(api_version, kind)]
