"""The curation Job on a store: what it writes, reports and leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evolving_agent.contract import env
from evolving_agent.contract.config import Endpoint
from evolving_agent.contract.learning import Curation, CurationThresholds, DatasetFormat, LearningConfig
from evolving_agent.contract.report import CurationReport, Outcome
from evolving_agent.curation import job
from evolving_agent.curation.dataset import latest_manifest, read_manifest
from evolving_agent.store.durable import exclusive
from evolving_agent.store.records import Record, ReflectionSource
from evolving_agent.testing.experience import episode, reflection, routed_to, write_log
from evolving_agent.testing.jobs import JobBench

REQUESTS = [
    f"{verb} {thing} {when}"
    for verb in ("please block", "I want to replace", "how do I order")
    for thing in ("the credit card", "a debit card for my son", "my lost bank card")
    for when in ("before we travel", "because it is broken", "as it was stolen in a shop", "next week")
]


def configured(bench: JobBench, **settings: Any) -> None:
    thresholds = CurationThresholds(max_task_type_percent=100, **settings.pop("thresholds", {}))
    curation = Curation(schedule="@daily", thresholds=thresholds, **settings)
    learning = LearningConfig(
        agent="support", base_model="base-model", endpoint=Endpoint(), curation=curation
    )
    bench.configure(learning)


def taught(first: int, last: int) -> list[Record]:
    """Requests first to last - 1, each with a person's correction."""
    records: list[Record] = []
    for number in range(first, last):
        asked = episode(number, REQUESTS[number])
        records += [asked, routed_to(asked, "cards")]
    return records


@pytest.fixture
def bench(tmp_path: Path) -> JobBench:
    made = JobBench(tmp_path)
    configured(made)
    return made


def curated(bench: JobBench, run_id: str = "run-1") -> CurationReport:
    code, report = bench.run(job.run, run_id)
    assert code == env.EXIT_OK
    assert isinstance(report, CurationReport)
    return report


def test_experience_becomes_a_dataset_with_lineage(bench: JobBench) -> None:
    write_log(bench.layout, [*taught(0, 30), episode(31, "nobody said anything about this")])
    report = curated(bench)

    assert (report.outcome, report.reason) == (Outcome.SUCCEEDED, "DatasetWritten")
    assert report.dataset is not None
    assert report.dataset.examples + report.dataset.holdout + sum(report.dropped.values()) == 31
    assert report.dropped["NoSignal"] == 1

    directory = bench.layout.dataset(report.dataset.version)
    train = [json.loads(line) for line in (directory / "train.jsonl").read_text().splitlines()]
    holdout = [json.loads(line) for line in (directory / "holdout.jsonl").read_text().splitlines()]
    assert (len(train), len(holdout)) == (report.dataset.examples, report.dataset.holdout)
    assert all("case" not in line for line in train)
    assert all(line["case"]["input"] == line["messages"][1]["content"] for line in holdout)

    manifest = read_manifest(bench.layout, report.dataset.version)
    assert manifest.version == f"ds-{manifest.digest[:8]}"
    lineage = {(row.split, row.line): row for row in manifest.lineage}
    asked = {f"chatcmpl-{number}": text for number, text in enumerate(REQUESTS)}
    for split, lines in (("train", train), ("holdout", holdout)):
        for number, line in enumerate(lines, start=1):
            row = lineage[(split, number)]
            assert asked[row.episode] == line["messages"][1]["content"]
            assert row.reflection == f"reflection-{row.episode}-feedback"


def test_the_same_experience_is_the_same_dataset_and_more_of_it_has_a_parent(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 20))
    first = curated(bench)
    again = curated(bench, "run-2")
    assert again.reason == "DatasetUnchanged"
    assert again.dataset == first.dataset

    write_log(bench.layout, taught(20, 30))
    grown = curated(bench, "run-3")
    assert grown.dataset is not None
    assert first.dataset is not None
    assert grown.dataset.digest != first.dataset.digest
    latest = latest_manifest(bench.layout)
    assert latest is not None
    assert (latest.version, latest.parent) == (grown.dataset.version, first.dataset.version)
    names = {path.name for path in bench.layout.datasets.iterdir() if not path.name.startswith(".")}
    assert names == {"LATEST", first.dataset.version, grown.dataset.version}


def test_too_few_examples_are_no_dataset_and_the_report_says_what_is_missing(bench: JobBench) -> None:
    configured(bench, thresholds={"min_examples": 50})
    write_log(bench.layout, [*taught(0, 20), episode(90, "hm")])
    report = curated(bench)
    assert (report.outcome, report.reason) == (Outcome.SKIPPED, "NotEnoughExamples")
    assert " of 50 examples, from 21 requests" in report.message
    assert "1 NoSignal" in report.message
    assert latest_manifest(bench.layout) is None


