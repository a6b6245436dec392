"""Takes personal data and secrets out of texts. A placeholder such as <EMAIL> stands where one was.

Detection is by form, with the checksums that cards and IBANs carry, so that order numbers and amounts
stay. Names and addresses have no form: they are not found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

CARD_DIGITS = range(13, 20)
PHONE_DIGITS = range(8, 16)
IBAN_CHARACTERS = range(15, 35)
MAX_TEXT_CHARACTERS = 200_000


class UnscrubbableError(ValueError):
    """The value holds something that must go and cannot: a number that is a card, a name of a field."""


@dataclass(frozen=True)
class _Pattern:
    """`accept` decides about what the expression matched (of a secret, about its value).

    With `in_groups` the match is a run of groups of characters, of which some in a row may be meant:
    a card's number with its security code behind it.
    """

    placeholder: str
    expression: re.Pattern[str]
    accept: Callable[[str], bool] = lambda _: True
    in_groups: bool = False


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def passes_luhn(text: str) -> bool:
    """Whether the digits in `text` are 13 to 19 and their Luhn checksum holds, as a payment card's does."""
    digits = [int(digit) for digit in _digits(text)]
    if len(digits) not in CARD_DIGITS:
        return False
    doubled = (digit * 2 for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(value - 9 if value > 9 else value for value in doubled)) % 10 == 0


def passes_iban(text: str) -> bool:
    """Whether the IBAN's own checksum holds (ISO 13616: rearranged, as a number, 1 modulo 97)."""
    compact = text.replace(" ", "").replace("-", "").upper()
    if len(compact) not in IBAN_CHARACTERS:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    return len(_digits(text)) in PHONE_DIGITS


def _has_digit(text: str) -> bool:
    """Tells "my pin is 4821" from "my pin is blocked"."""
    return any(character.isdigit() for character in text)


def _has_digit_and_letter(text: str) -> bool:
    return _has_digit(text) and any(character.isalpha() for character in text)


_GROUP = re.compile(r"[A-Za-z0-9]+")

# Order matters: what contains others comes first (a URL's credentials before the e-mail in it).
_PATTERNS = (
    _Pattern(
        "<PRIVATE_KEY>",
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
    ),
    _Pattern("<CREDENTIALS>", re.compile(r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)")),
    _Pattern("<EMAIL>", re.compile(r"[\w.%+'-]+@[^\W_][\w-]*(?:\.[\w-]+)*\.[^\W\d_]{2,}")),
    _Pattern("<TOKEN>", re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")),
    _Pattern("<TOKEN>", re.compile(r"(?<=bearer )[\w.~+/-]{12,}=*", re.IGNORECASE)),
    _Pattern("<TOKEN>", re.compile(r"(?<=basic )[A-Za-z0-9+/]{12,}=*", re.IGNORECASE), _has_digit_and_letter),
    _Pattern(
        "<API_KEY>",
        re.compile(
            r"\b(?:sk-[\w-]{16,}|[sr]k_(?:live|test)_\w{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{20,}"
            r"|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}"
            r"|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|SG\.[\w-]{16,}\.[\w-]{16,})"
        ),
    ),
    _Pattern(
        "<SECRET>",
        re.compile(
            r"(?P<label>(?<![^\W_])(?:pass(?:word|wd|phrase)|secret|api[_-]?key|(?:access|auth)[_-]?token|pin)"
            r"[\"']?\s*(?:[:=]|\bis\b:?)\s*[\"']?)(?P<value>[^\s\"'<>,;)]{4,})",
            re.IGNORECASE,
        ),
        _has_digit,
    ),
    _Pattern(
        "<IBAN>",
        re.compile(r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,60}\b"),
        passes_iban,
        in_groups=True,
    ),
    _Pattern("<CARD>", re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,60}(?!\d)"), passes_luhn, in_groups=True),
    _Pattern("<SSN>", re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")),
    _Pattern(
        "<IP>",
        re.compile(
            r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.]*\d)"
        ),
    ),
    # International with + or 00; or national in groups, beginning with 0 or an area code in brackets.
    _Pattern(
        "<PHONE>",
        re.compile(
            r"(?<![\w.])(?:\+|\b00)\d(?:[ ()./-]{0,2}\d){7,13}(?!\d)"
            r"|(?<![\w.-])\(?0\d{1,5}\)?[ /-]\d{2,}(?:[ /-]?\d{2,})*(?![\w-]*\d)"
            r"|(?<![\w.-])(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\d-])"
        ),
        _is_phone,
    ),
)


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text with placeholders, and how many of each were put in.

    Raises UnscrubbableError for a text too long to be looked through in reasonable time.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise UnscrubbableError(f"a text of {len(text)} characters is longer than {MAX_TEXT_CHARACTERS}")
    clean, found = _scrubbed(text)
    return clean, Counter(dict(found))


@lru_cache(maxsize=4096)  # instructions and names of fields come with every example
def _scrubbed(text: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    found: Counter[str] = Counter()
    for pattern in _PATTERNS:

        def replace(match: re.Match[str], pattern: _Pattern = pattern) -> str:
            if pattern.in_groups:
                clean, count = _replace_groups(match.group(), pattern.accept, pattern.placeholder)
                found.update({pattern.placeholder: count} if count else {})
                return clean
            parts = match.groupdict()
            if not pattern.accept(parts.get("value", match.group())):
                return match.group()
            found[pattern.placeholder] += 1
            return parts.get("label", "") + pattern.placeholder

        text = pattern.expression.sub(replace, text)
    return text, tuple(found.items())


def _replace_groups(run: str, accept: Callable[[str], bool], placeholder: str) -> tuple[str, int]:
    """Replaces the longest acceptable rows of groups in `run`, from its start on; how many there were."""
    groups = list(_GROUP.finditer(run))
    clean, done, count, first = "", 0, 0, 0
    while first < len(groups):
        start = groups[first].start()
        last = next(
            (n for n in range(len(groups) - 1, first - 1, -1) if accept(run[start : groups[n].end()])), None
        )
        if last is None:
            first += 1
            continue
        clean += run[done:start] + placeholder
        done, count, first = groups[last].end(), count + 1, last + 1
    return clean + run[done:], count


def scrub_value(value: Any) -> tuple[Any, Counter[str]]:
    """The same for a JSON value: texts in it are scrubbed, however deep.

    Raises UnscrubbableError where a placeholder would break the value: a sensitive number or field name.
    """
    found: Counter[str] = Counter()

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            clean, counts = scrub(item)
            found.update(counts)
            return clean
        if isinstance(item, dict):
            for name in item:
                if scrub(str(name))[1]:
                    raise UnscrubbableError("the name of a field holds personal data or a secret")
            return {name: walk(member) for name, member in item.items()}
        if isinstance(item, list):
            return [walk(member) for member in item]
        if isinstance(item, int) and not isinstance(item, bool) and scrub(str(item))[1]:
            raise UnscrubbableError("a number is personal data, and no placeholder fits a number")
        return item

    return walk(value), found
