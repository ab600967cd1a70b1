"""Patterns of credentials and personal data in text, as one table. Pure.

Each pattern has anchors, literals of which a match contains at least one: text without them, which is nearly all text,
is left after a few fast searches. A match begins at an anchor, or in the word that ends there. Numbers share one search
for runs of digits. Checks (Luhn, mod 97, ranges, digits among letters) keep ordinary words and numbers from matching.

Shapes of keys are those of the providers' documentation and of GitHub's and Gitleaks' rules for secret scanning
(https://docs.github.com/en/code-security/secret-scanning, https://github.com/gitleaks/gitleaks, read 2026-11-30);
lengths of IBANs are those of the SWIFT registry, release 97.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

Category: TypeAlias = Literal["credential", "personal"]
Spans: TypeAlias = Iterator[tuple[int, int]]

MAX_LEAD: Final = 64
"""Characters before an anchor in which a match may begin."""


@dataclass(frozen=True, slots=True)
class RedactionPattern:
    r"""A kind of value to redact, and how to find it.

    Parameters
    ----------
    entity
        Name of the kind, in capitals: placeholders contain it. Those of personal data are Presidio's.
    regex
        Regular expression, or its source. A group named ``value`` is what is redacted, otherwise the whole match.
    anchors
        Literals of which a match contains one, in lower case if ``ignore_case``; without any, all of the text is
        searched with ``regex``.
    lead
        Characters besides letters and digits that a match may have before its anchor; ``None`` if the match begins
        with the anchor.
    ignore_case
        Whether anchors are found in capitals too.
    check
        Whether what was matched is such a value.
    category
        ``"credential"`` or ``"personal"``.
    tail
        Expression that must match right after an anchor, to leave most anchors soon.

    Examples
    --------
    >>> pattern = RedactionPattern("EMPLOYEE_ID", r"\bE-\d{6}\b")
    >>> list(pattern.spans("ask E-123456"))
    [(4, 12)]
    """

    entity: str
    regex: re.Pattern[str] | str
    anchors: tuple[str, ...] = ()
    lead: str | None = None
    ignore_case: bool = False
    check: Callable[[str], bool] | None = None
    category: Category = "personal"
    tail: re.Pattern[str] | None = None

    def __post_init__(self) -> None:
        """Compile the expression and validate the name."""
        if not re.fullmatch(r"[A-Z][A-Z_]*", self.entity):
            raise ValueError(f"entity: must be capitals and underscores, not {self.entity!r}")
        if isinstance(self.regex, str):
            object.__setattr__(self, "regex", re.compile(self.regex))

    def spans(self, text: str) -> Spans:
        """Yield start and end of the matches in ``text``."""
        for _, start, end in PatternSet((self,)).spans(text):
            yield start, end

    def at_anchor(self, text: str, anchor: int, end: int) -> tuple[int, int] | None:
        """Return the span of the match at the anchor from ``anchor`` to ``end``; ``None`` if there is none."""
        if self.tail is not None and not self.tail.match(text, end):
            return None
        begin = anchor if self.lead is None else _word_start(text, anchor, self.lead)
        match = self.compiled.match(text, begin)
        return self.checked(match) if match is not None and match.end() >= end else None

    def checked(self, match: re.Match[str]) -> tuple[int, int] | None:
        """Return the span of the value in a match, if it passes the check."""
        group: str | int = "value" if "value" in match.re.groupindex else 0
        is_value = match[group] and (self.check is None or self.check(match[group]))
        return match.span(group) if is_value else None

    @property
    def compiled(self) -> re.Pattern[str]:
        """The expression."""
        assert isinstance(self.regex, re.Pattern)  # noqa: S101 - compiled by __post_init__
        return self.regex


class PatternSet:
    """Patterns that are searched for together, by their anchors.

    Anchors that end in a character that is rare in prose are looked for where it is, all in one step. The others are
    searched for one by one.
    """

    def __init__(self, patterns: Sequence[RedactionPattern]) -> None:
        by_anchor: dict[tuple[str, bool], list[RedactionPattern]] = {}
        for pattern in patterns:
            for anchor in pattern.anchors:
                by_anchor.setdefault((anchor, pattern.ignore_case), []).append(pattern)
        endings: dict[tuple[str, bool], dict[str, tuple[RedactionPattern, ...]]] = {}
        self._literals: list[tuple[str, bool, tuple[RedactionPattern, ...]]] = []
        for (anchor, ignore_case), anchored in by_anchor.items():
            if anchor[-1] in RARE_ENDINGS and len(anchor) > 1:
                endings.setdefault((anchor[-1], ignore_case), {})[anchor] = tuple(anchored)
            else:
                self._literals.append((anchor, ignore_case, tuple(anchored)))
        self._endings = [(ending, ignore_case, anchored) for (ending, ignore_case), anchored in endings.items()]
        self._unanchored = tuple(pattern for pattern in patterns if not pattern.anchors)

    def spans(self, text: str) -> Iterator[tuple[str, int, int]]:
        """Yield kind, start and end of the values in ``text``; they may overlap."""
        lowered = ascii_lower(text)
        for ending, ignore_case, anchored in self._endings:
            searched = lowered if ignore_case else text
            if ending in searched:
                yield from _ending_spans(text, searched, ending, anchored)
        for anchor, ignore_case, patterns in self._literals:
            searched = lowered if ignore_case else text
            if anchor in searched:
                yield from _literal_spans(text, searched, anchor, patterns)
        for pattern in self._unanchored:
            for match in pattern.compiled.finditer(text):
                span = pattern.checked(match)
                if span is not None:
                    yield pattern.entity, *span


def _ending_spans(
    text: str, searched: str, ending: str, anchored: Mapping[str, tuple[RedactionPattern, ...]]
) -> Iterator[tuple[str, int, int]]:
    """Yield what patterns find at anchors that end in ``ending``."""
    anchors = tuple(anchored)
    position = searched.find(ending) + 1
    while position:
        if searched.endswith(anchors, 0, position):
            for anchor, patterns in anchored.items():
                if searched.endswith(anchor, 0, position):
                    yield from _matches(text, patterns, position - len(anchor), position)
        position = searched.find(ending, position) + 1


def _literal_spans(
    text: str, searched: str, anchor: str, patterns: Sequence[RedactionPattern]
) -> Iterator[tuple[str, int, int]]:
    """Yield what the patterns find wherever ``anchor`` is."""
    start = searched.find(anchor)
    while start >= 0:
        end = start + len(anchor)
        for found in _matches(text, patterns, start, end):
            yield found
            end = max(end, found[2])
        start = searched.find(anchor, end)


def _matches(text: str, patterns: Sequence[RedactionPattern], start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield what the patterns find at the anchor from ``start`` to ``end``."""
    for pattern in patterns:
        span = pattern.at_anchor(text, start, end)
        if span is not None:
            yield pattern.entity, *span


