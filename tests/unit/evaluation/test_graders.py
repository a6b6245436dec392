"""Which answers are right, and which case files are refused, naming the place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evolving_agent.curation.cases import CaseError, Expected, parse_cases
from evolving_agent.evaluation.graders import Said, is_right, is_subset

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("log", {"x": 1}),
    ("route", {"team": "cards", "note": {"urgent": True, "tags": ["a", "b"]}}),
]


@pytest.mark.parametrize(
    ("expected", "text", "right"),
    [
        ({"answer": "It is done."}, "It  is\ndone. ", True),
        ({"answer": "It is done."}, "it is done.", False),
        ({"contains": "Done"}, "all is DONE now", True),
        ({"contains": "done"}, "", False),
        ({"tool": {"name": "route"}}, "", True),
        ({"tool": {"name": "route", "arguments": {"team": "cards"}}}, "", True),
        ({"tool": {"name": "route", "arguments": {"note": {"urgent": True}}}}, "", True),
        ({"tool": {"name": "route", "arguments": {"note": {"tags": ["a"]}}}}, "", False),
        ({"tool": {"name": "route", "arguments": {"team": "loans"}}}, "", False),
        ({"tool": {"name": "route", "arguments": {"else": None}}}, "", False),
        ({"tool": {"name": "close"}}, "", False),
        ({"tool": {"name": "route"}, "contains": "done"}, "not yet", False),
        ({"tool": {"name": "route"}, "contains": "done"}, "done", True),
    ],
)
def test_everything_that_is_expected_must_hold(expected: dict[str, Any], text: str, right: bool) -> None:
    assert is_right(Expected.model_validate(expected), Said(text, CALLS)) is right


@pytest.mark.parametrize(
    ("wanted", "given", "holds"), [(1, 1.0, True), (True, 1, False), (0, False, False), ({}, [], False)]
)
def test_values_are_equal_as_json_means_it(wanted: object, given: object, holds: bool) -> None:
    assert is_subset(wanted, given) is holds


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "suite.jsonl:2: (line): "),
        ('{"id": "b", "input": "x"}', "suite.jsonl:2: expected: "),
        ('{"id": "b", "expected": {"answer": "y"}}', "suite.jsonl:2: (line): Value error, give either input"),
        (
            '{"id": "b", "input": "x", "expected": {}}',
            "suite.jsonl:2: expected: Value error, name at least one",
        ),
        (
            '{"id": "b", "input": "x", "expected": {"tool": {"name": 3}}}',
            "suite.jsonl:2: expected.tool.name: ",
        ),
        ('{"id": "b", "input": "x", "expect": {"answer": "y"}}', "suite.jsonl:2: expect"),
        ('{"id": "a", "input": "x", "expected": {"answer": "y"}}', "suite.jsonl:2: id: 'a' is there already"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(line: str, words: str) -> None:
    good = json.dumps({"id": "a", "input": "x", "expected": {"answer": "y"}})
    with pytest.raises(CaseError) as refused:
        parse_cases([good, line], "suite.jsonl")
    assert words in str(refused.value)


def test_a_file_without_cases_is_refused() -> None:
    with pytest.raises(CaseError, match="no case"):
        parse_cases(["", " "], "suite.jsonl")


def test_the_digest_changes_with_the_cases() -> None:
    one = json.dumps({"id": "a", "input": "x", "expected": {"answer": "y"}})
    other = json.dumps({"id": "a", "input": "x", "expected": {"answer": "z"}})
    assert parse_cases([one], "s").digest == parse_cases(["", one], "s").digest
    assert parse_cases([one], "s").digest != parse_cases([other], "s").digest
