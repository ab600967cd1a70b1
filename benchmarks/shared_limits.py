"""A limit that a thousand workers share, on a virtual clock: efficiency, store calls, fairness, and a lost store.

Every booking goes through the real limiter (in memory) in leases of the size that the engine asks for. Workers always
have calls that wait, so a lease is used up when its last slot is.

    python benchmarks/shared_limits.py                       # 1,000 workers, 10^8 rows, 1,000,000 requests a minute
    python benchmarks/shared_limits.py --rows 1000000 --rpm 100000 --workers 200
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections import Counter
from dataclasses import dataclass, field

from llmhub.cache.shared_limiter import MICROSECONDS, Lease, Member, RateBooking, SharedLimiter, memory_limiter
from llmhub.engine.leased_limits import lease_seconds
from llmhub.engine.limits import token_bucket

ROUND_TRIP_US = 1000
"""Time of a store call."""


@dataclass
class Clock:
    """The virtual clock."""

    now: int = 0


@dataclass
class Run:
    """What happened: calls by second and job, and store calls."""

    sent: Counter[tuple[str, int]] = field(default_factory=Counter)
    store_calls: int = 0
    most_ahead_us: int = 0

    def calls(self, job: str = "", seconds: range | None = None) -> int:
        return sum(
            count
            for (name, second), count in self.sent.items()
            if (not job or name == job) and (seconds is None or second in seconds)
        )

    @property
    def end_s(self) -> int:
        return max(second for _, second in self.sent) + 1


@dataclass
class Worker:
    """A worker with calls that wait; without the store it books its part of the limit in its own memory."""

    member: Member
    local: SharedLimiter
    lease: Lease | None = None


def simulate(jobs: dict[str, tuple[int, int]], rows: int, rpm: float, lost: range = range(0)) -> Run:
    """Send rows; ``jobs`` has the number of workers of each job, and the second in which it begins."""
    clock, run = Clock(), Run()
    bucket = token_bucket(rpm, 0.01)
    interval_us, burst_us = MICROSECONDS / bucket.rate_per_s, int(bucket.capacity / bucket.rate_per_s * MICROSECONDS)
    shared = memory_limiter(lambda: clock.now)
    queue: list[tuple[int, int, Worker]] = []
    for job, (workers, begin_s) in jobs.items():
        for number in range(workers):
            worker = Worker(Member(job, str(number)), memory_limiter(lambda: clock.now))
            heapq.heappush(queue, (begin_s * MICROSECONDS + 37 * number, len(queue), worker))
    left = rows
    while queue and left > 0:
        clock.now, ticket, worker = heapq.heappop(queue)
        known = worker.lease
        share_s = lease_seconds(known.jobs, known.job_workers) if known is not None else 0.0
        calls = min(max(int(share_s * MICROSECONDS / interval_us), 1), left)
        is_lost = clock.now // MICROSECONDS in lost
        parts = known.workers if is_lost and known is not None else 1
        booking = RateBooking("requests", int(calls * interval_us * parts), burst_us)
        if is_lost:
            lease = worker.local.book("account", worker.member, [booking])
        else:
            run.store_calls += 1
            lease = worker.lease = shared.book("account", worker.member, [booking])
            run.most_ahead_us = max(run.most_ahead_us, lease.start_us)
        left -= calls
        start = clock.now + lease.start_us
        end = start + booking.duration_us
        for second, share in spread(max(start, clock.now), max(end, clock.now), calls):
            run.sent[worker.member.job, second] += share
        lead = min(2 * interval_us, booking.duration_us / 2)
        heapq.heappush(queue, (max(int(end - lead), clock.now) + ROUND_TRIP_US, ticket, worker))
    return run


def spread(start: int, end: int, calls: int) -> list[tuple[int, int]]:
    """Return the calls of a lease by the second in which they are sent."""
    first, last = start // MICROSECONDS, max(end - 1, start) // MICROSECONDS
    if first == last:
        return [(first, calls)]
    in_first = round(calls * ((first + 1) * MICROSECONDS - start) / (end - start))
    return [(first, in_first), (last, calls - in_first)]


def report(name: str, run: Run, rpm: float, began: float) -> None:
    print(
        f"{name}: {run.calls():,} rows in {run.end_s:,} s of virtual time, "
        f"{run.calls() / run.end_s / (rpm / 60):.3f} of the permitted rate, "
        f"{run.store_calls / run.end_s:,.0f} store calls a second, "
        f"at most {most_in_a_minute(run) / rpm:.3f} of the limit in any minute, "
        f"booked at most {run.most_ahead_us / MICROSECONDS:.1f} s ahead ({time.perf_counter() - began:.0f} s)"
    )


def most_in_a_minute(run: Run) -> int:
    by_second: Counter[int] = Counter()
    for (_, second), count in run.sent.items():
        by_second[second] += count
    total = most = sum(by_second[second] for second in range(60))
    for second in range(60, run.end_s):
        total += by_second[second] - by_second[second - 60]
        most = max(most, total)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--rpm", type=float, default=1_000_000)
    options = parser.parse_args()
    workers, rows, rpm = options.workers, options.rows, options.rpm
    began = time.perf_counter()
    report("one job", simulate({"a": (workers, 0)}, rows, rpm), rpm, began)
    began = time.perf_counter()
    small = max(workers // 100, 1)
    two = simulate({"large": (workers - small, 0), "small": (small, 60)}, rows // 5, rpm)
    report(f"two jobs, of {workers - small} and {small} workers", two, rpm, began)
    both = range(120, two.end_s - 60)
    print(f"  share of the small job while both run: {two.calls('small', both) / max(two.calls('', both), 1):.3f}")
    began = time.perf_counter()
    lost = range(120, 240)
    run = simulate({"a": (workers, 0)}, rows // 5, rpm, lost)
    report("store lost for two minutes", run, rpm, began)
    during = run.calls("", range(130, 240)) / 110 / (rpm / 60)
    print(f"  while it is lost: {during:.3f} of the permitted rate")


if __name__ == "__main__":
    main()
