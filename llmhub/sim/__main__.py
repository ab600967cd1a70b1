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
from llmhub.sim.servers.fake_provider import encode_json
from llmhub.sim.settings import Simulator
from llmhub.sim.stand_ins import SIMULATED
from llmhub.sim.threaded import base_url

USAGE_ERROR: Final = 2
FAULT_HELP: Final = {
    "rate_429": "rate limit errors (429)",
    "rate_500": "internal errors (500)",
    "rate_529": "overload (529 at Anthropic, 503 elsewhere)",
    "quota": "exhausted quota or credit, which no retry helps",
    "reset": "connections reset instead of a response",
    "truncate": "connections closed in the middle of a response",
    "cut": "streams that end early without an error",
    "drip": "responses sent in small pieces",
    "malformed": "responses with malformed JSON or events",
    "stream_error": "streams that report an error after half of their events",
    "hang": "requests that are never answered",
}
"""Help of the options that inject faults."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="llmhub sim",
        description="Simulated providers on loopback: prints their address, or one JSON line with all base URLs if "
        "standard output is not a terminal, then serves until Ctrl-C or SIGTERM. Nothing leaves this machine and "
        "nothing is billed.",
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
    parser.add_argument("--json", action="store_true", help="print one JSON line with all base URLs")
    faults = parser.add_argument_group("faults", "rates of injected faults, from 0 to 1")
    for name in FAULT_BY_FIELD:
        faults.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=0.0, metavar="SHARE", help=FAULT_HELP[name]
        )
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
        args = build_parser().parse_args(argv)
        settings = settings_from_args(args)
    except ValueError as error:
        sys.stderr.write(f"llmhub sim: {error}\n")
        return USAGE_ERROR
    try:
        asyncio.run(_serve(settings, as_json=args.json or not sys.stdout.isatty()))
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"llmhub sim: cannot listen on {settings.host} port {settings.port}: {error}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def announcement(url: str) -> str:
    r"""Return what a person needs to use a simulator.

    Examples
    --------
    >>> print(announcement("http://127.0.0.1:8000").partition("\n")[0])
    Simulating every provider at http://127.0.0.1:8000 (Ctrl-C stops it)
    """
    return (
        f"Simulating every provider at {url} (Ctrl-C stops it)\n\n"
        f"  shell   llmhub complete 'Say hi' --model openai/gpt-4o-mini --simulator {url}\n"
        f'  Python  hub = llmhub.Hub(simulator="{url}")\n'
        f"  SDKs    OPENAI_BASE_URL={base_url(url, 'openai')}\n"
        f"          ANTHROPIC_BASE_URL={base_url(url, 'anthropic')}\n\n"
        "All base URLs: llmhub sim --json"
    )


def _json_line(url: str) -> str:
    addresses = {name: base_url(url, name) for name in SIMULATED}
    return encode_json({"url": url, "base_urls": addresses}).decode()


async def _serve(settings: Simulator, *, as_json: bool) -> None:
    """Print the base URLs and serve until a signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no signal handlers in event loops; Ctrl-C raises KeyboardInterrupt there.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal_number, stop.set)
    async with aserving(settings) as simulator:
        sys.stdout.write(f"{_json_line(simulator.url) if as_json else announcement(simulator.url)}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
