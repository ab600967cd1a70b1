"""Types as mypy sees them in programs that use llmhub."""

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


def run_mypy(program: str, folder: Path) -> list[str]:
    """Return mypy's messages on a program without the file name, such as ``6: error: ...``."""
    if shutil.which("mypy", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("needs mypy (extra dev)")
    file = folder / "program.py"
    file.write_text(textwrap.dedent(program), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    completed = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    return [line.partition("program.py:")[2] for line in completed.stdout.splitlines() if "program.py:" in line]


def error_lines(messages: list[str]) -> list[int]:
    return sorted({int(message.partition(":")[0]) for message in messages if " error: " in message})


def revealed_types(messages: list[str]) -> list[str]:
    types = [message.rpartition("Revealed type is ")[2].strip('"') for message in messages if "Revealed" in message]
    return [name.replace("builtins.", "") for name in types]


def test_build_is_an_error_before_the_builder_is_ready(tmp_path: Path) -> None:
    messages = run_mypy(
        """
        from llmhub.types import RequestBuilder, builder

        builder().model("openai/x").messages("hi").options(temperature=0).build()
        RequestBuilder().model("openai/x").messages("hi").build()
        builder().build()
        builder().model("openai/x").build()
        builder().messages("hi")
        """,
        tmp_path,
    )
    assert error_lines(messages) == [6, 7, 8]
    assert all("Invalid self argument" in message for message in messages if " error: " in message)


def test_return_types_and_arguments_of_completions(tmp_path: Path) -> None:
    messages = run_mypy(
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
    response, awaited, result, text = revealed_types(messages)
    assert response.endswith("Completion")
    assert awaited.endswith("Completion")
    assert "Result[llmhub.api._completion.Completion" in result
    assert text == "str"
    assert error_lines(messages) == [10, 11]


def test_match_over_error_values_is_exhaustive(tmp_path: Path) -> None:
    names = [kind.__name__ for kind in get_args(LLMError)]
    assert len(names) == 16

    def program(handled: list[str]) -> str:
        cases = " | ".join(f"errors.{name}()" for name in handled)
        return f"""
        from returns.methods import unwrap_or_failure
        from returns.result import Result
        from llmhub import errors
        from llmhub.types import CompletionResponse

        def text(outcome: Result[CompletionResponse, errors.LLMError]) -> str:
            match unwrap_or_failure(outcome):
                case CompletionResponse() as response:
                    return response.text
                case {cases}:
                    return "failed"
        """

    assert error_lines(run_mypy(program(names), tmp_path)) == []
    assert error_lines(run_mypy(program(names[:-1]), tmp_path)) != []


def test_accessor_returns_the_kind_of_frame_it_is_called_on(tmp_path: Path) -> None:
    messages = run_mypy(
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
    types = revealed_types(messages)
    assert [name.rpartition(".")[2] if "[" not in name else name for name in types] == [
        "DataFrame",
        "DataFrame",
        "DataFrame",
        "pandas.core.series.Series[str]",
        "Series",
        "int",
    ]
    assert types[1].startswith("polars.")
    assert error_lines(messages) == [13, 14]
