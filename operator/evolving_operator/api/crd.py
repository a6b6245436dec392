"""The CustomResourceDefinitions, generated from the pydantic models.

A CRD's schema must be structural: no references, no unions of types. What pydantic says in
another way is translated here; what a structural schema cannot say becomes a CEL rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from evolving_agent.contract.base import Rule
from evolving_operator.api import names
from evolving_operator.api.models import (
    AgentRevisionSpec,
    AgentRevisionStatus,
    EvolvingAgentSpec,
    EvolvingAgentStatus,
)

Schema = dict[str, Any]

_HEADER = (
    "# Generated from operator/evolving_operator/api/models.py by `evolving-operator crds`: do not edit.\n"
)
_VALIDATIONS = "x-kubernetes-validations"
_MAX_INT32 = 2**31 - 1
_NOTHING: tuple[Any, ...] = (None, "", [], {})  # an absent field says the same
_REFILLED = "x-refilled"  # an empty default is set all the same
_KEPT = (
    "type",
    "format",
    "nullable",
    "description",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
)


def custom_resource_definitions() -> dict[str, Schema]:
    """Both CRDs by the name of their file."""
    return {f"{names.GROUP}_{crd['spec']['names']['plural']}.yaml": crd for crd in (_agent(), _revision())}


def write_crds(path: Path) -> list[Path]:
    """Writes one YAML file per CRD into the directory `path`; returns what was written."""
    path.mkdir(parents=True, exist_ok=True)
    written = []
    for name, crd in custom_resource_definitions().items():
        file = path / name
        file.write_text(render(crd))
        written.append(file)
    return written


def render(crd: Schema) -> str:
    return _HEADER + yaml.dump(crd, Dumper=_PlainDumper, sort_keys=False, width=110, allow_unicode=True)


class _PlainDumper(yaml.SafeDumper):
    """Repeats what occurs twice: kubectl reads anchors, but people should not have to."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def structural_schema(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The structural OpenAPI v3 schema of a model. `defaults=False` is for a status: writers set those."""
    generated = model.model_json_schema(by_alias=True)
    return _Translation(generated.get("$defs", {}), defaults).translate(generated)


