"""``llmhub demo``: simulated by default, real providers on request, tables and plots in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.compute as pc
import pytest
from pyarrow import csv, parquet

from llmhub.tables.schema import RESULTS

Shell: TypeAlias = Callable[..., Any]
Script: TypeAlias = Callable[..., Any]

PNG = b"\x89PNG\r\n\x1a\n"


def test_demo_calls_five_simulated_providers_and_writes_tables_and_plots(shell: Shell, tmp_path: Path) -> None:
    result = shell("demo")
    assert result.code == 0
    results = parquet.read_table(tmp_path / "demo/results.parquet")
    assert results.schema.equals(RESULTS)
    assert results.schema.field("cost_usd").metadata[b"unit"] == b"USD"
    assert results.num_rows == 120 * 5
    assert len(results.column("provider").unique()) == 5
    assert len(results.column("request_key").unique()) == 600
    questions = csv.read_csv(tmp_path / "demo/questions.csv")
    assert questions.num_rows == 120
    assert len(questions.column("question").unique()) == 120
    for plot in ("cost.png", "latency.png"):
        content = (tmp_path / "demo" / plot).read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 20_000
        assert f"demo/{plot}" in result.out
    lines = result.out.splitlines()
    assert [line for line in lines if len(line) > 100] == []
    assert "Simulated providers" in result.out
    assert "nothing is billed" in result.out
    assert "600/600 rows" in result.err
    statuses = dict(
        zip(*(column.to_pylist() for column in pc.value_counts(results.column("status")).flatten()), strict=True)
    )
    assert statuses == {"ok": 590, "error": 10}
    assert "10 of 600 rows failed" in result.out
    assert "[[sim:500 always]]" in result.out
    failed = results.filter(pc.equal(results.column("status"), "error"))
    assert set(failed.column("row").to_pylist()) == {16, 67}
    assert set(failed.column("error_type").to_pylist()) == {"ServerError", "Malformed"}
    recovered = results.filter(pc.equal(results.column("row"), 41))
    assert recovered.column("status").unique().to_pylist() == ["ok"]
    assert recovered.column("attempts").to_pylist() == [2] * 5
    assert results.column("list_cost_usd").drop_null().length() == 590


def test_demo_is_deterministic(shell: Shell, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert shell("demo", "--rows", 6, "--out", folder, "--quiet", "--model", "openai/gpt-4o-mini").code == 0
    one, two = (parquet.read_table(tmp_path / folder / "results.parquet") for folder in ("one", "two"))
    for name in ("response", "input_tokens", "output_tokens", "cost_usd", "cache_hit"):
        assert one.column(name).equals(two.column(name))
    assert not any(two.column("cache_hit").to_pylist())


def test_seed_changes_the_answers(shell: Shell, tmp_path: Path) -> None:
    for seed in (1, 2):
        shell("demo", "--rows", 6, "--out", seed, "--quiet", "--seed", seed, "--model", "openai/gpt-4o-mini")
    one, two = (parquet.read_table(tmp_path / folder / "results.parquet") for folder in ("1", "2"))
    assert not one.column("response").equals(two.column("response"))


def test_quiet_demo_prints_nothing(shell: Shell) -> None:
    result = shell("demo", "--rows", 3, "--quiet", "--model", "google/gemini-2.5-flash")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_demo_does_not_call_real_providers_with_a_key(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, replies: Any
) -> None:
    real = scripted([replies.answer()])
    environ.setenv("OPENAI_API_KEY", "sk-real-key-of-somebody")
    environ.setenv("OPENAI_BASE_URL", real.url)
    assert shell("demo", "--rows", 3, "--model", "openai/gpt-4o-mini").code == 0
    assert real.connections == 0


@pytest.mark.filterwarnings("always:token counts are estimates")
def test_real_calls_only_providers_with_keys(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, replies: Any
) -> None:
    real = scripted([replies.answer("Hi")])
    environ.setenv("OPENAI_API_KEY", "sk-real-key-of-somebody")
    environ.setenv("OPENAI_BASE_URL", real.url)
    environ.setenv("TIKTOKEN_CACHE_DIR", "nowhere")
    environ.setattr("llmhub.tables.tokenizers.urlopen", _unreachable)
    result = shell("demo", "--rows", 18, "--real")
    assert result.code == 0
    assert "Real providers: openai/gpt-4o-mini; at most $" in result.out
    assert "Simulated" not in result.out
    assert len(real.requests) == 18
    assert not any(b"[[sim:" in body for body in real.bodies)
    assert "sk-real" not in result.out + result.err


def _unreachable(*_: object, **__: object) -> object:
    raise OSError("no network here")


def test_real_without_keys_lists_the_variables_to_set(shell: Shell) -> None:
    result = shell("demo", "--real")
    assert result.code == 2
    assert "OPENAI_API_KEY or ANTHROPIC_API_KEY" in result.err
    assert "omit --real to use the simulator" in result.err


def test_failed_real_demo_has_exit_code_1(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, replies: Any
) -> None:
    real = scripted([replies.reply(b'{"error":{"message":"no"}}', status=401)])
    environ.setenv("OPENAI_API_KEY", "sk-real-key-of-somebody")
    environ.setenv("OPENAI_BASE_URL", real.url)
    result = shell("demo", "--rows", 2, "--real", "--quiet")
    assert result.code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "0"), "--rows: must be an integer of 1 or more, not '0'"),
        (("--rows", "1201"), "--rows: must be between 1 and 1200, not 1201"),
        (("--model", "nowhere/llama-3"), "nowhere"),
        (("--model", "gpt-4o"), "names no provider"),
        (("--out", "a-file"), "--out: 'a-file': cannot be created"),
    ],
)
def test_wrong_argument_is_rejected_in_one_line(
    shell: Shell, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    Path(tmp_path / "a-file").touch()
    result = shell("demo", *arguments)
    assert result.code == 2
    assert message in result.err
    assert "Traceback" not in result.err
    assert result.out == ""
