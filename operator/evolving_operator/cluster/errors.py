"""What can go wrong between the operator and the API server, by who must act. HTTP codes stop here."""

# ruff: noqa: N818 - named for what happened: "except NotFound" reads as it is meant
from __future__ import annotations


class ClusterError(Exception):
    """Any failed request. The message names the object and what the server said."""


class Conflict(ClusterError):
    """The object is no longer what was decided upon: observe again, decide again."""


class AlreadyExists(ClusterError):
    """Something of that name is there already."""


class NotFound(ClusterError):
    """There is no object of that name, by the word of who would know it: its kind is served."""


class Outdated(ClusterError):
    """A watch cannot go on: the server no longer knows the version that it ended at."""


class Refused(ClusterError):
    """The server understood and said no, and will say no again until somebody changes something."""

    reason = "WriteRefused"


class Invalid(Refused):
    """The object breaks a rule. `fields` are the paths that the server names."""

    reason = "InvalidSpec"

    def __init__(self, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class Forbidden(Refused):
    """The operator's ServiceAccount may not do this, or a policy forbids it."""

    reason = "Forbidden"


class NotServed(Refused):
    """The kind or the namespace is not there, or that was not the API server: HTTP 404, but of no object."""

    reason = "NotServed"


class WebhookFailed(Refused):
    """An admission webhook that must be asked does not answer. Only what it is asked about waits for it."""

    reason = "WebhookFailed"


class NameTaken(Refused):
    """An object of that name is there, and it is somebody else's."""

    reason = "NameTaken"


class Unavailable(ClusterError):
    """The server cannot answer now: wait `retry_after` seconds where it says so, and try again."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unanswered(Unavailable):
    """The request was sent, and nobody who would know has said what became of it: it may yet take effect.

    The connection broke, the server or a gateway before it gave the request up, or the answer cannot be read.
    """
