"""The items that models answer with, in the form that the Agents SDK speaks for every endpoint."""

from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

__all__ = [
    "ResponseCompletedEvent",
    "ResponseCreatedEvent",
    "ResponseFunctionToolCall",
    "ResponseOutputMessage",
    "ResponseOutputText",
    "ResponseTextDeltaEvent",
]
