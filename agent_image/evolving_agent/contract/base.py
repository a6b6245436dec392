"""The base of every document in the contract, and its canonical form."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

# Made once: the operator asks for a dozen digests at each look at an agent.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


MOST_LEVELS: Final = 100  # of what a schema leaves open: a pod of Kubernetes has a dozen


class Document(BaseModel):
    """An immutable value with camelCase keys on the wire.

    Unknown keys are ignored: the API server has already refused unknown fields of a spec, and an
    older reader must be able to read what a newer writer of the same version added.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="ignore",
        frozen=True,
    )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Itself: pydantic would copy a default value for each object that leaves the field out."""
        return self

    @classmethod
    def part_of(cls, wider: Document) -> Self:
        """Of a document that has more fields."""
        return cls(**{name: getattr(wider, name) for name in cls.model_fields})

    def updated(self, **values: Any) -> Self:
        """With these values, which are not validated; itself where it has them already."""
        is_so = all(getattr(self, name) == value for name, value in values.items())
        return self if is_so else self.model_copy(update=values)

    def to_wire(self) -> dict[str, Any]:
        """JSON-ready form: camelCase keys, absent optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def encodable(text: str) -> str:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes a question mark."""
    return text.encode(errors="replace").decode()


def is_too_deep(value: Any) -> bool:
    """Whether JSON has more than MOST_LEVELS. Level by level: to recurse into what the API server takes,
    which is ten thousand levels, is what is to be avoided.
    """
    level = [value]
    for _ in range(MOST_LEVELS):
        below = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in below for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


@dataclass(frozen=True)
class Rule:
    """A CEL rule that the API server checks: `message` names the field and says what to do.

    `field` is the path of the field at fault, relative to the object that holds the rule.
    """

    expression: str
    message: str
    field: str | None = None

    def to_schema(self) -> JsonDict:
        schema: JsonDict = {"rule": self.expression, "message": self.message}
        return schema | ({"fieldPath": self.field} if self.field else {})


def rules(*of: Rule) -> ConfigDict:
    """The model configuration that carries CEL rules into the generated schema."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [rule.to_schema() for rule in of]})


def canonical_json(value: Any) -> str:
    """One text for one value: keys sorted, no spaces. Raises TypeError for what JSON cannot hold."""
    return _CANONICAL.encode(value)


def digest(value: Any, length: int = 8) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
