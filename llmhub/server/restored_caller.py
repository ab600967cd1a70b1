"""The caller of work that an earlier process began: as the access to the service knows it now, not as it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from returns.pipeline import is_successful
from returns.result import Result

from llmhub.core.errors import LLMError, to_exception
from llmhub.server.access import Access, Caller


@runtime_checkable
class FindsCallers(Protocol):
    """Access that finds a caller without a request."""

    async def find_caller(self, key_id: str, team: str) -> Result[Caller, LLMError]:
        """Return the caller of a key by its id and team, or the error of a key that is not accepted any more."""


async def restore_caller(
    access: Access,
    *,
    key_id: str,
    team: str,
    scopes: Iterable[str],
    models: Iterable[str],
    weight: float,
    cache_scope: str,
) -> Caller:
    """Return a caller by what was stored of it.

    Raises
    ------
    ConnectorError
        The key was revoked or has expired, or the store of keys is lost.
    """
    if isinstance(access, FindsCallers):
        found = await access.find_caller(key_id, team)
        if not is_successful(found):
            raise to_exception(found.failure())
        caller: Caller = found.unwrap()
        return caller
    return Caller(
        key_id=key_id,
        team=team,
        scopes=frozenset(scopes),
        models=tuple(models),
        weight=weight,
        cache_scope=cache_scope,
    )
