"""The curation Job: all experience in the store → one dataset, or a reason why there is none."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from evolving_agent.contract.learning import Curation, DatasetFormat, Redaction
from evolving_agent.contract.report import CurationReport, Outcome, Report
from evolving_agent.curation.cases import CaseError, input_text, mounted_case_files, read_cases
from evolving_agent.curation.choose import choose_example
from evolving_agent.curation.dataset import (
    DatasetError,
    Manifest,
    content_digest,
    dataset_exists,
    estimate_tokens,
    held_out_lines,
    latest_manifest,
    lineage_of,
    point_to,
    read_manifest,
    remove_unfinished,
    training_lines,
    version_name,
    write_dataset,
)
from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example
from evolving_agent.curation.pairs import WrongAnswers, rejected_answer, without_right_answer
from evolving_agent.curation.read import Experience, quarantine, read_experience
from evolving_agent.curation.redaction import UnscrubbableError, scrub_value
from evolving_agent.curation.resolve import resolve
from evolving_agent.curation.scrub import redact
from evolving_agent.reporting import JobContext, JobError, log_to_stderr, run_job
from evolving_agent.store.durable import StoreBusyError
from evolving_agent.store.layout import StoreLayout
from evolving_agent.store.records import Episode, ReflectionRecord

KIND = "curation"
log = logging.getLogger(__name__)


def main() -> int:
    """The container's entry: returns its exit code."""
    log_to_stderr()
    return run(JobContext.from_environment())


def run(context: JobContext) -> int:
    return run_job(KIND, curate, _failed, context)


def _failed(context: JobContext, reason: str, message: str) -> Report:
    return CurationReport(run_id=context.run_id, outcome=Outcome.FAILED, reason=reason, message=message)


def curate(context: JobContext) -> CurationReport:
    """Makes the dataset that the store's experience gives, if it is not there yet.

    Raises JobError for settings and suites that a person must correct, and where another curation runs.
    """
    settings = context.learning().curation
    if settings is None:
        return CurationReport(
            run_id=context.run_id,
            outcome=Outcome.SKIPPED,
            reason="CurationNotConfigured",
            message="the agent's spec has no curation block",
        )
    evaluation_inputs = _evaluation_inputs(context, settings.redaction)
    try:
        with context.layout.exclusive(context.layout.datasets / ".lock", context.run_id):
            return _curate(context, settings, evaluation_inputs)
    except StoreBusyError as busy:
        raise JobError("AnotherRunIsActive", str(busy), permanent=False) from busy
    except DatasetError as problem:
        raise JobError("DatasetUnreadable", str(problem), permanent=False) from problem


def _curate(context: JobContext, settings: Curation, evaluation_inputs: set[str]) -> CurationReport:
    layout = context.layout
    remove_unfinished(layout)
    experience = read_experience(layout)
    quarantine(layout, experience.bad_lines)
    log.info(
        "read %d episodes and %d reflections, %d bad lines",
        len(experience.episodes), len(experience.reflections), len(experience.bad_lines),
    )  # fmt: skip

    dropped: Counter[DropReason] = Counter()
    redacted: Counter[str] = Counter()
    examples = _examples(experience, settings, dropped, redacted)
    resolved = resolve(
        examples,
        evaluation_inputs,
        settings.thresholds,
        settings.holdout_percent,
        dropped,
        pairs=settings.format is DatasetFormat.PREFERENCE,
    )
    noun = settings.format.examples
    counted = {reason.value: count for reason, count in sorted(dropped.items()) if count}
    log.info("%d %s, %d held out, dropped: %s", len(resolved.train), noun, len(resolved.held_out), counted)

    least = settings.thresholds.min_examples
    if len(resolved.train) < least:
        return CurationReport(
            run_id=context.run_id,
            outcome=Outcome.SKIPPED,
            reason="NotEnoughExamples",
            message=f"{len(resolved.train)} of {least} {noun}, {_origin(experience)}" + _most_common(dropped),
            dropped=counted,
            quarantined=len(experience.bad_lines),
        )

    train = training_lines(resolved.train)
    holdout = held_out_lines(resolved.held_out)
    content = content_digest(train, holdout)
    version = version_name(content)
    if dataset_exists(layout, version):
        manifest = read_manifest(layout, version)
        reason = "DatasetUnchanged"
    else:
        manifest = Manifest(
            version=version,
            digest=content,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            parent=_parent(layout),
            examples=len(resolved.train),
            holdout=len(resolved.held_out),
            estimated_tokens=estimate_tokens(train, settings.format),
            episodes=len(experience.episodes),
            reflections=len(experience.reflections),
            quarantined=len(experience.bad_lines),
            conflicts=resolved.conflicts,
            redacted=dict(sorted(redacted.items())),
            dropped=counted,
            settings=settings,
            lineage=lineage_of(resolved.train, resolved.held_out),
        )
        write_dataset(layout, train, holdout, manifest)
        reason = "DatasetWritten"
    point_to(layout, version)
    return CurationReport(
        run_id=context.run_id,
        outcome=Outcome.SUCCEEDED,
        reason=reason,
        message=f"dataset {version}: {manifest.examples} {noun} and {manifest.holdout} held out, "
        f"{_origin(experience)}",
        dataset=manifest.ref,
        dropped=counted,
        quarantined=len(experience.bad_lines),
    )


