"""``llmhub keys``: make, list, revoke and rotate the keys of a service, in the store that its settings name."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from llmhub import config
from llmhub.cache.store import StoreError
from llmhub.cli.console import print_json, print_message, print_result
from llmhub.core.errors import invalid
from llmhub.server.access_settings import open_access_store
from llmhub.server.server_settings import ServerSettings, load_server_settings
from llmhub.server.virtual_keys import KeyInfo, KeyOptions, KeyRegistry, NewKey, signing_secret

OPTIONS: Final = tuple(KeyOptions.__struct_fields__)


def run(args: argparse.Namespace) -> int:
    """Run the requested action, and return the exit code."""
    settings = load_server_settings(args.config)
    args.signing = settings.access.signing_secret
    with _registry(args, settings) as registry:
        return ACTIONS[args.action](registry, args)


@contextmanager
def _registry(args: argparse.Namespace, settings: ServerSettings) -> Iterator[KeyRegistry]:
    """Open the store; its errors are reported as errors of ``--store``."""
    cache = settings.cache or config.load_settings(file=args.config).cache_url
    store = open_access_store(args.store or settings.access.store, cache)
    try:
        yield KeyRegistry(store)
    except StoreError as error:
        raise invalid("store", str(error)) from error
    finally:
        store.close()


def _create(registry: KeyRegistry, args: argparse.Namespace) -> int:
    given = {name: value for name in OPTIONS if (value := getattr(args, name, None)) is not None}
    try:
        options = msgspec.convert(given, type=KeyOptions)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        raise invalid(place.strip("`").partition("[")[0] or "keys", message[:1].lower() + message[1:]) from None
    _show_new(registry, registry.create(options), args)
    return 0


def _rotate(registry: KeyRegistry, args: argparse.Namespace) -> int:
    _show_new(registry, registry.rotate(args.id, args.grace or 0.0), args)
    return 0


def _show_new(registry: KeyRegistry, made: NewKey, args: argparse.Namespace) -> None:
    signing = signing_secret(args.signing, made.key.id, made.key.digest).reveal() if args.signing else None
    if args.json:
        key = msgspec.to_builtins(registry.describe(made.key))
        print_json({"secret": made.token, "signing_secret": signing, "key": key})
        return
    print_message("keys", f"key {made.key.id} of the team {made.key.team}; it is shown only now:")
    print_result(made.token)
    if signing is not None:
        print_message("keys", "and the secret to sign requests with:")
        print_result(signing)


def _list(registry: KeyRegistry, args: argparse.Namespace) -> int:
    keys = registry.describe_all()
    if args.json:
        print_json([msgspec.to_builtins(key) for key in keys])
        return 0
    rows = [("id", "name", "team", "state", "spent USD", "expires"), *map(_row, keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows if keys else ():
        print_result("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    if not keys:
        print_result("there are no keys; make one: llmhub keys create --name NAME --team TEAM")
    return 0


def _row(key: KeyInfo) -> tuple[str, ...]:
    expires = "" if key.expires_at is None else f"{datetime.fromtimestamp(key.expires_at, UTC):%Y-%m-%d %H:%M}"
    return (key.id, key.name, key.team, key.state, f"{key.spent_usd:f}", expires)


def _revoke(registry: KeyRegistry, args: argparse.Namespace) -> int:
    key = registry.revoke(args.id)
    revoked = datetime.fromtimestamp(key.revoked_at or time.time(), UTC)
    print_result(f"the key {key.id} ({key.name}) was revoked on {revoked:%Y-%m-%d %H:%M} UTC")
    return 0


ACTIONS: Final[Mapping[str, Callable[[KeyRegistry, Any], int]]] = {
    "create": _create,
    "list": _list,
    "revoke": _revoke,
    "rotate": _rotate,
}
