"""Who may connect to an agent's pods, and where those may connect to, as far as the user limits it."""

from __future__ import annotations

from evolving_agent.contract import env
from evolving_operator.api import names
from evolving_operator.api.network_policy import EgressRule, NetworkPeer, NetworkPolicyMode, NetworkPort
from evolving_operator.core.builders.base import Manifest, object_metadata, with_applied_hash
from evolving_operator.core.builders.context import BuildContext

_DNS_PORT = 53


def limits_network(context: BuildContext) -> bool:
    """Whether there is to be a NetworkPolicy."""
    policy = context.spec.agent.network_policy
    return policy is not None and policy.mode is NetworkPolicyMode.ENABLED


def build_network_policy(context: BuildContext) -> Manifest:
    """For serving pods and those of Jobs. Raises ValueError for a spec without `agent.networkPolicy`.

    The agent's own pods are always let through to each other: validation asks through the Service.
    """
    policy = context.spec.agent.network_policy
    if policy is None:
        raise ValueError(f"{context.name} has no spec.agent.networkPolicy: there is nothing to limit")
    ingress: Manifest = {"ports": [_port("TCP", env.SERVE_PORT)]}
    if policy.ingress_from is not None:
        ingress["from"] = [_own_pods(context), *map(_peer, policy.ingress_from)]
    spec: Manifest = {**_own_pods(context), "policyTypes": ["Ingress"], "ingress": [ingress]}
    if policy.egress is not None:
        spec["policyTypes"].append("Egress")
        spec["egress"] = [
            {"to": [_own_pods(context)]},
            {"ports": [_port("UDP", _DNS_PORT), _port("TCP", _DNS_PORT)]},
            *map(_egress_rule, policy.egress),
        ]
    return with_applied_hash(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": object_metadata(context, names.network_policy(context.name), names.COMPONENT_AGENT),
            "spec": spec,
        }
    )


def _own_pods(context: BuildContext) -> Manifest:
    return {"podSelector": {"matchLabels": {names.LABEL_AGENT: context.name}}}


def _peer(peer: NetworkPeer) -> Manifest:
    # An empty selector is kept: it selects all, and an absent one says nothing.
    return peer.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _egress_rule(rule: EgressRule) -> Manifest:
    built: Manifest = {}
    if rule.to is not None:
        built["to"] = [_peer(peer) for peer in rule.to]
    if rule.ports is not None:
        built["ports"] = [_range(port) for port in rule.ports]
    return built


def _range(port: NetworkPort) -> Manifest:
    last = {"endPort": port.end_port} if port.end_port is not None else {}
    return _port(port.protocol.value, port.port) | last


def _port(protocol: str, port: int) -> Manifest:
    return {"protocol": protocol, "port": port}
