"""Results of batches: they are decoded, stored and recorded some thousand rows at a time, in threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from returns.pipeline import is_successful
from returns.result import Result

from llmhub.cache.store import (
    BatchLedger,
    BatchRecord,
    EndedRequest,
    Entry,
    LedgerBatch,
    Store,
    as_store_error,
)
from llmhub.core.batch import BatchRow, LateReason, key_from_custom_id
from llmhub.core.embedding import EmbedRequest
from llmhub.core.errors import LLMError, error_type_name
from llmhub.core.protocol import interpret, interpret_embedding
from llmhub.core.provider import HttpReply
from llmhub.core.types import CompletionResponse
from llmhub.engine.call import Answer, Target
from llmhub.engine.open_batch import BUILD_ROWS, WaitingRows
from llmhub.engine.row_outcome import pack_outcome
from llmhub.engine.transport import long_keys, redact_error
from llmhub.security.echoed_keys import response_without_keys

EMBEDS: Final = "embeds"
"""Name of the value of a record whose rows are texts to be embedded."""


class DecodedRows(NamedTuple):
    """Some results of a batch: what they are, and what is written of them."""

    filed: list[FiledRow]
    entries: list[Entry]
    ended: list[EndedRequest]


class FiledRow(NamedTuple):
    """A decoded result: its key, and the answer or why there is none; of a response, the value in the store as well."""

    key: bytes
    answer: Answer | None
    late: LateReason | None = None
    value: bytes | None = None


@dataclass(slots=True)
class BatchCollector:
    """Decodes results of one batch and stores them, in a thread.

    ``rows`` are the rows that a run waits for; results of other rows are stored as well. ``counted`` are keys that
    another process recorded as ended before it died while it collected the batch. Rows of the run that have been seen
    are marked in ``seen_positions``, which has a byte for each position, so that their keys are not kept once more.
    """

    target: Target
    record: BatchRecord
    store: Store
    rows: WaitingRows
    position_of: Callable[[bytes], int | None]
    seen_positions: bytearray
    keys: frozenset[bytes] | None = None
    is_confirmed: bool = False
    counted: frozenset[bytes] = frozenset()
    seen_keys: set[bytes] = field(default_factory=set)
    secrets: list[str] = field(init=False)
    """Keys of the endpoint that no response may repeat."""
    embeds: bool = field(init=False)

    def __post_init__(self) -> None:
        """Take what is the same for every row from the record and the target."""
        self.secrets = long_keys(self.target.endpoint)
        self.embeds = EMBEDS in self.record.values

    def decode(self, decode: Callable[[], list[BatchRow]]) -> DecodedRows:
        """Decode some rows; one that came before, because a download was repeated, is left out."""
        if self.record.values.get("unconfirmed") and self.keys is None:
            ledger = self.store.ledger.batches if self.store.ledger is not None else None
            self.keys = frozenset(ledger.rows(self.record.token)) if ledger is not None else frozenset()
        record = self.record
        started_at = record.intent_at or record.created_at
        cache_name = self.target.cache_name
        filed: list[FiledRow] = []
        entries: list[Entry] = []
        ended: list[EndedRequest] = []
        now = time.time()
        for row in decode():
            key = key_from_custom_id(row.custom_id)
            if key is None or (self.keys is not None and key not in self.keys):
                continue
            self.is_confirmed = True
            if self._was_seen(key):
                continue
            if row.reply is None:
                filed.append(FiledRow(key, None, row.late))
                continue
            answer = Answer(
                self._interpret(row.reply),
                attempts=1,
                started_at=started_at,
                dropped=self.rows.dropped(key),
                mode="batch",
            )
            value = pack_outcome(answer, key) if is_successful(answer.outcome) else None
            if value is not None:
                entries.append(Entry(key, value, cache_name, started_at))
            if key not in self.counted:
                ended.append(_ended_request(key, record, self.target, answer, started_at, now))
            filed.append(FiledRow(key, answer, None, None if self.embeds else value))
        return DecodedRows(filed, entries, ended)

    def _was_seen(self, key: bytes) -> bool:
        """Mark a row as seen; return whether it was."""
        position = self.position_of(key)
        if key in self.seen_keys or (position is not None and self.seen_positions[position]):
            return True
        if position is None:
            self.seen_keys.add(key)
        else:
            self.seen_positions[position] = 1
        return False

    def store_rows(self, decoded: DecodedRows) -> DecodedRows:
        """Store the responses of decoded rows, and record their requests as ended."""
        try:
            if decoded.entries:
                self.store.put_many(decoded.entries)
            if decoded.ended and self.store.ledger is not None:
                self.store.ledger.commit(LedgerBatch(ended=decoded.ended))
        except Exception as error:
            raise as_store_error(error) from error
        return decoded

    def _interpret(self, reply: HttpReply) -> Result[CompletionResponse, LLMError]:
        provider, endpoint = self.target.provider, self.target.endpoint
        if not self.embeds:
            response = interpret(provider, reply)
            if is_successful(response):
                return response.map(partial(response_without_keys, self.secrets)) if self.secrets else response
            return response.alt(partial(redact_error, endpoint=endpoint))
        decoded: Result[CompletionResponse, LLMError] = interpret_embedding(provider, self._one_text, reply)
        return decoded

    @property
    def _one_text(self) -> EmbedRequest:
        """A request of the form of each row: the text itself is not needed to decode its vector."""
        return EmbedRequest(self.target.model, ("",))


def _ended_request(
    key: bytes, record: BatchRecord, target: Target, answer: Answer, sent_at: float, now: float
) -> EndedRequest:
    if is_successful(answer.outcome):
        response = answer.outcome.unwrap()
        usage = response.usage
        return EndedRequest(
            key, record.run, target.cache_name, response.served_model, "done", "", sent_at, now,
            usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cache_write_tokens,
            usage.reasoning_tokens,
        )  # fmt: skip
    error_type = error_type_name(answer.outcome.failure())
    return EndedRequest(key, record.run, target.cache_name, "", "error", error_type, sent_at, now)


def finish_if_stored(ledger: BatchLedger, store: Store, token: str) -> None:
    """Mark a batch as collected if the store has the answers of all its rows."""
    record, keys = ledger.get(token), ledger.rows(token)
    if record is None or record.state != "open":
        return
    for start in range(0, len(keys), BUILD_ROWS):
        part = keys[start : start + BUILD_ROWS]
        if len(store.get_many(part)) < len(part):
            return
    ledger.finish(record._replace(state="collected"))


def counted_keys(store: Store, record: BatchRecord) -> frozenset[bytes]:
    """Return the keys of a batch that are recorded as ended: by the time they were sent, which they share."""
    sent_at = record.intent_at or record.created_at
    requests = store.ledger.requests() if store.ledger is not None else iter(())
    return frozenset(request.key for request in requests if request.sent_at == sent_at and request.ended_at)
