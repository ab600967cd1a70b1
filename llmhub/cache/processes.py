"""Processes of this computer: whether the one that a process id meant some time ago still exists."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
DEAD_STATES: Final = frozenset("ZXx")
"""States of a process that has ended but was not reaped, in ``/proc/PID/stat`` and of ``ps``."""
PS: Final = ("ps", "-o", "stat=,lstart=", "-p")
"""Command that tells the state and the start time of a process on systems without ``/proc``, such as macOS."""


def process_start_time(pid: int) -> str:
    """Return the start time of a process, in clock ticks since boot or as ``ps`` tells it; empty if it has ended.

    It is empty as well where the system offers neither ``/proc`` nor ``ps``.
    """
    if not PROC.is_dir():
        return _start_time_of_ps(pid, int(time.monotonic()))
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return ""
    # The command name in parentheses may contain anything, parentheses included.
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0].decode() in DEAD_STATES else fields[19].decode()


@lru_cache(maxsize=256)
def _start_time_of_ps(pid: int, _second: int) -> str:
    """Return the start time of a process as ``ps`` tells it, asked once a second."""
    try:
        output = subprocess.run(  # noqa: S603 - a fixed command
            [*PS, str(pid)], capture_output=True, text=True, check=False, env={"PATH": os.defpath, "LC_ALL": "C"}
        ).stdout
    except OSError:
        return ""
    state, _, started_at = output.strip().partition(" ")
    return "" if state[:1] in DEAD_STATES else " ".join(started_at.split())


@lru_cache(maxsize=1)
def host_id() -> str:
    """Return host, boot and process id namespace; within one, a process id is unique at a time."""
    boot = namespace = ""
    with suppress(OSError):
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str((PROC / "self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {namespace}"
