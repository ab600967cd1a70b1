"""What a hub's calls are entered in: who asks what just now, and what is written, together, every few milliseconds.

A request is written down before it is sent. Committing each by itself would cost more than sending it; so all that are
about to go, and all that came, go into one transaction, and the next begins a few milliseconds later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias, get_args

from returns.pipeline import is_successful

from llmhub.cache.ledger import Batch, Claimed, Claims, Ended, Sent, Wish
from llmhub.cache.store import Store, StoreError
from llmhub.core.codec import request_key
from llmhub.core.errors import kind
from llmhub.core.types import NO_USAGE, Usage
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.flight import FLIGHT
from llmhub.engine.loop import in_thread
from llmhub.engine.settled import Settled, cancelled, fails

GATHER_S: Final = 0.005
"""Between two commits that somebody waits for; the first of a while waits for nothing."""
NEWS_S: Final = 0.1
"""How long it takes at most until it is written down what came of a request, once its answer is filed."""
AT_ONCE: Final = -1.0
"""A time that has passed, on whatever clock."""
RECENT: Final = 4096
"""Answers remembered while runs go on: another may have looked in the store just before an answer was there."""

Ambiguous: TypeAlias = Literal["resend", "error"]
"""What is done with a request that was sent by a process that died before the answer came."""
AMBIGUOUS: Final = get_args(Ambiguous)
Landing: TypeAlias = Callable[[Settled | None], None]
"""Told what came of a question that somebody else has asked; ``None`` when nothing that holds for others."""


class Answers(Protocol):
    """The answers of a run that wait to be filed (`llmhub.engine.filing.Filing`)."""

    def stop(self, error: StoreError) -> None:
        """Take in that nothing can be written any more."""

    def caught_up(self) -> bool:
        """Write what waits, where that takes no waiting; say whether all is written that can be for now."""

    async def catch_up(self) -> None:
        """Write what waits, beside the loop."""


class Books:
    """The books of one open store. Everything happens on one event loop."""

    def __init__(self, store: Store, ambiguous: Ambiguous = "resend") -> None:
        self.store = store
        self.resend = ambiguous == "resend"
        self.broken = ""
        self._runs = 0
        self._answers: list[Answers] = []
        self._asked: dict[bytes, list[Landing]] = {}
        self._recent: dict[bytes, Settled] = {}
        self._filed: dict[bytes, list[bytes]] = {}
        self._done: dict[bytes, Ended] = {}
        self._claiming: set[asyncio.Task[Claimed]] = set()
        # What somebody waits for to be written, and what can wait for others.
        self._marks = _Marks()
        self._news = _News()
        self._writing: Batch | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.Handle | None = None
        self._commit: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        self._last = self._due = 0.0
        self._owed: dict[bytes, None] = {}

    # Runs

    def begin(self, answers: Answers) -> None:
        """Count a run, and tell it when the books fail. A store that failed is tried again by the first.

        Its answers are filed before more is sent. So of each worker's requests one is in doubt at most after a crash.
        """
        if not self._runs:
            self.broken = ""
            self._news.released.update(self._owed)
            self._owed.clear()
        self._runs += 1
        self._answers.append(answers)
        if (self._beat is None or self._beat.done()) and self.store.claims is not None:
            self._beat = asyncio.get_running_loop().create_task(self._beating())

    async def end(self, answers: Answers) -> None:
        """Count a run as over, and wait until all that lies before the writer is written."""
        self._runs -= 1
        self._answers.remove(answers)
        if not self._runs:
            self._recent.clear()
        if not self._runs and self._beat is not None:
            self._beat.cancel()
            self._beat = None
        await self.flush()

    def give_up(self, error: StoreError) -> None:
        """Go on without the store: what is answered is still in the table."""
        self.broken = self.broken or str(error)
        for answers in self._answers:
            answers.stop(error)

    @property
    def complaint(self) -> str:
        """What went wrong, for whoever had to do without the ledger."""
        if not self.broken:
            return ""
        if self.store.ledger is None:
            return f"keys could not be claimed, so others may have asked the same: {self.broken}"
        return f"the ledger failed, and requests went out that are not in it: {self.broken}"

    async def _beating(self) -> None:
        """Say every few seconds that this process lives; leases that it cannot give back any more may run out."""
        while self.store.claims is not None and not (self.broken and self.store.ledger is None):
            await asyncio.sleep(self.store.claims.beat_s)
            try:
                await in_thread(self.store.claims.beat)
            except StoreError as error:
                self.give_up(error)

    # Who asks what

    def ask(self, key: bytes, since: float = 0.0) -> list[Landing] | Settled | None:
        """Take a question. Where it is taken, give who is told what comes of it; where it has just been, the answer.

        That is, unless it was asked before ``since`` (epoch seconds).
        """
        landings = self._asked.get(key)
        if landings is not None:
            return landings
        recent = self._recent.get(key)
        if recent is not None and recent.started_at < since:
            recent = None
        if recent is None:
            self._asked[key] = []
            self._news.released.pop(key, None)
        return recent

    def recent(self, key: bytes, since: float = 0.0) -> Settled | None:
        """Give what whoever was asked ``since`` then (epoch seconds) answered just now; it may not be filed yet."""
        settled = self._recent.get(key)
        if settled is None or settled.started_at < since:
            return None
        return None if isinstance(settled, Answer) and settled.target is not None else settled

    def landings(self, key: bytes) -> list[Landing] | None:
        """Give who is told what comes of a question, if anybody asks it."""
        return self._asked.get(key)

    async def claim(self, wishes: Sequence[Wish], *, again: bool = False) -> Claimed:
        """Claim questions before other processes; a store that cannot do it grants all."""
        claims = self.store.claims
        if claims is None or not wishes or self.broken:
            return Claimed()
        while self._commit is not None and self._writing is not None and _shares(wishes, self._writing.released):
            await asyncio.shield(self._commit)
        # Who asks may be stopped meanwhile: then the keys are given back, but not before they are claimed.
        claiming = asyncio.get_running_loop().create_task(self._claimed(claims, wishes, again=again))
        self._claiming.add(claiming)
        claiming.add_done_callback(self._claiming.discard)
        return await asyncio.shield(claiming)

    async def _claimed(self, claims: Claims, wishes: Sequence[Wish], *, again: bool) -> Claimed:
        try:
            return await in_thread(claims.claim, wishes, self.resend, again)
        except StoreError as error:
            self.give_up(error)
            return Claimed()

    def land(self, key: bytes, settled: Settled | None, filed: bytes | None = None) -> None:
        """Give a question back, and tell who waits for it what came of it.

        Other processes are told when the answer that is being ``filed`` under that key is written.
        """
        landings = self._asked.pop(key, ())
        if settled is not None and not fails(settled):
            self._recent[key] = settled
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        if filed is None:
            self._give_back(key)
        else:
            self._filed.setdefault(filed, []).append(key)
        for landing in landings:
            landing(settled)

    def _give_back(self, key: bytes) -> None:
        done = self._done.pop(key, None)
        if self.broken:
            self._owed[key] = None
            return
        if done is not None:
            self._news.ended.append(done)
        # Unless somebody has asked it anew.
        if self.store.claims is not None and key not in self._asked:
            self._news.released[key] = None
            self._later()

    # What is written

    def written(self, keys: Iterable[bytes]) -> None:
        """Take note that answers are filed: whoever asks the same finds them now."""
        for key in keys:
            for asked in self._filed.pop(key, ()):
                self._give_back(asked)

    def mark(self, sent: Sent) -> asyncio.Future[None]:
        """Write down that a request is about to be sent; what it gives is done when that is durable."""
        durable = asyncio.get_running_loop().create_future()
        if self.broken:
            durable.set_result(None)
            return durable
        if self._marks.unsent:
            self._marks.unsent.pop(sent.key, None)
        self._marks.sent.append(sent)
        self._waiting.append(durable)
        if len(self._waiting) == 1:
            self._arm(0.0)
        return durable

    def unmark(self, key: bytes) -> None:
        """Write down that a request was not sent after all, or may be sent again."""
        self._marks.unsent[key] = None
        self._later()

    def ended(self, ended: Ended) -> None:
        """Write down what came of a request."""
        if not self.broken:
            if ended.state == "done" and ended.key in self._asked:
                # It is done when its answer is filed: what comes before may still be lost.
                self._done[ended.key] = ended
                return
            self._news.ended.append(ended)
            if ended.key not in self._asked:
                # No run holds it: a request to somebody else than who was asked.
                self._news.released[ended.key] = None
            else:
                self.unmark(ended.key)
            self._later()

    async def flush(self) -> None:
        """Wait until all that lies before the writer is written."""
        while self._claiming:
            await asyncio.wait(self._claiming)
        while self._commit is not None or self._marks or self._news:
            if self._commit is not None:
                await asyncio.shield(self._commit)
            else:
                self._news.due = AT_ONCE
                self._begin()

    async def close(self) -> None:
        """Write what is left."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        await self.flush()

    def _later(self) -> None:
        """See that what can wait is written before long."""
        if not self._news.due:
            self._news.due = asyncio.get_running_loop().time() + NEWS_S
            self._arm(NEWS_S)

    def _arm(self, delay_s: float) -> None:
        """See that a commit begins soon: at once if need be, but not more often than every few milliseconds."""
        if self._commit is not None:
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time() + delay_s, self._last + GATHER_S)
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = loop.call_at(due, self._begin)

    def _begin(self) -> None:
        """Write what is due, here and now if nobody else is writing: a thread would cost ten times as much."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        late = [answers for answers in self._answers if not answers.caught_up()]
        news = _News()
        if self._news.due and self._news.due <= self._last + GATHER_S:
            news, self._news = self._news, news
        marks, self._marks = self._marks, _Marks()
        waiting, self._waiting = self._waiting, []
        batch = Batch(marks.sent, list(marks.unsent), news.ended, list(news.released))
        try:
            written = not late and self.store.ledger is not None and self.store.ledger.try_commit(batch)
        except StoreError as error:
            self.give_up(error)
            written = True
        if written:
            self._over(waiting)
        else:
            self._writing = batch
            self._commit = loop.create_task(self._committed(batch, waiting, late))

    async def _committed(self, batch: Batch, waiting: Sequence[asyncio.Future[None]], late: Sequence[Answers]) -> None:
        try:
            for answers in late:
                await answers.catch_up()
            await _beside(_write, self.store, batch)
        except StoreError as error:
            self.give_up(error)
        finally:
            self._commit = self._writing = None
            self._over(waiting)

    def _over(self, waiting: Sequence[asyncio.Future[None]]) -> None:
        """Let those go who waited for what is written, and go on."""
        _release(waiting)
        if self.broken:
            self._forget()
        self._arm_again()

    def _arm_again(self) -> None:
        if self._waiting:
            self._arm(0.0)
        elif self._marks or self._news:
            self._arm(max(0.0, (self._news.due or 0.0) - asyncio.get_running_loop().time()))

    def _forget(self) -> None:
        """Write no more, and keep nobody waiting for it; keys are given back once the store works again."""
        self._owed.update(self._news.released)
        self._marks, self._news = _Marks(), _News()
        waiting, self._waiting = self._waiting, []
        _release(waiting)


@dataclass(slots=True)
class _Marks:
    """What is written before anything is sent. Keys that are in it twice stand as they came last."""

    sent: list[Sent] = field(default_factory=list)
    unsent: dict[bytes, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.sent or self.unsent)


@dataclass(slots=True)
class _News:
    """What came, to be written at ``due`` on the loop's clock."""

    ended: list[Ended] = field(default_factory=list)
    released: dict[bytes, None] = field(default_factory=dict)
    due: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.ended or self.released)


