"""The prompts of a table run: rows x targets x samples, rendered and keyed lazily.

Every combination of row, target and sample has a position, counted from 0 in that order; results refer to positions.
Rows of plain text are rendered and keyed a block at a time, and a request is built only for a prompt that is not in the
cache. Other rows are rendered one by one, in chunks bounded by the size of their images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np

from llmhub.cache.store import KEY_BYTES
from llmhub.core.cache_key import RequestKeyer, request_keyer, scoped_key
from llmhub.core.errors import InvalidRequest, invalid
from llmhub.core.prepared import PreparedPrompt
from llmhub.core.types import CompletionRequest, Image
from llmhub.engine.block_lookup import Int64Array, PlannedBlock
from llmhub.engine.call import NEW_CALL, Call, PreparedText, Target, preparer_by_target
from llmhub.engine.fan_out_types import CHUNK_SIZE, FIRST_CHUNK_SIZE, PlannedItem
from llmhub.engine.spending import Budgets
from llmhub.security.redaction import Redactor
from llmhub.tables import frames
from llmhub.tables.row_prompts import NO_EXTRAS, RowExtras, RowPrompt, compile_row_template, prompt_from_cell
from llmhub.tables.row_redaction import RowRedaction, redact_batch
from llmhub.tables.rows import FrameColumns, is_conversation
from llmhub.tables.templates import SERIES_FIELD, Template, parse_series_template

NO_KEY: Final = b""
MAX_IMAGE_CHARS: Final = 16 << 20
"""Characters of base64 images and URLs in one chunk."""


@dataclass(frozen=True, slots=True)
class TargetPrompt:
    """Everything about the requests to one target that is the same for all rows.

    Parameters
    ----------
    target
        Model and endpoint.
    request
        Parameters and system message of every request.
    prepared
        Requests, cache keys and HTTP requests of plain-text prompts.
    key_request
        Returns the cache key of a complete request and a sample number.
    for_target
        Returns ``prepared`` for another target, for fallbacks.
    stream
        Whether responses are streamed.
    budgets
        Budgets that the calls are charged to.
    cache_scope
        Part of the cache keys: runs of other scopes share no responses. Empty for the keys of the requests alone.
    """

    target: Target
    request: CompletionRequest
    prepared: PreparedPrompt
    key_request: RequestKeyer
    for_target: Callable[[Target], PreparedPrompt]
    stream: bool = False
    budgets: Budgets | None = None
    cache_scope: str = ""

    def text_call(self, text: str, key: bytes | None = None, sample: int = 0) -> Call:
        """Return the call for a text with this cache key."""
        request, target = self.prepared.request(text), self.target
        prepared = PreparedText(request, self.prepared.http, text, self.for_target)
        return NEW_CALL(
            target, request, None, self.stream, prepared, key, self.budgets, None, sample, target, None,
            self.cache_scope,
        )  # fmt: skip

    def prompt_call(self, prompt: RowPrompt, key: bytes | None = None, sample: int = 0) -> Call:
        """Return the call for any prompt with this cache key."""
        target, request = self.target, self.request_for(prompt)
        return Call(
            target, request, None, self.stream, None, key, self.budgets, None, sample, target, None,
            self.cache_scope,
        )  # fmt: skip

    def request_for(self, prompt: RowPrompt) -> CompletionRequest:
        """Return the request for any prompt."""
        if isinstance(prompt, str):
            return self.prepared.request(prompt)
        if isinstance(prompt, CompletionRequest):
            return replace(prompt, model=self.target.model)
        return replace(self.request, messages=(*self.request.messages, *prompt))

    def prompt_key(self, prompt: RowPrompt, sample: int) -> bytes:
        """Return the cache key for any prompt. Law: for a text it equals that of `text_keys`."""
        key = self.key_request(self.request_for(prompt), sample)
        return scoped_key(key, self.cache_scope) if self.cache_scope else key

    def text_keys(self, texts: Sequence[str], sample: int) -> list[bytes]:
        """Return the cache keys for texts."""
        keys = self.prepared.keys(texts, sample)
        return [scoped_key(key, self.cache_scope) for key in keys] if self.cache_scope else keys


def prepare_target_prompt(
    target: Target,
    request: CompletionRequest,
    *,
    stream: bool = False,
    budgets: Budgets | None = None,
    cache_scope: str = "",
) -> TargetPrompt:
    """Precompute what all requests to ``target`` share; ``request`` has the parameters and any system message."""
    own_request = replace(request, model=target.model)
    for_target = preparer_by_target(own_request, stream=stream)
    return TargetPrompt(
        target=target,
        request=own_request,
        prepared=for_target(target),
        key_request=request_keyer(target.provider, target.endpoint),
        for_target=for_target,
        stream=stream,
        budgets=budgets,
        cache_scope=cache_scope,
    )


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Prompts by position: rows x targets x samples, in that order.

    Parameters
    ----------
    columns
        Values of the template's columns, one list per column.
    n_rows
        Number of rows.
    template
        Function of a row's values that returns its prompt.
    target_prompts
        The targets.
    n_samples
        Responses per row and target.
    is_plain_text
        Whether every prompt is a string.
    target_of_row
        Index of each row's single target, if a row is not sent to all targets.
    reads_files
        Whether drawing a chunk may read files.
    redaction
        How ``template`` redacts the prompts; ``None`` if it does not.

    Attributes
    ----------
    keys
        Cache keys by position, 32 bytes each.
    skipped, not_reached
        By row: 1 where a value is missing, and where the run was stopped before the row was rendered.
    invalid_rows
        By row: why it has no valid prompt.

    Notes
    -----
    The attributes are filled while `iter_chunks` is consumed.
    """

    columns: Sequence[Sequence[Any]]
    n_rows: int
    template: Template[Any]
    target_prompts: tuple[TargetPrompt, ...]
    n_samples: int = 1
    is_plain_text: bool = True
    target_of_row: Sequence[int] | None = None
    reads_files: bool = False
    redaction: RowRedaction | None = None
    keys: bytearray = field(init=False)
    skipped: bytearray = field(init=False)
    not_reached: bytearray = field(init=False)
    invalid_rows: dict[int, InvalidRequest] = field(init=False)

    def __post_init__(self) -> None:
        """Allocate the attributes that `iter_chunks` fills."""
        size = self.n_rows * self.positions_per_row
        try:
            keys = bytearray(KEY_BYTES * size)
        except (MemoryError, OverflowError) as error:
            message = (
                f"{self.n_samples:,} responses for each of {self.n_rows:,} rows and {len(self.target_prompts)} models"
                f" are {size:,}, more than fit into memory; pass a smaller n, or fewer rows at a time"
            )
            raise invalid("n", message) from error
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "skipped", bytearray(self.n_rows))
        object.__setattr__(self, "not_reached", bytearray(self.n_rows))
        object.__setattr__(self, "invalid_rows", {})

    def __len__(self) -> int:
        """Return the number of positions."""
        return self.n_rows * self.positions_per_row

    def key_of(self, position: int) -> bytes:
        """Return the cache key of a position."""
        return bytes(self.keys[KEY_BYTES * position : KEY_BYTES * (position + 1)])

    @property
    def positions_per_row(self) -> int:
        """Number of targets of a row times the number of samples."""
        return self.n_samples * (len(self.target_prompts) if self.target_of_row is None else 1)

    @property
    def is_simulated(self) -> bool:
        """Whether a simulator answers any of the prompts."""
        return any(prompt.target.endpoint.simulated for prompt in self.target_prompts)

    def iter_chunks(self, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[PlannedBlock | list[PlannedItem]]:
        """Yield the items lazily; a row with a missing value has none.

        Once ``is_stopped()`` is true, images and conversations are no longer read: the remaining rows have no key.
        """
        return self._iter_text_chunks() if self.is_plain_text else self._iter_prompt_chunks(is_stopped)

    def _iter_text_chunks(self) -> Iterator[PlannedBlock]:
        """Yield blocks of plain-text rows, the first one small so that calls start early."""
        start, size = 0, FIRST_CHUNK_SIZE
        while start < self.n_rows:
            stop = min(start + max(1, size // max(1, self.positions_per_row)), self.n_rows)
            block = self._text_chunk(start, stop)
            if len(block):
                yield block
            start, size = stop, CHUNK_SIZE

    def _text_chunk(self, start: int, stop: int) -> PlannedBlock:
        """Render and key the rows from ``start`` up to ``stop``."""
        columns = [column[start:stop] for column in self.columns]
        missing = {index for column in columns for index, value in enumerate(column) if value is None}
        rows = np.arange(start, stop)
        if missing:
            complete = [index for index in range(stop - start) if index not in missing]
            rows = rows[complete]
            columns = [[column[index] for index in complete] for column in columns]
            for index in missing:
                self.skipped[start + index] = 1
        values = zip(*columns, strict=True) if columns else ((),) * len(rows)
        texts = list(map(self.template.render, values))
        key_lists = [
            target_prompt.text_keys(texts, sample)
            for target_prompt in self.target_prompts
            for sample in range(self.n_samples)
        ]
        keys = b"".join(key_lists[0] if len(key_lists) == 1 else chain.from_iterable(zip(*key_lists, strict=True)))
        positions = (rows[:, None] * self.positions_per_row + np.arange(self.positions_per_row)).ravel()
        np.frombuffer(self.keys, f"V{KEY_BYTES}")[positions] = np.frombuffer(keys, f"V{KEY_BYTES}")
        return PlannedBlock(positions, keys, partial(_build_item, self, positions, keys, texts))

    def _iter_prompt_chunks(self, is_stopped: Callable[[], bool]) -> Iterator[list[PlannedItem]]:
        """Yield chunks of rows that are rendered one by one, bounded by `CHUNK_SIZE` and `MAX_IMAGE_CHARS`."""
        chunk: list[PlannedItem] = []
        image_chars = 0
        for row, values in enumerate(self._iter_values()):
            is_missing = _has_missing(values)
            if not is_missing and is_stopped():
                self.not_reached[row] = 1
                first = row * self.positions_per_row
                yield [(first + index, NO_KEY, _unsent_call, None) for index in range(self.positions_per_row)]
                continue
            prompt = None if is_missing else self.template.render(values)
            if prompt is None:
                self.skipped[row] = 1
            elif isinstance(prompt, InvalidRequest):
                self.invalid_rows[row] = replace(prompt, message=f"row {row}: {prompt.message}")
            else:
                chunk += self._row_items(row, prompt)
                image_chars += _image_chars(prompt)
            if len(chunk) >= CHUNK_SIZE or image_chars >= MAX_IMAGE_CHARS:
                yield chunk
                chunk, image_chars = [], 0
        if chunk:
            yield chunk

    def _row_items(self, row: int, prompt: RowPrompt) -> Iterator[PlannedItem]:
        """Key a row's prompt and yield its items, one for each of its targets and samples."""
        targets = self.target_prompts
        if self.target_of_row is not None:
            targets = (targets[self.target_of_row[row]],)
        position = row * self.positions_per_row
        for target_prompt in targets:
            make_call = target_prompt.prompt_call
            for sample in range(self.n_samples):
                key = target_prompt.prompt_key(prompt, sample)
                self.keys[KEY_BYTES * position : KEY_BYTES * (position + 1)] = key
                yield position, key, partial(make_call, sample=sample) if sample else make_call, prompt
                position += 1

    def _iter_values(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.columns, strict=True) if self.columns else iter(((),) * self.n_rows)

    def call_again(self, position: int, key: bytes) -> Call:
        """Return the call of a plain-text position again, rendering its prompt."""
        row, rest = divmod(position, self.positions_per_row)
        text = self.template.render(tuple([column[row] for column in self.columns]))
        return self.target_prompts[rest // self.n_samples].text_call(text, key, rest % self.n_samples)

    def iter_prompts(self) -> Iterator[RowPrompt | InvalidRequest]:
        """Render every row without missing values."""
        return (self.template.render(values) for values in self._iter_values() if not _has_missing(values))


def _build_item(batch: PromptBatch, positions: Int64Array, keys: bytes, texts: list[str], index: int) -> PlannedItem:
    """Return one item of a block of plain-text rows."""
    position = int(positions[index])
    target_prompt = batch.target_prompts[position // batch.n_samples % len(batch.target_prompts)]
    key = keys[KEY_BYTES * index : KEY_BYTES * (index + 1)]
    sample = position % batch.n_samples
    make_call = partial(target_prompt.text_call, sample=sample) if sample else target_prompt.text_call
    return position, key, make_call, texts[index // batch.positions_per_row]


def _unsent_call(_prompt: object, _key: bytes) -> Call:
    """Stand in for the call of a row that was not rendered because the run was stopped."""
    raise AssertionError("a row was sent after the run was stopped")


def _has_missing(values: tuple[Any, ...]) -> bool:
    """Return whether a value is missing. ``None in values`` would fail for arrays, which compare element by element."""
    return any([value is None for value in values])  # noqa: C419 - a list takes half the time of a generator


def _image_chars(prompt: RowPrompt) -> int:
    """Return the number of characters of a prompt's base64 images and image URLs."""
    messages = () if isinstance(prompt, str) else prompt.messages if isinstance(prompt, CompletionRequest) else prompt
    parts = (part for message in messages for part in message.parts)
    return sum(len(part.data) + len(part.url) for part in parts if isinstance(part, Image))


def prompt_text(prompt: RowPrompt | InvalidRequest) -> str:
    """Return the text of a prompt, for token counts; empty for an invalid one."""
    if isinstance(prompt, InvalidRequest):
        return ""
    if isinstance(prompt, str):
        return prompt
    messages = prompt.messages if isinstance(prompt, CompletionRequest) else prompt
    return "\n".join(message.text for message in messages)


def redacted_batch(batch: PromptBatch, redactor: Redactor) -> PromptBatch:
    """Return a batch whose prompts have placeholders in place of credentials and personal data."""
    return redact_batch(batch, redactor, _with_request)


def _with_request(prompt: TargetPrompt, request: CompletionRequest) -> TargetPrompt:
    return prepare_target_prompt(prompt.target, request, stream=prompt.stream, budgets=prompt.budgets)


def batch_from_frame(
    frame: Any, prompt: Any, target_prompts: Sequence[TargetPrompt], n_samples: int, extras: RowExtras = NO_EXTRAS
) -> PromptBatch:
    """Return the prompts of a frame's rows.

    Raises
    ------
    BadRequestError
        A placeholder names no column, or a value cannot be formatted as its format specification says.
    """
    compiled = compile_row_template(frame, prompt, extras)
    batch = PromptBatch(
        compiled.columns,
        compiled.n_rows,
        compiled.template,
        tuple(target_prompts),
        n_samples,
        is_plain_text=compiled.is_plain_text,
        reads_files=compiled.reads_files,
    )
    return _validate_formats(batch)


def batch_from_series(values: Any, prompt: str, target_prompts: Sequence[TargetPrompt]) -> PromptBatch:
    """Return the prompts of a series' values: in the place of ``{}``, or after the prompt and an empty line.

    Without a prompt, values that are conversations are sent as they are.

    Raises
    ------
    BadRequestError
        The prompt has a placeholder other than ``{}``, or a value cannot be formatted as it says.
    """
    column = frames.series_values(values)
    if not prompt and any(map(is_conversation, column)):
        template: Template[Any] = Template((SERIES_FIELD,), prompt_from_cell)
        return PromptBatch([column], len(column), template, tuple(target_prompts), is_plain_text=False)
    return _validate_formats(PromptBatch([column], len(column), parse_series_template(prompt), tuple(target_prompts)))


def batch_from_requests(
    requests: Sequence[CompletionRequest | None], target_prompts: Sequence[TargetPrompt], target_of_row: Sequence[int]
) -> PromptBatch:
    """Return a batch with one complete request per row, each to one target; rows with ``None`` are skipped."""
    template: Template[Any] = Template((), lambda values: values[0])
    return PromptBatch(
        [requests], len(requests), template, tuple(target_prompts), is_plain_text=False, target_of_row=target_of_row
    )


def render_texts(frame: Any, prompt: str) -> list[str | None]:
    """Return the texts of a column, or a template rendered for each row; ``None`` if a value is missing.

    Raises
    ------
    BadRequestError
        ``prompt`` is neither a column nor a template over columns.

    Examples
    --------
    >>> import pyarrow as pa
    >>> render_texts(pa.table({"x": [1, None]}), "x"), render_texts(pa.table({"x": [1, None]}), "{x} more")
    (['1', None], ['1 more', None])
    """
    if isinstance(prompt, str) and (prompt in frames.column_names(frames.native_frame(frame)) or "{" not in prompt):
        return [None if value is None else str(value) for value in FrameColumns(frame).column(prompt)]
    batch = batch_from_frame(frame, prompt, (), 1)
    rows = zip(*batch.columns, strict=True) if batch.columns else ((),) * batch.n_rows
    return [None if any(value is None for value in row) else prompt_text(batch.template.render(row)) for row in rows]


def _validate_formats(batch: PromptBatch) -> PromptBatch:
    """Render every row if that may raise, so that format errors are raised before anything is sent."""
    if batch.template.has_format_specs:
        deque(batch.iter_prompts(), maxlen=0)
    return batch


# Distinct prompts


@dataclass(frozen=True, slots=True)
class ModelPrompts:
    """The distinct prompts of one model.

    Parameters
    ----------
    target_prompt
        The target.
    items
        One item per distinct prompt, by cache key.
    rows, skipped
        Number of rows times samples, and how many of them have no valid prompt.
    """

    target_prompt: TargetPrompt
    items: dict[bytes, PlannedItem]
    rows: int
    skipped: int


def unique_prompts(batch: PromptBatch) -> list[ModelPrompts]:
    """Return the distinct prompts of each target of a batch; consumes its chunks."""
    items: list[dict[bytes, PlannedItem]] = [{} for _ in batch.target_prompts]
    for chunk in batch.iter_chunks():
        for item in chunk:
            items[_target_of(batch, item[0])].setdefault(item[1], item)
    return [
        ModelPrompts(target_prompt, items[index], *_count_rows(batch, index))
        for index, target_prompt in enumerate(batch.target_prompts)
    ]


def _count_rows(batch: PromptBatch, target: int) -> tuple[int, int]:
    """Return the number of positions of a target, and of those without a valid prompt."""
    rows: Sequence[int] = range(batch.n_rows)
    if batch.target_of_row is not None:
        rows = [row for row, own_target in enumerate(batch.target_of_row) if own_target == target]
    skipped = sum(1 for row in rows if batch.skipped[row] or row in batch.invalid_rows)
    return len(rows) * batch.n_samples, skipped * batch.n_samples


def _target_of(batch: PromptBatch, position: int) -> int:
    row, rest = divmod(position, batch.positions_per_row)
    return rest // batch.n_samples if batch.target_of_row is None else batch.target_of_row[row]
