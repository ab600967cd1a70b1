"""Whether to colour output. Apart from `llmhub.config`, whose import takes longer than all of ``llmhub -h``."""

from __future__ import annotations

import os


def shows_color(*, is_terminal: bool) -> bool:
    """Return whether to colour output: on a terminal, unless ``NO_COLOR`` is set; ``FORCE_COLOR`` colours it anyway.

    See https://no-color.org (read 2026-11-30).
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (is_terminal and os.environ.get("TERM") != "dumb")
