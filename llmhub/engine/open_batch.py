"""A batch that a run fills or waits for, and the rows in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from returns.pipeline import is_successful

from llmhub.cache.store import BatchRecord
from llmhub.core.batch import Batch, BatchLimits, custom_id
from llmhub.core.errors import InvalidRequest, LLMError
from llmhub.core.provider import public_url
from llmhub.engine.batch_client import BatchClient, RowFile
from llmhub.engine.call import Call, Target
from llmhub.engine.fan_out_types import PlannedItem
from llmhub.engine.transport import prepare_call

BUILD_ROWS: Final = 2_048
"""Rows that are encoded and recorded at a time."""
BYTES_PER_TOKEN: Final = 4
"""Bytes of a request per prompt token, for the limit of tokens of a batch."""


class WaitingRow(NamedTuple):
    """A row on its way through a batch."""

    item: PlannedItem
    dropped: tuple[str, ...] = ()
    sent: int = 0
    """Batches it was sent in before."""


class WaitingRows:
    """Rows of one batch that a run waits for, by their keys.

    Parameters
    ----------
    make_again
        Returns the call of a position and its key again (see `FanOutSpec`): of a row, only the position is kept, and
        no prompt. ``None`` if prompts have to be kept.
    """

    __slots__ = ("_make_again", "_rows")

    def __init__(self, make_again: Callable[[int, bytes], Call] | None = None) -> None:
        self._make_again = make_again
        self._rows: dict[bytes, int | WaitingRow] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __iter__(self) -> Iterator[WaitingRow]:
        """Yield the rows."""
        return (self._expand(key, kept) for key, kept in self._rows.items())

    def add(self, row: WaitingRow) -> None:
        """Add a row, or replace the one with its key."""
        position, key, *_ = row.item
        make_again = self._make_again
        if make_again is None:
            self._rows[key] = row
        elif row.dropped or row.sent:
            self._rows[key] = row._replace(item=(position, key, make_again, position))
        else:
            self._rows[key] = position

    def dropped(self, key: bytes) -> tuple[str, ...]:
        """Return the parameters that were left out of the request of a row, if a run waits for it."""
        kept = self._rows.get(key)
        return kept.dropped if isinstance(kept, WaitingRow) else ()

    def pop(self, key: bytes) -> WaitingRow | None:
        """Remove a row and return it; return ``None`` if there is none."""
        kept = self._rows.pop(key, None)
        return None if kept is None else self._expand(key, kept)

    def take_all(self) -> list[WaitingRow]:
        """Remove all rows and return them."""
        rows = list(self)
        self._rows = {}
        return rows

    def _expand(self, key: bytes, kept: int | WaitingRow) -> WaitingRow:
        if isinstance(kept, WaitingRow):
            return kept
        assert self._make_again is not None  # noqa: S101 - or else the row was kept
        return WaitingRow((kept, key, self._make_again, kept))


@dataclass(slots=True)
class OpenBatch:
    """A batch that this run fills or waits for; ``refusal`` is how its provider refused the last request, if it did."""

    record: BatchRecord
    target: Target
    client: BatchClient
    rows: WaitingRows
    file: RowFile | None = None
    order: list[bytes] = field(default_factory=list)
    tokens: int = 0
    max_rows: int | None = None
    max_tokens: int | None = None
    cancelled: bool = False
    refusal: str = ""

    @property
    def batch(self) -> Batch:
        """The batch as its format sees it."""
        return to_batch(self.record, self.target)


def _batch_address(record: BatchRecord, target: Target) -> str:
    """Return the address of a batch: the target's own, with the credentials in it, if it is the same API."""
    api = target.provider.batch
    own = api.base_url(target.endpoint) if api is not None else ""
    return own if public_url(own) == record.base_url else record.base_url


def to_batch(record: BatchRecord, target: Target) -> Batch:
    """Return a record of the ledger as the format of its provider sees it."""
    return Batch(
        token=record.token,
        base_url=_batch_address(record, target),
        model=target.model,
        row_url=record.row_url,
        rows=record.rows,
        created_at=record.created_at,
        storage=record.values.get("storage", ""),
        storage_url=_storage_url(target),
        role=record.values.get("role", ""),
        values=record.values,
    )


def _storage_url(target: Target) -> str:
    api = target.provider.batch
    return api.storage_url(target.endpoint) if api is not None and api.storage_url is not None else ""


def even_rows(rows: int, limits: BatchLimits) -> int | None:
    """Return the rows of batches of equal size, so that the last one has enough where there is a minimum.

    Examples
    --------
    >>> even_rows(50_050, BatchLimits(rows=50_000, size=1, min_rows=100))
    25025
    """
    count = -(-rows // limits.rows)
    return -(-rows // count) if limits.min_rows > 1 and count > 1 else None


class EncodedRow(NamedTuple):
    """A row as it is written to a batch."""

    key: bytes
    row: WaitingRow
    data: bytes
    tokens: int


def encode_rows(
    pairs: Sequence[tuple[WaitingRow, Call]], opened: OpenBatch
) -> tuple[list[EncodedRow], list[tuple[WaitingRow, LLMError]]]:
    """Encode rows until the batch is full; return them, and those that cannot be sent."""
    limits, wire = opened.client.limits, opened.client.wire
    assert opened.file is not None  # noqa: S101 - it is being filled
    rows, size, tokens = opened.file.rows, opened.file.size, opened.tokens
    max_rows = min(limits.rows, opened.max_rows or limits.rows)
    max_tokens = opened.max_tokens or limits.enqueued_tokens
    now = time.time()
    batch = opened.batch
    encoded: list[EncodedRow] = []
    failures: list[tuple[WaitingRow, LLMError]] = []
    for row, call in pairs:
        http = prepare_call(call, now, stream=False)
        if not is_successful(http):
            failures.append((row, http.failure()))
            continue
        request = http.unwrap()
        if not opened.record.row_url:
            opened.record = opened.record._replace(row_url=request.url)
            batch = opened.batch
        data = wire.encode_row(custom_id(row.item[1]), request, batch)
        if len(data) > limits.size:
            message = (
                f"the request has {len(data):,} bytes; a batch of {call.target.provider.name} takes {limits.size:,}"
            )
            failures.append((row, InvalidRequest(path="$", message=message)))
            continue
        row_tokens = len(request.body) // BYTES_PER_TOKEN
        over_tokens = max_tokens is not None and rows and tokens + row_tokens > max_tokens
        if over_tokens or rows >= max_rows or size + len(data) > limits.size:
            break
        encoded.append(EncodedRow(row.item[1], row._replace(dropped=request.dropped), data, row_tokens))
        rows, size, tokens = rows + 1, size + len(data) + len(wire.separator), tokens + row_tokens
    return encoded, failures
