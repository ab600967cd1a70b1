"""A thousand clients at once on a key of one dollar: streams cut at random, the service killed in the midst."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from decimal import Decimal
from pathlib import Path

import aiohttp

import llmhub
from llmhub.cache.access_store import AccessStore, Expired
from llmhub.cache.redis import make_token
from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.core.budget import NANO_PER_USD
from llmhub.server.virtual_keys import KeyOptions, KeyRegistry
from llmhub.sim import Simulator, SimulatorThread
from llmhub.sim import serving as simulating
from tests.server.conftest import ServiceProcess, service_process

CLIENTS = 1000
MODEL = "openai/gpt-4"
IN_NANO, OUT_NANO = 30_000, 60_000
"""Price of an input and an output token of the model, in nano USD."""
ANSWER = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
BEFORE_THE_KILL = 120
"""Answers that are complete when the service is killed."""


class Crowd:
    """Clients that ask once each, and once more if the service dies before it has answered."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.outcomes: Counter[str] = Counter()
        self.is_time_to_kill = asyncio.Event()
        self._random = random.Random(15)

    async def ask(self, session: aiohttp.ClientSession, number: int) -> None:
        draw = self._random.random()
        while True:
            url = self.url
            outcome = await self._try(session, await url, number, cut_after=draw if draw < 0.25 else None)
            self.outcomes[outcome] += 1
            if self.outcomes["complete"] >= BEFORE_THE_KILL:
                self.is_time_to_kill.set()
            if outcome != "died":
                return
            if url is self.url:
                self.url = asyncio.get_running_loop().create_future()

    async def _try(self, session: aiohttp.ClientSession, url: str, number: int, cut_after: float | None) -> str:
        prompt = f"client {number:04d}: count, please"
        body = {
            "model": MODEL,
            "max_tokens": 40,
            "stream": True,
            # Both have the same length, and so the same maximum.
            "messages": [{"role": "user", "content": f"{prompt} [[sim:{'drip' if cut_after else 'none'}]]"}],
        }
        headers = {"authorization": f"Bearer {self.token}"}
        received = b""
        try:
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
                if reply.status == 402:
                    return "refused"
                if reply.status != 200:
                    return f"{reply.status} {(await reply.read())[:300]!r}"
                async for piece in reply.content.iter_any():
                    received += piece
                    if cut_after is not None and received.count(b"data: ") > 1 + cut_after * 30:
                        return "cut"
        except aiohttp.ClientError:
            return "died"
        return "complete" if b"[DONE]" in received else "died"


@dataclass(frozen=True)
class Snapshot:
    """What the service's store and ledger, and the simulator, have counted so far."""

    spent: int
    reserved: int
    done: int
    done_cost: int
    ledger_rows: int
    requests: int
    simulated_cost: int

    def since(self, earlier: Snapshot) -> Snapshot:
        """Return what was counted after an earlier snapshot."""
        return Snapshot(*(ours - theirs for ours, theirs in zip(astuple(self), astuple(earlier), strict=True)))


def snapshot(store: AccessStore, runs: Path, simulator: SimulatorThread) -> Snapshot:
    while (counted := simulator.counts())["in_flight"]:
        time.sleep(0.01)
    spent, reserved = next(
        (spent, reserved) for name, spent, reserved in store.balances("key:") if name.endswith("/total")
    )
    cache = llmhub.DiskCache(runs).open()
    assert cache.ledger is not None
    rows = list(cache.ledger.requests())
    cache.close()
    done = [row for row in rows if row.state == "done"]
    return Snapshot(
        spent=spent,
        reserved=reserved,
        done=len(done),
        done_cost=sum((row.input_tokens or 0) * IN_NANO + (row.output_tokens or 0) * OUT_NANO for row in done),
        ledger_rows=len(rows),
        requests=counted["requests"],
        simulated_cost=counted["tokens"]["input"] * IN_NANO + counted["tokens"]["output"] * OUT_NANO,
    )


def test_a_thousand_clients_spend_at_most_one_dollar(tmp_path: Path) -> None:
    store, runs = open_sqlite_access(tmp_path / "keys.db"), tmp_path / "runs.db"
    token = KeyRegistry(store).create(KeyOptions(budget_usd=Decimal(1))).token
    variables = {"LLMHUB_SERVER_ACCESS_STORE": str(tmp_path / "keys.db")}

    async def run(stack: ExitStack, simulator: SimulatorThread) -> tuple[Counter[str], Expired, Snapshot]:
        def serve() -> ServiceProcess:
            arguments = ("--keys", "--cache", f"sqlite:///{runs}")
            return stack.enter_context(service_process(simulator.url, *arguments, variables=variables))

        crowd = Crowd(token)
        served = await asyncio.to_thread(serve)
        crowd.url.set_result(served.url)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            clients = asyncio.gather(*(crowd.ask(session, number) for number in range(CLIENTS)))
            await crowd.is_time_to_kill.wait()
            served.process.send_signal(signal.SIGKILL)
            served.process.wait()
            expired = store.expire(make_token())
            at_the_kill = await asyncio.to_thread(snapshot, store, runs, simulator)
            again = await asyncio.to_thread(serve)
            crowd.url.set_result(again.url)
            await clients
        assert again.terminate() == 0
        return crowd.outcomes, expired, at_the_kill

    with ExitStack() as stack:
        simulator = stack.enter_context(simulating(Simulator(seed=7, respond=lambda _: ANSWER)))
        outcomes, expired, killed = asyncio.run(run(stack, simulator))
        ended = snapshot(store, runs, simulator)
    store.close()

    assert set(outcomes) <= {"complete", "cut", "refused", "died"}, outcomes
    assert min(outcomes["complete"], outcomes["cut"], outcomes["refused"], expired.reservations) > 0, outcomes
    # Equal requests have equal costs and maxima; what was cut, by a client or the kill, counts with its maximum.
    maximum, remainder = divmod(expired.amount, expired.reservations)
    price, remainder_of_price = divmod(ended.simulated_cost, ended.requests)
    assert (remainder, remainder_of_price) == (0, 0)
    assert (killed.reserved, ended.reserved) == (0, 0)
    assert NANO_PER_USD - maximum < ended.spent <= NANO_PER_USD
    assert ended.simulated_cost <= ended.spent
    # Since the kill, the ledger agrees with the simulator's own count.
    later = ended.since(killed)
    cut = later.requests - later.done
    assert later.spent == later.done_cost + cut * maximum
    assert later.ledger_rows == later.requests
    # Calls that ended just before it may be in one of the two only, and some were reserved and not sent yet.
    entered = [
        exact + rest // maximum
        for exact in range(killed.requests + 1)
        for rest in (killed.spent - exact * price,)
        if rest >= 0 and rest % maximum == 0
    ]
    assert any(0 <= count - killed.requests <= expired.reservations for count in entered), (killed, expired)
    assert killed.ledger_rows >= killed.requests, (killed, expired)
