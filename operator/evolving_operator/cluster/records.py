"""What is kept of an object: the few fields that are read, as JSON text, and what its managed fields say.

Ten thousand agents are seventy thousand objects of three to eight kilobytes, and dictionaries take five times
as much. So JSON is parsed into `_Parsed`, which skips what nobody asks for. What is left is kept as text and
becomes a dictionary only for the moment of a decision. A long text is compressed as what differs from the
first long text of its kind: that takes half the time of compressing it alone, and a sixth of the space.
"""

from __future__ import annotations

import logging
import re
import sys
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from evolving_agent.contract.config import CONFIG_KEY
from evolving_operator.api import names
from evolving_operator.cluster.kinds import OWNED, Kind, kind_of
from evolving_operator.core.builders.debt import DEBT_KEY
from evolving_operator.core.ownership import is_autoscaled, other_writers, owned_fields

logger = logging.getLogger(__name__)

Raw = dict[str, Any]
AgentKey = tuple[str, str]  # namespace, name
ObjectKey = tuple[str, str, str]  # kind, namespace, name

_SHORT_BYTES = 2000
_NOTHING = msgspec.Raw(b"")
# Their labels tell what they are for.
_LABELLED = frozenset({"Pod", "Job", "ConfigMap"})
# Their fields are kept as they were applied, so the record of who owns which is looked at.
_DRIFTING = frozenset({"Deployment", "ConfigMap", *(kind.kind for kind in OWNED if kind.bare)})
_OWNED_BY = frozenset({names.REVISION_KIND, "CronJob", "Job"})  # it is read whose they are
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_OWNER_UID = re.compile(rb'k:\{\\"uid\\":\\"[^"\\]*\\"\}')


# --- JSON of the API server, as far as it is read --------------------------------------------------


class _Entry(msgspec.Struct, gc=False):
    """Of `metadata.managedFields`."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    fieldsV1: msgspec.Raw = msgspec.Raw(b"{}")  # noqa: N815 - as the API names it


class _Owner(msgspec.Struct):
    uid: str


class _Metadata(msgspec.Struct, omit_defaults=True):
    name: str
    namespace: str
    uid: str
    resourceVersion: str  # noqa: N815
    generation: int = 0
    creationTimestamp: str | None = None  # noqa: N815
    deletionTimestamp: str | None = None  # noqa: N815
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    ownerReferences: list[_Owner] | None = None  # noqa: N815
    managedFields: list[_Entry] | None = None  # noqa: N815


class _Parsed(msgspec.Struct):
    metadata: _Metadata
    spec: msgspec.Raw = _NOTHING
    status: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING


class _ListMetadata(msgspec.Struct):
    resourceVersion: str  # noqa: N815


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None  # null in an empty list of metadata


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Bookmark(msgspec.Struct):
    metadata: _ListMetadata


class _NamedMetadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Named(msgspec.Struct):
    """Of an object that cannot be read, what a person needs to find it."""

    metadata: _NamedMetadata = msgspec.field(default_factory=_NamedMetadata)


class _PodMetadata(msgspec.Struct, omit_defaults=True):
    annotations: dict[str, str] | None = None


class _DeploymentTemplate(msgspec.Struct):
    metadata: _PodMetadata = msgspec.field(default_factory=_PodMetadata)


class _DeploymentSpec(msgspec.Struct):
    template: _DeploymentTemplate
    replicas: int = 1


class _Variable(msgspec.Struct, omit_defaults=True):
    name: str
    value: str | None = None


class _Container(msgspec.Struct, omit_defaults=True):
    env: list[_Variable] | None = None


class _JobPodSpec(msgspec.Struct):
    containers: list[_Container] = []


class _JobTemplate(msgspec.Struct):
    spec: _JobPodSpec


class _JobSpec(msgspec.Struct):
    template: _JobTemplate


class _ConfigMapData(msgspec.Struct, omit_defaults=True):
    file: str = msgspec.field(name=CONFIG_KEY, default="")
    debt: str = msgspec.field(name=DEBT_KEY, default="")


class _AgentReference(msgspec.Struct):
    name: str = ""


class _RevisionSpec(msgspec.Struct):
    agentRef: _AgentReference = msgspec.field(default_factory=_AgentReference)  # noqa: N815


class _Kept(msgspec.Struct, omit_defaults=True):
    """What a decision sees of the object."""

    apiVersion: str  # noqa: N815
    kind: str
    metadata: _Metadata
    spec: msgspec.Raw | _DeploymentSpec | _JobSpec | None = None
    status: msgspec.Raw | None = None
    data: _ConfigMapData | None = None


_OBJECT = msgspec.json.Decoder(_Parsed)
_STATUS = msgspec.json.Decoder(_Status)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_NAMED = msgspec.json.Decoder(_Named)
_LIST = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(_Event)
_SPEC_OF_DEPLOYMENT = msgspec.json.Decoder(_DeploymentSpec)
_SPEC_OF_JOB = msgspec.json.Decoder(_JobSpec)
_SPEC_OF_REVISION = msgspec.json.Decoder(_RevisionSpec)
_DATA_OF_CONFIG_MAP = msgspec.json.Decoder(_ConfigMapData)
_ANY = msgspec.json.Decoder()
_JSON = msgspec.json.Encoder()
_SAMPLES: dict[str, bytes] = {}  # by kind


# --- records ---------------------------------------------------------------------------------------


class Ownership(NamedTuple):
    """What an object's managed fields say, as `core.ownership` reads them."""

    owned: str
    writers: str
    autoscaled: bool


