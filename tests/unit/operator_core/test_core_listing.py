"""A list that is read while it arrives, however it is cut, and whatever its objects are made of."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_operator.cluster.kinds import AGENT, CACHED, Kind, kind_of
from evolving_operator.cluster.listing import ListReader
from evolving_operator.cluster.records import GarbledError, Record, parse_list, parse_object

Raw = dict[str, Any]

DEPLOYMENTS = kind_of("apps/v1", "Deployment")


def item(number: int, kind: Kind = AGENT, **more: Any) -> Raw:
    """As the API server writes a custom resource: with its type, which other kinds leave out."""
    metadata = {
        "name": f"agent-{number}",
        "namespace": "default",
        "uid": f"uid-{number}",
        "resourceVersion": str(number + 1),
        "managedFields": [{"apiVersion": kind.api_version, "manager": "kubectl"}] * 3,
    }
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **more}


def text_of(items: list[Raw] | None, *, is_custom: bool = True) -> bytes:
    """Custom resources' lists end with their metadata; those of other kinds begin with it, and their items
    do not tell their type."""
    metadata = {"continue": "", "resourceVersion": "900"}
    whole: Raw = {"apiVersion": "v1", "items": items, "kind": "List", "metadata": metadata}
    if not is_custom:
        bare = [{key: raw[key] for key in raw if key not in ("apiVersion", "kind")} for raw in items or ()]
        whole = {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": bare}
    return json.dumps(whole, separators=(",", ":")).encode() + b"\n"


def cut(text: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while text:
        size = next(sizes)
        yield text[:size]
        text = text[size:]


def read(kind: Kind, chunks: Iterator[bytes]) -> tuple[list[Record], int, str]:
    """All records, how many of them came before the end, and the list's version."""
    reader, records = ListReader(kind), list[Record]()
    for chunk in chunks:
        records += reader.feed(chunk)
    early, rest = len(records), reader.end()
    return records + rest.records, early, rest.version


# Texts and keys of which lists consist, where nobody would expect them.
AWKWARD = st.recursive(
    st.sampled_from(['},{"metadata":{', '"items":[{', "},{", '\\"},{\\"', "", "{", "]}"])
    | st.integers(0, 9)
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["metadata", "items", "kind", "apiVersion", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(
    st.lists(AWKWARD, max_size=6),
    st.booleans(),
    st.lists(st.integers(1, 400), min_size=1, max_size=8),
)
def test_it_is_what_reading_all_of_it_at_once_gives(
    specs: list[Any], is_custom: bool, sizes: list[int]
) -> None:
    kind = AGENT if is_custom else DEPLOYMENTS
    wrapped = [{"template": {}, "x": spec} for spec in specs]
    items = [item(number, kind, spec=spec) for number, spec in enumerate(wrapped)]
    text = text_of(items, is_custom=is_custom)
    chance = random.Random(len(text))

    records, _, version = read(kind, cut(text, iter(lambda: chance.choice(sizes), None)))

    assert (records, version) == (parse_list(kind, text).records, "900")


@pytest.mark.parametrize("is_custom", [True, False])
def test_all_but_the_last_are_read_before_the_end(is_custom: bool) -> None:
    kind = AGENT if is_custom else DEPLOYMENTS
    items = [item(number, kind, spec={"template": {"metadata": {}}}) for number in range(50)]
    text = text_of(items, is_custom=is_custom)

    records, early, _ = read(kind, cut(text, iter(lambda: 1000, None)))

    assert [record.key[2] for record in records] == [f"agent-{number}" for number in range(50)]
    assert early == 49


def test_an_object_made_of_beginnings_of_objects_costs_no_more_than_the_list_that_it_is_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever may create an agent could hold the operator up for minutes."""
    beginnings = [{"apiVersion": AGENT.api_version, "kind": AGENT.kind, "metadata": {}}] * 5000
    text = text_of([item(0), item(1, spec={"x": beginnings}), *(item(number) for number in range(2, 900))])
    bytes_read = 0

    def counted(kind: Kind, text: bytes) -> Record:
        nonlocal bytes_read
        bytes_read += len(text)
        return parse_object(kind, text)

    monkeypatch.setattr("evolving_operator.cluster.listing.parse_object", counted)

    records, _, _ = read(AGENT, cut(text, iter(lambda: 65_536, None)))

    assert len(records) == 900
    assert bytes_read < 4 * len(text)


@pytest.mark.parametrize("kind", CACHED, ids=lambda kind: str(kind.kind))
@pytest.mark.parametrize("items", [[], None])
def test_an_empty_list(kind: Kind, items: list[Raw] | None) -> None:
    assert read(kind, iter([text_of(items)])) == ([], 0, "900")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_list_that_breaks_off_is_no_list(share: float) -> None:
    text = text_of([item(number) for number in range(20)])

    with pytest.raises(GarbledError):
        read(AGENT, iter([text[: int(share * len(text))]]))
