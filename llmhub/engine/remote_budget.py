"""A budget that processes of one machine share: the process it belongs to serves it on a loopback connection.

Every reservation is decided there, so a call is refused only if it would not fit without the calls in flight in any
process, and what was spent never exceeds the limit. Messages are lines of JSON: ``["reserve", id, amount]`` is answered
by ``[id, is_reserved, spent, reserved]``, also after ``["cancel", id]``; ``["settle", amount, cost]`` has no answer.

What a process holds when its connection ends, since it was killed, counts in full: its calls may have been billed.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Final

import msgspec

from llmhub.core.budget import Budget
from llmhub.core.errors import BudgetExceeded, LLMError
from llmhub.engine.call import Call
from llmhub.engine.spending import SharedBudget
from llmhub.engine.store_budget import StoreBudget

HOST: Final = "127.0.0.1"
CLOSE_S: Final = 5.0
"""Longest wait for the connections of processes that are about to end."""
LOST_MESSAGE: Final = "the process that keeps the budget of this run has ended, so the call was not sent"


@dataclass(frozen=True, slots=True)
class BudgetAddress:
    """Where a budget is served; a copy in another process connects to it.

    Parameters
    ----------
    budget
        Its state when the address was made.
    port
        Port on the loopback interface.
    token
        Secret that a connection has to begin with.
    local
        The budget itself, in the process it belongs to.
    """

    budget: Budget
    port: int
    token: str = field(repr=False)
    local: SharedBudget | None = None

    def __reduce__(self) -> tuple[Callable[..., BudgetAddress], tuple[Budget, int, str]]:
        """Pickle the address without the budget."""
        return BudgetAddress, (self.budget, self.port, self.token)

    def connect(self) -> SharedBudget:
        """Return the budget itself in its own process, and one that asks that process in others."""
        return self.local if self.local is not None else RemoteBudget(self)


class BudgetServer:
    """Serve a budget to other processes of this machine. Use it on the loop of the budget."""

    def __init__(self, budget: SharedBudget) -> None:
        self._budget = budget
        self._token = secrets.token_hex(16)
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> BudgetAddress:
        """Listen on a free port, and return the address."""
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        port = self._server.sockets[0].getsockname()[1]
        budget = self._budget
        state = budget.whole if isinstance(budget, StoreBudget) else budget.budget
        return BudgetAddress(state, port, self._token, budget)

    async def close(self) -> None:
        """Stop once all processes have ended; after `CLOSE_S`, what others hold counts in full."""
        if self._server is not None:
            self._server.close()
        if self._connections:
            _, running = await asyncio.wait(self._connections, timeout=CLOSE_S)
            for writer in self._connections.values():
                writer.transport.abort()
            if running:
                await asyncio.wait(running)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server runs it in one
        self._connections[task] = writer
        client = _Connection(self._budget, writer)
        try:
            if hmac.compare_digest((await reader.readline()).strip(), self._token.encode()):
                async for line in reader:
                    client.receive(*msgspec.json.decode(line))
        except (OSError, ValueError, msgspec.DecodeError):  # reset, in the middle of a line
            pass
        finally:
            client.end()
            writer.close()
            del self._connections[task]


class _Connection:
    """The reservations of one process."""

    def __init__(self, budget: SharedBudget, writer: asyncio.StreamWriter) -> None:
        self._budget, self._writer = budget, writer
        self._held = 0
        self._waiting: dict[int, asyncio.Task[bool]] = {}
        self._has_ended = False

    def receive(self, kind: str, first: int, second: int = 0) -> None:
        """Perform the operation of a message."""
        if kind == "reserve":
            task = asyncio.get_running_loop().create_task(self._budget.reserve(second))
            self._waiting[first] = task
            task.add_done_callback(partial(self._reply, first, second))
        elif kind == "cancel" and first in self._waiting:
            self._waiting[first].cancel()
        elif kind == "settle":
            self._held -= first
            self._budget.reconcile(first, second)

    def end(self) -> None:
        """Count what is held in full, and release what waits."""
        self._has_ended = True
        for task in self._waiting.values():
            task.cancel()
        self._budget.reconcile(self._held, self._held)

    def _reply(self, number: int, amount: int, task: asyncio.Task[bool]) -> None:
        del self._waiting[number]
        is_reserved = not task.cancelled() and task.exception() is None and task.result()
        if self._has_ended:
            if is_reserved:
                self._budget.reconcile(amount, 0)  # the process did not hear of it
            return
        self._held += amount * is_reserved
        state = self._budget.budget
        self._writer.write(_line(number, is_reserved, state.spent, state.reserved))


class RemoteBudget(SharedBudget):
    """A budget that another process keeps. Use it on one loop only, and close it at the end.

    Parameters
    ----------
    address
        Where it is served.
    """

    def __init__(self, address: BudgetAddress) -> None:
        super().__init__(address.budget)
        self._address = address
        self._numbers = count()
        self._lines: list[bytes] = [address.token.encode() + b"\n"]
        self._replies: dict[int, tuple[int, asyncio.Future[bool]]] = {}
        self._connection: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._is_closing = self._is_lost = False

    async def reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD as soon as it fits; return whether it ever does."""
        if self._is_lost:
            return False
        if self._connection is None:
            self._connection = asyncio.get_running_loop().create_task(self._run())
        number, reply = next(self._numbers), asyncio.get_running_loop().create_future()
        self._replies[number] = (max_cost, reply)
        self._send("reserve", number, max_cost)
        try:
            return bool(await reply)
        except asyncio.CancelledError:
            if not reply.cancelled():
                if reply.result():
                    self.reconcile(max_cost, 0)
            else:
                self._send("cancel", number)
            raise

    async def try_reserve(self, max_cost: int) -> bool:
        """Reserve ``max_cost`` nano USD as `reserve` does: nothing that must not wait runs in such a process."""
        return await self.reserve(max_cost)

    def reconcile(self, max_cost: int, cost: int) -> None:
        """Release a reservation of ``max_cost`` and book the actual ``cost``."""
        self._send("settle", max_cost, cost)

    def refusal(self, max_cost: int, call: Call) -> LLMError:
        """Return the error of a call that was not admitted."""
        return BudgetExceeded(message=LOST_MESSAGE) if self._is_lost else super().refusal(max_cost, call)

    async def close(self) -> None:
        """Send what is to be settled, and wait until the other process has booked it."""
        if self._connection is None:
            return
        self._is_closing = True
        if not self._replies:
            self._end()
        await self._connection

    async def _run(self) -> None:
        """Read replies until the other process closes the connection."""
        writer = None
        try:
            reader, writer = await asyncio.open_connection(HOST, self._address.port)
            self._writer = writer
            self._flush()
            async for line in reader:
                self._receive(*msgspec.json.decode(line))
        except (OSError, msgspec.DecodeError):  # reset, in the middle of a line
            pass
        finally:
            self._is_lost, self._writer = True, None
            for _, reply in self._replies.values():
                if not reply.done():
                    reply.set_result(False)
            self._replies.clear()
            if writer is not None:
                writer.close()

    def _receive(self, number: int, is_reserved: bool, spent: int, reserved: int) -> None:
        self.budget = replace(self.budget, spent=spent, reserved=reserved)
        max_cost, reply = self._replies.pop(number)
        if not reply.done():
            reply.set_result(is_reserved)
        elif is_reserved:  # it was cancelled meanwhile
            self.reconcile(max_cost, 0)
        if self._is_closing and not self._replies:
            self._end()

    def _end(self) -> None:
        """Send the last messages; the other process closes the connection after them."""
        self._flush()
        writer, self._writer, self._is_lost = self._writer, None, True
        if writer is not None:
            writer.write_eof()

    def _send(self, *message: Any) -> None:
        """Send a message with all others of this round of the loop."""
        if self._is_lost:
            return
        if not self._lines and self._writer is not None:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(_line(*message))

    def _flush(self) -> None:
        if self._writer is not None and self._lines:
            self._writer.write(b"".join(self._lines))
            self._lines = []


def _line(*message: Any) -> bytes:
    return msgspec.json.encode(message) + b"\n"