def _shares(wishes: Sequence[Wish], released: Sequence[bytes]) -> bool:
    return not {wish.key for wish in wishes}.isdisjoint(released)


def _release(waiting: Sequence[asyncio.Future[None]]) -> None:
    for durable in waiting:
        if not durable.done():
            durable.set_result(None)


async def _beside(write: Callable[[Store, Batch], None], store: Store, batch: Batch) -> None:
    """Write beside the loop; here, when the process ends and has no threads to spare any more."""
    try:
        begun = asyncio.get_running_loop().run_in_executor(None, write, store, batch)
    except RuntimeError:
        write(store, batch)
    else:
        await begun


def _write(store: Store, batch: Batch) -> None:
    """Write a batch in one piece, or as far as the store can."""
    if store.ledger is not None:
        store.ledger.commit(batch)
        return
    if batch.released and store.claims is not None:
        store.claims.release(batch.released)


def recorded(send: Send) -> Send:
    """Write down each request before it is sent, and what came of it, in the books of the run it belongs to."""

    async def sending(call: Call) -> Answer:
        flight = FLIGHT.get()
        books = None if flight is None else flight.books
        if flight is None or books is None or books.store.ledger is None:
            return await send(call)
        target, run = call.target, flight.run
        key = call.key or request_key(target.provider, target.endpoint, call.request, call.sample)
        at = time.time()
        try:
            await books.mark(Sent(key, run, target.name, at))
        except asyncio.CancelledError:
            books.unmark(key)
            raise
        if books.broken and flight.strict:
            return cancelled(flight.sent)
        try:
            answer = await send(call)
        except BaseException:
            books.ended(Ended(key, run, target.name, "", "ambiguous", "", at, time.time()))
            raise
        books.ended(ended(key, run, call, answer, at))
        return answer

    return sending


def ended(key: bytes, run: bytes, call: Call, answer: Answer, sent_at: float) -> Ended:
    """Say in a row what came of a request."""
    now, name = time.time(), call.target.name
    if not is_successful(answer.outcome):
        used = answer.spent[-1].usage if answer.spent else NO_USAGE
        return Ended(key, run, name, "", "error", kind(answer.outcome.failure()), sent_at, now, *_counts(used))
    said = answer.outcome.unwrap()
    return Ended(key, run, name, said.served_model, "done", "", sent_at, now, *_counts(said.usage))


def _counts(used: Usage) -> tuple[int | None, ...]:
    return (
        used.input_tokens,
        used.output_tokens,
        used.cached_input_tokens,
        used.cache_write_tokens,
        used.reasoning_tokens,
    )
