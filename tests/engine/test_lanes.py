"""A target that is limited holds up nobody but those who ask it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Success

from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, CompletionResponse, Message
from llmhub.engine.call import Answer, Call, Send, Target, chain
from llmhub.engine.gate import Gate, limited
from llmhub.engine.lanes import Lanes
from llmhub.engine.limit import Limit
from llmhub.engine.loop import Stop
from llmhub.engine.run import AHEAD, CHUNK, Item, Job, Ran, as_answer, run
from llmhub.providers.table import PROVIDERS

LATENCY_S = 0.1
TARGETS = [Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in ("slow", "quick", "other")]


def asking(target: Target) -> Callable[[str, bytes], Call]:
    def make(text: str, key: bytes) -> Call:
        return Call(target, CompletionRequest(model=target.model, messages=(Message("user", text),)), key=key)

    return make


class Scene:
    """Rows that ask every target, in a world where a gate lets them go."""

    def __init__(self, clock: Callable[[], float], limits: dict[str, Limit], targets: list[Target]) -> None:
        self.clock = clock
        self.targets = targets
        self.gate = Gate(limits, clock, lambda *_, **__: None, adaptive=False)
        self.in_flight: set[asyncio.Task[object]] = set()
        self.most = self.drawn = 0
        self.over: dict[str, list[float]] = defaultdict(list)
        self.makes = [asking(target) for target in targets]
        self.sends = {target.name: self.chain(target) for target in targets}

    def chain(self, target: Target) -> Send:
        async def bare(_call: Call) -> Answer:
            task = asyncio.current_task()
            assert task is not None
            self.in_flight.add(task)
            self.most = max(self.most, len(self.in_flight))
            await asyncio.sleep(LATENCY_S)
            self.in_flight.discard(task)
            self.over[target.model].append(self.clock())
            return Answer(Success(CompletionResponse()), attempts=1, total_s=LATENCY_S, started_at=1e9)

        return chain(bare, limited(self.gate, self.gate.line(target), self.clock))

    def chunks(self, rows: int, samples: int = 1) -> Iterator[list[Item]]:
        chunk: list[Item] = []
        for row in range(rows):
            for make in self.makes:
                for sample in range(samples):
                    made = partial(make) if sample else make
                    key = sha256(f"{self.drawn}".encode()).digest()
                    chunk.append((self.drawn, key, made, str(row)))
                    self.drawn += 1
            if len(chunk) >= CHUNK:
                yield chunk
                chunk = []
        yield chunk

    def job(self, rows: int, concurrency: int = 64, samples: int = 1) -> Job:
        return Job(
            size=rows * len(self.targets) * samples,
            chunks=self.chunks(rows, samples),
            send=lambda call: self.sends[call.target.name](call),
            in_flight=self.in_flight,
            concurrency=concurrency,
            crowd=self.gate.crowd,
        )


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("concurrency", [16, 64])
def test_others_take_no_longer_than_alone(virtual: Any, concurrency: int, samples: int) -> None:
    async def work(clock: Callable[[], float]) -> tuple[Scene, Ran]:
        scene = Scene(clock, {"openai/slow": Limit(rpm=60)}, TARGETS[:2])
        return scene, await run(scene.job(1200, concurrency, samples), Stop())

    scene, done = virtual.run(work)
    assert all(is_successful(as_answer(answer).outcome) for answer in done.answers)
    alone_s = 1200 * samples * LATENCY_S / concurrency
    # A place is on the wire for the slow one now and then, and one waits at its gate.
    assert max(scene.over["quick"]) <= alone_s * (1 + 2.5 / concurrency) + 2 * LATENCY_S
    assert max(scene.over["slow"]) == pytest.approx(1200 * samples, rel=0.02)
    assert scene.most <= concurrency


def test_no_more_is_drawn_than_is_held_in_memory(virtual: Any) -> None:
    async def work(clock: Callable[[], float]) -> tuple[int, int, int]:
        scene = Scene(clock, {"openai/slow": Limit(rpm=60)}, TARGETS[:2])
        running = asyncio.create_task(run(scene.job(200_000), Stop()))
        await asyncio.sleep(200.0)
        seen = scene.drawn, len(scene.over["slow"]), len(scene.over["quick"])
        running.cancel()
        await asyncio.wait([running])
        return seen

    drawn, slow, quick = virtual.run(work)
    assert quick > AHEAD - CHUNK > 100 * slow
    assert drawn - quick - slow <= AHEAD + CHUNK


def test_with_two_held_up_the_third_goes_on(virtual: Any) -> None:
    async def work(clock: Callable[[], float]) -> Scene:
        scene = Scene(clock, {"openai/slow": Limit(rpm=60), "openai/other": Limit(rpm=120)}, TARGETS)
        await run(scene.job(600), Stop())
        return scene

    scene = virtual.run(work)
    assert max(scene.over["quick"]) <= 600 * LATENCY_S / 64 * 1.15 + 2 * LATENCY_S
    assert max(scene.over["other"]) == pytest.approx(300, rel=0.05)
    assert max(scene.over["slow"]) == pytest.approx(600, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60),
    st.dictionaries(st.sampled_from([target.name for target in TARGETS]), st.integers(0, 9)),
)
def test_each_lane_keeps_its_order_and_nothing_is_lost(steps: list[tuple[int, bool]], crowd: dict[str, int]) -> None:
    makes = [asking(target) for target in TARGETS]
    lanes = Lanes(lambda name: crowd.get(name, 0), 16)
    for make, target in zip(makes, TARGETS, strict=True):
        lanes.learn(make, target.name)
    laid: list[Item] = []
    taken: list[Item] = []
    for which, take in steps:
        if take and (found := lanes.take()) is not None:
            taken.append(found[0])
            held = {target.name for target in TARGETS if crowd.get(target.name, 0) >= 1}
            several = len({id(item[2]) for item in laid}) > 1
            assert not several or TARGETS[makes.index(found[0][2])].name not in held
        elif not take:
            laid.append((len(laid), b"", makes[which], ""))
            lanes.extend(laid[-1:], 0.0)
        assert len(lanes) == len(laid) - len(taken)
        assert 0 <= lanes.ready() <= len(lanes)
    while (found := lanes.take(whatever=True)) is not None:
        taken.append(found[0])
    assert sorted(taken, key=lambda item: item[0]) == laid
    for make in makes:
        places = [item[0] for item in taken if item[2] is make]
        assert places == sorted(places)