def test_records_that_pods_had_to_drop_are_told(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 20))
    (log,) = bench.layout.episode_files
    with log.open("ab") as file:
        file.write(b'{"type":"gap","v":1,"time":"2026-01-01T00:00:00Z","kind":"episode","lost":17}\n')

    report = curated(bench)

    assert report.quarantined == 0
    assert "17 records lost while the store refused writes" in report.message


def test_bad_lines_are_quarantined_and_counted_and_a_torn_last_line_is_neither(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 20))
    log = bench.layout.episode_files[0]
    good = log.read_bytes()
    newer = good.splitlines()[0].replace(b'"v":1', b'"v":2')
    log.write_bytes(b'{"type":"episode"\n\xff\xfe\n' + newer + b"\n" + good + b'{"type":"epis')
    report = curated(bench)
    assert report.quarantined == 3
    assert report.outcome is Outcome.SUCCEEDED
    curated(bench, "run-2")  # reading the log again does not quarantine again

    rows = [
        json.loads(line)
        for path in bench.layout.quarantine.iterdir()
        for line in path.read_text().splitlines()
    ]
    assert [(row["file"], row["line"]) for row in rows] == [
        ("episodes/support-0/00000001.jsonl", number) for number in (1, 2, 3)
    ]
    assert "newer than 1" in rows[2]["reason"]
    assert rows[0]["raw"] == '{"type":"episode"'


def test_a_line_that_was_torn_is_read_when_it_is_whole(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 20))
    log = bench.layout.episode_files[0]
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    before = curated(bench)
    log.write_bytes(whole)
    after = curated(bench, "run-2")
    assert before.quarantined == after.quarantined == 0
    assert before.dataset is not None
    assert after.dataset is not None
    total = after.dataset.examples + after.dataset.holdout
    assert total == before.dataset.examples + before.dataset.holdout + 1


def test_a_run_whose_report_was_lost_reports_the_same_again(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 20))
    first = curated(bench)
    write_log(bench.layout, taught(20, 30))
    assert curated(bench) == first


def test_cases_of_mounted_suites_stay_out(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 30))
    cases = [
        {"id": str(n), "input": f"{REQUESTS[n].upper()}!", "expected": {"contains": "x"}} for n in range(5)
    ]
    bench.add_suite("routing", [json.dumps(case) for case in cases])
    report = curated(bench)
    assert report.dropped["EvaluationOverlap"] >= 5
    assert report.dataset is not None
    dataset = bench.layout.dataset(report.dataset.version)
    written = (dataset / "train.jsonl").read_text() + (dataset / "holdout.jsonl").read_text()
    assert not [n for n in range(5) if REQUESTS[n] in written]


def test_a_broken_suite_stops_the_run_and_names_line_and_field(bench: JobBench) -> None:
    bench.add_suite("routing", ['{"id": "1", "input": "x", "expected": {"tool": {}}}'])
    code, report = bench.run(job.run, "run-1")
    assert code == env.EXIT_PERMANENT
    assert report.reason == "InvalidSuite"
    assert "routing/cases.jsonl:1: expected.tool.name: " in report.message


def test_settings_that_cannot_be_read_are_a_permanent_failure(tmp_path: Path) -> None:
    code, report = JobBench(tmp_path).run(job.run, "run-1")
    assert (code, report.outcome, report.reason) == (env.EXIT_PERMANENT, Outcome.FAILED, "InvalidConfig")
    assert "learning.json" in report.message


def test_two_curations_do_not_run_at_once(bench: JobBench) -> None:
    with exclusive(bench.layout.datasets / ".lock"):
        code, report = bench.run(job.run, "run-1")
    assert (code, report.reason) == (env.EXIT_RETRY, "AnotherRunIsActive")
    assert curated(bench).reason == "NotEnoughExamples"  # the failed run was not final


def test_what_a_killed_run_left_behind_is_removed(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 20))
    unfinished = bench.layout.datasets / ".unfinished-abc"
    unfinished.mkdir(parents=True)
    (unfinished / "train.jsonl").write_text("{}")
    report = curated(bench)
    assert not unfinished.exists()
    assert report.reason == "DatasetWritten"


def test_a_dataset_that_somebody_removed_does_not_stop_the_next_one(bench: JobBench) -> None:
    write_log(bench.layout, taught(0, 20))
    first = curated(bench)
    assert first.dataset is not None
    shutil.rmtree(bench.layout.dataset(first.dataset.version))
    write_log(bench.layout, taught(20, 30))
    second = curated(bench, "run-2")
    assert second.reason == "DatasetWritten"
    latest = latest_manifest(bench.layout)
    assert latest is not None
    assert latest.parent is None


