"""What is taken out of texts, and what only looks alike and stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.contract.learning import Redaction
from evolving_agent.curation.choose import choose_example
from evolving_agent.curation.drops import DropReason
from evolving_agent.curation.examples import Example, Target
from evolving_agent.curation.redaction import UnscrubbableError, passes_iban, passes_luhn, scrub, scrub_value
from evolving_agent.curation.scrub import redact
from evolving_agent.testing.experience import episode, routed_to

# Assembled here, so that no scanner of repositories takes them for leaked ones.
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
OPENAI = "sk-" + "proj-" + "a1B2" * 8
GITHUB = "ghp_" + "x1Y2z3" * 6
JWT = ".".join(["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0NTYifQ", "c2lnbmF0dXJl"])


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("write to ann.lee+x@mail.example.co.uk.", "write to <EMAIL>."),
        ("pay DE89 3704 0044 0532 0130 00 now", "pay <IBAN> now"),
        ("pay GB82WEST12345698765432", "pay <IBAN>"),
        ("card 4111 1111 1111 1111, please", "card <CARD>, please"),
        ("amex 378282246310005", "amex <CARD>"),
        ("2024 4111 1111 1111 1111 123", "2024 <CARD> 123"),
        ("ES91 2100 0418 4502 0005 1332 from me", "<IBAN> from me"),
        ("call +49 (0)30 901820-12", "call <PHONE>"),
        ("call 030 9018 2012!", "call <PHONE>!"),
        ("call (415) 555-2671", "call <PHONE>"),
        ("my ssn is 536-22-1234", "my ssn is <SSN>"),
        ("from 192.168.17.4", "from <IP>"),
        (f"key {OPENAI}", "key <API_KEY>"),
        (f"key {AWS} leaked", "key <API_KEY> leaked"),
        (f"{GITHUB}\n", "<API_KEY>\n"),
        (f"token {JWT}", "token <TOKEN>"),
        ("Authorization: Bearer abcdef1234567890", "Authorization: Bearer <TOKEN>"),
        ("password: hunter2!", "password: <SECRET>"),
        ('{"api_key": "q7w8e9r0"}', '{"api_key": "<SECRET>"}'),
        ("my PIN is 4821, help", "my PIN is <SECRET>, help"),
        ("postgres://ann:s3cret@db:5432/x", "postgres://<CREDENTIALS>@db:5432/x"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            "<PRIVATE_KEY>",
        ),
    ],
)
def test_personal_data_and_secrets_are_replaced(text: str, clean: str) -> None:
    assert scrub(text)[0] == clean


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112 of 2024",  # the checksum does not hold
        "order 20240131-7781",
        "GB83 WEST 1234 5698 7654 32",  # an IBAN with a wrong checksum
        "I paid 1,299.00 on 2024-01-31 at 10:30",
        "my pin is blocked and my password: please reset it",
        "version 3.11.7, section 1.2.3",
        "meet @ noon",
        "I waited 12 345 678 seconds",
        "the basic account and the bearer of it",
    ],
)
def test_what_only_looks_alike_stays(text: str) -> None:
    assert scrub(text) == (text, Counter())


@given(st.text(alphabet="ab1 @.:+-<>\n0", max_size=60) | st.text(max_size=60))
def test_scrubbing_what_is_scrubbed_finds_nothing_more(text: str) -> None:
    clean, _ = scrub(text)
    again, found = scrub(clean)
    assert (again, found) == (clean, Counter())


@given(st.integers(min_value=10**11, max_value=10**17))
def test_luhn_accepts_exactly_one_check_digit(payload: int) -> None:
    assert sum(passes_luhn(f"{payload}{digit}") for digit in range(10)) == 1


def test_iban_checksum() -> None:
    assert passes_iban("FR14 2004 1010 0505 0001 3M02 606")
    assert not passes_iban("FR15 2004 1010 0505 0001 3M02 606")


def test_a_value_is_scrubbed_however_deep() -> None:
    clean, found = scrub_value({"to": ["a@b.example", {"note": "x"}], "n": 3, "ok": True, "none": None})
    assert clean == {"to": ["<EMAIL>", {"note": "x"}], "n": 3, "ok": True, "none": None}
    assert found == {"<EMAIL>": 1}


@pytest.mark.parametrize("value", [{"card": 4111111111111111}, {"a@b.example": 1}])
def test_what_no_placeholder_can_replace_is_an_error(value: object) -> None:
    with pytest.raises(UnscrubbableError):
        scrub_value(value)


def an_example(target: Target) -> Example:
    asked = episode(1, "I am ann@mail.example")
    chosen = choose_example(asked, [routed_to(asked, "cards")], min_score=70)
    assert isinstance(chosen, Example)
    return replace(chosen, target=target)


def test_the_mode_decides_about_an_example_that_cannot_be_scrubbed() -> None:
    stubborn = an_example(Target(None, "pay", {"card": 4111111111111111}))
    assert redact(stubborn, Redaction.REQUIRED, Counter()) is DropReason.REDACTION_FAILED
    assert redact(stubborn, Redaction.BEST_EFFORT, Counter()) is stubborn
    assert redact(stubborn, Redaction.DISABLED, Counter()) is stubborn


def test_conversation_target_and_instructions_are_scrubbed_and_counted() -> None:
    example = replace(
        an_example(Target("ask bob@mail.example", "mail", {"to": "eve@mail.example"})),
        instructions="Write to help@mail.example.",
    )
    found: Counter[str] = Counter()
    clean = redact(example, Redaction.REQUIRED, found)
    assert isinstance(clean, Example)
    assert clean.instructions == "Write to <EMAIL>."
    assert clean.messages == ({"role": "user", "content": "I am <EMAIL>"},)
    assert clean.target == Target("ask <EMAIL>", "mail", {"to": "<EMAIL>"})
    assert found == {"<EMAIL>": 4}
