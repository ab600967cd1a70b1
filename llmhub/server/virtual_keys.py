"""Virtual keys: records of who may use the service for what, made and changed in a shared store.

A key is ``sk-llmhub-ID-SECRET`` with 256 random bits. The store has its SHA-256 only, which suffices for a random
secret, and the key itself is shown once, when it is made. Everything else names it by its id.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct

from llmhub.cache.access_store import AccessStore, AccountBalance
from llmhub.core.budget import nano_to_usd
from llmhub.core.errors import NotFound, invalid, to_exception
from llmhub.core.secret import Secret
from llmhub.engine.shared_accounts import PERIODS, PeriodLimit, account_name
from llmhub.server.access import SCOPES

PREFIX: Final = "sk-llmhub-"
TOKEN: Final = re.compile(r"sk-llmhub-([a-z0-9]{12})-([A-Za-z0-9_-]{43})")
KEY_ID: Final = re.compile(r"[a-z0-9]{12}")
ID_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"
ID_LENGTH: Final = 12
SECRET_BYTES: Final = 32
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
DEFAULT_SCOPES: Final = tuple(scope for scope in SCOPES if scope not in {"admin", "metrics"})

Scope: TypeAlias = Literal["completions", "embeddings", "tables", "runs", "batches", "metrics", "admin"]
CacheScope: TypeAlias = Literal["key", "team", "all"]
KeyState: TypeAlias = Literal["active", "expired", "revoked"]
Name: TypeAlias = Annotated[str, Meta(pattern=NAME_PATTERN)]
Usd: TypeAlias = Annotated[Decimal, Meta(extra_json_schema={"type": ["number", "string"], "format": "decimal"})]
Rate: TypeAlias = Annotated[float, Meta(gt=0, le=1e9)]


class Allowance(Struct, frozen=True, kw_only=True):
    """Limits of a key or a team; ``None`` for none.

    Parameters
    ----------
    rpm, tpm
        Requests and tokens per minute; a minute's worth may be used at once.
    budget_usd, budget_usd_per_day, budget_usd_per_month
        What may be spent in all, on a day and in a month (UTC).
    """

    rpm: Rate | None = None
    tpm: Rate | None = None
    budget_usd: Usd | None = None
    budget_usd_per_day: Usd | None = None
    budget_usd_per_month: Usd | None = None

    def __post_init__(self) -> None:
        """Raise for a budget that is no amount of money."""
        for name in ("budget_usd", "budget_usd_per_day", "budget_usd_per_month"):
            amount: Decimal | None = getattr(self, name)
            if amount is not None and not (amount.is_finite() and 0 <= amount <= MAX_BUDGET_USD):
                raise ValueError(f"{name} must be US dollars from 0 to {MAX_BUDGET_USD:,}")

    def budgets(self, holder: str) -> tuple[PeriodLimit, ...]:
        """Return the budgets in nano USD.

        Examples
        --------
        >>> Allowance(budget_usd=Decimal("0.5")).budgets("key:k1")
        (PeriodLimit(holder='key:k1', period='total', limit=500000000),)
        """
        amounts = (self.budget_usd_per_day, self.budget_usd_per_month, self.budget_usd)
        return tuple(
            PeriodLimit(holder, period, int(amount.scaleb(9)))
            for period, amount in zip(PERIODS, amounts, strict=True)
            if amount is not None
        )


MAX_BUDGET_USD: Final = 1_000_000
"""Sums of larger ones would not be exact in every store."""


class KeyOptions(Allowance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a new key.

    Parameters
    ----------
    name
        For people: whose key it is, or what for.
    team
        Shares its budget, and with the default cache scope its responses.
    scopes
        What the key may be used for.
    models
        Patterns of permitted models (``openai/*``).
    weight
        Share of the key among those that wait in the same lane.
    cache_scope
        Whether responses are shared within the key, the team or the whole service; that of the settings if ``None``.
    expires_in_s
        Seconds until the key expires; ``None`` for never.
    must_sign
        Whether requests must be signed, so that the key itself is never sent.
    """

    name: Name = "unnamed"
    team: Name = "default"
    scopes: tuple[Scope, ...] = DEFAULT_SCOPES
    models: tuple[str, ...] = ("*",)
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    cache_scope: CacheScope | None = None
    expires_in_s: Annotated[float, Meta(gt=0)] | None = None
    must_sign: bool = False


