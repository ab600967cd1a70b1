"""The interface of a store of keys and of what their owners spend, which all replicas of a service share.

- Records of keys are bytes by id; `AccessStore.replace` changes one only if it was not changed meanwhile.
- An account is a named sum in billionths of a dollar, such as what a key spends on one day. A reservation of the
  maximum cost of a call is made in several accounts in one step, and settled by the actual cost, exactly.
- Reservations belong to an owner, a process. Those of a process that has died are settled at their maximum by another,
  since the provider may have charged for them. If it comes back after all, its settlements correct that.
- Operations may be repeated after an error, when it is unknown whether they were performed: each counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

OWNER_TTL_S: Final = 30.0
"""Time after its last operation after which an owner counts as dead, unless it is known to have ended before."""
TOMBSTONE_S: Final = 600.0
"""Time for which a settlement without a reservation is remembered, in case the reservation arrives later."""
ALLOW, WAIT, REJECT = "allow", "wait", "reject"


class AccountLimit(NamedTuple):
    """An account, and what may be spent in it in all (nano USD)."""

    name: str
    limit: int


class AccountBalance(NamedTuple):
    """Amounts spent in an account, and reserved for calls in flight (nano USD)."""

    name: str
    spent: int = 0
    reserved: int = 0


class Reserve(NamedTuple):
    """Reserve an amount in every one of some accounts; the result is a `ReserveResult`."""

    id: str
    accounts: tuple[AccountLimit, ...]
    amount: int


class Settle(NamedTuple):
    """Release a reservation, and enter what the call has cost; the result is ``None``."""

    id: str
    cost: int


class Enter(NamedTuple):
    """Enter a cost that was not reserved; the result is ``None``."""

    id: str
    accounts: tuple[str, ...]
    cost: int


class RateUse(NamedTuple):
    """A use of a rate limit.

    Parameters
    ----------
    name
        The limit.
    duration_us
        The time in which the limit restores what is used.
    burst_us
        The time in which it restores what may be used at once.
    """

    name: str
    duration_us: int
    burst_us: int


class Admit(NamedTuple):
    """Use some rate limits together; the result is 0, or the microseconds until that may be tried again."""

    rates: tuple[RateUse, ...]


class Charge(NamedTuple):
    """Use further amounts of rate limits, or give back (negative), whatever is left; the result is ``None``."""

    rates: tuple[RateUse, ...]


class UseNonce(NamedTuple):
    """Remember a nonce for some seconds; the result is whether it was new."""

    nonce: str
    ttl_s: float


Operation: TypeAlias = Reserve | Settle | Enter | Admit | Charge | UseNonce


class ReserveResult(NamedTuple):
    """The outcome of a reservation.

    Parameters
    ----------
    decision
        ``allow``; ``wait`` if it would fit without the reservations of other calls; ``reject`` if it cannot.
    position
        Which of the accounts decides.
    spent, reserved
        Balance of that account.
    """

    decision: str
    position: int
    spent: int
    reserved: int


class Expired(NamedTuple):
    """Reservations of dead owners that were settled at their maximum: their number and sum (nano USD)."""

    reservations: int = 0
    amount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessStore:
    """An open store. Its functions block, may be called from any thread, and raise `StoreError`.

    Parameters
    ----------
    get
        Returns the record of a key, or ``None``.
    replace
        ``replace(id, before, after)`` stores a record if the present one is ``before`` (``None`` for none), and returns
        whether it was.
    scan
        Returns all records of keys.
    apply
        ``apply(owner, operations)`` performs operations in their order, and returns their results.
    try_apply
        The same for a few operations on an event loop; returns ``None`` if the store is locked. ``None`` if the store
        is too slow for that.
    expire
        ``expire(owner)`` settles the reservations of dead owners, and reports ``owner`` alive.
    replicas
        Returns the number of owners alive.
    balances
        Returns the balances of the accounts whose names begin with a prefix.
    close
        Releases resources; the store is not used afterwards.
    is_shared
        Whether it is a server that may be lost while this process goes on.
    """

    get: Callable[[str], bytes | None]
    replace: Callable[[str, bytes | None, bytes], bool]
    scan: Callable[[], list[bytes]]
    apply: Callable[[bytes, Sequence[Operation]], list[object]]
    expire: Callable[[bytes], Expired]
    replicas: Callable[[], int]
    balances: Callable[[str], list[AccountBalance]]
    close: Callable[[], None]
    try_apply: Callable[[bytes, Sequence[Operation]], list[object] | None] | None = None
    is_shared: bool = False


def decide_reservation(
    accounts: Sequence[AccountLimit], balances: Sequence[AccountBalance], amount: int
) -> ReserveResult:
    """Decide whether an amount may be reserved in accounts with these balances.

    Examples
    --------
    >>> decide_reservation([AccountLimit("day", 10)], [AccountBalance("day", spent=5, reserved=3)], 4).decision
    'wait'
    """
    waiting: ReserveResult | None = None
    for position, ((_, limit), (_, spent, reserved)) in enumerate(zip(accounts, balances, strict=True)):
        if spent + amount > limit:
            return ReserveResult(REJECT, position, spent, reserved)
        if spent + reserved + amount > limit and waiting is None:
            waiting = ReserveResult(WAIT, position, spent, reserved)
    return waiting or ReserveResult(ALLOW, 0, balances[0].spent if balances else 0, 0)


def wait_of_rate(booked_until: int, now: int, rate: RateUse) -> int:
    """Return the microseconds until a rate limit admits a use; 0 if it does now.

    The limit is a generic cell rate algorithm: its state is the time up to which it is used. A use beyond the burst is
    admitted once the whole burst is free.

    Examples
    --------
    >>> wait_of_rate(100, 100, RateUse("requests", 10, 20)), wait_of_rate(115, 100, RateUse("requests", 10, 20))
    (0, 5)
    """
    return max(max(booked_until, now) + rate.duration_us - now - max(rate.burst_us, rate.duration_us), 0)
