"""The items that models answer with, in the form that the Agents SDK speaks for every endpoint."""

from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseCreatedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

__all__ = [
    "Response",
    "ResponseCompletedEvent",
    "ResponseCreatedEvent",
    "ResponseFunctionToolCall",
    "ResponseOutputMessage",
    "ResponseOutputText",
    "ResponseTextDeltaEvent",
]
