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
from llmhub.core.cache_key import RequestKeyer, request_keyer
from llmhub.core.errors import InvalidRequest
from llmhub.core.prepared import (
    BatchPromptKeyer,
    PreparedPrompt,
    PromptPreparer,
    PromptToRequest,
    batch_prompt_keyer,
    prompt_preparer,
    request_template,
)
from llmhub.core.types import CompletionRequest, Image
from llmhub.engine.block_lookup import Int64Array, PlannedBlock
from llmhub.engine.call import Call, PreparedText, Target, preparer_by_target
from llmhub.engine.fan_out_types import CHUNK_SIZE, FIRST_CHUNK_SIZE, PlannedItem
from llmhub.engine.spending import Budgets
from llmhub.tables import frames
from llmhub.tables.row_prompts import NO_EXTRAS, RowExtras, RowPrompt, compile_row_template, prompt_from_cell
from llmhub.tables.rows import is_conversation
from llmhub.tables.templates import SERIES_FIELD, Template, parse_series_template

NO_KEY: Final = b""


MAX_IMAGE_CHARS: Final = 16 << 20
"""Characters of pictures that are held at a time."""


@dataclass(frozen=True, slots=True)
class TargetPrompt:
    """How one target is asked a text: the request around it, how it is keyed, made and prepared."""

    target: Target
    request: CompletionRequest
    text_keys: BatchPromptKeyer
    build_request: PromptToRequest
    prepare_text: PromptPreparer
    key_request: RequestKeyer
    for_other_target: Callable[[Target], PreparedPrompt]
    stream: bool = False
    budgets: Budgets | None = None

    def text_call(self, text: str, key: bytes | None = None, sample: int = 0) -> Call:
        """Make the call that asks ``text``, keyed ``key``."""
        request, target = self.build_request(text), self.target
        quick = PreparedText(request, self.prepare_text, text, self.for_other_target)
        return Call(target, request, None, self.stream, quick, key, self.budgets, None, sample, target)

    def request_for(self, prompt: RowPrompt) -> CompletionRequest:
        """Make the request that asks this."""
        if isinstance(prompt, str):
            return self.build_request(prompt)
        if isinstance(prompt, CompletionRequest):
            return replace(prompt, model=self.target.model)
        return replace(self.request, messages=(*self.request.messages, *prompt))

    def prompt_key(self, prompt: RowPrompt, sample: int) -> bytes:
        """Key a question that may be more than a text. Law: of a text it is what ``keys`` gives."""
        return self.key_request(self.request_for(prompt), sample)

    def prompt_call(self, prompt: RowPrompt, key: bytes | None = None, sample: int = 0) -> Call:
        """Make the call of a question that is more than a text."""
        return Call(
            self.target, self.request_for(prompt), None, self.stream, None, key, self.budgets, None, sample, self.target
        )


def prepare_target_prompt(
    target: Target, request: CompletionRequest, *, stream: bool = False, budgets: Budgets | None = None
) -> TargetPrompt:
    """Prepare to ask ``target`` many texts; ``request`` holds the parameters and any system turn."""
    own = replace(request, model=target.model)
    make = request_template(own)
    provider, endpoint = target.provider, target.endpoint
    return TargetPrompt(
        target=target,
        request=own,
        text_keys=batch_prompt_keyer(provider, endpoint, make),
        build_request=make,
        prepare_text=prompt_preparer(provider, endpoint, make, stream=stream),
        key_request=request_keyer(provider, endpoint),
        for_other_target=preparer_by_target(own, stream=stream),
        stream=stream,
        budgets=budgets,
    )


