"""Measure redaction: of 2.5 kB of prose without and with eight secrets, of a short line, and of JSON.

Run ``python benchmarks/redaction.py``. The best of several rounds is printed, in microseconds a text.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from llmhub.core.types import JSON
from llmhub.security.redaction import Redactor, redact

PROSE = (
    "The service answers a request of a client with rows of a table. Each row has a key of its own, a status, and the "
    "cost in dollars; whoever reads the report at 12:30 sees 3 of them, at 0.25 each. Tokens are counted by class. "
)
SECRETS = (
    "sk-proj-abcdefgh1234567890",
    "AKIAIOSFODNN7EXAMPLE",
    "Authorization: Bearer abc.def-123/456==",
    "ann@example.org",
    "+44 20 7946 0958",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "192.168.17.4",
)
SIZE = 2500


def plain_text() -> str:
    """Return ordinary prose."""
    return (PROSE * (SIZE // len(PROSE) + 1))[:SIZE]


def text_with_secrets() -> str:
    """Return prose of the same length with the secrets spread over it."""
    step = SIZE // len(SECRETS)
    prose = plain_text()
    pieces = [prose[index * step : (index + 1) * step - len(secret) - 2] for index, secret in enumerate(SECRETS)]
    return "".join(f"{piece} {secret} " for piece, secret in zip(pieces, SECRETS, strict=True))


def best_us(work: Callable[[], object], *, rounds: int = 200, repeats: int = 10) -> float:
    """Return the best mean time of one call over the rounds, in microseconds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        best = min(best, (time.perf_counter() - started) / repeats)
    return best * 1e6


def main() -> None:
    redactor = Redactor()
    plain, full = plain_text(), text_with_secrets()
    record: JSON = {"messages": [{"role": "user", "content": full}], "ids": list(range(20))}
    found = redactor.redact(full)
    assert sum(found.count(f"[{entity}]") for entity in redactor.entities) >= len(SECRETS), found
    cases: dict[str, Callable[[], object]] = {
        "prose, 2.5 kB, all kinds": lambda: redactor.redact(plain),
        "prose with 8 secrets, 2.5 kB, all kinds": lambda: redactor.redact(full),
        "prose, 2.5 kB, credentials": lambda: redact(plain),
        "prose with 8 secrets, 2.5 kB, credentials": lambda: redact(full),
        "a line of a log, 90 characters, credentials": lambda: redact(plain[:90]),
        "a line of a log, 90 characters, all kinds": lambda: redactor.redact(plain[:90]),
        "JSON with 8 secrets, 2.5 kB, all kinds": lambda: redactor.redact_json(record),
    }
    for name, work in cases.items():
        print(f"{best_us(work):8.1f} us  {name}")


if __name__ == "__main__":
    main()
