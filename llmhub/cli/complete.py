"""``llmhub complete``: send one prompt, and write the answer as it arrives."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import Any

from llmhub.api import complete, stream
from llmhub.cli.console import print_json, print_result
from llmhub.cli.hub_options import build_hub, collect_options, read_messages, read_schema
from llmhub.core.errors import invalid
from llmhub.security.redaction import escape_controls


def run(args: argparse.Namespace) -> int:
    """Write the answer, and return the exit code."""
    prompt = _prompt(args)
    options: dict[str, Any] = {**collect_options(args), "model": args.model}
    if args.messages:
        options["messages"] = read_messages(args.messages)
    if args.image:
        options["images"] = args.image
    if args.schema:
        options["schema"] = read_schema(args.schema)
    args.model = [args.model]
    with build_hub(args) as hub:
        if args.json:
            _write_json(complete(prompt, hub=hub, **options))
        elif args.no_stream or args.schema or not sys.stdout.isatty():
            print_result(complete(prompt, hub=hub, **options).text)
        else:
            for chunk in stream(prompt, hub=hub, **options):
                sys.stdout.write(escape_controls(chunk.text))
                sys.stdout.flush()
            sys.stdout.write("\n")
    return 0


def _prompt(args: argparse.Namespace) -> str | None:
    """Return the prompt, and below it what was piped in; a conversation may do without."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _read_input()
    given = "" if args.prompt in {None, "-"} else args.prompt
    prompt = "\n\n".join(filter(None, (given, piped)))
    if not prompt and args.messages:
        return None
    if not prompt:
        raise invalid("PROMPT", "is missing; pass a text, or pipe one in")
    return prompt


def _read_input() -> str:
    with suppress(OSError):  # standard input is closed
        return sys.stdin.read().strip()
    return ""


def _write_json(answer: Any) -> None:
    """Write the answer and its measurements as a JSON object."""
    names = ("text", "parsed", "model", "finish_reason", "cost_usd", "latency_s", "ttft_s", "cache_hit", "attempts")
    values = {name: getattr(answer, name) for name in names}
    values["usage"] = {name: getattr(answer.usage, name) for name in answer.usage.__dataclass_fields__}
    print_json(values)
