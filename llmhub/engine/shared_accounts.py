"""Accounts that all replicas of a service share through a store: budgets of keys and teams, and their rate limits.

`SharedAccounts` performs the operations of one process. Those that arrive while others are on their way form the next
batch, so that a lone call does not wait, and many calls cost few round trips.

If the store is lost, calls that need it are refused, or, as declared, each replica goes on with a part of each limit:
``limit / replicas``, less what it has used itself. What was spent meanwhile is entered when the store is back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from llmhub.cache.access_store import (
    ALLOW,
    REJECT,
    WAIT,
    AccessStore,
    AccountBalance,
    AccountLimit,
    Admit,
    Charge,
    Enter,
    Operation,
    RateUse,
    Reserve,
    ReserveResult,
    Settle,
    decide_reservation,
    wait_of_rate,
)
from llmhub.cache.redis import make_token
from llmhub.cache.store import StoreError, as_store_error
from llmhub.core.budget import Budget, nano_to_usd
from llmhub.core.errors import BudgetExceeded, LLMError, Overloaded
from llmhub.engine.call import Call
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.spending import SharedBudget, budget_error

LOGGER: Final = logging.getLogger("llmhub.server")
MAX_INLINE: Final = 8
"""Operations that are performed on the event loop."""
MAX_LOCAL_ACCOUNTS: Final = 50_000
"""Accounts whose spending by this process is remembered."""
MAX_BATCH: Final = 256
"""Operations in one round trip."""
HEARTBEAT_S: Final = 5.0
"""Interval at which this process reports itself alive, and looks for dead ones."""
LOST_HEARTBEAT_S: Final = 0.5
"""The same while the store is lost."""
POLL_S: Final = 0.05
"""Longest wait before a reservation that does not fit is tried again: other replicas settle theirs unseen."""
CLOSE_S: Final = 5.0
"""Longest wait for settlements when the service ends."""
LOST_RETRY_AFTER_S: Final = 2.0

StoreLostPolicy: TypeAlias = Literal["closed", "local"]
Period: TypeAlias = Literal["day", "month", "total"]


class PeriodLimit(NamedTuple):
    """A budget per day, per month (of UTC), or in all.

    Parameters
    ----------
    holder
        Whose budget it is, such as ``key:k1`` or ``team:research``.
    limit
        What may be spent in each period (nano USD).
    """

    holder: str
    period: Period
    limit: int

    def account(self, now: float) -> AccountLimit:
        """Return the account of the period at a time (epoch seconds).

        Examples
        --------
        >>> PeriodLimit("key:k1", "month", 5).account(0.0)
        AccountLimit(name='key:k1/1970-01', limit=5)
        """
        return AccountLimit(account_name(self.holder, self.period, now), self.limit)

    @property
    def title(self) -> str:
        """The budget in words."""
        return f"the budget of the {self.holder.replace(':', ' ', 1)} {PERIOD_WORDS[self.period]}"


PERIODS: Final[tuple[Period, ...]] = ("day", "month", "total")
UNLIMITED: Final = 1 << 53
"""Larger sums are not exact in every store."""
PERIOD_WORDS: Final = {"day": "for today", "month": "for this month", "total": "in all"}
PERIOD_FORMATS: Final = {"day": "%Y-%m-%d", "month": "%Y-%m", "total": "total"}


def account_name(holder: str, period: Period, now: float) -> str:
    """Return the name of the account in which a holder's spending of a period is kept."""
    return f"{holder}/{datetime.fromtimestamp(now, UTC).strftime(PERIOD_FORMATS[period])}"