@dataclass(frozen=True, slots=True)
class PromptBatch:
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

    columns: Sequence[Sequence[Any]]
    n_rows: int
    template: Template[Any]
    target_prompts: tuple[TargetPrompt, ...]
    n_samples: int = 1
    is_plain_text: bool = True
    target_of_row: Sequence[int] | None = None
    keys: bytearray = field(init=False)
    skipped: bytearray = field(init=False)
    not_reached: bytearray = field(init=False)
    invalid_rows: dict[int, InvalidRequest] = field(init=False)

    def __post_init__(self) -> None:
        """Make room for what is learned while drawing."""
        object.__setattr__(self, "keys", bytearray(KEY_BYTES * len(self)))
        object.__setattr__(self, "skipped", bytearray(self.n_rows))
        object.__setattr__(self, "not_reached", bytearray(self.n_rows))
        object.__setattr__(self, "invalid_rows", {})

    def __len__(self) -> int:
        """Count the positions."""
        return self.n_rows * self.positions_per_row

    @property
    def positions_per_row(self) -> int:
        """Positions of one row."""
        return self.n_samples * (len(self.target_prompts) if self.target_of_row is None else 1)

    def iter_chunks(self, halted: Callable[[], bool] = lambda: False) -> Iterator[PlannedBlock | list[PlannedItem]]:
        """Draw the items, lazily; a row with a missing value has none.

        Once the run is ``halted``, nothing more is read for rows that will not be asked: they have no key of their own.
        """
        return self._iter_text_chunks() if self.is_plain_text else self._iter_prompt_chunks(halted)

    def _iter_text_chunks(self) -> Iterator[PlannedBlock]:
        """Draw rows that ask a text, many at a time."""
        low, items = 0, FIRST_CHUNK_SIZE
        while low < self.n_rows:
            high = min(low + max(1, items // max(1, self.positions_per_row)), self.n_rows)
            bulk = self._text_chunk(low, high)
            if len(bulk):
                yield bulk
            low, items = high, CHUNK_SIZE

    def _text_chunk(self, low: int, high: int) -> PlannedBlock:
        """Render and key the rows from ``low`` up to ``high``."""
        columns = [column[low:high] for column in self.columns]
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
        apart = [one.text_keys(texts, sample) for one in self.target_prompts for sample in range(self.n_samples)]
        keys = b"".join(apart[0] if len(apart) == 1 else chain.from_iterable(zip(*apart, strict=True)))
        positions = (rows[:, None] * self.positions_per_row + np.arange(self.positions_per_row)).ravel()
        np.frombuffer(self.keys, f"V{KEY_BYTES}")[positions] = np.frombuffer(keys, f"V{KEY_BYTES}")
        return PlannedBlock(positions, keys, partial(_build_item, self, positions, keys, texts))

    def _iter_prompt_chunks(self, halted: Callable[[], bool]) -> Iterator[list[PlannedItem]]:
        """Draw rows that ask more than a text, as many at a time as their pictures permit."""
        chunk: list[PlannedItem] = []
        weight = 0
        for row, values in enumerate(self._iter_values()):
            if not _has_missing(values) and halted():
                self.not_reached[row] = 1
                yield [
                    (at, NO_KEY, _unsent_call, None)
                    for at in range(row * self.positions_per_row, (row + 1) * self.positions_per_row)
                ]
                continue
            spoken = None if _has_missing(values) else self.template.render(values)
            if spoken is None:
                self.skipped[row] = 1
            elif isinstance(spoken, InvalidRequest):
                self.invalid_rows[row] = replace(spoken, message=f"row {row}: {spoken.message}")
            else:
                chunk += self._row_items(row, spoken)
                weight += _image_chars(spoken)
            if len(chunk) >= CHUNK_SIZE or weight >= MAX_IMAGE_CHARS:
                yield chunk
                chunk, weight = [], 0
        if chunk:
            yield chunk

    def _row_items(self, row: int, spoken: RowPrompt) -> Iterator[PlannedItem]:
        """Key what a row asks of each target, as often as it does."""
        asks = self.target_prompts if self.target_of_row is None else (self.target_prompts[self.target_of_row[row]],)
        position = row * self.positions_per_row
        for one in asks:
            for sample in range(self.n_samples):
                key = one.prompt_key(spoken, sample)
                self.keys[KEY_BYTES * position : KEY_BYTES * (position + 1)] = key
                yield position, key, partial(one.prompt_call, sample=sample) if sample else one.prompt_call, spoken
                position += 1

    def _iter_values(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.columns, strict=True) if self.columns else iter(((),) * self.n_rows)

    def iter_prompts(self) -> Iterator[RowPrompt | InvalidRequest]:
        """Render every row that has all its values."""
        return (self.template.render(values) for values in self._iter_values() if not _has_missing(values))


def _build_item(
    questions: PromptBatch, positions: Int64Array, keys: bytes, texts: list[str], place: int
) -> PlannedItem:
    """Make one item of a bulk."""
    position = int(positions[place])
    ask = questions.target_prompts[position // questions.n_samples % len(questions.target_prompts)]
    key = keys[KEY_BYTES * place : KEY_BYTES * (place + 1)]
    sample = position % questions.n_samples
    return (
        position,
        key,
        partial(ask.text_call, sample=sample) if sample else ask.text_call,
        texts[place // questions.positions_per_row],
    )


def _unsent_call(_spoken: object, _key: bytes) -> Call:
    """Stand for a call that nobody makes."""
    raise AssertionError("a row was asked after the run had ended")


def _has_missing(values: tuple[Any, ...]) -> bool:
    """Say whether a value is missing; an array, say, has no truth value when it is compared."""
    return any([value is None for value in values])  # noqa: C419 - a list takes half the time of a generator


def _image_chars(spoken: RowPrompt) -> int:
    """Count the characters of the pictures in it."""
    turns = () if isinstance(spoken, str) else spoken.messages if isinstance(spoken, CompletionRequest) else spoken
    return sum(len(part.data) + len(part.url) for turn in turns for part in turn.parts if isinstance(part, Image))


def prompt_text(spoken: RowPrompt | InvalidRequest) -> str:
    """Give the text of what is asked, for counting."""
    if isinstance(spoken, InvalidRequest):
        return ""
    if isinstance(spoken, str):
        return spoken
    turns = spoken.messages if isinstance(spoken, CompletionRequest) else spoken
    return "\n".join(turn.text for turn in turns)


def batch_from_frame(
    frame: Any, prompt: Any, target_prompts: Sequence[TargetPrompt], n_samples: int, extras: RowExtras = NO_EXTRAS
) -> PromptBatch:
    """Ask every row of a frame.

    Raises
    ------
    InvalidRequestError
        A field of the template is no column, or a value cannot be formatted as the template says.
    """
    size, saying = compile_row_template(frame, prompt, extras)
    return _validate_formats(
        PromptBatch(
            saying.columns, size, saying.template, tuple(target_prompts), n_samples, is_plain_text=saying.is_plain_text
        )
    )


def batch_from_series(values: Any, prompt: str, target_prompts: Sequence[TargetPrompt]) -> PromptBatch:
    """Ask every value of a series: in the place of ``{}``, or after the prompt and an empty line.

    Without a prompt, a value that is a conversation is asked as it is.

    Raises
    ------
    InvalidRequestError
        The prompt has a place for something else, or a value cannot be formatted as it says.
    """
    there = frames.series_values(values)
    if not prompt and any(map(is_conversation, there)):
        return PromptBatch(
            [there], len(there), Template((SERIES_FIELD,), prompt_from_cell), tuple(target_prompts), is_plain_text=False
        )
    return _validate_formats(PromptBatch([there], len(there), parse_series_template(prompt), tuple(target_prompts)))


def batch_from_requests(
    requests: Sequence[CompletionRequest | None], target_prompts: Sequence[TargetPrompt], target_of_row: Sequence[int]
) -> PromptBatch:
    """Ask, for each row, a request of its own of one target; nothing where there is ``None``."""
    template: Template[Any] = Template((), lambda values: values[0])
    return PromptBatch(
        [requests], len(requests), template, tuple(target_prompts), is_plain_text=False, target_of_row=target_of_row
    )


def _validate_formats(questions: PromptBatch) -> PromptBatch:
    """Try all formats before anything is sent."""
    if questions.template.has_format_specs:
        deque(questions.iter_prompts(), maxlen=0)
    return questions
