"""Columns and a template to questions: rendered lazily, keyed without being made, made only when needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from string import Formatter
from typing import Any, Final

import numpy as np

from llmhub.cache.store import KEY_BYTES
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.core.splice import Asking, TextPreparer, TextsKeyer, asking, text_preparer, texts_keyer
from llmhub.core.types import CompletionRequest
from llmhub.engine.budget import Purse
from llmhub.engine.bulk import Bulk, Longs
from llmhub.engine.call import Call, Spliced, Target
from llmhub.engine.run import CHUNK, Item
from llmhub.tables import frames

CONVERSIONS: Final[Mapping[str, Callable[[Any], str]]] = {"s": str, "r": repr, "a": ascii}


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with places for columns.

    Parameters
    ----------
    fields
        Columns it names, each once.
    render
        Values of those columns, in that order, to the text.
    formats
        Whether it formats values, which not every value may take.
    """

    fields: tuple[str, ...]
    render: Callable[[tuple[Any, ...]], str]
    formats: bool = False


def parse(template: Any) -> Template:
    """Read ``"Summarise: {text}"``; ``{{`` and ``}}`` are braces, ``{x:.2f}`` and ``{x!r}`` format.

    Raises
    ------
    InvalidRequestError
        Broken braces, or a field that is more than a column's name.

    Examples
    --------
    >>> parse("{a} and {b} in {{}}").render((1, "x"))
    '1 and x in {}'
    """
    if not isinstance(template, str):
        said = f"{type(template).__name__} is no template; give a string such as 'Summarise: {{text}}'"
        raise InvalidRequestError(InvalidRequest(path="prompt", message=said))
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as bad:
        raise InvalidRequestError(
            InvalidRequest(path="prompt", message=f"{template!r}: {bad}; write {{{{ and }}}} for braces")
        ) from bad
    fields = tuple(dict.fromkeys(name for _, name, _, _ in pieces if name is not None))
    for name in fields:
        if not name or name.isdigit():
            raise InvalidRequestError(
                InvalidRequest(path="prompt", message=f"{template!r}: {{{name}}} names no column; write {{column}}")
            )
    for _, field_name, _, conversion in pieces:
        if conversion and conversion not in CONVERSIONS:
            said = f"{template!r}: {{{field_name}!{conversion}}} has no such conversion; there are !s, !r and !a"
            raise InvalidRequestError(InvalidRequest(path="prompt", message=said))
    if any(spec or conversion for _, _, spec, conversion in pieces):
        return Template(fields, partial(_formatted, tuple(pieces), fields), formats=True)
    places = "".join(text.replace("%", "%%") + ("" if name is None else "%s") for text, name, _, _ in pieces)
    order = [fields.index(name) for _, name, _, _ in pieces if name is not None]
    if order == list(range(len(fields))):
        return Template(fields, places.__mod__)
    return Template(fields, lambda values: places % tuple(values[at] for at in order))


def _formatted(
    pieces: Sequence[tuple[str, str | None, str | None, str | None]], fields: tuple[str, ...], values: tuple[Any, ...]
) -> str:
    """Render with format specifications."""
    said: list[str] = []
    for text, name, spec, conversion in pieces:
        said.append(text)
        if name is not None:
            value = values[fields.index(name)]
            try:
                said.append(format(CONVERSIONS[conversion](value) if conversion else value, spec or ""))
            except (ValueError, TypeError) as bad:
                wrong = f"{{{name}:{spec}}} cannot format {value!r}, which is {type(value).__name__}: {bad}"
                raise InvalidRequestError(InvalidRequest(path="prompt", message=wrong)) from bad
    return "".join(said)


@dataclass(frozen=True, slots=True)
class Ask:
    """How one target is asked a text: the request around it, how it is keyed, made and prepared."""

    target: Target
    request: CompletionRequest
    keys: TextsKeyer
    make: Asking
    prepare: TextPreparer
    stream: bool = False
    purse: Purse | None = None

    def call(self, text: str, key: bytes | None = None, sample: int = 0) -> Call:
        """Make the call that asks ``text``, keyed ``key``."""
        request, target = self.make(text), self.target
        quick = Spliced(request, self.prepare, text)
        return Call(target, request, None, self.stream, quick, key, self.purse, None, sample, target)


