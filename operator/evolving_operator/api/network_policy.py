"""Who may ask an agent, and whom it may ask: the part of a Kubernetes NetworkPolicy that differs by agent."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field
from pydantic.config import JsonDict

from evolving_agent.contract.base import Document, Rule, rules

_ATOMIC: JsonDict = {"x-kubernetes-list-type": "atomic"}
_MAX_ELEMENTS = 32
_CIDR = Annotated[str, Field(max_length=43)]  # as long as the longest IPv6 prefix


class SelectorOperator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelSelectorRequirement(Document):
    model_config = rules(
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "values are required when operator is In or NotIn, and only then",
            ".values",
        )
    )

    key: str = Field(min_length=1, max_length=317, description="Key of a label.")
    operator: SelectorOperator = Field(description="In, NotIn, Exists or DoesNotExist.")
    values: tuple[str, ...] = Field(
        default=(),
        max_length=_MAX_ELEMENTS,
        description="Values of the label, for In and NotIn.",
        json_schema_extra=_ATOMIC,
    )


class LabelSelector(Document):
    """metav1.LabelSelector. An empty one selects all."""

    match_labels: dict[str, str] = Field(
        default={}, max_length=_MAX_ELEMENTS, description="Labels that must have these values."
    )
    match_expressions: tuple[LabelSelectorRequirement, ...] = Field(
        default=(),
        max_length=_MAX_ELEMENTS,
        description="What must hold of labels besides.",
        json_schema_extra=_ATOMIC,
    )


class IPBlock(Document):
    model_config = rules(
        Rule("isCIDR(self.cidr)", "cidr must be a prefix, such as 10.0.0.0/8 or 2001:db8::/32", ".cidr"),
        Rule(
            "!has(self.except) || !isCIDR(self.cidr) || self.except.all(part, isCIDR(part) "
            "&& cidr(self.cidr).containsCIDR(part) "
            "&& cidr(part).prefixLength() > cidr(self.cidr).prefixLength())",
            "except must list prefixes that are parts of cidr",
            ".except",
        ),
    )

    cidr: _CIDR = Field(description="Addresses, as a prefix: 10.0.0.0/8.")
    except_: tuple[_CIDR, ...] = Field(
        default=(),
        alias="except",
        max_length=_MAX_ELEMENTS,
        description="Parts of cidr that are left out.",
        json_schema_extra=_ATOMIC,
    )


class NetworkPeer(Document):
    model_config = rules(
        Rule(
            "has(self.ipBlock) != (has(self.podSelector) || has(self.namespaceSelector))",
            "choose ipBlock, or podSelector and namespaceSelector (one or both)",
        )
    )

    pod_selector: LabelSelector | None = Field(
        default=None,
        description="Pods by their labels: of the namespaces that namespaceSelector selects, or of the "
        "agent's own if that is absent.",
    )
    namespace_selector: LabelSelector | None = Field(
        default=None,
        description="Namespaces by their labels (kubernetes.io/metadata.name is the name): all their pods, "
        "or those that podSelector selects.",
    )
    ip_block: IPBlock | None = Field(default=None, description="Addresses outside the cluster.")


class Protocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class NetworkPort(Document):
    model_config = rules(
        Rule(
            "!has(self.endPort) || self.endPort >= self.port",
            "endPort must not be below port",
            ".endPort",
        )
    )

    protocol: Protocol = Field(default=Protocol.TCP, description="TCP, UDP or SCTP.")
    port: int = Field(ge=1, le=65_535, description="Port, or the first one of a range.")
    end_port: int | None = Field(default=None, ge=1, le=65_535, description="Last port of a range.")


class EgressRule(Document):
    to: tuple[NetworkPeer, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=_MAX_ELEMENTS,
        description="Where connections may go; everywhere if absent.",
        json_schema_extra=_ATOMIC,
    )
    ports: tuple[NetworkPort, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=_MAX_ELEMENTS,
        description="At which ports; all if absent.",
        json_schema_extra=_ATOMIC,
    )


class NetworkPolicyMode(StrEnum):
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class NetworkPolicy(Document):
    # Required, so that the block is never empty: a server-side apply that takes the last field of a block
    # away leaves a null in its place, which the API server then refuses, and not in words for users.
    mode: NetworkPolicyMode = Field(
        description="Enabled makes a NetworkPolicy; Disabled makes none, as if the block were absent."
    )
    ingress_from: tuple[NetworkPeer, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=_MAX_ELEMENTS,
        description="Who may connect to the port that serves requests and metrics, beside the agent's own "
        "Jobs; everybody if absent. No other port can be reached. Name what scrapes the metrics, too.",
        json_schema_extra=_ATOMIC,
    )
    egress: tuple[EgressRule, ...] | None = Field(
        default=None,
        max_length=_MAX_ELEMENTS,
        description="Where the agent's pods and those of its Jobs may connect to, beside name servers (port "
        "53) and each other; everywhere if absent. Name all that they need: the model's endpoint, tools, the "
        "provider that trains, the object store, the collector of traces.",
        json_schema_extra=_ATOMIC,
    )
