"""What went out, by the ledger: what a run cost can be read though the process that ran it is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmhub.api.hubs import current_hub
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa


def ledger(*, hub: Hub | None = None) -> pa.Table:
    """Give every request that is in the ledger of a hub's cache: runs by their id, states, times, tokens and cost.

    Parameters
    ----------
    hub
        Whose cache; the default hub unless given.

    Returns
    -------
    pyarrow.Table
        With the schema `llmhub.tables.ledger.LEDGER`: a row for each request, those under way last. ``ambiguous`` are
        those that a process sent which died before the answer came.

    Raises
    ------
    InvalidRequestError
        The hub has no cache that keeps a ledger: a `DiskCache` does.
    """
    from llmhub.tables.ledger import ledger_table  # noqa: PLC0415 - Arrow is loaded when it is asked for

    store = (hub or current_hub()).runtime.store
    if store is None or store.ledger is None:
        said = "this hub has no cache that keeps a ledger; give Hub(cache=DiskCache(path))"
        raise InvalidRequestError(InvalidRequest(path="hub", message=said))
    return ledger_table(store.ledger.requests())
