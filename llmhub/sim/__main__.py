"""``python -m llmhub.sim``: a simulator in a process of its own, until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from typing import Final

from llmhub.sim.faults import FAULT_BY_FIELD, Faults
from llmhub.sim.latency import Latency
from llmhub.sim.limits import SimLimit
from llmhub.sim.server import aserving
from llmhub.sim.servers import FAKE_PROVIDERS
from llmhub.sim.servers.fake_provider import encode_json
from llmhub.sim.settings import Simulator
from llmhub.sim.threaded import base_url

USAGE_ERROR: Final = 2


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="llmhub sim",
        description="Simulated providers on loopback: prints one JSON line with the addresses, then serves until "
        "SIGINT or SIGTERM. Nothing leaves this machine and nothing is paid.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides answers, durations and faults")
    parser.add_argument("--api-key", default="", help="the one key that is right (default: any key)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="median duration of an answer")
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of the duration's logarithm")
    parser.add_argument("--rpm", type=float, default=None, help="requests a minute for each model")
    parser.add_argument("--tpm", type=float, default=None, help="tokens a minute for each model")
    parser.add_argument(
        "--burst", type=float, default=60.0, metavar="SECONDS", help="seconds' worth of a limit usable at once"
    )
    parser.add_argument("--retry-after", type=float, default=1.0, metavar="SECONDS", help="what a 429 fault says")
    faults = parser.add_argument_group("faults", "the share of requests, from 0 to 1, that meet each")
    for name in FAULT_BY_FIELD:
        faults.add_argument(f"--{name.replace('_', '-')}", type=float, default=0.0, metavar="SHARE")
    return parser


def settings_from_args(given: argparse.Namespace) -> Simulator:
    """Make settings of a command line.

    Raises
    ------
    ValueError
        For a rate, limit or latency that is none.
    """
    limited = given.rpm is not None or given.tpm is not None
    return Simulator(
        seed=given.seed,
        host=given.host,
        port=given.port,
        api_key=given.api_key,
        latency=Latency(given.latency, given.sigma),
        limit=SimLimit(given.rpm, given.tpm, given.burst) if limited else None,
        faults=Faults(retry_after_s=given.retry_after, **{name: getattr(given, name) for name in FAULT_BY_FIELD}),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; give the exit code."""
    try:
        settings = settings_from_args(build_parser().parse_args(argv))
    except ValueError as wrong:
        sys.stderr.write(f"llmhub sim: {wrong}\n")
        return USAGE_ERROR
    try:
        asyncio.run(_serve(settings))
    except (OSError, OverflowError) as wrong:
        sys.stderr.write(f"llmhub sim: cannot listen on {settings.host} port {settings.port}: {wrong}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


async def _serve(settings: Simulator) -> None:
    """Say where it listens, and wait to be told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for told in (signal.SIGINT, signal.SIGTERM):
        # Not everywhere can a loop take signals; there, Ctrl-C raises KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(told, stop.set)
    async with aserving(settings) as simulator:
        addresses = {name: base_url(simulator.url, name) for name in FAKE_PROVIDERS}
        line = encode_json({"url": simulator.url, "base_urls": addresses}).decode()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