class SharedAccounts:
    """The operations of one process on the shared accounts. Use it on one event loop only.

    Parameters
    ----------
    store
        Keeps the accounts.
    store_lost
        ``closed`` to refuse what the store would have to decide; ``local`` to go on with a part of each limit.
    clock
        Returns epoch seconds.
    call_store
        Runs a blocking function of the store.
    """

    def __init__(
        self,
        store: AccessStore,
        *,
        store_lost: StoreLostPolicy = "closed",
        clock: Callable[[], float] = time.time,
        call_store: Callable[..., Awaitable[Any]] = run_in_thread,
    ) -> None:
        self.store = store
        self.store_lost = store_lost
        self.clock = clock
        self.owner = make_token()
        self.replicas = 1
        self.error = ""
        self._lost = asyncio.Event()
        self._call_store = call_store
        self._queue: deque[tuple[Operation, asyncio.Future[Any] | None]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._heart: asyncio.Task[None] | None = None
        self._settlement: asyncio.Future[None] | None = None
        self._names = (f"{secrets.token_hex(8)}-{number}" for number in count())
        self.local = LocalShares()

    @property
    def is_closed(self) -> bool:
        """Whether calls are refused because the store is lost."""
        return bool(self.error) and self.store_lost == "closed"

    def lost_error(self) -> LLMError:
        """Return the error of a call that the store would have to decide."""
        message = "the store of keys and budgets cannot be reached"
        return Overloaded(message=message, retry_after_s=LOST_RETRY_AFTER_S)

    def new_id(self) -> str:
        """Return an id for a reservation."""
        return next(self._names)

    async def open(self) -> None:
        """Begin to report this process alive, and settle the reservations of those that have died."""
        self._heart = asyncio.get_running_loop().create_task(self._run_heart())

    async def close(self) -> None:
        """Enter what is still to be settled, within a few seconds, and stop."""
        if self._heart is not None:
            self._heart.cancel()
            with suppress(asyncio.CancelledError):
                await self._heart
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._queue or self._worker is not None:
                    self._start()
                    if self._worker is not None:
                        await asyncio.wait([self._worker])
                    if self._queue:
                        await asyncio.sleep(POLL_S)
        await self._call_store(self.store.close)

    async def perform(self, operation: Operation) -> Any:
        """Perform an operation and return its result.

        Raises
        ------
        StoreError
            The store is lost; the operation may have been performed nevertheless.
        """
        if self.error and self._heart is not None:  # which finds out when the store is back
            raise StoreError(self.error)
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, result))
        self._start()
        return await result

    def post(self, operation: Settle | Enter | Charge) -> None:
        """Perform an operation in the background, once the store can be reached."""
        self._queue.append((operation, None))
        self._start()

    def next_settlement(self) -> asyncio.Future[None]:
        """Return a future that ends when this process has settled a reservation."""
        if self._settlement is None or self._settlement.done():
            self._settlement = asyncio.get_running_loop().create_future()
        return self._settlement

    def _start(self) -> None:
        if self._worker is None and self._queue:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
                try:
                    results = self._try_apply(batch)
                    if results is None:
                        results = await self._call_store(self.store.apply, self.owner, [each for each, _ in batch])
                except Exception as error:  # noqa: BLE001 - whatever a store raises, the budgets hold
                    self._set_error(as_store_error(error))
                    self._fail(batch, as_store_error(error))
                    return
                self._set_error(None)
                for (_, waiter), result in zip(batch, results, strict=True):
                    if waiter is not None and not waiter.done():
                        waiter.set_result(result)
                if self._settlement is not None and any(isinstance(each, Settle) for each, _ in batch):
                    if not self._settlement.done():
                        self._settlement.set_result(None)
                    self._settlement = None
        finally:
            self._worker = None

    def _try_apply(self, batch: Sequence[tuple[Operation, asyncio.Future[Any] | None]]) -> list[object] | None:
        """Perform a few operations here if the store can do that at once: a thread costs several times as much."""
        if self.store.try_apply is None or len(batch) > MAX_INLINE:
            return None
        return self.store.try_apply(self.owner, [operation for operation, _ in batch])

    def _fail(self, batch: Sequence[tuple[Operation, asyncio.Future[Any] | None]], error: StoreError) -> None:
        """Fail what is waited for; keep what has to be entered, to be repeated with the next operation or heartbeat."""
        self._queue.extendleft(reversed([(operation, waiter) for operation, waiter in batch if waiter is None]))
        for _operation, waiter in [*batch, *self._queue]:
            if waiter is not None and not waiter.done():
                waiter.set_exception(StoreError(str(error)))
        self._queue = deque((operation, waiter) for operation, waiter in self._queue if waiter is None)

    def _set_error(self, error: StoreError | None) -> None:
        text = "" if error is None else str(error)
        if bool(text) != bool(self.error):
            policy = "calls that need it are refused" if self.store_lost == "closed" else "local shares are used"
            LOGGER.warning("the store of keys and budgets %s", f"is lost ({policy}): {text}" if text else "is back")
        self.error = text
        if text:
            self._lost.set()
        else:
            self._lost.clear()

    async def _run_heart(self) -> None:
        while True:
            await self.beat()
            if self.error:
                await asyncio.sleep(LOST_HEARTBEAT_S)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._lost.wait()

    async def beat(self) -> None:
        """Report this process alive, settle the reservations of dead ones, and count those alive."""
        try:
            expired = await self._call_store(self.store.expire, self.owner)
            self.replicas = max(await self._call_store(self.store.replicas), 1)
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the budgets hold
            self._set_error(as_store_error(error))
            return
        self._set_error(None)
        if expired.reservations:
            amount = f"{nano_to_usd(expired.amount):f}"
            LOGGER.warning("%s calls of a dead process count with $%s", expired.reservations, amount)
        self._start()

    # Rate limits

    async def admit(self, rates: tuple[RateUse, ...]) -> float:
        """Use some rate limits; return 0, or the seconds until that may be tried again.

        Raises
        ------
        StoreError
            The store is lost, and calls are refused then.
        """
        try:
            return int(await self.perform(Admit(rates))) / 1e6
        except StoreError:
            if self.store_lost == "closed":
                raise
            return self.local.admit(rates, int(self.clock() * 1e6), self.replicas) / 1e6

    def charge(self, rates: tuple[RateUse, ...]) -> None:
        """Use further amounts of rate limits, or give back (negative)."""
        if not self.error:
            self.post(Charge(rates))


