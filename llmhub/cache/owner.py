"""Who holds a claim: a process, told apart from every other that has had its number, here or elsewhere."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
SILENT_S: Final = 600.0
"""How long after its lease a process that lives is waited for: it may be held up, or suspended."""
DEAD: Final = frozenset("ZXx")
"""States of a process that is gone, though its parent has not taken note."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A holder of claims.

    Parameters
    ----------
    id
        Given by the store; two in one process are two.
    realm
        Host, boot and space of process numbers: within one, a number names a process.
    pid, born
        The process's number, and when it was started; empty where the system does not say.
    """

    id: int
    realm: str
    pid: int
    born: str


def this() -> Owner:
    """Make an owner of this process."""
    pid = os.getpid()
    return Owner(0, _realm(), pid, born(pid))


def is_alive(one: Owner, lease_until: float, now: float) -> bool:
    """Say whether an owner may still hold what it claimed.

    In the same realm the system knows whether the process is there; elsewhere the lease says it. One that lives may
    have left and not have been able to write that down: it counts as gone when it has long not said anything, and
    within this process, where nobody can be held up alone, when its lease is over.

    Examples
    --------
    >>> is_alive(Owner(1, "elsewhere", 7, "1"), lease_until=10.0, now=9.0)
    True
    >>> is_alive(Owner(1, "elsewhere", 7, "1"), lease_until=10.0, now=11.0)
    False
    """
    if one.born and one.realm == _realm():
        return born(one.pid) == one.born and now < lease_until + (0.0 if one.pid == os.getpid() else SILENT_S)
    return now < lease_until


def born(pid: int) -> str:
    """Say when a process was started, in the system's own count; empty where it is gone, or nobody knows."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return ""
    # The name in parentheses may hold anything.
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0].decode() in DEAD else fields[19].decode()


@lru_cache(maxsize=1)
def _realm() -> str:
    boot = namespace = ""
    with suppress(OSError):
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str((PROC / "self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {namespace}"
