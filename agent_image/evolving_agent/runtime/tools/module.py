"""Functions of a Python module as tools: from a mounted ConfigMap, or from the agent's image."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import logging
import sys
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from agents.exceptions import AgentsException
from agents.function_schema import FuncSchema, function_schema
from pydantic import BaseModel, TypeAdapter, ValidationError

from evolving_agent.contract.base import digest
from evolving_agent.contract.tools import ModuleTool, ToolEffect
from evolving_agent.runtime.tools.files import MissingFileError, MountedFiles
from evolving_agent.runtime.tools.invocation import RunScope, ToolDefinition, ToolError, place_of
from evolving_agent.runtime.tools.openapi import function_name
from evolving_agent.runtime.tools.source import SourceError
from evolving_agent.runtime.tools.threads import BusyError, DaemonThreads

IMPORT_SECONDS = 30.0
IDEMPOTENCY_KEY = "idempotency_key"  # a parameter of this name is filled in here, unseen by the model
_LOCKS: dict[str, threading.Lock] = {}  # by name of a module, as the import system has them
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)

logger = logging.getLogger(__name__)


async def module_tools(tool: ModuleTool, files: MountedFiles, threads: DaemonThreads) -> list[ToolDefinition]:
    """Raises SourceError: for good where the module breaks, as its import is not done twice in a process."""
    try:
        async with asyncio.timeout(IMPORT_SECONDS):
            module = await threads.run(lambda: _imported(tool, files), f"import-{tool.name}")
    except MissingFileError as error:
        raise SourceError(str(error)) from error
    except BusyError as error:
        raise SourceError(str(error)) from error
    except TimeoutError as error:
        raise SourceError(
            f"the import of {tool.module} did not end within {IMPORT_SECONDS:g} s", permanent=True
        ) from error
    except Exception as error:  # a module raises whatever it likes
        raise SourceError(
            f"the module {tool.module} cannot be imported: {type(error).__name__}: {error} ({_line(error)})",
            permanent=True,
        ) from error
    return [
        definition
        for name, function in _functions(tool, module).items()
        if (definition := _definition(tool, name, function, threads)) is not None
    ]


def _imported(tool: ModuleTool, files: MountedFiles) -> ModuleType:
    if tool.config_map_ref is None:
        return importlib.import_module(tool.module)
    path = files.config_map(tool.config_map_ref.name, f"{tool.module}.py")
    # two ConfigMaps may hold modules of one name, and neither may hide an installed one
    name = f"evolving_tool_{tool.module}_{digest([tool.config_map_ref.name, str(path)])}"
    with _LOCKS.setdefault(name, threading.Lock()):  # of two entries with one module, one waits
        return sys.modules.get(name) or _executed(name, path)


def _executed(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there while it is made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _functions(tool: ModuleTool, module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Those that the spec names; else those of `__all__`; else the public ones that are defined there."""
    named = tool.functions or tuple(getattr(module, "__all__", ()))
    if not named:
        return {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        }
    found: dict[str, Callable[..., Any]] = {}
    for name in named:
        if inspect.isfunction(value := getattr(module, name, None)):
            found[name] = value
        else:
            logger.error("the module %s has no function %s to offer", tool.module, name)
    return found


def _definition(
    tool: ModuleTool, name: str, function: Callable[..., Any], threads: DaemonThreads
) -> ToolDefinition | None:
    """None, and a line in the log, for a function whose signature cannot be told to a model."""
    try:
        takes_key = IDEMPOTENCY_KEY in inspect.signature(function).parameters
        schema = function_schema(
            _without(function, IDEMPOTENCY_KEY) if takes_key else function, strict_json_schema=False
        )
    except Exception as error:  # unknown names in type hints, types without a schema, and so on
        logger.error("the function %s of %s is not offered: %s", name, tool.module, error)
        return None
    effect = tool.effect or ToolEffect.WRITE

    async def call(arguments: dict[str, Any], scope: RunScope) -> str:
        positional, keywords = _call_arguments(schema, name, arguments)
        if takes_key:
            keywords[IDEMPOTENCY_KEY] = scope.idempotency_key(name, arguments)
        bound = functools.partial(function, *positional, **keywords)
        try:
            result = (
                await bound() if inspect.iscoroutinefunction(function) else await threads.run(bound, name)
            )
        except BusyError as error:
            raise ToolError(str(error)) from error
        except Exception as error:  # the function's own errors are for the model to read
            logger.warning("the tool %s raised %s at %s", name, type(error).__name__, place_of(error))
            raise ToolError(f"{name} failed: {type(error).__name__}: {error}") from error
        return _as_text(result)

    return ToolDefinition(
        name=function_name(tool.name_prefix + name),
        description=schema.description or name,
        parameters=schema.params_json_schema,
        effect=effect,
        timeout_seconds=tool.timeout_seconds,
        call=call,
        max_result_bytes=tool.max_result_bytes,
    )


def _without(function: Callable[..., Any], parameter: str) -> Callable[..., Any]:
    """The function as the model sees it."""

    @functools.wraps(function)
    def visible(*_: Any, **__: Any) -> None:
        raise AssertionError("only its signature is looked at")

    signature = inspect.signature(function)
    kept = [each for name, each in signature.parameters.items() if name != parameter]
    hints = typing.get_type_hints(function, include_extras=True)
    visible.__annotations__ = {name: hint for name, hint in hints.items() if name != parameter}
    visible.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined] # inspect reads it
    return visible


def _call_arguments(
    schema: FuncSchema, name: str, arguments: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    try:
        parsed: BaseModel = schema.params_pydantic_model(**arguments)
        return schema.to_call_args(parsed)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)
        )
        raise ToolError(f"the arguments of {name} do not fit: {problems}") from error
    except (AgentsException, TypeError) as error:
        raise ToolError(f"the arguments of {name} do not fit: {error}") from error


def _as_text(result: Any) -> str:
    if result is None:
        return "done"
    return result if isinstance(result, str) else _ANYTHING.dump_json(result, fallback=str).decode()


def _line(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f"line {error.lineno}"
    return place_of(error)