RARE_ENDINGS: Final = "-_.="
"""Last characters of anchors that are looked for together: not rare in code, but found fast."""


def ascii_lower(text: str) -> str:
    """Return ``text`` in lower case, with every character at its place.

    Examples
    --------
    >>> ascii_lower("İKEY")
    'İkey'
    """
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text.translate(_ASCII_LOWER)


_ASCII_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _word_start(text: str, end: int, extra: str) -> int:
    """Return where the word of letters, digits and ``extra`` begins that ends at ``end``."""
    start, lowest = end, max(0, end - MAX_LEAD)
    while start > lowest and (text[start - 1].isalnum() or text[start - 1] in extra):
        start -= 1
    return start


# Checks


def luhn_valid(digits: str) -> bool:
    """Return whether the digits of a card number pass Luhn's check.

    Examples
    --------
    >>> luhn_valid("4111111111111111"), luhn_valid("4111111111111112")
    (True, False)
    """
    values = list(map(int, reversed(digits)))
    return (sum(values[::2]) + sum([DOUBLED[value] for value in values[1::2]])) % 10 == 0


DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""Sum of the digits of twice each digit."""


def iban_valid(iban: str) -> bool:
    """Return whether an IBAN without spaces has the length of its country and passes the check of ISO 7064 (mod 97).

    Examples
    --------
    >>> iban_valid("DE89370400440532013000"), iban_valid("DE89370400440532013001")
    (True, False)
    """
    iban = iban.upper()
    if IBAN_LENGTHS.get(iban[:2]) != len(iban) or not iban.isascii() or not iban.isalnum():
        return False
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def has_digit(text: str) -> bool:
    """Return whether ``text`` has a digit, as random keys have and words have not."""
    return any(map(str.isdigit, text))


def looks_random(text: str) -> bool:
    """Return whether ``text`` is a key rather than words: digits among letters, or many letters of both cases.

    Examples
    --------
    >>> [looks_random(text) for text in ("hunter2!", "certificates", "management-System-x", "aGVsbG8gd29ybGQgYWJj")]
    [True, False, False, True]
    """
    if "*" in text:
        return True  # a key that its provider has masked in part
    letters = "".join(filter(str.isalpha, text))
    if has_digit(text):
        return True
    if len(text) < MIN_LETTERS_OF_KEY or not text.isalnum():
        return False
    return not letters.islower() and not letters.isupper() and not letters.istitle()


MIN_LETTERS_OF_KEY: Final = 16
"""Length from which mixed letters without a digit count as a key."""
LONG_VALUE: Final = 16
SHORT_VALUE: Final = 6


def _is_masked(value: str) -> bool:
    return not value.strip("*.x<>[]{}$%_-X•")


def is_assigned_secret(value: str) -> bool:
    """Return whether the value of a setting named like a key is one: long and random."""
    return len(value) >= LONG_VALUE and looks_random(value) and not _is_masked(value)


def is_password(value: str) -> bool:
    """Return whether the value of a setting named like a password may be one."""
    return len(value) >= SHORT_VALUE and not _is_masked(value) and (has_digit(value) or not value.isalpha())


def is_basic_token(match: str) -> bool:
    """Return whether what follows ``Basic`` is a user and a password in base64.

    Examples
    --------
    >>> is_basic_token("Basic YW5uOmh1bnRlcjI="), is_basic_token("Basic requirements")
    (True, False)
    """
    token = match.rsplit(maxsplit=1)[-1]
    try:
        return b":" in binascii.a2b_base64(token + "=" * (-len(token) % 4))
    except binascii.Error:
        return False


def is_public_ipv4(text: str) -> bool:
    """Return whether ``text`` is an IPv4 address of a machine, other than this one."""
    octets = [int(part) for part in text.split(".")]
    return all(octet <= 255 for octet in octets) and octets[0] not in {0, 127} and octets != [255] * 4  # noqa: PLR2004


def is_ipv6(text: str) -> bool:
    """Return whether ``text`` is an IPv6 address of a machine: not a slice, a time, or a path of names.

    Examples
    --------
    >>> [is_ipv6(text) for text in ("2001:db8::1", "fe80::1", "::1", "1::2", "12:30:45", "a::b")]
    [True, True, False, False, False, False]
    """
    groups = text.split(":")
    halves = text.split("::")
    filled = [group for group in groups if group]
    if len(halves) > 2 or any(len(group) > 4 for group in filled) or not has_digit(text):  # noqa: PLR2004
        return False
    if len(halves) == 1:
        return len(filled) == 8  # noqa: PLR2004 - groups of a whole address
    return 2 <= len(filled) < 8 and len(filled[0]) >= 3 and bool(halves[0])  # noqa: PLR2004


def is_phone_number(text: str) -> bool:
    """Return whether ``text`` has as many digits as a telephone number (E.164: at most 15)."""
    return 7 <= sum(map(str.isdigit, text)) <= 15  # noqa: PLR2004


def is_ssn(text: str) -> bool:
    """Return whether the groups of a US social security number are ones that are issued."""
    area, group, serial = re.split("[- ]", text)
    return area not in {"000", "666"} and area[0] != "9" and group != "00" and serial != "0000"


# Numbers, which have no anchors: one search finds the runs of digits in which each of these is looked for


class NumberPattern(NamedTuple):
    """A kind of number, its fewest digits, and a function that yields its spans within a run of digits."""

    entity: str
    min_digits: int
    spans: Callable[[str, int, int], Spans]


_NUMBER_RUN: Final = re.compile(
    r"[0-9](?:(?P<run>[0-9 .()/\-]{5,}[0-9])|[0-9](?<=[A-Za-z]{2}[0-9][0-9])(?=[ \-]?[A-Za-z0-9]{4}))"
)
"""A run of digits and separators, or the check digits of an IBAN."""
_WITHOUT_SEPARATORS: Final = str.maketrans("", "", " .()/-")
_DIGIT_GROUP: Final = re.compile(r"[0-9]+")
_CARD_PREFIX: Final = re.compile(r"4|5[0-8]|2[2-7]|3[0-9]|6")
CARD_LENGTHS: Final = range(13, 20)
CARD_SEPARATORS: Final = frozenset({" ", "-"})
_IPV4: Final = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?[0-9])")
_SSN: Final = re.compile(r"(?<![0-9\-])[0-9]{3}(?:-[0-9]{2}-| [0-9]{2} )[0-9]{4}(?![0-9\-]| [0-9])")
_PHONES: Final = re.compile(
    r"\+\(?[0-9]{1,3}\)?(?:[ .\-/()]{0,2}[0-9]){6,13}(?![0-9])"  # international
    r"|(?<![0-9.\-+])(?:1[ .\-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .\-])"  # North America
    r"[2-9][0-9]{2}[ .\-][0-9]{4}(?![0-9\-])"
    r"|(?<![0-9.,\-/])\(?0[0-9]{1,4}\)?[ /][0-9]{3,4}[ \-]?[0-9]{3,5}(?![0-9.,/\-][0-9]|[0-9])"  # with a trunk prefix
    r"|(?<![0-9.,\-/])0[0-9](?:[ .][0-9][0-9]){4}(?![ .\-/]?[0-9])"  # France
)
_COLONS: Final = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6: Final = re.compile(r"[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?!\w)")
HEX_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
_IBAN: Final = re.compile(r"[A-Za-z]{2}[0-9][0-9](?:[ \-]?[A-Za-z0-9]){11,30}")


def _number_spans(regex: re.Pattern[str], check: Callable[[str], bool], before: int = 0) -> Callable[..., Spans]:
    """Return a function that searches ``regex`` in a run, from up to ``before`` characters in front of it."""

    def spans(text: str, start: int, end: int) -> Spans:
        for match in regex.finditer(text, max(0, start - before), end + 1):
            if check(match[0]):
                yield match.span()

    return spans


def _ipv4_spans(text: str, start: int, end: int) -> Spans:
    if text.count(".", start, end) >= 3:  # noqa: PLR2004 - dots of an address
        yield from _ADDRESSES(text, start, end)


def _card_spans(text: str, start: int, end: int) -> Spans:
    """Yield card numbers: groups of digits that together have a card's length and prefix and pass Luhn's check."""
    groups = [match.span() for match in _DIGIT_GROUP.finditer(text, start, end)]
    first = 0
    while first < len(groups):
        last = _card_end(text, groups, first)
        if last is not None:
            yield groups[first][0], groups[last][1]
            first = last
        first += 1


def _card_end(text: str, groups: Sequence[tuple[int, int]], first: int) -> int | None:
    """Return the last group of the card number that begins with the group ``first``; ``None`` if there is none."""
    if not _CARD_PREFIX.match(text, groups[first][0]):
        return None
    digits, found = "", None
    for index in range(first, len(groups)):
        low, high = groups[index]
        if index > first and text[groups[index - 1][1] : low] not in CARD_SEPARATORS:
            break
        digits += text[low:high]
        if len(digits) > CARD_LENGTHS[-1]:
            break
        if len(digits) in CARD_LENGTHS and len(set(digits)) > 1 and luhn_valid(digits):
            found = index
    return found


def _iban_span(text: str, start: int) -> tuple[int, int] | None:
    """Return the span of the IBAN that begins at ``start``, as long as those of its country; ``None`` if none does."""
    length = IBAN_LENGTHS.get(text[start : start + 2].upper())
    match = _IBAN.match(text, start)
    if length is None or match is None:
        return None
    if start and text[start - 1].isalnum() and not _after_escape(text, start):
        return None
    position, chars = start, ""
    while position < match.end() and len(chars) < length:
        chars += text[position] if text[position].isalnum() else ""
        position += 1
    return (start, position) if iban_valid(chars) and not text[position : position + 1].isalnum() else None


def _ipv6_spans(text: str) -> Spans:
    """Yield IPv6 addresses: two colons with at most four digits between them are rare in other text."""
    end = 0
    for colons in _COLONS.finditer(text):
        start = colons.start()
        while start > max(end, colons.start() - 4) and text[start - 1] in HEX_DIGITS:
            start -= 1
        for begin in (start, colons.start() + 1):
            match = _IPV6.match(text, begin)
            if match is not None and begin >= end and is_ipv6(match[0].rstrip(":")):
                end = begin + len(match[0].rstrip(":"))
                yield begin, end
                break


def _after_escape(text: str, start: int) -> bool:
    r"""Return whether the letter before ``start`` ends an escape sequence such as ``\n``."""
    return text[start - 2 : start - 1] == "\\" and text[start - 1] in "nrtbf"


_ADDRESSES: Final = _number_spans(_IPV4, is_public_ipv4)
NUMBERS: Final = (
    NumberPattern("CREDIT_CARD", CARD_LENGTHS[0], _card_spans),
    NumberPattern("IP_ADDRESS", 4, _ipv4_spans),
    NumberPattern("US_SSN", 9, _number_spans(_SSN, is_ssn)),
    NumberPattern("PHONE_NUMBER", 7, _number_spans(_PHONES, is_phone_number, before=2)),
)
"""Numbers, in the order in which they are recognized. IBANs and IPv6 addresses, which have letters, are found apart."""


def _run_spans(text: str, start: int, end: int, wanted: Sequence[NumberPattern]) -> Iterator[tuple[str, int, int]]:
    """Yield the numbers in a run; what is one kind as a whole is not looked at as another."""
    n_digits = len(text[start:end].translate(_WITHOUT_SEPARATORS))
    for number in wanted:
        if n_digits >= number.min_digits:
            for low, high in number.spans(text, start, end):
                yield number.entity, low, high
                if low <= start and high >= end:
                    return


def number_spans(text: str, entities: frozenset[str]) -> Iterator[tuple[str, int, int]]:
    """Yield kind, start and end of the numbers of ``entities`` in a text."""
    wanted = [number for number in NUMBERS if number.entity in entities]
    with_iban = "IBAN_CODE" in entities
    run = _NUMBER_RUN.search(text)
    while run is not None:
        start, end = run.span()
        if run["run"]:
            yield from _run_spans(text, start, end, wanted)
        iban = _iban_span(text, start - 2) if with_iban and start > 1 else None
        if iban is not None:
            yield "IBAN_CODE", *iban
            end = max(end, iban[1])
        run = _NUMBER_RUN.search(text, end)
    if "IP_ADDRESS" in entities:
        for start, end in _ipv6_spans(text):
            yield "IP_ADDRESS", start, end


# The table. A key begins a word: after no letter or digit, unless that ends an escape sequence of JSON or Python.

_BEGIN: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{4})|(?<=\\x[0-9a-fA-F]{2}))"


def _key(anchor: str, rest: str, check: Callable[[str], bool] | None = has_digit) -> RedactionPattern:
    regex = _BEGIN + re.escape(anchor) + rest
    return RedactionPattern("API_KEY", regex, (anchor,), check=check, category="credential")


def _credential(
    entity: str,
    regex: str,
    anchors: tuple[str, ...],
    check: Callable[[str], bool] | None = None,
    *,
    lead: str | None = None,
    ignore_case: bool = False,
    tail: re.Pattern[str] | None = None,
) -> RedactionPattern:
    return RedactionPattern(entity, regex, anchors, lead, ignore_case, check, "credential", tail)


_ASSIGNED: Final = re.compile(r"[\w\-]{0,64}[\"'\]]{0,2}\s{0,2}[:=]")
_KEY_NAMES: Final = "api|access|auth|subscription|secret|private|client|session|account|function|service|shared"
_URL_NAMES: Final = (
    "key", "token", "sig", "signature", "secret", "password", "passwd", "pwd", "auth", "credential", "sas", "keyid"
)  # fmt: skip
_SETTING: Final = (
    r"(?i:[\w\-]{0,64}?(?:api[_\-]?key|(?:" + _KEY_NAMES + r")[_\-]?(?:access[_\-]?)?key(?!\w)"
    r"|token|secret|credentials?|authorization|signature|x-[\w\-]{0,40}key|cookie)[\w\-]{0,64})"
    r"[\"'\]]{0,2}\s{0,2}(?:=>|:=|[:=])\s{0,2}(?:b?[\"']|\\\")?"
    r"(?i:(?:bearer|basic|token|digest|apikey|key)\s+)?(?P<value>[^\s\"'&,;<>(){}\[\]\\|`]{6,4096})"
)

CREDENTIALS: Final = (
    _credential(
        "PRIVATE_KEY",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]{0,8192}?-----END [A-Z0-9 ]{0,40}PRIVATE KEY"
        r"(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\:,.\-]{0,8192})",
        ("-----BEGIN",),
    ),
    _key("sk-", r"[A-Za-z0-9_*\-]{8,512}", looks_random),  # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse, ...
    _key("pk-", r"lf-[A-Za-z0-9\-]{16,512}"),
    _key("rk-", r"[A-Za-z0-9_\-]{16,512}"),
    _key("gsk_", r"[A-Za-z0-9]{16,512}", None),  # Groq
    _key("xai-", r"[A-Za-z0-9]{16,512}", None),
    _key("pplx-", r"[A-Za-z0-9]{16,512}", None),
    _key("hf_", r"[A-Za-z0-9]{16,512}", None),
    _key("r8_", r"[A-Za-z0-9]{16,512}", None),
    _key("fw_", r"[A-Za-z0-9]{16,512}", None),
    _key("csk-", r"[A-Za-z0-9]{16,512}", None),  # Cerebras
    _key("tgp_v1_", r"[A-Za-z0-9_\-]{16,512}", None),  # Together
    _key("dapi", r"[0-9a-f]{32}(?:-\d+)?"),  # Databricks
    _key("nvapi-", r"[A-Za-z0-9_\-]{20,512}", None),
    _key("jina_", r"[A-Za-z0-9]{20,512}", None),
    _key("pa-", r"[A-Za-z0-9_\-]{30,512}"),  # Voyage
    _key("co_", r"[A-Za-z0-9]{32,512}"),
    _key("lsv2_", r"[A-Za-z0-9_]{20,512}", None),  # LangSmith
    _key("AIza", r"[0-9A-Za-z_\-]{30,512}", None),  # Google
    _key("AQ.", r"[0-9A-Za-z_\-]{30,512}", None),
    _key("ya29.", r"[0-9A-Za-z_\-]{20,512}", None),
    _key("GOCSPX-", r"[0-9A-Za-z_\-]{20,512}", None),
    _key("ABSK", r"[A-Za-z0-9+/]{40,512}={0,2}"),  # Amazon Bedrock
    _key("bedrock-api-key-", r"[A-Za-z0-9+/=_\-]{20,512}", None),
    *(_key(prefix, r"[0-9A-Z]{16}(?![0-9A-Za-z])", None) for prefix in ("AKIA", "ASIA")),
    *(_key(prefix, r"[A-Za-z0-9]{30,512}", None) for prefix in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    _key("github_pat_", r"[A-Za-z0-9_]{30,512}", None),
    _key("glpat-", r"[A-Za-z0-9_\-]{20,512}", None),
    _key("xox", r"[abeprs]-[A-Za-z0-9\-]{10,512}"),  # Slack
    *(_key(prefix, r"(?:live|test)_[A-Za-z0-9]{10,512}", None) for prefix in ("sk_", "rk_")),
    _key("npm_", r"[A-Za-z0-9]{36}", None),
    _key("pypi-", r"AgE[A-Za-z0-9_\-]{30,512}", None),
    _key("hvs.", r"[A-Za-z0-9_\-]{20,512}", None),  # Vault, OpenBao
    _key("SG.", r"[A-Za-z0-9_\-]{16,512}\.[A-Za-z0-9_\-]{16,512}", None),
    _credential(
        "JWT", _BEGIN + r"eyJ[A-Za-z0-9_\-]{10,4096}\.[A-Za-z0-9_\-]{10,4096}\.[A-Za-z0-9_\-]{5,4096}", ("eyJ",)
    ),
    _credential(
        "BEARER_TOKEN",
        r"(?i:bearer\s{1,4})[A-Za-z0-9._~+/\-*]{8,512}=*",
        ("bearer",),
        lambda match: looks_random(match.split(None, 1)[1]),
        ignore_case=True,
    ),
    _credential("BASIC_TOKEN", r"(?i:basic )[A-Za-z0-9+/]{8,512}={0,2}", ("basic",), is_basic_token, ignore_case=True),
    _credential("URL_PASSWORD", r"://(?P<value>[^/@\s\"'<>?#]{1,256})(?=@)", ("://",)),
    _credential(
        "URL_KEY",
        r"(?i:(?<=[?&;])(?:[\w.\-]{0,64}?(?:api[_\-]?key|token|sig|signature|secret|passw(?:or)?d|pwd|auth|credential|sas|"
        r"access[_\-]?key|subscription-key|keyid)))=(?P<value>[^&\s#\"'<>\\)\]]{4,512})",
        tuple(f"{name}=" for name in _URL_NAMES),
        lead="_-.",
        ignore_case=True,
    ),
    _credential(
        "URL_KEY", r"(?i:(?<=[?&;])key=)(?P<value>[^&\s#\"'<>\\)\]]{16,512})", ("key=",), has_digit, ignore_case=True
    ),
    _credential(
        "SECRET",
        _SETTING,
        ("key", "token", "secret", "credential", "authorization", "signature", "cookie"),
        is_assigned_secret,
        lead="_-",
        ignore_case=True,
        tail=_ASSIGNED,
    ),
    _credential(
        "PASSWORD",
        r"(?i:[\w\-]{0,64}?(?:password|passwd|passphrase|pwd)[\w\-]{0,64})[\"'\]]{0,2}(?:\s{0,2}(?:=>|:=|[:=])\s{0,2})"
        r"(?:b?[\"']|\\\")?(?P<value>[^\s\"'&,;<>(){}\[\]\\|`]{6,4096})",
        ("password", "passwd", "passphrase", "pwd"),
        is_password,
        lead="_-",
        ignore_case=True,
        tail=_ASSIGNED,
    ),
)
"""Credentials: keys by the shapes that providers give them, and what stands where only a credential does."""

PERSONAL: Final = (
    RedactionPattern(
        "EMAIL_ADDRESS",
        r"[.!$%'*+~\-]{0,64}(?P<value>\w[\w.!$%'*+~\-]{0,63}@(?:[\w\-]{1,63}\.){1,8}[^\W\d_]{2,24})",
        ("@",),
        lead="_.!$%'*+~-",
    ),
)
"""Personal data other than numbers (`number_spans`)."""
NUMBER_ENTITIES: Final = frozenset({number.entity for number in NUMBERS} | {"IBAN_CODE"})
ENTITIES: Final = tuple(
    dict.fromkeys(
        [
            *(pattern.entity for pattern in (*CREDENTIALS, *PERSONAL)),
            *(number.entity for number in NUMBERS),
            "IBAN_CODE",
        ]
    )
)
"""Every kind of value that is recognized."""
CREDENTIAL_ENTITIES: Final = frozenset(pattern.entity for pattern in CREDENTIALS)

IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
"""Length of an IBAN by its country."""
