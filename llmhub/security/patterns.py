"""Patterns of credentials and personal data in text, as one table. Pure.

Each pattern has anchors, literals of which a match contains at least one: text without them, which is nearly all text,
is left after a few fast searches. A match begins at an anchor, or in the word that ends there. Checks (digits among
letters, base64) keep ordinary words from matching. Numbers are in `llmhub.security.number_patterns`.

Shapes of keys are those of the providers' documentation and of GitHub's and Gitleaks' rules for secret scanning
(https://docs.github.com/en/code-security/secret-scanning, https://github.com/gitleaks/gitleaks, read 2026-11-30).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from llmhub.security.number_patterns import NUMBER_ENTITIES, Spans, has_digit

Category: TypeAlias = Literal["credential", "personal"]
Found: TypeAlias = tuple[str, int, int]
"""Kind, start and end of a value."""

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
    _group: str | int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        """Compile the expression and validate the name."""
        if not re.fullmatch(r"[A-Z][A-Z_]*", self.entity):
            raise ValueError(f"entity: must be capitals and underscores, not {self.entity!r}")
        if isinstance(self.regex, str):
            object.__setattr__(self, "regex", re.compile(self.regex))
        object.__setattr__(self, "_group", "value" if "value" in self.compiled.groupindex else 0)

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
        group = self._group
        value = match[group]
        return match.span(group) if value and (self.check is None or self.check(value)) else None

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
        literals: dict[tuple[str, bool], list[_Literal]] = {}
        for (anchor, ignore_case), anchored in by_anchor.items():
            if anchor[-1] in RARE_ENDINGS and len(anchor) > 1:
                endings.setdefault((anchor[-1], ignore_case), {})[anchor] = tuple(anchored)
            else:
                piece = next((piece for piece in SHARED_PIECES if piece in anchor), anchor)
                literal = _Literal(anchor, tuple(anchored), _with_tail(anchor, anchored))
                literals.setdefault((piece, ignore_case), []).append(literal)
        self._literals = [(piece, ignore_case, tuple(group)) for (piece, ignore_case), group in literals.items()]
        self._endings = [(ending, ignore_case, anchored) for (ending, ignore_case), anchored in endings.items()]
        self._unanchored = tuple(pattern for pattern in patterns if not pattern.anchors)

    def spans(self, text: str) -> list[Found]:
        """Return kind, start and end of the values in ``text``; they may overlap."""
        found: list[Found] = []
        lowered = ascii_lower(text)
        for ending, ignore_case, anchored in self._endings:
            searched = lowered if ignore_case else text
            if ending in searched:
                _add_at_endings(found, text, searched, ending, anchored)
        for piece, ignore_case, literals in self._literals:
            searched = lowered if ignore_case else text
            if piece in searched:
                for literal in literals:
                    if literal.anchor in searched:
                        _add_at_literals(found, text, searched, literal)
        for pattern in self._unanchored:
            for match in pattern.compiled.finditer(text):
                span = pattern.checked(match)
                if span is not None:
                    found.append((pattern.entity, *span))
        return found


def _add_at_endings(
    found: list[Found], text: str, searched: str, ending: str, anchored: Mapping[str, tuple[RedactionPattern, ...]]
) -> None:
    """Add what patterns find at anchors that end in ``ending``."""
    anchors = tuple(anchored)
    position = searched.find(ending) + 1
    while position:
        if searched.endswith(anchors, 0, position):
            for anchor, patterns in anchored.items():
                if searched.endswith(anchor, 0, position):
                    _add_matches(found, text, patterns, position - len(anchor), position)
        position = searched.find(ending, position) + 1


class _Literal(NamedTuple):
    """An anchor, its patterns, and a search for it with what all of them need right after it, if that is so."""

    anchor: str
    patterns: tuple[RedactionPattern, ...]
    with_tail: re.Pattern[str] | None


def _with_tail(anchor: str, patterns: Sequence[RedactionPattern]) -> re.Pattern[str] | None:
    """Return an expression for an anchor with the tail that its patterns share, in whatever case the tail is."""
    tails = {pattern.tail for pattern in patterns}
    tail = tails.pop() if len(tails) == 1 else None
    return (
        None if tail is None or tail.flags & re.VERBOSE else re.compile(f"{re.escape(anchor)}(?=(?i:{tail.pattern}))")
    )


SHARED_PIECES: Final = ("pass", "cre", "ok", "IA")
"""Pieces of several anchors: a text without one of them has none of those."""


def _add_at_literals(found: list[Found], text: str, searched: str, literal: _Literal) -> None:
    """Add what the patterns find wherever their anchor is."""
    anchor, patterns, with_tail = literal
    position = 0
    while (start := _find_anchor(searched, anchor, with_tail, position)) >= 0:
        position = start + len(anchor)
        position = max(position, _add_matches(found, text, patterns, start, position))


def _find_anchor(searched: str, anchor: str, with_tail: re.Pattern[str] | None, position: int) -> int:
    """Return where an anchor is next; -1 if it is not."""
    if with_tail is None:
        return searched.find(anchor, position)
    match = with_tail.search(searched, position)
    return -1 if match is None else match.start()


def _add_matches(found: list[Found], text: str, patterns: Sequence[RedactionPattern], start: int, end: int) -> int:
    """Add what the patterns find at the anchor from ``start`` to ``end``, and return where the last of that ends."""
    last = end
    for pattern in patterns:
        span = pattern.at_anchor(text, start, end)
        if span is not None:
            found.append((pattern.entity, *span))
            last = max(last, span[1])
    return last


RARE_ENDINGS: Final = "-_="
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


def looks_random(text: str) -> bool:
    """Return whether ``text`` is a key rather than words: digits among letters, or many letters of both cases.

    Examples
    --------
    >>> [looks_random(text) for text in ("hunter2!", "certificates", "management-System-x", "aGVsbG8gd29ybGQgYWJj")]
    [True, False, False, True]
    """
    if "*" in text:
        return True  # a key that its provider has masked in part
    if has_digit(text):
        return True
    if len(text) < MIN_LETTERS_OF_KEY or not text.isalnum():
        return False
    letters = "".join(filter(str.isalpha, text))
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
ENTITIES: Final = tuple(dict.fromkeys([*(pattern.entity for pattern in (*CREDENTIALS, *PERSONAL)), *NUMBER_ENTITIES]))
"""Every kind of value that is recognized."""
CREDENTIAL_ENTITIES: Final = frozenset(pattern.entity for pattern in CREDENTIALS)
