"""A list is read while it arrives: the objects of ten thousand agents are 230 MB of JSON."""

from __future__ import annotations

from evolving_operator.cluster.kinds import Kind
from evolving_operator.cluster.records import ListPart, Record, parse_list, parse_object

_ITEMS = b'"items":[{'
_METADATA = b'"metadata":{'


class ListReader:
    """Of one answer: `feed` it what has come, then `end` it.

    What stands between two items is learned from the first of them: all begin with the same keys, up to their
    metadata. The same bytes may be within an item, too, and what lies before them is no JSON then: an
    object's text never is the beginning of another's. Nothing is lost where they are never found: all that
    was not read piece by piece is read at the end.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._text = bytearray()  # without the items that were read
        self._first = 0  # where the items begin
        self._between = b""  # "" while that is not known
        self._searched = 0

    def feed(self, chunk: bytes) -> list[Record]:
        """The items that are complete now."""
        self._text += chunk
        if not self._between and not self._learn():
            return []
        records: list[Record] = []
        start = self._first
        while (end := self._text.find(self._between, self._searched)) >= 0:
            try:
                records.append(parse_object(self._kind, bytes(self._text[start : end + 1])))
            except (ValueError, RecursionError):
                # Go on far behind it: an object full of these bytes would be read anew for each of them.
                self._searched = end + (end + 1 - start)
                continue
            start = self._searched = end + len(b"},")
        unseen = len(self._text) - len(self._between) + 1
        self._searched = max(self._searched, unseen) - (start - self._first)
        del self._text[self._first : start]
        return records

    def end(self) -> ListPart:
        """The rest of the items, and the list's version. Raises GarbledError."""
        return parse_list(self._kind, bytes(self._text))

    def _learn(self) -> bool:
        items = self._text.find(_ITEMS)
        metadata = self._text.find(_METADATA, items + len(_ITEMS)) if items >= 0 else -1
        if metadata < 0:
            return False
        self._first = self._searched = items + len(_ITEMS) - 1
        self._between = b"}," + bytes(self._text[self._first : metadata + len(_METADATA)])
        return True