class LocalShares:
    """The parts of limits that one replica uses while the store is lost, and what it has spent itself before."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, int] = defaultdict(int)
        self.reserved: defaultdict[str, int] = defaultdict(int)
        self._booked_until: dict[str, int] = {}

    def add(self, accounts: Sequence[AccountLimit], spent: int, reserved: int) -> None:
        """Count what this replica spends and reserves."""
        for name, _ in accounts:
            self.spent[name] += spent
            self.reserved[name] += reserved
        if len(self.spent) > MAX_LOCAL_ACCOUNTS:  # those of past days
            for name in [name for name, amount in self.reserved.items() if not amount][: MAX_LOCAL_ACCOUNTS // 2]:
                del self.spent[name], self.reserved[name]

    def decide(self, accounts: Sequence[AccountLimit], amount: int, replicas: int) -> ReserveResult:
        """Decide whether an amount fits into this replica's part of some accounts.

        Examples
        --------
        >>> LocalShares().decide([AccountLimit("day", 10)], 6, replicas=2).decision
        'reject'
        """
        parts = [AccountLimit(name, limit // replicas) for name, limit in accounts]
        balances = [AccountBalance(name, self.spent[name], self.reserved[name]) for name, _ in accounts]
        return decide_reservation(parts, balances, amount)

    def admit(self, rates: Sequence[RateUse], now: int, replicas: int) -> int:
        """Use this replica's part of some rate limits; return 0, or the microseconds to wait."""
        uses = [RateUse(name, duration_us * replicas, burst_us) for name, duration_us, burst_us in rates]
        wait = max((wait_of_rate(self._booked_until.get(use.name, 0), now, use) for use in uses), default=0)
        if not wait:
            for name, duration_us, _ in uses:
                self._booked_until[name] = max(self._booked_until.get(name, 0), now) + duration_us
        return wait


@dataclass(frozen=True, slots=True)
class _Reservation:
    """A reservation of this process: where, and whether it was made without the store."""

    id: str
    accounts: tuple[AccountLimit, ...]
    is_local: bool = False


