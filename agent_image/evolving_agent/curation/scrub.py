"""Redaction of a whole example."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from evolving_agent.contract.learning import Redaction
from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example, Rejected
from evolving_agent.curation.redaction import UnscrubbableError, scrub, scrub_value


def redact(example: Example, mode: Redaction, found: Counter[str]) -> Example | DropReason:
    """The example without personal data and secrets; what was replaced is added to `found`.

    Instructions, conversation, target, the wrong answer beside it and the client's tools are scrubbed; the
    agent's own are not, for they are the owner's code. An example that cannot be scrubbed is dropped when
    redaction is Required, and kept as it is with BestEffort.
    """
    if mode is Redaction.DISABLED:
        return example
    try:
        clean, counts = _scrubbed(example)
        if mode is Redaction.REQUIRED and _scrubbed(clean)[1]:  # a replacement has uncovered another one
            return DropReason.REDACTION_FAILED
    except UnscrubbableError:
        return DropReason.REDACTION_FAILED if mode is Redaction.REQUIRED else example
    found.update(counts)
    return clean


def _scrubbed(example: Example) -> tuple[Example, Counter[str]]:
    instructions, found = scrub(example.instructions)
    messages, in_messages = scrub_value([dict(message) for message in example.messages])
    content, in_content = scrub_value(example.target.content)
    arguments, in_arguments = scrub_value(example.target.tool_arguments)
    client_tools, in_tools = scrub_value([dict(tool) for tool in example.client_tools])
    found += in_messages + in_content + in_arguments + in_tools
    rejected = example.rejected
    if rejected is not None:
        rejected, in_rejected = _scrubbed_answer(rejected)
        found += in_rejected
    target = replace(example.target, content=content, tool_arguments=arguments)
    clean = replace(
        example,
        instructions=instructions,
        messages=tuple(messages),
        target=target,
        client_tools=tuple(client_tools),
        rejected=rejected,
    )
    return clean, found


def _scrubbed_answer(rejected: Rejected) -> tuple[Rejected, Counter[str]]:
    content, found = scrub_value(rejected.target.content)
    arguments, in_arguments = scrub_value(rejected.target.tool_arguments)
    found += in_arguments
    after = []
    for step in rejected.after:
        (step_arguments, result), in_step = scrub_value([step.arguments, step.result])
        after.append(replace(step, arguments=step_arguments, result=result))
        found += in_step
    target = replace(rejected.target, content=content, tool_arguments=arguments)
    return replace(rejected, target=target, after=tuple(after)), found
