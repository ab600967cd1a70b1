"""``%load_ext llmhub``: options that only a notebook needs."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

NEST_ASYNCIO = (
    "let asyncio.run(...) work in cells, by nest-asyncio. llmhub itself never needs it. Known limits: cells queued "
    "by 'Run all' may not run after it (ipykernel 7), the whole process gets a slower asyncio, and uvloop cannot be "
    "patched."
)


def load_ipython_extension(shell: Any) -> None:
    """Register the magics with an IPython shell."""
    shell.register_magic_function(llm_config, "line", "llm_config")


def llm_config(line: str) -> None:
    """Set up llmhub in this kernel: ``%llm_config --nest-asyncio``; ``%llm_config -h`` says what there is."""
    parser = argparse.ArgumentParser(
        prog="%llm_config", exit_on_error=False, description="Set up llmhub in this kernel."
    )
    parser.add_argument("--nest-asyncio", action="store_true", help=NEST_ASYNCIO)
    try:
        asked = parser.parse_args(shlex.split(line))
    except SystemExit:  # argparse's way to end after its help
        return
    if asked.nest_asyncio:
        import nest_asyncio  # noqa: PLC0415 - it patches asyncio, so only on request

        nest_asyncio.apply()
