"""Why an episode did not become an example. Every episode that is read is an example or counted here."""

from __future__ import annotations

from enum import StrEnum


class DropReason(StrEnum):
    REPEATED_RECORD = "RepeatedRecord"  # the same completion ID was logged more than once
    SHADOW_ARM = "ShadowArm"  # a shadow run's answer was never seen by anybody
    FAILED = "Failed"  # the run ended in an error, and nobody said what would have been right
    NO_SIGNAL = "NoSignal"  # no score and no usable correction
    LOW_SCORE = "LowScore"  # scored below the threshold, and not corrected
    HANDED_OFF = "HandedOff"  # a specialist answered: not under the instructions that would be trained
    CLIENTS_TURN = "ClientsTurn"  # it ended in calls of the client's tools: its answer is another episode's
    ANSWER_FORMAT = "AnswerFormat"  # JSON that the client asked for beside the conversation
    INVALID_TARGET = "InvalidTarget"  # an empty answer, or a tool call that the agent could not have made
    UNSUPPORTED_CONTENT = "UnsupportedContent"  # images, sound, files, or calls that are none
    NO_PAIR = "NoPair"  # preference datasets: nothing comparable that the agent said there is known as wrong
    REDACTION_FAILED = "RedactionFailed"
    EVALUATION_OVERLAP = "EvaluationOverlap"  # equal or near to a case of an evaluation suite
    NEAR_DUPLICATE = "NearDuplicate"
    TASK_TYPE_LIMIT = "TaskTypeLimit"
    MAX_EXAMPLES = "MaxExamples"
