"""The two documents that pods read, rendered from the spec: how to answer, and how to learn."""

from __future__ import annotations

from evolving_agent.contract.config import AgentConfig, Endpoint, ServedModel
from evolving_agent.contract.learning import LearningConfig
from evolving_operator.core.builders.context import BuildContext


def render_agent_config(context: BuildContext, revision: str, model_id: str) -> AgentConfig:
    """What a pod answers with when it serves `revision`: the model is the revision's, the rest the user's."""
    model, agent = context.spec.model, context.spec.agent
    return AgentConfig(
        revision=revision,
        model=ServedModel(
            id=model_id,
            base_url=model.endpoint.base_url,
            api=model.endpoint.api,
            connect_timeout_seconds=model.endpoint.connect_timeout_seconds,
            timeout_seconds=model.endpoint.timeout_seconds,
            max_concurrent_calls=model.endpoint.max_concurrent_calls,
            max_output_tokens=model.max_output_tokens,
            temperature_percent=model.temperature_percent,
            pricing=model.pricing_of(model_id),
        ),
        instructions=agent.instructions or "",  # never empty: what is read in their place is put there
        tools=agent.tools,
        specialists=agent.specialists,
        memory=agent.memory.type,
        sessions=agent.sessions,
        limits=agent.limits,
        reflection=agent.reflection,
        tool_use_behavior=agent.tool_use_behavior,
    )


def render_learning_config(context: BuildContext) -> LearningConfig:
    """How the agent's Jobs curate, train and evaluate."""
    spec = context.spec
    return LearningConfig(
        agent=context.name,
        base_model=spec.model.base,
        # Jobs have no use for a serving pod's limits
        endpoint=Endpoint.part_of(spec.model.endpoint),
        curation=spec.curation,
        training=spec.training.for_jobs if spec.training else None,
        evaluation=spec.evaluation,
    )
