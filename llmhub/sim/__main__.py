"""``python -m llmhub.sim``: run a simulator until SIGINT or SIGTERM."""

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
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="llmhub sim",
        description="Simulated providers on loopback: prints one JSON line with the base URLs, then serves until "
        "SIGINT or SIGTERM. Nothing leaves this machine and nothing is billed.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port; 0 selects a free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="determines responses, durations and faults")
    parser.add_argument("--api-key", default="", help="the valid API key (default: any key)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="median response time")
    parser.add_argument(
        "--sigma", type=float, default=0.0, help="standard deviation of the logarithm of the response time"
    )
    parser.add_argument("--rpm", type=float, default=None, help="requests per minute and model")
    parser.add_argument("--tpm", type=float, default=None, help="tokens per minute and model")
    parser.add_argument(
        "--burst", type=float, default=60.0, metavar="SECONDS", help="seconds of a limit that may be used at once"
    )
    parser.add_argument("--retry-after", type=float, default=1.0, metavar="SECONDS", help="retry delay of a 429 fault")
    faults = parser.add_argument_group("faults", "rates of injected faults, from 0 to 1")
    for name in FAULT_BY_FIELD:
        faults.add_argument(f"--{name.replace('_', '-')}", type=float, default=0.0, metavar="SHARE")
    return parser


def settings_from_args(args: argparse.Namespace) -> Simulator:
    """Return the settings of a parsed command line.

    Raises
    ------
    ValueError
        If a rate, limit or latency is invalid.
    """
    limited = args.rpm is not None or args.tpm is not None
    return Simulator(
        seed=args.seed,
        host=args.host,
        port=args.port,
        api_key=args.api_key,
        latency=Latency(args.latency, args.sigma),
        limit=SimLimit(args.rpm, args.tpm, args.burst) if limited else None,
        faults=Faults(retry_after_s=args.retry_after, **{name: getattr(args, name) for name in FAULT_BY_FIELD}),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    try:
        settings = settings_from_args(build_parser().parse_args(argv))
    except ValueError as error:
        sys.stderr.write(f"llmhub sim: {error}\n")
        return USAGE_ERROR
    try:
        asyncio.run(_serve(settings))
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"llmhub sim: cannot listen on {settings.host} port {settings.port}: {error}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


async def _serve(settings: Simulator) -> None:
    """Print the base URLs and serve until a signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no signal handlers in event loops; Ctrl-C raises KeyboardInterrupt there.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal_number, stop.set)
    async with aserving(settings) as simulator:
        addresses = {name: base_url(simulator.url, name) for name in FAKE_PROVIDERS}
        line = encode_json({"url": simulator.url, "base_urls": addresses}).decode()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