class _Translation:
    """Translates one generated JSON Schema; holds what its references point to."""

    def __init__(self, definitions: dict[str, Schema], defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults

    def translate(self, schema: Schema) -> Schema:
        schema = self._without_references(schema)
        if "discriminator" in schema:
            return self._flattened_union(schema)
        if "const" in schema:
            schema = {**schema, "enum": [schema["const"]]}
        translated: Schema = {key: schema[key] for key in _KEPT if key in schema}
        translated |= {key: value for key, value in schema.items() if key.startswith("x-kubernetes-")}
        if translated["type"] == "integer":
            translated["format"] = "int32" if schema.get("maximum", _MAX_INT32 + 1) <= _MAX_INT32 else "int64"
        if "items" in schema:
            translated["items"] = self.translate(schema["items"])
        if "properties" in schema:
            translated["properties"] = {
                name: self.translate(value) for name, value in schema["properties"].items()
            }
        elif isinstance(schema.get("additionalProperties"), dict):
            translated["additionalProperties"] = self.translate(schema["additionalProperties"])
        if self._defaults and "default" in schema:
            # The rules of an object are checked against its default as it stands, without nested defaults.
            whole = _VALIDATIONS in translated
            default = schema["default"] if whole else _beyond_nested_defaults(schema["default"], translated)
            is_told = default not in _NOTHING or (default is not None and _has_defaults(translated))
            if is_told or schema.get(_REFILLED):
                translated["default"] = _without_nothing(default)
        return translated

    def _without_references(self, schema: Schema) -> Schema:
        """References resolved, and `X | None` reduced to X: an absent field says the same as null."""
        if "$ref" in schema:
            target = self._definitions[schema["$ref"].rsplit("/", 1)[-1]]
            return self._without_references(target | {k: v for k, v in schema.items() if k != "$ref"})
        if "anyOf" in schema:
            (variant,) = (variant for variant in schema["anyOf"] if variant.get("type") != "null")
            return self._without_references(variant | {k: v for k, v in schema.items() if k != "anyOf"})
        return schema

    def _flattened_union(self, schema: Schema) -> Schema:
        """A discriminated union as one object: the fields of all variants, and rules for them."""
        discriminator = schema["discriminator"]["propertyName"]
        variants = {
            value: self.translate({"$ref": reference})
            for value, reference in schema["discriminator"]["mapping"].items()
        }
        fields = dict.fromkeys(name for variant in variants.values() for name in variant["properties"])
        always = [
            name for name in fields if all(name in variant["required"] for variant in variants.values())
        ]
        flattened: Schema = {
            "type": "object",
            "required": always,
            "properties": {name: _merged_field(name, variants) for name in fields},
            _VALIDATIONS: [
                rule.to_schema()
                for name in fields
                if name != discriminator
                for rule in _union_rules(name, discriminator, variants)
            ],
        }
        for value, variant in variants.items():
            for rule in variant.get(_VALIDATIONS, ()):  # a variant's own rules hold for its objects only
                guarded = f"self.{discriminator} != '{value}' || ({rule['rule']})"
                flattened[_VALIDATIONS].append(rule | {"rule": guarded})
        flattened["properties"][discriminator]["enum"] = list(variants)
        return flattened


def _beyond_nested_defaults(default: Any, schema: Schema) -> Any:
    """The part of a default that the defaults of the nested fields do not already give."""
    if not isinstance(default, dict) or "properties" not in schema:
        return default
    fields = schema["properties"]
    beyond = {name: _beyond_nested_defaults(value, fields[name]) for name, value in default.items()}
    return {
        name: value
        for name, value in beyond.items()
        if value not in _NOTHING and value != fields[name].get("default")
    }


def _without_nothing(default: Any) -> Any:
    if not isinstance(default, dict):
        return default
    return {name: _without_nothing(value) for name, value in default.items() if value not in _NOTHING}


def _has_defaults(schema: Schema) -> bool:
    return any("default" in field for field in schema.get("properties", {}).values())


def _merged_field(name: str, variants: dict[str, Schema]) -> Schema:
    """One field of a flattened union: the widest of its forms.

    Its default is told, not set: the API server would set it in objects of the other variants as well.
    """
    forms = [variant["properties"][name] for variant in variants.values() if name in variant["properties"]]
    widest = dict(next((form for form in forms if "enum" not in form), forms[0]))
    default = widest.pop("default", None)
    if default is not None:
        widest["description"] += f" {default} if absent."
    if len(forms) < len(variants):
        owners = " and ".join(value for value in variants if name in variants[value]["properties"])
        widest["description"] += f" Only for {owners}."
    return widest


def _union_rules(name: str, discriminator: str, variants: dict[str, Schema]) -> Iterable[Rule]:
    """Where the field `name` is required, refused, or narrower than in the flattened schema."""
    kind = f"self.{discriminator}"
    owners = [value for value, variant in variants.items() if name in variant["properties"]]
    required = [value for value, variant in variants.items() if name in variant["required"]]
    if required and len(required) < len(variants):
        yield Rule(
            f"!({kind} in {required}) || has(self.{name})",
            f"{name} is required when {discriminator} is {' or '.join(required)}",
            f".{name}",
        )
    if len(owners) < len(variants):
        yield Rule(
            f"{kind} in {owners} || !has(self.{name})",
            f"{name} is only for {discriminator} {' or '.join(owners)}",
            f".{name}",
        )
    forms = {value: v["properties"][name] for value, v in variants.items() if name in v["properties"]}
    if all("enum" in form for form in forms.values()):
        return
    for value, form in forms.items():
        if "enum" in form:
            yield Rule(
                f"{kind} != '{value}' || self.{name} in {form['enum']}",
                f"{name} must be one of {', '.join(form['enum'])} when {discriminator} is {value}",
                f".{name}",
            )


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": 1} if wide else {})


def _ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


# Tools that wait for any kind of object take one without a status for done. No generation is -1, so that a
# new agent is in progress from its first moment, before the operator has seen it.
_UNSEEN = {"observedGeneration": -1}

_AGE = _column("Age", ".metadata.creationTimestamp", "date")


def _agent() -> Schema:
    name_fits = [
        Rule(
            f"size(self.metadata.name) <= {names.MAX_AGENT_NAME}",
            f"metadata.name must have at most {names.MAX_AGENT_NAME} characters: the names of the agent's "
            "Jobs are made from it",
        ),
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name must be a DNS label that starts with a letter: the agent's Service has this name",
        ),
    ]
    return _definition(
        kind=names.AGENT_KIND,
        plural=names.AGENT_PLURAL,
        short_name="eva",
        description="An AI agent that serves, learns from what it did, and goes over to a better model once "
        "that is proven.",
        spec=structural_schema(EvolvingAgentSpec),
        status={"default": _UNSEEN} | structural_schema(EvolvingAgentStatus, defaults=False),
        validations=name_fits,
        subresources={
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.agent.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        columns=[
            _column("Ready", _ready("status")),
            _column("Model", ".status.active.modelID"),
            _column("Revision", ".status.active.revision"),
            _column("Candidate", ".status.candidate.revision"),
            _column("Verdict", ".status.lastVerdict.result"),
            _column("Examples", ".status.dataset.examples", "integer"),
            _AGE,
            # A date column would show a time to come as <invalid>.
            _column("Next Training", ".status.nextTrainingTime", wide=True),
            _column("Reason", _ready("reason"), wide=True),
        ],
        selectable=[],
    )


def _revision() -> Schema:
    return _definition(
        kind=names.REVISION_KIND,
        plural=names.REVISION_PLURAL,
        short_name="arev",
        description="The record of one candidate of an agent: what it learned from, how it was judged, and "
        "what became of it.",
        spec=structural_schema(AgentRevisionSpec),
        status=structural_schema(AgentRevisionStatus, defaults=False),
        validations=[],
        subresources={"status": {}},
        columns=[
            _column("Agent", ".spec.agentRef.name"),
            _column("Model", ".spec.modelID"),
            _column("Dataset", ".spec.dataset.version"),
            _column("Delta", ".status.deltaBps", "integer"),
            _column("State", ".status.state"),
            _AGE,
        ],
        selectable=[".spec.agentRef.name"],
    )


def _definition(
    *,
    kind: str,
    plural: str,
    short_name: str,
    description: str,
    spec: Schema,
    status: Schema,
    validations: list[Rule],
    subresources: Schema,
    columns: list[Schema],
    selectable: list[str],
) -> Schema:
    schema: Schema = {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{names.API_VERSION}."},
            "kind": {"type": "string", "description": f"{kind}."},
            "metadata": {"type": "object"},
            "spec": {"description": "What is wanted."} | spec,
            "status": {"description": "What was seen last; written by the operator."} | status,
        },
    }
    if validations:
        schema[_VALIDATIONS] = [rule.to_schema() for rule in validations]
    version: Schema = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": subresources,
        "additionalPrinterColumns": columns,
    }
    if selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
                "categories": ["all"],
            },
            "versions": [version],
        },
    }
