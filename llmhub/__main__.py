"""Entry point of ``python -m llmhub``."""

from __future__ import annotations

import sys

from llmhub.cli import main

if __name__ == "__main__":
    sys.exit(main())