class Record(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One version of one object. The garbage collector need not visit them: they refer to nothing in turn."""

    key: ObjectKey
    uid: str
    version: int  # resource versions of one kind are comparable numbers (guaranteed since Kubernetes 1.35)
    agent: AgentKey | None  # that it belongs to; None where it belongs to none
    text: bytes
    sample: bytes | None  # where the text is compressed: what it is compressed with, a zlib dictionary
    ownership: Ownership | None

    @staticmethod
    def of(raw: Raw) -> Record:
        """Of an object with its `apiVersion` and `kind`, however it came."""
        return parse_object(kind_of(raw["apiVersion"], raw["kind"]), _JSON.encode(raw))

    def raw(self) -> Raw:
        """A dictionary of the caller's own."""
        text = self.text
        if self.sample is not None:
            text = zlib.decompressobj(zdict=self.sample).decompress(text)
        found: Raw = _ANY.decode(text)
        if self.ownership is not None:
            owned, writers, autoscaled = self.ownership
            found |= {"owned": owned, "writers": writers, "autoscaled": autoscaled}
        return found


class ListPart(NamedTuple):
    """A part of a list; only the last one has the version of all of it."""

    records: list[Record]
    version: str = ""


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK.

    There is no record in a BOOKMARK, which only brings a `version`, nor of an object that cannot be read.
    """

    type: str
    version: str
    record: Record | None


class WatchError(Exception):
    """The API server ended the watch with this HTTP code: 410 where it no longer knows the version."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class GarbledError(Exception):
    """That is nothing that an API server says."""


def parse_list(kind: Kind, text: bytes) -> ListPart:
    """Of a list of that kind. An object that cannot be read is left out. Raises GarbledError."""
    try:
        part = _LIST.decode(text)
        int(part.metadata.resourceVersion)
        records = [record for item in part.items or () if (record := _readable(kind, item)) is not None]
    # also of a text that is no UTF-8, and of a version that is no number
    except (ValueError, RecursionError) as error:
        raise GarbledError(str(error)) from error
    return ListPart(records, part.metadata.resourceVersion)


def parse_object(kind: Kind, text: bytes | msgspec.Raw) -> Record:
    """Of one object, an item of a list perhaps. Raises ValueError, and RecursionError."""
    return _record(kind, _OBJECT.decode(text))


def _readable(kind: Kind, text: msgspec.Raw) -> Record | None:
    """None for JSON that is no object as it should be: one such object may not hide all others."""
    try:
        return parse_object(kind, text)
    except (ValueError, RecursionError) as error:
        named = _NAMED.decode(text).metadata
        extra = {"object": f"{kind.kind}/{named.name}", "namespace": named.namespace, "error": str(error)}
        logger.error("an object cannot be read: it is left alone", extra=extra)
        return None


def parse_event(kind: Kind, line: bytes) -> WatchEvent:
    """Raises WatchError for an event of type ERROR, and GarbledError."""
    try:
        event = _EVENT.decode(line)
        if event.type == "ERROR":
            status = _STATUS.decode(event.object)
            raise WatchError(status.code, status.message)
        if event.type == "BOOKMARK":
            return WatchEvent(event.type, _version(event), None)
        if (record := _readable(kind, event.object)) is not None:
            return WatchEvent(event.type, str(record.version), record)
        return WatchEvent(event.type, _version(event), None)
    except (ValueError, RecursionError) as error:
        raise GarbledError(str(error)) from error


def _version(event: _Event) -> str:
    version = _BOOKMARK.decode(event.object).metadata.resourceVersion
    int(version)
    return version


def _record(kind: Kind, parsed: _Parsed) -> Record:
    metadata = parsed.metadata
    agent = _agent(kind, parsed)
    ownership = _ownership(metadata.managedFields or ()) if kind.kind in _DRIFTING else None
    metadata.managedFields = None
    if metadata.deletionTimestamp is None:
        metadata.finalizers = None  # they hold nothing yet
    if metadata.annotations:
        metadata.annotations.pop(_LAST_APPLIED, None)
    if kind.kind not in _LABELLED:
        metadata.labels = None
    if kind.kind not in _OWNED_BY:
        metadata.ownerReferences = None
    kept = _Kept(kind.api_version, kind.kind, metadata)
    if not kind.bare:
        _fill(kept, parsed)
    text, sample = _JSON.encode(kept), None
    if len(text) >= _SHORT_BYTES:
        sample = _SAMPLES.setdefault(kind.kind, text)
        compressor = zlib.compressobj(level=1, zdict=sample)
        text = compressor.compress(text) + compressor.flush()
    return Record(
        key=(kind.kind, sys.intern(metadata.namespace), sys.intern(metadata.name)),
        uid=metadata.uid,
        version=int(metadata.resourceVersion),
        agent=agent,
        text=text,
        sample=sample,
        ownership=ownership,
    )


def _fill(kept: _Kept, parsed: _Parsed) -> None:
    """Specs and data as far as they are read; states as they are."""
    match kept.kind:
        case "Deployment":
            kept.spec = _SPEC_OF_DEPLOYMENT.decode(parsed.spec)
        case "Job":
            kept.spec = _SPEC_OF_JOB.decode(parsed.spec) if parsed.spec else None
        case "ConfigMap":
            kept.data = _DATA_OF_CONFIG_MAP.decode(parsed.data) if parsed.data else None
        case names.AGENT_KIND | names.REVISION_KIND:
            kept.spec = parsed.spec or None
    kept.status = parsed.status or None


def _agent(kind: Kind, parsed: _Parsed) -> AgentKey | None:
    metadata = parsed.metadata
    if kind.kind == names.AGENT_KIND:
        return sys.intern(metadata.namespace), sys.intern(metadata.name)
    if kind.kind == names.REVISION_KIND:
        name = _SPEC_OF_REVISION.decode(parsed.spec).agentRef.name if parsed.spec else ""
    else:
        name = (metadata.labels or {}).get(names.LABEL_AGENT, "")
    return (sys.intern(metadata.namespace), sys.intern(name)) if name else None


def _ownership(entries: Iterable[_Entry]) -> Ownership:
    """Objects of one shape have equal entries but for the owner's UID, and are looked up, not read again."""
    return _ownership_of_shape(
        tuple(
            (
                entry.manager,
                entry.operation,
                entry.subresource,
                _OWNER_UID.sub(b"k:{}", bytes(entry.fieldsV1)),
            )
            for entry in entries
        )
    )


@lru_cache(maxsize=4096)
def _ownership_of_shape(entries: tuple[tuple[str, str, str, bytes], ...]) -> Ownership:
    managed = [
        {"manager": manager, "operation": operation, "fieldsV1": _ANY.decode(fields)}
        | ({"subresource": subresource} if subresource else {})
        for manager, operation, subresource, fields in entries
    ]
    raw = {"metadata": {"managedFields": managed}}
    return Ownership(owned_fields(raw), other_writers(raw), is_autoscaled(raw))
