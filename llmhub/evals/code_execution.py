"""Runs Python that a model wrote, against tests, in a process of its own with limits.

The program gets no environment variables, an empty folder that is removed afterwards, and limits on processor time,
memory, file sizes, open files and processes; on Linux also no network where the kernel lets a user leave it. It passes
if it ends its tests: a program that exits before them does not. All this holds mistakes such as endless loops; it is no
protection from a program that attacks the machine.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

CODE_BLOCK: Final = re.compile(r"```(?:python3?|py)?[^\S\n]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
MEGABYTE: Final = 1 << 20
FILE_BYTES: Final = 10 * MEGABYTE
OPEN_FILES: Final = 64
PROCESSES: Final = 0
CPU_MARGIN_S: Final = 1
NOTE_LENGTH: Final = 500
STDERR_BYTES: Final = 64 * 1024
UNSHARE_USER_AND_NETWORK: Final = 0x10000000 | 0x40000000

# The child reads its limits, a token and the program from standard input, so that no file or argument holds them. The
# token is written once the tests have ended, to a copy of standard output that the program's own output does not reach;
# then the child ends itself and whatever the program has started.
RUNNER: Final = f"""
import json, os, resource, signal, sys
cpu, memory, token, program = json.loads(sys.stdin.buffer.read())
answer = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
sys.stdin = open(os.devnull)
try:
    import ctypes
    ctypes.CDLL(None).unshare({UNSHARE_USER_AND_NETWORK})
except Exception:
    pass
for name, limit in (("CPU", cpu), ("AS", memory), ("FSIZE", {FILE_BYTES}), ("NOFILE", {OPEN_FILES}),
                    ("NPROC", {PROCESSES}), ("CORE", 0)):
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
    except (ValueError, OSError):
        pass
namespace = {{"__name__": "__main__"}}
write, written, end = os.write, token.encode(), os.killpg
exec(compile(program, "<answer>", "exec"), namespace)
write(answer, written)
end(0, signal.SIGKILL)
"""


@dataclass(frozen=True, slots=True)
class CodeRun:
    """Whether a program passed its tests, and why not."""

    passed: bool
    note: str = ""


def extract_code(response: str, required: str = "") -> str:
    r"""Return the code of a response: its blocks of code, or all of it.

    Parameters
    ----------
    response
        Text with code, in Markdown blocks or plain.
    required
        Name of the function wanted; of several blocks, the last that defines it is returned.

    Examples
    --------
    >>> extract_code("Here it is:\n```python\ndef f():\n    return 1\n```\nDone.")
    'def f():\n    return 1\n'
    """
    blocks: Sequence[str] = CODE_BLOCK.findall(response)
    if not blocks:
        return response
    defining = [block for block in blocks if required and defines(block, required)]
    return defining[-1] if defining else "\n".join(blocks)


def defines(code: str, name: str) -> bool:
    """Return whether code defines a function at its top level."""
    return _definition(name).search(code) is not None


def before_definition(code: str, name: str) -> str:
    r"""Return what stands before the definition of a function: imports and helpers.

    Examples
    --------
    >>> before_definition("import math\ndef f():\n", "f")
    'import math\n'
    """
    found = _definition(name).search(code)
    return code if found is None else code[: found.start()]


def _definition(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async\s+)?def\s+{re.escape(name)}\b", re.MULTILINE)


def run_tests(code: str, *, timeout_s: float, memory_mb: int) -> CodeRun:
    """Run a program with its tests in a process of its own.

    Parameters
    ----------
    code
        Program that ends with its tests; it raises if one fails.
    timeout_s, memory_mb
        Limits of the process.

    Examples
    --------
    >>> run_tests("assert 1 + 1 == 2", timeout_s=10, memory_mb=512).passed
    True
    >>> run_tests("assert 1 + 1 == 3", timeout_s=10, memory_mb=512).note
    'AssertionError'
    """
    import json  # noqa: PLC0415 - only where code is run

    token = secrets.token_hex(16)
    request = json.dumps([int(timeout_s) + CPU_MARGIN_S, memory_mb * MEGABYTE, token, code]).encode()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - code of a model is run here, on request, with limits
            [sys.executable, "-I", "-c", RUNNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as process,
    ):
        try:
            output, _ = process.communicate(request, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return CodeRun(passed=False, note=f"it took more than {timeout_s:g} s")
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if output == token.encode():
            return CodeRun(passed=True)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - STDERR_BYTES))
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode < 0:
        return CodeRun(passed=False, note=f"it was ended by {signal.Signals(-process.returncode).name}")
    return CodeRun(passed=False, note=lines[-1][:NOTE_LENGTH] if lines else "it ended before its tests")