@pytest.mark.parametrize("step", ["write_dataset", "point_to"])
def test_a_run_that_is_killed_between_two_writes_is_made_up_for(
    bench: JobBench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class KilledError(BaseException):
        """Nobody catches it."""

    def killed(*_: object) -> None:
        raise KilledError

    write_log(bench.layout, taught(0, 20))
    with monkeypatch.context() as patched:
        patched.setattr(job, step, killed)
        with pytest.raises(KilledError):
            bench.run(job.run, "run-1")
    report = curated(bench)
    latest = latest_manifest(bench.layout)
    assert latest is not None
    assert report.dataset == latest.ref
    assert report.dataset.examples + report.dataset.holdout == 20


def test_a_preference_dataset_holds_pairs_and_the_same_held_out_cases(bench: JobBench) -> None:
    """24 requests were corrected; the others were answered well, three of them after a bad answer."""
    well = [episode(n, REQUESTS[n], answer=f"Certainly, {n}.") for n in range(24, 36)]
    badly = [episode(100 + n, REQUESTS[n], answer="Ask your branch.") for n in range(24, 27)]
    judged = [reflection(e, ReflectionSource.FEEDBACK, score=100) for e in well]
    judged += [reflection(e, ReflectionSource.FEEDBACK, score=0) for e in badly]
    write_log(bench.layout, [*taught(0, 24), *well, *badly, *judged])
    supervised = curated(bench)
    configured(bench, format=DatasetFormat.PREFERENCE)
    report = curated(bench, "run-2")

    assert (report.outcome, report.reason) == (Outcome.SUCCEEDED, "DatasetWritten")
    assert supervised.dataset is not None
    assert report.dataset is not None
    assert report.dataset.format is DatasetFormat.PREFERENCE
    assert f"{report.dataset.examples} pairs and" in report.message
    assert report.dropped["LowScore"] == 3
    assert report.dropped["NoPair"] > 0
    assert report.dataset.examples + report.dataset.holdout + sum(report.dropped.values()) == 39

    # the evaluation asks what it would ask with the other format, what went well before included
    before, now = (bench.layout.dataset(each.version) for each in (supervised.dataset, report.dataset))
    assert (now / "holdout.jsonl").read_bytes() == (before / "holdout.jsonl").read_bytes()
    lines = [json.loads(line) for line in (now / "train.jsonl").read_text().splitlines()]
    held_out = {
        json.loads(line)["case"]["input"] for line in (now / "holdout.jsonl").read_text().splitlines()
    }
    assert {tuple(line) for line in lines} == {("input", "non_preferred_output", "preferred_output")}
    assert not held_out & {line["input"]["messages"][1]["content"] for line in lines}
    for line in lines:
        (said,), (right,) = line["non_preferred_output"], line["preferred_output"]
        assert line["input"]["messages"][-1]["role"] == "user"
        if "tool_calls" in right:
            assert said["content"] == "I am not sure."
            assert right["tool_calls"][0]["function"]["arguments"] == '{"team":"cards"}'
        else:
            assert (said["content"], right["content"][:9]) == ("Ask your branch.", "Certainly")

    # the manifest tells of either side, and counts the prompt for both
    manifest, other = (read_manifest(bench.layout, each.name) for each in (now, before))
    rows = [row for row in manifest.lineage if row.split == "train"]
    assert all(row.rejected for row in rows)
    assert {row.episode == row.rejected for row in rows} == {True, False}
    assert all(row.rejected is None for row in other.lineage)
    assert manifest.estimated_tokens / manifest.examples > 1.5 * other.estimated_tokens / other.examples

    # and the same again is the same, whatever the order of the log's lines
    log = bench.layout.episode_files[0]
    log.write_bytes(b"".join(reversed(log.read_bytes().splitlines(keepends=True))))
    again = curated(bench, "run-3")
    assert (again.reason, again.dataset) == ("DatasetUnchanged", report.dataset)


def test_too_few_pairs_are_no_dataset_though_there_are_enough_examples(bench: JobBench) -> None:
    well = [episode(n, REQUESTS[n], answer=f"Certainly, {n}.") for n in range(30)]
    judged = [reflection(e, ReflectionSource.FEEDBACK, score=100) for e in well]
    write_log(bench.layout, [*well, *judged])
    configured(bench, format=DatasetFormat.PREFERENCE)
    report = curated(bench)

    assert (report.outcome, report.reason) == (Outcome.SKIPPED, "NotEnoughExamples")
    assert report.message.startswith("0 of 10 pairs, from 30 requests (dropped: ")
    assert report.dropped["NoPair"] + report.dropped.get("NearDuplicate", 0) <= 30


def test_what_was_curated_before_there_were_formats_is_curated_to_the_same_bytes(bench: JobBench) -> None:
    """An upgrade that changed one byte would make a new dataset, and train every agent anew."""
    write_log(bench.layout, taught(0, 30))
    report = curated(bench)
    assert report.dataset is not None
    assert report.dataset.digest == "6555bf2e54a5314a527517716098f57ca429ecf3a2139b799cdcd45868c10660"

    path = bench.layout.dataset(report.dataset.version) / "manifest.json"
    document = json.loads(path.read_text())
    assert document["settings"].pop("format") == "Supervised"
    path.write_text(json.dumps(document))  # as it was written before
    assert read_manifest(bench.layout, report.dataset.version).ref == report.dataset
