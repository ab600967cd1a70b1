# ruff: noqa: T201 - a script prints
"""Run every command of the command line once; run by test_canaries.py."""

import contextlib
import io
import os
import sys
from pathlib import Path

from llmhub.cli import main
from llmhub.cli.arguments import COMMANDS

OK, FAIL = ("-m", "openai/ok"), ("-m", "anthropic/fail")
CACHE = ("--cache", "commands.db")
LINES = [
    ("complete", "hi", *OK, *CACHE),
    ("complete", "hi", *FAIL, *CACHE),
    ("run", "rows.csv", "out/run.parquet", "--prompt", "{text}", *OK, *CACHE),
    ("run", "rows.csv", "out/failed.parquet", "--prompt", "{text} {key}", *FAIL, *CACHE),
    ("embed", "rows.csv", "out/vectors.parquet", "--prompt", "text", "-m", "openai/text-embedding-3-small", *CACHE),
    ("embed", "rows.csv", "out/none.parquet", "--prompt", "text", "-m", "google/gemini-embedding-001-fail", *CACHE),
    ("plan", "rows.csv", "--prompt", "{text}", *OK),
    (
        "evaluate",
        "rows.csv",
        "--task",
        "classification",
        "--target",
        "label",
        "--label",
        "yes",
        "--label",
        "no",
        "--freeze",
        "out/evaluation",
        *OK,
        *CACHE,
    ),
    ("compare", "out/run.parquet", "--scorer", "contains", "--target", "label"),
    ("freeze", "out/run.parquet", "out/frozen"),
    ("verify", "out/frozen"),
    ("replay", "out/evaluation"),
    ("diff", "out/run.parquet", "out/run.parquet"),
    ("models", "openai"),
    ("bench", *OK, "--requests", "3"),
    ("demo", "--rows", "3", "--quiet", "--out", "out/demo"),
    ("doctor", "--json"),
    ("batches", "ls", *CACHE),
    ("cache", "stats", *CACHE),
    ("cache", "ls", *CACHE),
    ("cache", "verify", *CACHE),
    ("credentials", "set", "groq", "--passphrase"),
    ("credentials", "list"),
    ("keys", "create", "--name", "ann"),
    ("keys", "list"),
    ("dashboards", "export", "dashboards"),
    ("deploy", "export", "deployment"),
    ("completion", "bash"),
]
tried = {line[0] for line in LINES} | {"sim", "serve"}
print("not tried:", sorted(set(COMMANDS) - tried))
Path("out").mkdir()
for line in LINES:
    code = 1
    sys.stdin = io.StringIO(os.environ["GROQ_API_KEY"] + "\n" if line[0] == "credentials" else "")
    with contextlib.suppress(SystemExit):
        code = main(list(line))
    sys.stdout.flush()
    print("\n==", " ".join(line), "->", code, flush=True)