def _parent(layout: StoreLayout) -> str | None:
    """The dataset before this one. That it cannot be read any more must not keep new ones from being made."""
    try:
        latest = latest_manifest(layout)
    except DatasetError as problem:
        log.warning("the dataset before this one cannot be read: %s", problem)
        return None
    return latest.version if latest is not None else None


def _examples(
    experience: Experience,
    settings: Curation,
    dropped: Counter[DropReason],
    redacted: Counter[str],
) -> list[Example]:
    """One redacted example per episode that teaches something; the others are counted.

    For a preference dataset each has the wrong answer beside it that it is preferred to, where one is known.
    """
    in_pairs = settings.format is DatasetFormat.PREFERENCE
    least_score = settings.thresholds.min_score_percent
    reflections: dict[str, list[ReflectionRecord]] = {}
    for record in experience.reflections:
        reflections.setdefault(record.episode, []).append(record)
    episodes: dict[str, Episode] = {}
    for episode in experience.episodes:
        if episode.id in episodes:
            dropped[DropReason.REPEATED_RECORD] += 1
        else:
            episodes[episode.id] = episode
    examples, wrong_answers = [], WrongAnswers()
    for episode in episodes.values():
        judgements = reflections.get(episode.id, ())
        chosen = choose_example(episode, judgements, least_score)
        if in_pairs:
            right = chosen.target if isinstance(chosen, Example) else None
            rejected = rejected_answer(episode, judgements, least_score, right)
            if isinstance(chosen, Example):
                chosen = replace(chosen, rejected=rejected)
            elif rejected is not None and (prompt := without_right_answer(episode, rejected)) is not None:
                # Counted below as what it is: no example. What was wrong in it can still serve another one.
                clean = redact(prompt, settings.redaction, redacted)
                if isinstance(clean, Example):
                    wrong_answers.add(clean)
        if isinstance(chosen, Example):
            chosen = redact(chosen, settings.redaction, redacted)
        if isinstance(chosen, DropReason):
            dropped[chosen] += 1
        else:
            examples.append(chosen)
            wrong_answers.add(chosen)
    return [wrong_answers.paired(example) for example in examples] if in_pairs else examples


def _evaluation_inputs(context: JobContext, redaction: Redaction) -> set[str]:
    """Normalised inputs of all mounted suites, redacted as the examples are that they are compared with."""
    inputs: set[str] = set()
    for path in mounted_case_files(context.suites_dir):
        try:
            cases = read_cases(path).cases
        except CaseError as problem:
            raise JobError("InvalidSuite", str(problem), permanent=True) from problem
        for case in cases:
            conversation = [dict(message) for message in case.conversation]
            inputs.add(input_text(tuple(conversation)))
            if redaction is not Redaction.DISABLED:
                try:
                    inputs.add(input_text(tuple(scrub_value(conversation)[0])))
                except UnscrubbableError:
                    continue  # no example can hold this text redacted either
    return inputs


def _origin(experience: Experience) -> str:
    """Where the examples come from, how many lines of the log could not be read, and how many are missing."""
    bad, lost = len(experience.bad_lines), experience.lost
    told = f"; {bad} line{'s' if bad != 1 else ''} quarantined" if bad else ""
    told += f"; {lost} record{'s' if lost != 1 else ''} lost while the store refused writes" if lost else ""
    return f"from {len(experience.episodes)} requests{told}"


def _most_common(dropped: Counter[DropReason]) -> str:
    reasons = [f"{count} {reason.value}" for reason, count in dropped.most_common(4) if count]
    return f" (dropped: {', '.join(reasons)})" if reasons else ""
