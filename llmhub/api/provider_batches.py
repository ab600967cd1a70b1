"""Batches at providers, as a hub's cache remembers them: list, refresh, collect, cancel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, overload

from llmhub.api.default_hub import current_hub
from llmhub.cache.store import BatchLedger, BatchRecord
from llmhub.core.errors import invalid
from llmhub.engine.batch_policy import DEFAULT_POLL_S, BatchPolicy
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.formatting.html import container, html_table, text_block
from llmhub.formatting.text_tables import text_table
from llmhub.hub import Hub

HEADER: Final = ("batch", "model", "state", "rows", "answered", "failed", "age")
LEDGER_MESSAGE: Final = "has no cache that remembers batches; pass Hub(cache=DiskCache(path))"


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """A batch at its provider, as the cache remembers it."""

    record: BatchRecord = field(repr=False)
    hub: Hub = field(repr=False)

    @property
    def id(self) -> str:
        """The provider's id; our own while the batch is being created."""
        return self.record.values.get("id") or self.record.token

    @property
    def model(self) -> str:
        """``provider/model``."""
        return self.record.model

    @property
    def state(self) -> str:
        """``draft``, ``intent``, ``open``, ``collected`` or ``failed``."""
        return self.record.state

    @property
    def label(self) -> str:
        """The provider's word for its state, when it was last asked."""
        return self.record.label

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.record.rows

    @property
    def succeeded(self) -> int:
        """Rows that the provider reported as answered."""
        return self.record.succeeded

    @property
    def failed(self) -> int:
        """Rows that the provider reported as failed."""
        return self.record.failed

    @property
    def created_at(self) -> datetime:
        """When it was begun."""
        return datetime.fromtimestamp(self.record.created_at, UTC)

    def refresh(self) -> ProviderBatch:
        """Ask the provider once for the state of the batch; collect it if it has ended. Return it as it is then."""
        return self._attend(BatchPolicy(late="wait", deadline_s=0.001))

    def collect(self, *, poll_s: float = DEFAULT_POLL_S) -> ProviderBatch:
        """Wait until the batch has ended, store its answers in the cache, and return it."""
        return self._attend(BatchPolicy(late="error", poll_s=poll_s))

    def cancel(self, *, poll_s: float = 2.0) -> ProviderBatch:
        """Cancel the batch, wait until it has ended, store what it has answered, and return it."""
        policy = BatchPolicy(late="error", poll_s=poll_s)
        policy.cancel.request()
        return self._attend(policy)

    def _attend(self, policy: BatchPolicy) -> ProviderBatch:
        target = self.hub.target(self.record.model)

        async def work(stop: StopSignal) -> None:
            await self.hub.runtime.attend_batch(self.record, target, policy, stop)

        run_sync(work)
        record = ledger_of(self.hub).get(self.record.token)
        return ProviderBatch(self.record if record is None else record, self.hub)

    def summary(self) -> dict[str, Any]:
        """Return the batch as a JSON object."""
        return {
            "id": self.id,
            "model": self.model,
            "state": self.state,
            "label": self.label,
            "rows": self.rows,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "created_at": self.created_at.isoformat(timespec="seconds"),
        }

    def __repr__(self) -> str:
        """Return the batch as one line."""
        counts = f"{self.succeeded:,} of {self.rows:,} rows answered"
        return f"<ProviderBatch {self.id} of {self.model}: {self.state}, {counts}>"


class ProviderBatches(Sequence[ProviderBatch]):
    """Batches, oldest first; printed as a table."""

    __slots__ = ("_batches",)

    def __init__(self, batches: Sequence[ProviderBatch]) -> None:
        self._batches = tuple(batches)

    @overload
    def __getitem__(self, index: int) -> ProviderBatch: ...
    @overload
    def __getitem__(self, index: slice) -> ProviderBatches: ...
    def __getitem__(self, index: int | slice) -> ProviderBatch | ProviderBatches:
        """Return one batch, or some."""
        return ProviderBatches(self._batches[index]) if isinstance(index, slice) else self._batches[index]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[ProviderBatch]:
        """Iterate over the batches."""
        return iter(self._batches)

    def __repr__(self) -> str:
        """Return the batches as a table."""
        return text_table(HEADER, self._cells(), left_columns=3) if self._batches else "no batches"

    def _repr_html_(self) -> str:
        return container(html_table(HEADER, self._cells()) if self._batches else text_block("no batches"))

    def _cells(self) -> list[list[str]]:
        now = datetime.now(UTC)
        return [
            [
                batch.id,
                batch.model,
                f"{batch.state} ({batch.label})" if batch.label and batch.state == "open" else batch.state,
                f"{batch.rows:,}",
                f"{batch.succeeded:,}",
                f"{batch.failed:,}",
                _age((now - batch.created_at).total_seconds()),
            ]
            for batch in self._batches
        ]


def _age(seconds: float) -> str:
    """Return a time as a person reads it: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    for limit, unit, size in ((60.0, "s", 1.0), (3600.0, "min", 60.0), (86_400.0, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400.0:.3g} d"


def batches(*, hub: Hub | None = None) -> ProviderBatches:
    """Return the batches that a hub's cache remembers, those of other processes and earlier runs included.

    Parameters
    ----------
    hub
        The hub whose cache to read; the default hub if omitted.

    Returns
    -------
    ProviderBatches
        Oldest first; printed as a table. Each has ``refresh``, ``collect`` and ``cancel``.

    Raises
    ------
    BadRequestError
        The hub has no cache with a ledger, such as a `DiskCache`.
    """
    hub = hub or current_hub()
    return ProviderBatches([ProviderBatch(record, hub) for record in ledger_of(hub).records()])


def find_batch(name: str, hub: Hub) -> ProviderBatch:
    """Return the batch with an id, or the beginning of one.

    Raises
    ------
    BadRequestError
        There is none, or several.
    """
    found = [batch for batch in batches(hub=hub) if batch.id.startswith(name) or batch.record.token.startswith(name)]
    if len(found) != 1:
        known = ", ".join(batch.id for batch in found or batches(hub=hub)) or "none"
        raise invalid("id", f"{name!r} names {len(found) or 'no'} batch{'es' if found else ''}; there are: {known}")
    return found[0]


def ledger_of(hub: Hub) -> BatchLedger:
    """Return the ledger of batches of a hub's cache; raise if it has none."""
    store = hub.runtime.store
    if store is None or store.ledger is None or store.ledger.batches is None:
        raise invalid("hub", LEDGER_MESSAGE)
    return store.ledger.batches
