"""The ConfigMaps and Secrets that tools and further models name, as files in the pods that use them.

Files, not environment variables: the kubelet brings a changed Secret to a running pod. All are optional, so
that what is missing costs a tool, whose error names it, and not the pod; once it exists, it appears.
"""

from __future__ import annotations

from collections.abc import Iterator

from evolving_agent.contract import env
from evolving_agent.contract.base import digest
from evolving_agent.contract.refs import SecretKeyRef
from evolving_agent.contract.tools import HTTPTool, MCPTool, ModuleTool, Tool
from evolving_operator.core.builders.base import Manifest
from evolving_operator.core.builders.context import BuildContext
from evolving_operator.core.builders.pod import Mount, literal

_READABLE_BY_GROUP = 0o440


def tool_mounts(context: BuildContext) -> tuple[Mount, ...]:
    """`<files>/configmaps/<name>/<key>` and `<files>/secrets/<name>/<key>`; Secrets' named keys only."""
    keys: dict[str, set[str]] = {}
    for ref in _secrets(context):
        keys.setdefault(ref.name, set()).add(ref.key)
    config_maps = [
        Mount(
            f"tool-config-{digest(name)}",
            f"{env.DEFAULT_FILES}/{env.FILES_CONFIG_MAPS}/{name}",
            {"configMap": {"name": name, "optional": True}},
            read_only=True,
        )
        for name in sorted(set(_config_maps(context)))
    ]
    secrets = [
        Mount(
            f"tool-secret-{digest(name)}",
            f"{env.DEFAULT_FILES}/{env.FILES_SECRETS}/{name}",
            {
                "secret": {
                    "secretName": name,
                    "items": [{"key": key, "path": key} for key in sorted(keys[name])],
                    "defaultMode": _READABLE_BY_GROUP,
                    "optional": True,
                }
            },
            read_only=True,
        )
        for name in sorted(keys)
    ]
    return (*config_maps, *secrets)


def tool_env(context: BuildContext) -> list[Manifest]:
    """Where these files lie; nothing where there are none."""
    are_there = any(_config_maps(context)) or any(_secrets(context))
    return [literal(env.FILES, env.DEFAULT_FILES)] if are_there else []


def _tools(context: BuildContext) -> Iterator[Tool]:
    yield from context.spec.agent.tools
    for specialist in context.spec.agent.specialists:
        yield from specialist.tools


def _config_maps(context: BuildContext) -> Iterator[str]:
    for tool in _tools(context):
        match tool:
            case ModuleTool(config_map_ref=ref) if ref is not None:
                yield ref.name
            case HTTPTool(open_api=source) if source is not None and source.config_map_key_ref is not None:
                yield source.config_map_key_ref.name


def _secrets(context: BuildContext) -> Iterator[SecretKeyRef]:
    for tool in _tools(context):
        if isinstance(tool, HTTPTool | MCPTool):
            yield from (header.secret_key_ref for header in tool.headers if header.secret_key_ref is not None)
    models = [
        *(specialist.model for specialist in context.spec.agent.specialists),
        context.spec.agent.reflection.model,
    ]
    for model in models:
        endpoint = model.endpoint if model is not None else None
        if endpoint is not None and endpoint.api_key_secret_ref is not None:
            yield endpoint.api_key_secret_ref
