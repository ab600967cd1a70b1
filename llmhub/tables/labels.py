"""Answers that are one of several labels: how they are asked for, and which of them a text is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final

import msgspec
import pyarrow as pa

from llmhub.core.errors import InvalidRequest, InvalidRequestError, LLMError, Malformed
from llmhub.core.types import JSON, Schema
from llmhub.tables.typed import with_failures

FIELD: Final = "label"
AROUND: Final = " \t\r\n.,;:!?\"'`*_()[]{}<>\u201c\u201d\u2018\u2019\u00ab\u00bb"
"""Characters that models put around a label."""
NAMED: Final = re.compile(r"^.{0,60}?[:=]\s*", re.DOTALL)
"""What may stand before one: ``Label:``."""


def labels_of(given: Any) -> dict[str, Any]:
    """Read labels: texts or numbers, an enum, or a mapping of labels to what each means; text to value.

    Raises
    ------
    InvalidRequestError
        Fewer than two, or two that cannot be told apart.

    Examples
    --------
    >>> labels_of(["yes", "no"]), labels_of([1, 2])
    ({'yes': 'yes', 'no': 'no'}, {'1': 1, '2': 2})
    """
    if isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
        raise _wrong(f"{given!r:.80} are no labels; give a list such as ['positive', 'negative']")
    values = [one.value if isinstance(one, Enum) else one for one in given]
    wrong = [one for one in values if not isinstance(one, (str, int, float)) or not str(one).strip()]
    if wrong or len(values) < 2:  # noqa: PLR2004 - one label leaves nothing to decide
        said = f"{wrong[0]!r:.80} is no label" if wrong else f"{len(values)} labels leave nothing to decide"
        raise _wrong(f"{said}; give two or more texts or numbers")
    seen: dict[str, Any] = {}
    for value in values:
        twin = seen.setdefault(folded(str(value)), value)
        if twin is not value and (twin, type(twin)) != (value, type(value)):
            raise _wrong(f"{twin!r} and {value!r} cannot be told apart in an answer; rename one")
    if len(seen) < 2:  # noqa: PLR2004 - as above
        raise _wrong(f"{values!r:.80} is one label, again and again; give two or more")
    return {str(value): value for value in values}


def folded(text: str) -> str:
    """Bring a label to what is compared: case, and signs around it, do not count.

    Examples
    --------
    >>> folded('**Positive**.')
    'positive'
    """
    return " ".join(text.strip(AROUND).casefold().split())


def schema_of_labels(labels: Iterable[str]) -> Schema:
    """Make the schema that leaves nothing but the labels to say."""
    only: dict[str, JSON] = {"type": "string", "enum": list(labels)}
    whole: dict[str, JSON] = {
        "type": "object",
        "properties": {FIELD: only},
        "required": [FIELD],
        "additionalProperties": False,
    }
    return Schema(whole, FIELD)


def instruction(labels: Iterable[str], meanings: Any) -> str:
    """Say in words what the answer may be.

    Examples
    --------
    >>> print(instruction(["a", "b"], {"a": "the first", "b": "the second"}))
    Answer with exactly one of these labels, and nothing else:
    - a: the first
    - b: the second
    """
    said = meanings if isinstance(meanings, Mapping) else {}
    known = {str(key.value if isinstance(key, Enum) else key): meaning for key, meaning in said.items()}
    lines = [f"- {label}: {known[label]}" if known.get(label) else f"- {label}" for label in labels]
    return "\n".join(["Answer with exactly one of these labels, and nothing else:", *lines])


def labelling(labels: Mapping[str, Any], meanings: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Add to a call's options what asks for a label: a schema where there can be one, and words in the system turn."""
    words = instruction(labels, meanings)
    system = options.get("system")
    if callable(system):

        def both(row: Any) -> str | None:
            own = system(row)
            return None if own is None else f"{own}\n\n{words}"

        said: Any = both
    else:
        escaped = words.replace("{", "{{").replace("}", "}}")
        said = f"{system}\n\n{escaped}" if system else escaped
    return {**options, "system": said, "response_schema": schema_of_labels(labels), "schema_or_words": True}


def label_in(text: str, labels: Sequence[str]) -> str | None:
    """Find the one label that an answer is; ``None`` where it is none, however many it mentions.

    Examples
    --------
    >>> labels = ["positive", "negative"]
    >>> [label_in(text, labels) for text in ('{"label": "negative"}', "Positive.", "Label: **negative**")]
    ['negative', 'positive', 'negative']
    >>> [label_in(text, labels) for text in ("not positive", "positive or negative", "")]
    [None, None, None]
    """
    known = {folded(label): label for label in labels}
    lines = [line for line in text.strip().splitlines() if line.strip()]
    ways = [_field(text), text, *(lines[:1] if len(lines) > 1 else ()), *lines[-1:]]
    ways += [NAMED.sub("", way, count=1) for way in ways[1:]]
    found = {known[way] for way in map(folded, ways) if way in known}
    return found.pop() if len(found) == 1 else None


def _field(text: str) -> str:
    """Read an answer to the schema."""
    try:
        whole = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
    said = whole.get(FIELD) if isinstance(whole, dict) else whole
    return said if isinstance(said, str) else str(said) if isinstance(said, (int, float)) else ""


def labelled(results: pa.Table, labels: Mapping[str, Any]) -> tuple[pa.Table, pa.Array]:
    """Give the label of each answer; a row whose answer is none says so as an error."""
    names = list(labels)
    wrong: dict[int, LLMError] = {}
    found: list[str | None] = []
    statuses = results.column("status").cast(pa.string()).to_pylist()
    for at, (status, text) in enumerate(zip(statuses, results.column("response").to_pylist(), strict=True)):
        label = label_in(text or "", names) if status == "ok" else None
        found.append(label)
        if status == "ok" and label is None:
            said = f"the answer {(text or '')[:80]!r} is none of the labels {', '.join(map(repr, names))}"
            wrong[at] = Malformed(path="$", message=said)
    kinds = pa.array(list(labels.values())).type
    values = pa.array([None if label is None else labels[label] for label in found], kinds)
    return with_failures(results, wrong), values


def _wrong(said: str) -> InvalidRequestError:
    return InvalidRequestError(InvalidRequest(path="labels", message=said))