def ask(target: Target, request: CompletionRequest, *, stream: bool = False, purse: Purse | None = None) -> Ask:
    """Prepare to ask ``target`` many texts; ``request`` holds the parameters and any system turn."""
    own = replace(request, model=target.model)
    make = asking(own)
    provider, endpoint = target.provider, target.endpoint
    return Ask(
        target=target,
        request=own,
        keys=texts_keyer(provider, endpoint, make),
        make=make,
        prepare=text_preparer(provider, endpoint, make, stream=stream),
        stream=stream,
        purse=purse,
    )


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows x targets x samples, in that order, each a position from 0.

    Parameters
    ----------
    rows
        Values of the template's columns, one list a column.
    size
        Number of rows.
    template
        How a row becomes a text.
    asks
        Whom to ask.
    samples
        How often each.

    Notes
    -----
    ``keys`` and ``skipped`` fill as `chunks` is drawn from.
    """

    rows: Sequence[Sequence[Any]]
    size: int
    template: Template
    asks: tuple[Ask, ...]
    samples: int = 1
    keys: bytearray = field(init=False)
    skipped: bytearray = field(init=False)

    def __post_init__(self) -> None:
        """Make room for what is learned while drawing."""
        object.__setattr__(self, "keys", bytearray(KEY_BYTES * len(self)))
        object.__setattr__(self, "skipped", bytearray(self.size))

    def __len__(self) -> int:
        """Count the positions."""
        return self.size * self.step

    @property
    def step(self) -> int:
        """Positions of one row."""
        return len(self.asks) * self.samples

    def chunks(self) -> Iterator[Bulk]:
        """Draw the items, lazily; a row with a missing value has none."""
        many = max(1, CHUNK // max(1, self.step))
        for low in range(0, self.size, many):
            bulk = self._bulk(low, min(low + many, self.size))
            if len(bulk):
                yield bulk

    def _bulk(self, low: int, high: int) -> Bulk:
        """Render and key the rows from ``low`` up to ``high``."""
        columns = [column[low:high] for column in self.rows]
        gaps = {at for column in columns for at, value in enumerate(column) if value is None}
        rows = np.arange(low, high)
        if gaps:
            kept = [at for at in range(high - low) if at not in gaps]
            rows = rows[kept]
            columns = [[column[at] for at in kept] for column in columns]
            for at in gaps:
                self.skipped[low + at] = 1
        values = zip(*columns, strict=True) if columns else ((),) * len(rows)
        texts = list(map(self.template.render, values))
        apart = [one.keys(texts, sample) for one in self.asks for sample in range(self.samples)]
        keys = b"".join(apart[0] if len(apart) == 1 else chain.from_iterable(zip(*apart, strict=True)))
        positions = (rows[:, None] * self.step + np.arange(self.step)).ravel()
        np.frombuffer(self.keys, f"V{KEY_BYTES}")[positions] = np.frombuffer(keys, f"V{KEY_BYTES}")
        return Bulk(positions, keys, partial(_item, self, positions, keys, texts))

    def texts(self) -> Iterator[str]:
        """Render every row that has all its values."""
        rows = zip(*self.rows, strict=True) if self.rows else ((),) * self.size
        return (self.template.render(values) for values in rows if not _lacks(values))


def _item(questions: Questions, positions: Longs, keys: bytes, texts: list[str], place: int) -> Item:
    """Make one item of a bulk."""
    position = int(positions[place])
    ask = questions.asks[position // questions.samples % len(questions.asks)]
    key = keys[KEY_BYTES * place : KEY_BYTES * (place + 1)]
    sample = position % questions.samples
    return position, key, partial(ask.call, sample=sample) if sample else ask.call, texts[place // questions.step]


def _lacks(values: tuple[Any, ...]) -> bool:
    """Say whether a value is missing; an array, say, has no truth value when it is compared."""
    return any([value is None for value in values])  # noqa: C419 - a list takes half the time of a generator


def of_frame(frame: Any, prompt: str, asks: Sequence[Ask], samples: int) -> Questions:
    """Ask every row of a frame.

    Raises
    ------
    InvalidRequestError
        A field of the template is no column, or a value cannot be formatted as the template says.
    """
    template = parse(prompt)
    source = frames.arrow(frame)
    frames.expect_columns(template.fields, source, "prompt")
    columns = [frames.column(source, name) for name in template.fields]
    return _tried(Questions(columns, len(source), template, tuple(asks), samples))


def of_series(values: Any, prompt: str, asks: Sequence[Ask]) -> Questions:
    """Ask every value of a series: in the place of ``{}``, or after the prompt and an empty line.

    Raises
    ------
    InvalidRequestError
        The prompt has a place for something else, or a value cannot be formatted as it says.
    """
    there = frames.series(values)
    return _tried(Questions([there], len(there), _around(prompt), tuple(asks)))


def _tried(questions: Questions) -> Questions:
    """Try all formats before anything is sent."""
    if questions.template.formats:
        deque(questions.texts(), maxlen=0)
    return questions


def _around(prompt: Any) -> Template:
    """Read a series' prompt. Without a place for the value it is plain text, braces and all."""
    try:
        pieces = list(Formatter().parse(prompt))
    except (ValueError, TypeError):
        pieces = []
    if not isinstance(prompt, str) or (not pieces and "{}" in prompt):
        return parse(prompt)  # says what is wrong with it
    if not any(name == "" for _, name, _, _ in pieces):
        return Template((VALUE,), partial(_appended, prompt))
    template = parse("".join(_written(*piece) for piece in pieces))
    if template.fields != (VALUE,):
        said = f"{prompt!r}: a Series has one value to say; write {{}} for it, and {{{{ and }}}} for braces"
        raise InvalidRequestError(InvalidRequest(path="prompt", message=said))
    return template


VALUE: Final = "value"
"""Names the one column that a series is."""


def _written(text: str, name: str | None, spec: str | None, conversion: str | None) -> str:
    """Write a piece of a template again, the nameless place under the value's name."""
    plain = text.replace("{", "{{").replace("}", "}}")
    if name is None:
        return plain
    return f"{plain}{{{name or VALUE}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"


def _appended(prompt: str, values: tuple[Any, ...]) -> str:
    return f"{prompt}\n\n{values[0]}" if prompt else str(values[0])
