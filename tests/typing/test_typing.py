"""What a type checker says of llmhub: mypy is run on small programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import get_args

import pytest

from llmhub.core.errors import LLMError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def checked(program: str, folder: Path) -> list[str]:
    """Give what mypy says of a program, a line each, without file names."""
    if shutil.which("mypy", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mypy is of the dev extra; the build installs it and runs these again")
    file = folder / "program.py"
    file.write_text(textwrap.dedent(program), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    done = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    return [line.partition("program.py:")[2] for line in done.stdout.splitlines() if "program.py:" in line]


def test_a_builder_builds_only_when_it_is_ready(tmp_path: Path) -> None:
    said = checked(
        """
        from llmhub import RequestBuilder, builder

        builder().model("openai/x").messages("hi").options(temperature=0).build()
        RequestBuilder().model("openai/x").messages("hi").build()
        builder().build()
        builder().model("openai/x").build()
        builder().messages("hi")
        """,
        tmp_path,
    )
    assert [line.partition(":")[0] for line in said if " error: " in line] == ["6", "7", "8"]
    assert all("Invalid self argument" in line for line in said if " error: " in line)


def test_what_the_public_names_give(tmp_path: Path) -> None:
    said = checked(
        """
        import llmhub

        async def main() -> None:
            reveal_type(llmhub.complete("hi", model="openai/x"))
            reveal_type(await llmhub.acomplete("hi", model="openai/x", temperature=0.5))
            reveal_type(llmhub.try_complete("hi", model="openai/x"))
            for chunk in llmhub.stream("hi", model="openai/x"):
                reveal_type(chunk.text)
            llmhub.complete("hi", model="openai/x", tempature=1)
            llmhub.complete("hi", model="openai/x", temperature="hot")
        """,
        tmp_path,
    )
    notes = [line for line in said if "note: Revealed" in line]
    assert 'CompletionResponse"' in notes[0]
    assert 'CompletionResponse"' in notes[1]
    assert "Result[llmhub.core.types.CompletionResponse" in notes[2]
    assert '"str"' in notes[3] or '"builtins.str"' in notes[3]
    assert sorted({line.partition(":")[0] for line in said if " error: " in line}) == ["10", "11"]


def test_matching_over_the_errors_is_exhaustive(tmp_path: Path) -> None:
    kinds = [kind.__name__ for kind in get_args(LLMError)]
    assert len(kinds) == 16

    def program(named: list[str]) -> str:
        cases = " | ".join(f"errors.{kind}()" for kind in named)
        return f"""
        from returns.result import Result
        from llmhub.core import errors
        from llmhub.core.types import CompletionResponse
        from returns.methods import unwrap_or_failure

        def text(outcome: Result[CompletionResponse, errors.LLMError]) -> str:
            match unwrap_or_failure(outcome):
                case CompletionResponse() as response:
                    return response.text
                case {cases}:
                    return "failed"
        """

    assert [line for line in checked(program(kinds), tmp_path) if " error: " in line] == []
    assert [line for line in checked(program(kinds[:-1]), tmp_path) if " error: " in line] != []


def test_the_accessor_gives_the_kind_of_frame_it_was_given(tmp_path: Path) -> None:
    said = checked(
        """
        import llmhub
        import pandas as pd
        import polars as pl

        def ask(rows: pd.DataFrame, others: pl.DataFrame, texts: pd.Series[str], more: pl.Series) -> None:
            reveal_type(llmhub.llm(rows).complete("{t}", model="openai/x", n=1, system=lambda row: row.lang))
            reveal_type(llmhub.llm(others).complete("{t}", model=["openai/x", "anthropic/y"], n=2))
            reveal_type(llmhub.llm(rows).wide("response"))
            reveal_type(llmhub.llm(texts).complete("Repeat {}", model="openai/x"))
            reveal_type(llmhub.llm(more).complete(model="openai/x"))
            reveal_type(llmhub.llm(rows).plan(lambda row: row["t"], model="openai/x").calls)
            llmhub.llm(rows).complete("{t}", model="openai/x", tempature=1)
            llmhub.llm(rows).complete(7, model="openai/x")
        """,
        tmp_path,
    )
    found = [line.rpartition("Revealed type is ")[2].strip('"') for line in said if "note: Revealed" in line]
    notes = [note.replace("builtins.", "") for note in found]
    assert [note.rpartition(".")[2] if "[" not in note else note for note in notes] == [
        "DataFrame",
        "DataFrame",
        "DataFrame",
        "pandas.core.series.Series[str]",
        "Series",
        "int",
    ]
    assert notes[1].startswith("polars.")
    assert sorted({line.partition(":")[0] for line in said if " error: " in line}) == ["13", "14"]
