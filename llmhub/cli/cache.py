"""``llmhub cache``: what the cache holds, and how to empty it."""

from __future__ import annotations

import argparse

from llmhub import config
from llmhub.cache.disk import DiskCache
from llmhub.cache.store import StoreError
from llmhub.cli.terminal import complain, say
from llmhub.core.errors import InvalidRequest, InvalidRequestError


def act(given: argparse.Namespace) -> int:
    """Look, or clear."""
    path = given.cache or config.load().cache_path
    if path is None or not path.exists():
        say(f"{path}: not there yet")
        return 0
    if given.action == "clear" and not given.yes:
        complain("cache", f"--yes: give it to take every answer out of {str(path)!r}; they would be paid for again")
        return 2
    store = DiskCache(path).open()
    try:
        held = store.stats()
        if given.action == "clear":
            store.clear()
    except StoreError as error:
        raise InvalidRequestError(InvalidRequest(path="cache", message=str(error))) from error
    finally:
        store.close()
    said = f"{held.entries:,} answers" + ("" if given.action == "clear" else f", {held.size_bytes / 1e6:,.1f} MB")
    say(f"{path}: {'took out ' if given.action == 'clear' else ''}{said}")
    return 0
