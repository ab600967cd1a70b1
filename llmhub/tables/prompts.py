"""Columns and a template to questions: rendered lazily, keyed without being made, made only when needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np

from llmhub.cache.store import KEY_BYTES
from llmhub.core.codec import Keyer, keyer
from llmhub.core.errors import InvalidRequest
from llmhub.core.splice import Asking, TextPreparer, TextsKeyer, Way, asking, text_preparer, texts_keyer
from llmhub.core.types import CompletionRequest, Image
from llmhub.engine.budget import Purse
from llmhub.engine.bulk import Bulk, Longs
from llmhub.engine.call import Call, Spliced, Target, elsewhere
from llmhub.engine.run import CHUNK, FIRST_CHUNK, Item
from llmhub.tables import frames
from llmhub.tables.cells import is_log
from llmhub.tables.saying import NOTHING, Aside, Spoken, said_by, spoken_in
from llmhub.tables.templates import VALUE, Template, around

NO_KEY: Final = b""
WEIGHT: Final = 16 << 20
"""Characters of pictures that are held at a time."""


@dataclass(frozen=True, slots=True)
class Ask:
    """How one target is asked a text: the request around it, how it is keyed, made and prepared."""

    target: Target
    request: CompletionRequest
    keys: TextsKeyer
    make: Asking
    prepare: TextPreparer
    whole_key: Keyer
    elsewhere: Callable[[Target], Way]
    stream: bool = False
    purse: Purse | None = None

    def call(self, text: str, key: bytes | None = None, sample: int = 0) -> Call:
        """Make the call that asks ``text``, keyed ``key``."""
        request, target = self.make(text), self.target
        quick = Spliced(request, self.prepare, text, self.elsewhere)
        return Call(target, request, None, self.stream, quick, key, self.purse, None, sample, target)

    def whole(self, spoken: Spoken) -> CompletionRequest:
        """Make the request that asks this."""
        if isinstance(spoken, str):
            return self.make(spoken)
        if isinstance(spoken, CompletionRequest):
            return replace(spoken, model=self.target.model)
        return replace(self.request, messages=(*self.request.messages, *spoken))

    def spoken_key(self, spoken: Spoken, sample: int) -> bytes:
        """Key a question that may be more than a text. Law: of a text it is what ``keys`` gives."""
        return self.whole_key(self.whole(spoken), sample)

    def spoken_call(self, spoken: Spoken, key: bytes | None = None, sample: int = 0) -> Call:
        """Make the call of a question that is more than a text."""
        return Call(
            self.target, self.whole(spoken), None, self.stream, None, key, self.purse, None, sample, self.target
        )


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
        whole_key=keyer(provider, endpoint),
        elsewhere=elsewhere(own, stream=stream),
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
        How a row becomes what is asked.
    asks
        Whom to ask.
    samples
        How often each.
    plain
        Whether every row asks a text and no more.
    own
        Which of the targets each row asks, where it is not all of them.

    Notes
    -----
    ``keys``, ``skipped``, ``wrong`` (rows that cannot be asked, and why) and ``unread`` (rows whose turn never came)
    fill as `chunks` is drawn from.
    """

    rows: Sequence[Sequence[Any]]
    size: int
    template: Template[Any]
    asks: tuple[Ask, ...]
    samples: int = 1
    plain: bool = True
    own: Sequence[int] | None = None
    keys: bytearray = field(init=False)
    skipped: bytearray = field(init=False)
    unread: bytearray = field(init=False)
    wrong: dict[int, InvalidRequest] = field(init=False)

    def __post_init__(self) -> None:
        """Make room for what is learned while drawing."""
        object.__setattr__(self, "keys", bytearray(KEY_BYTES * len(self)))
        object.__setattr__(self, "skipped", bytearray(self.size))
        object.__setattr__(self, "unread", bytearray(self.size))
        object.__setattr__(self, "wrong", {})

    def __len__(self) -> int:
        """Count the positions."""
        return self.size * self.step

    @property
    def step(self) -> int:
        """Positions of one row."""
        return self.samples * (len(self.asks) if self.own is None else 1)

    def chunks(self, halted: Callable[[], bool] = lambda: False) -> Iterator[Bulk | list[Item]]:
        """Draw the items, lazily; a row with a missing value has none.

        Once the run is ``halted``, nothing more is read for rows that will not be asked: they have no key of their own.
        """
        return self._texts() if self.plain else self._turns(halted)

    def _texts(self) -> Iterator[Bulk]:
        """Draw rows that ask a text, many at a time."""
        low, items = 0, FIRST_CHUNK
        while low < self.size:
            high = min(low + max(1, items // max(1, self.step)), self.size)
            bulk = self._bulk(low, high)
            if len(bulk):
                yield bulk
            low, items = high, CHUNK

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

    def _turns(self, halted: Callable[[], bool]) -> Iterator[list[Item]]:
        """Draw rows that ask more than a text, as many at a time as their pictures permit."""
        chunk: list[Item] = []
        weight = 0
        for row, values in enumerate(self._drawn()):
            if not _lacks(values) and halted():
                self.unread[row] = 1
                yield [(at, NO_KEY, _never, None) for at in range(row * self.step, (row + 1) * self.step)]
                continue
            spoken = None if _lacks(values) else self.template.render(values)
            if spoken is None:
                self.skipped[row] = 1
            elif isinstance(spoken, InvalidRequest):
                self.wrong[row] = replace(spoken, message=f"row {row}: {spoken.message}")
            else:
                chunk += self._items(row, spoken)
                weight += _weight(spoken)
            if len(chunk) >= CHUNK or weight >= WEIGHT:
                yield chunk
                chunk, weight = [], 0
        if chunk:
            yield chunk

    def _items(self, row: int, spoken: Spoken) -> Iterator[Item]:
        """Key what a row asks of each target, as often as it does."""
        asks = self.asks if self.own is None else (self.asks[self.own[row]],)
        position = row * self.step
        for one in asks:
            for sample in range(self.samples):
                key = one.spoken_key(spoken, sample)
                self.keys[KEY_BYTES * position : KEY_BYTES * (position + 1)] = key
                yield position, key, partial(one.spoken_call, sample=sample) if sample else one.spoken_call, spoken
                position += 1

    def _drawn(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.rows, strict=True) if self.rows else iter(((),) * self.size)

    def spoken(self) -> Iterator[Spoken | InvalidRequest]:
        """Render every row that has all its values."""
        return (self.template.render(values) for values in self._drawn() if not _lacks(values))


def _item(questions: Questions, positions: Longs, keys: bytes, texts: list[str], place: int) -> Item:
    """Make one item of a bulk."""
    position = int(positions[place])
    ask = questions.asks[position // questions.samples % len(questions.asks)]
    key = keys[KEY_BYTES * place : KEY_BYTES * (place + 1)]
    sample = position % questions.samples
    return position, key, partial(ask.call, sample=sample) if sample else ask.call, texts[place // questions.step]


def _never(_spoken: object, _key: bytes) -> Call:
    """Stand for a call that nobody makes."""
    raise AssertionError("a row was asked after the run had ended")


def _lacks(values: tuple[Any, ...]) -> bool:
    """Say whether a value is missing; an array, say, has no truth value when it is compared."""
    return any([value is None for value in values])  # noqa: C419 - a list takes half the time of a generator


def _weight(spoken: Spoken) -> int:
    """Count the characters of the pictures in it."""
    turns = () if isinstance(spoken, str) else spoken.messages if isinstance(spoken, CompletionRequest) else spoken
    return sum(len(part.data) + len(part.url) for turn in turns for part in turn.parts if isinstance(part, Image))


def text_of(spoken: Spoken | InvalidRequest) -> str:
    """Give the text of what is asked, for counting."""
    if isinstance(spoken, InvalidRequest):
        return ""
    if isinstance(spoken, str):
        return spoken
    turns = spoken.messages if isinstance(spoken, CompletionRequest) else spoken
    return "\n".join(turn.text for turn in turns)


def of_frame(frame: Any, prompt: Any, asks: Sequence[Ask], samples: int, aside: Aside = NOTHING) -> Questions:
    """Ask every row of a frame.

    Raises
    ------
    InvalidRequestError
        A field of the template is no column, or a value cannot be formatted as the template says.
    """
    size, saying = said_by(frame, prompt, aside)
    return _tried(Questions(saying.columns, size, saying.template, tuple(asks), samples, plain=saying.plain))


def of_series(values: Any, prompt: str, asks: Sequence[Ask]) -> Questions:
    """Ask every value of a series: in the place of ``{}``, or after the prompt and an empty line.

    Without a prompt, a value that is a conversation is asked as it is.

    Raises
    ------
    InvalidRequestError
        The prompt has a place for something else, or a value cannot be formatted as it says.
    """
    there = frames.series(values)
    if not prompt and any(map(is_log, there)):
        return Questions([there], len(there), Template((VALUE,), spoken_in), tuple(asks), plain=False)
    return _tried(Questions([there], len(there), around(prompt), tuple(asks)))


def of_requests(requests: Sequence[CompletionRequest | None], asks: Sequence[Ask], own: Sequence[int]) -> Questions:
    """Ask, for each row, a request of its own of one target; nothing where there is ``None``."""
    template: Template[Any] = Template((), lambda values: values[0])
    return Questions([requests], len(requests), template, tuple(asks), plain=False, own=own)


def _tried(questions: Questions) -> Questions:
    """Try all formats before anything is sent."""
    if questions.template.formats:
        deque(questions.spoken(), maxlen=0)
    return questions
