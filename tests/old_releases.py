"""Older releases of a dependency, installed beside the current ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest


def install_release(config: pytest.Config, *requirements: str) -> Path:
    """Install releases without their dependencies into a folder of their own, once; skip without a network.

    Processes may do it at the same time: each installs into a folder of its own, and one of them is kept.
    """
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(requirements).lower())
    folders: Path = config.cache.mkdir("releases")  # type: ignore[union-attr]
    folder = folders / name
    if not folder.exists():
        new = Path(tempfile.mkdtemp(dir=folders))
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--retries", "1", "--timeout", "15"]
        done = subprocess.run(
            [*command, "--target", str(new), *requirements], capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            if os.environ.get("CI"):
                pytest.fail(f"{requirements} cannot be installed: {done.stderr}")
            pytest.skip(f"{requirements} cannot be installed; they are tested where there is a network")
        with suppress(OSError):  # another process was first
            new.rename(folder)
    return folder
