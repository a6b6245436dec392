"""`release`: makes a provider forget an agent that was deleted, under deletionPolicy Delete.

Runs when the agent, its volume and its configuration are gone: all it knows is the provider's address and the
agent's UID, which jobs carry in their metadata and files in their names. Each step can be repeated.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import openai
from openai.types.fine_tuning import FineTuningJob

from evolving_agent.contract import env
from evolving_agent.contract.report import MAX_MESSAGE_CHARS, Outcome, ReleaseReport
from evolving_agent.reporting import JobContext, JobError, hand_in, log_to_stderr
from evolving_agent.training.openai_backend import AGENT_METADATA_KEY, REQUEST_TIMEOUT_SECONDS, file_prefix

_ENDED = frozenset({"succeeded", "failed", "cancelled"})
_RETRIES = 5  # by the client: every request here can be repeated
log = logging.getLogger(__name__)


def main() -> int:
    """The container's entry: returns its exit code."""
    log_to_stderr()
    return run(JobContext.from_environment())


def run(context: JobContext) -> int:
    """Reports to the termination log alone: there is no store any more."""
    try:
        report, code = release(context), env.EXIT_OK
    except JobError as error:
        report = _report(context, Outcome.FAILED, error.reason, error.message)
        code = env.EXIT_PERMANENT if error.permanent else env.EXIT_RETRY
    hand_in(context, report)
    return code


def release(context: JobContext) -> ReleaseReport:
    """Cancels the agent's jobs, deletes its models and its files. Raises JobError."""
    uid, base_url = context.required(env.AGENT_UID), context.required(env.RELEASE_ENDPOINT)
    with openai.OpenAI(
        base_url=base_url,
        api_key=context.variables.get(env.API_KEY) or "no-key-needed",
        max_retries=_RETRIES,
        timeout=REQUEST_TIMEOUT_SECONDS,
    ) as client:
        try:
            return _release(context, client, uid)
        except openai.APIStatusError as error:
            message = f"{base_url}: HTTP {error.status_code}: {error.message}"
            if error.status_code in (401, 403):
                raise JobError("CredentialsRejected", message, permanent=True) from error
            raise JobError("ProviderRefused", message, permanent=False) from error
        except openai.APIError as error:
            raise JobError("ProviderUnavailable", f"{base_url}: {error.message}", permanent=False) from error


def _release(context: JobContext, client: openai.OpenAI, uid: str) -> ReleaseReport:
    prefix = file_prefix(uid)
    files = {file.id for file in client.files.list(purpose="fine-tune") if file.filename.startswith(prefix)}
    jobs = [job for job in client.fine_tuning.jobs.list(limit=100) if _is_ours(job, uid, files)]
    files |= {job.training_file for job in jobs if _is_marked(job, uid)}
    running = [job.id for job in jobs if job.status not in _ENDED]
    cancelled = sum(_done(client.fine_tuning.jobs.cancel, job_id) for job_id in running)
    # One that ended by itself just before it was to be cancelled has a model by now.
    models = {client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model or "" for job in jobs} - {""}
    deleted = sum(_done(client.models.delete, model) for model in sorted(models))
    forgotten = sum(_done(client.files.delete, file) for file in sorted(files))
    message = f"{cancelled} jobs cancelled, {deleted} models and {forgotten} files deleted"
    return _report(context, Outcome.SUCCEEDED, "Released", message).model_copy(
        update={"jobs_cancelled": cancelled, "models_deleted": deleted, "files_deleted": forgotten}
    )


def _is_marked(job: FineTuningJob, uid: str) -> bool:
    return (job.metadata or {}).get(AGENT_METADATA_KEY) == uid


def _is_ours(job: FineTuningJob, uid: str, files: set[str]) -> bool:
    """By its metadata or, at providers that keep none, by its training file."""
    return _is_marked(job, uid) or job.training_file in files


def _done(act: Callable[[str], object], name: str) -> bool:
    """Whether it was there to be ended; what is gone, or has ended by itself, is as good."""
    try:
        act(name)
    except (openai.NotFoundError, openai.BadRequestError) as error:
        log.info("%s: nothing to do: %s", name, error.message)
        return False
    return True


def _report(context: JobContext, outcome: Outcome, reason: str, message: str) -> ReleaseReport:
    return ReleaseReport(
        run_id=context.run_id, outcome=outcome, reason=reason, message=message[:MAX_MESSAGE_CHARS]
    )


if __name__ == "__main__":
    sys.exit(main())
