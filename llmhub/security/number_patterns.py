"""Numbers that are personal data: credit cards, IBANs, IP addresses, telephone and social security numbers. Pure.

They have no literal to search for. One search finds runs of digits and separators, and each kind is looked for in
those. Lengths of IBANs are those of the SWIFT registry, release 97.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

Spans: TypeAlias = Iterator[tuple[int, int]]

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

# Checks


def luhn_valid(digits: str) -> bool:
    """Return whether the digits of a card number pass Luhn's check.

    Examples
    --------
    >>> luhn_valid("4111111111111111"), luhn_valid("4111111111111112")
    (True, False)
    """
    codes = digits.encode()
    total = sum(codes[::-2]) + sum(codes[-2::-2].translate(DOUBLED))
    return (total - ord("0") * len(codes)) % 10 == 0


DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")
"""The sum of the digits of twice each digit."""


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
    return int((iban[4:] + iban[:4]).translate(LETTERS_AS_NUMBERS)) % 97 == 1


LETTERS_AS_NUMBERS: Final = {ord(letter): str(int(letter, 36)) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
"""Numbers in place of letters: 10 for A."""


def has_digit(text: str) -> bool:
    """Return whether ``text`` has a digit, as random keys have and words have not."""
    return any(map(str.isdigit, text))


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


# Kinds of numbers


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
IBAN_SEPARATORS: Final = " -"
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
    match = None if length is None else _IBAN.match(text, start)
    if length is None or match is None:
        return None
    if start and text[start - 1].isalnum() and not _after_escape(text, start):
        return None
    end = start + length
    # Each round adds the separators that the one before has found.
    while (more := start + length + sum(map(text[start:end].count, IBAN_SEPARATORS))) > end:
        end = more
    is_iban = end <= match.end() and iban_valid(text[start:end].translate(_WITHOUT_SEPARATORS))
    return (start, end) if is_iban and not text[end : end + 1].isalnum() else None


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


@lru_cache(maxsize=32)
def _patterns_of(entities: frozenset[str]) -> tuple[NumberPattern, ...]:
    return tuple(number for number in NUMBERS if number.entity in entities)


def number_spans(text: str, entities: frozenset[str]) -> Iterator[tuple[str, int, int]]:
    """Yield kind, start and end of the numbers of ``entities`` in a text."""
    wanted = _patterns_of(entities)
    with_iban = "IBAN_CODE" in entities
    run = _NUMBER_RUN.search(text)
    while run is not None:
        start, end = run.span()
        iban = _iban_span(text, start - 2) if with_iban and start > 1 else None
        if run["run"] and (iban is None or iban[1] < end):
            yield from _run_spans(text, start, end, wanted)
        if iban is not None:
            yield "IBAN_CODE", *iban
            end = max(end, iban[1])
        run = _NUMBER_RUN.search(text, end)
    if "IP_ADDRESS" in entities:
        for start, end in _ipv6_spans(text):
            yield "IP_ADDRESS", start, end


NUMBER_ENTITIES: Final = ("CREDIT_CARD", "IP_ADDRESS", "US_SSN", "PHONE_NUMBER", "IBAN_CODE")