class AccountBudget(SharedBudget):
    """Budgets of a key and its team, shared by all replicas. Use it on one event loop only.

    Calls of one key that have to wait for others are admitted first come, first served.

    Parameters
    ----------
    accounts
        The shared accounts.
    limits
        Budgets that each call must fit into.
    holders
        Whose spending is entered besides, for each period, so that it is known where there is no budget.
    """

    def __init__(self, accounts: SharedAccounts, limits: Sequence[PeriodLimit], holders: Sequence[str] = ()) -> None:
        limited = {(holder, period) for holder, period, _ in limits}
        unlimited = [
            PeriodLimit(holder, period, UNLIMITED)
            for holder in holders
            for period in PERIODS
            if (holder, period) not in limited
        ]
        self._accounts, self._limits = accounts, (*limits, *unlimited)
        self._exceeded = min(self._limits, key=lambda each: each.limit)
        super().__init__(Budget(self._exceeded.limit))
        self._is_limited = bool(limits)
        self._is_lost = False
        self._turn = asyncio.Lock()
        self._open: defaultdict[int, deque[_Reservation]] = defaultdict(deque)

    def rejects(self, max_cost: int) -> bool:
        """Return whether a call that may cost ``max_cost`` can never be sent."""
        self._exceeded = min(self._limits, key=lambda each: each.limit)
        is_too_large = max_cost > self._exceeded.limit
        if is_too_large:
            self._is_lost = False
            self.budget = Budget(self._exceeded.limit)
        return is_too_large

    async def reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD in every account as soon as it fits; return whether it ever does."""
        if not self._turn.locked():
            decision = await self._try(max_cost)
            if decision != WAIT:
                return decision == ALLOW
        async with self._turn:
            while True:
                settlement = self._accounts.next_settlement()
                decision = await self._try(max_cost)
                if decision != WAIT:
                    return decision == ALLOW
                await asyncio.wait([settlement], timeout=POLL_S)

    @property
    def outlives_process(self) -> bool:
        """Whether the reservations of a process that is killed count in full."""
        return self._is_limited

    async def try_reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD in every account if it fits now; return whether it did."""
        return await self._try(max_cost) == ALLOW

    def reconcile(self, max_cost: int, cost: int) -> None:
        """Settle a reservation of ``max_cost`` nano USD by the actual cost; without one, the cost is entered alone."""
        reservations = self._open.get(max_cost)
        if reservations is None:
            now = self._accounts.clock()
            unreserved = tuple(limit.account(now) for limit in self._limits)
            reservation, reserved = _Reservation(self._accounts.new_id(), unreserved, is_local=True), 0
        else:
            reservation, reserved = reservations.popleft(), max_cost
            if not reservations:
                del self._open[max_cost]
        self._accounts.local.add(reservation.accounts, cost, -reserved)
        if reservation.is_local:
            names = tuple(name for name, _ in reservation.accounts)
            self._accounts.post(Enter(reservation.id, names, cost))
            self._accounts.next_settlement().set_result(None)
        else:
            self._accounts.post(Settle(reservation.id, cost))

    async def _try(self, max_cost: int) -> str:
        accounts = self._accounts
        now = accounts.clock()
        reservation = _Reservation(accounts.new_id(), tuple(limit.account(now) for limit in self._limits))
        if not self._is_limited:
            return self._keep(replace(reservation, is_local=True), max_cost)
        try:
            result: ReserveResult = await accounts.perform(Reserve(reservation.id, reservation.accounts, max_cost))
        except asyncio.CancelledError:
            accounts.post(Settle(reservation.id, 0))
            raise
        except StoreError:
            accounts.post(Settle(reservation.id, 0))  # it may have been made
            self._is_lost = accounts.store_lost == "closed"
            if self._is_lost:
                return REJECT
            reservation = _Reservation(f"{reservation.id}-local", reservation.accounts, is_local=True)
            result = accounts.local.decide(reservation.accounts, max_cost, accounts.replicas)
        else:
            self._is_lost = False
        if result.decision == ALLOW:
            return self._keep(reservation, max_cost)
        self._exceeded = self._limits[result.position]
        self.budget = Budget(self._exceeded.limit, result.spent, result.reserved)
        return result.decision

    def _keep(self, reservation: _Reservation, max_cost: int) -> str:
        self._accounts.local.add(reservation.accounts, 0, max_cost)
        self._open[max_cost].append(reservation)
        return ALLOW

    def refusal(self, max_cost: int, call: Call) -> LLMError:
        """Return the error of a call that was not admitted."""
        if self._is_lost:
            return self._accounts.lost_error()
        error = budget_error(self.budget, max_cost, call)
        message = error.message.replace("the budget", self._exceeded.title, 1)
        return BudgetExceeded(message=message)