class VirtualKey(Allowance, frozen=True, kw_only=True):
    """A stored key.

    Parameters
    ----------
    id
        Public id.
    digest
        SHA-256 of the key, in hexadecimal.
    earlier_digest, earlier_until
        The same of the key before the last rotation, and until when it is accepted (epoch seconds).
    created_at, expires_at, revoked_at
        Epoch seconds; ``None`` for never.
    """

    id: str
    name: str
    team: str
    digest: str
    created_at: float
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    models: tuple[str, ...] = ("*",)
    weight: float = 1.0
    cache_scope: CacheScope | None = None
    must_sign: bool = False
    expires_at: float | None = None
    revoked_at: float | None = None
    earlier_digest: str = ""
    earlier_until: float = 0.0

    def state(self, now: float) -> KeyState:
        """Return whether the key may be used at a time."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"

    def matches(self, token: str, now: float) -> bool:
        """Return whether ``token`` is the key; the comparison takes the same time for any."""
        found = token_digest(token)
        is_earlier = hmac.compare_digest(found, self.earlier_digest or "-" * len(found)) and now < self.earlier_until
        return hmac.compare_digest(found, self.digest) or is_earlier


class KeyInfo(Allowance, frozen=True, kw_only=True):
    """A key as it is shown: without its digest, with what it has spent."""

    id: str
    name: str
    team: str
    state: KeyState
    scopes: tuple[str, ...]
    models: tuple[str, ...]
    weight: float
    cache_scope: CacheScope | None
    must_sign: bool
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    spent_usd: Usd
    spent_usd_today: Usd
    spent_usd_this_month: Usd
    reserved_usd: Usd


class NewKey(NamedTuple):
    """A key that was just made, and the key itself, which nothing shows again."""

    key: VirtualKey
    token: str


def make_token(key_id: str) -> str:
    """Return a new random key with an id."""
    return f"{PREFIX}{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"


def token_digest(token: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def signing_secret(master: Secret, key_id: str, digest: str) -> Secret:
    """Return the secret with which the owner of a key signs requests; a rotated key has another.

    It is derived from the service's own secret, so that the store of keys holds nothing to sign with.
    """
    message = f"llmhub request signing\n{key_id}\n{digest}".encode()
    derived = hmac.digest(master.reveal().encode(), message, "sha256")
    return Secret(base64.urlsafe_b64encode(derived).decode().rstrip("="))


def key_id_of(token: str) -> str:
    """Return the id in a key; empty if it has none.

    Examples
    --------
    >>> key_id_of(make_token("abc234def567")), key_id_of("sk-something-else")
    ('abc234def567', '')
    """
    found = TOKEN.fullmatch(token)
    return found[1] if found else ""


class KeyRegistry:
    """The keys in a store. Its methods block.

    Parameters
    ----------
    store
        Keeps the records.
    clock
        Returns epoch seconds.
    """

    def __init__(self, store: AccessStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock

    def get(self, key_id: str) -> VirtualKey | None:
        """Return a key by its id."""
        record = self._store.get(key_id)
        return None if record is None else msgspec.json.decode(record, type=VirtualKey)

    def read_all(self) -> list[VirtualKey]:
        """Return all keys, oldest first."""
        keys = (msgspec.json.decode(record, type=VirtualKey) for record in self._store.scan())
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    def create(self, options: KeyOptions) -> NewKey:
        """Make a key."""
        now = self._clock()
        key_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
        token = make_token(key_id)
        given = msgspec.structs.asdict(options)
        expires_in_s = given.pop("expires_in_s")
        key = VirtualKey(
            id=key_id,
            digest=token_digest(token),
            created_at=now,
            expires_at=None if expires_in_s is None else now + expires_in_s,
            **given,
        )
        if not self._store.replace(key_id, None, msgspec.json.encode(key)):
            return self.create(options)  # the id is taken
        return NewKey(key, token)

    def revoke(self, key_id: str) -> VirtualKey:
        """Revoke a key for good; its record stays.

        Raises
        ------
        NotFoundError
            There is no such key.
        """
        now = self._clock()
        return self._change(
            key_id, lambda key: key if key.revoked_at is not None else msgspec.structs.replace(key, revoked_at=now)
        )

    def rotate(self, key_id: str, grace_s: float = 0.0) -> NewKey:
        """Make a new secret for a key; the present one is accepted for another ``grace_s`` seconds.

        Raises
        ------
        NotFoundError
            There is no such key.
        BadRequestError
            It was revoked.
        """
        token, until = make_token(key_id), self._clock() + grace_s

        def rotated(key: VirtualKey) -> VirtualKey:
            if key.revoked_at is not None:
                raise invalid("id", f"the key {key.id} was revoked; make a new one")
            return msgspec.structs.replace(
                key, digest=token_digest(token), earlier_digest=key.digest if grace_s else "", earlier_until=until
            )

        return NewKey(self._change(key_id, rotated), token)

    def _change(self, key_id: str, change: Callable[[VirtualKey], VirtualKey]) -> VirtualKey:
        while True:
            before = self._store.get(key_id)
            if before is None:
                raise to_exception(NotFound(path="id", message=f"there is no key {key_id!r:.80}"))
            after = change(msgspec.json.decode(before, type=VirtualKey))
            if self._store.replace(key_id, before, msgspec.json.encode(after)):
                return after

    def describe(self, key: VirtualKey) -> KeyInfo:
        """Return a key as it is shown, with what it has spent."""
        return describe_key(key, self._store.balances(f"{holder_of_key(key.id)}/"), self._clock())

    def describe_all(self) -> list[KeyInfo]:
        """Return all keys as they are shown, oldest first."""
        balances: dict[str, list[AccountBalance]] = {}
        for balance in self._store.balances(holder_of_key("")):
            balances.setdefault(balance.name.partition("/")[0], []).append(balance)
        now = self._clock()
        return [describe_key(key, balances.get(holder_of_key(key.id), []), now) for key in self.read_all()]


def holder_of_key(key_id: str) -> str:
    """Return the name under which the spending of a key is kept."""
    return f"key:{key_id}"


def describe_key(key: VirtualKey, balances: list[AccountBalance], now: float) -> KeyInfo:
    """Return a key as it is shown, with what it has spent at a time."""
    holder = holder_of_key(key.id)
    spent = {name: nano_to_usd(amount) for name, amount, _ in balances}
    reserved = {name: nano_to_usd(amount) for name, _, amount in balances}
    day, month, total = (account_name(holder, period, now) for period in PERIODS)
    shown = {name: getattr(key, name) for name in KeyInfo.__struct_fields__ if name in VirtualKey.__struct_fields__}
    return KeyInfo(
        **shown,
        state=key.state(now),
        spent_usd=spent.get(total, Decimal(0)),
        spent_usd_today=spent.get(day, Decimal(0)),
        spent_usd_this_month=spent.get(month, Decimal(0)),
        reserved_usd=reserved.get(total, Decimal(0)),
    )
