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


def test_the_demo_asks_five_providers_120_questions_and_writes_what_it_says(shell: Shell, tmp_path: Path) -> None:
    said = shell("demo")
    assert said.code == 0
    results = parquet.read_table(tmp_path / "demo/results.parquet")
    assert results.schema.equals(RESULTS)
    assert results.schema.field("cost_usd").metadata[b"unit"] == b"USD"
    assert results.num_rows == 120 * 5
    assert len(results.column("provider").unique()) == 5
    assert len(results.column("request_key").unique()) == 600
    asked = csv.read_csv(tmp_path / "demo/questions.csv")
    assert asked.num_rows == 120
    assert len(asked.column("question").unique()) == 120
    for plot in ("cost.png", "latency.png"):
        content = (tmp_path / "demo" / plot).read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 20_000
        assert f"demo/{plot}" in said.out
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "Simulated providers" in said.out
    assert "nothing is paid" in said.out
    assert "600/600 rows" in said.err
    statuses = dict(
        zip(*(column.to_pylist() for column in pc.value_counts(results.column("status")).flatten()), strict=True)
    )
    assert statuses == {"ok": 590, "error": 10}
    assert "10 of 600 rows failed" in said.out
    assert "[[sim:500 always]]" in said.out
    failed = results.filter(pc.equal(results.column("status"), "error"))
    assert set(failed.column("row").to_pylist()) == {16, 67}
    assert set(failed.column("error_type").to_pylist()) == {"ServerError", "Malformed"}
    recovered = results.filter(pc.equal(results.column("row"), 41))
    assert recovered.column("status").unique().to_pylist() == ["ok"]
    assert recovered.column("attempts").to_pylist() == [2] * 5
    assert results.column("list_cost_usd").drop_null().length() == 590


def test_the_demo_says_the_same_each_time(shell: Shell, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert shell("demo", "--rows", 6, "--out", folder, "--quiet", "--model", "openai/gpt-4o-mini").code == 0
    one, two = (parquet.read_table(tmp_path / folder / "results.parquet") for folder in ("one", "two"))
    for name in ("response", "input_tokens", "output_tokens", "cost_usd", "cache_hit"):
        assert one.column(name).equals(two.column(name))
    assert not any(two.column("cache_hit").to_pylist())


def test_another_seed_says_something_else(shell: Shell, tmp_path: Path) -> None:
    for seed in (1, 2):
        shell("demo", "--rows", 6, "--out", seed, "--quiet", "--seed", seed, "--model", "openai/gpt-4o-mini")
    one, two = (parquet.read_table(tmp_path / folder / "results.parquet") for folder in ("1", "2"))
    assert not one.column("response").equals(two.column("response"))


def test_a_quiet_demo_says_nothing(shell: Shell) -> None:
    said = shell("demo", "--rows", 3, "--quiet", "--model", "google/gemini-2.5-flash")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_the_demo_asks_nobody_in_earnest_though_a_key_is_set(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, speech: Any
) -> None:
    real = scripted([speech.answer()])
    environ.setenv("OPENAI_API_KEY", "sk-real-key-of-somebody")
    environ.setenv("OPENAI_BASE_URL", real.url)
    assert shell("demo", "--rows", 3, "--model", "openai/gpt-4o-mini").code == 0
    assert real.connections == 0


@pytest.mark.filterwarnings("always:token counts are estimates")
def test_real_providers_are_asked_only_on_request_and_only_those_whose_keys_are_set(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, speech: Any
) -> None:
    real = scripted([speech.answer("Hi")])
    environ.setenv("OPENAI_API_KEY", "sk-real-key-of-somebody")
    environ.setenv("OPENAI_BASE_URL", real.url)
    environ.setenv("TIKTOKEN_CACHE_DIR", "nowhere")
    environ.setattr("llmhub.tables.tokenizers.urlopen", _unreachable)
    said = shell("demo", "--rows", 18, "--real")
    assert said.code == 0
    assert "Real providers: openai/gpt-4o-mini; it costs $" in said.out
    assert "Simulated" not in said.out
    assert len(real.requests) == 18
    assert not any(b"[[sim:" in body for body in real.bodies)
    assert "sk-real" not in said.out + said.err


def _unreachable(*_: object, **__: object) -> object:
    raise OSError("no network here")


def test_real_providers_without_a_key_are_refused_with_the_variables_to_set(shell: Shell) -> None:
    said = shell("demo", "--real")
    assert said.code == 2
    assert "OPENAI_API_KEY or ANTHROPIC_API_KEY" in said.err
    assert "the simulator needs none" in said.err


def test_a_real_demo_that_fails_says_so_by_its_exit_code(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, speech: Any
) -> None:
    real = scripted([speech.reply(b'{"error":{"message":"no"}}', status=401)])
    environ.setenv("OPENAI_API_KEY", "sk-real-key-of-somebody")
    environ.setenv("OPENAI_BASE_URL", real.url)
    said = shell("demo", "--rows", 2, "--real", "--quiet")
    assert said.code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rows", "0"), "--rows: '0' is no whole number from 1 up"),
        (("--rows", "1201"), "--rows: 1201 is outside 1..1200"),
        (("--model", "groq/llama-3"), "no simulator speaks for 'groq'"),
        (("--model", "gpt-4o"), "names no provider"),
        (("--out", "a-file"), "--out: 'a-file': cannot be made"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(
    shell: Shell, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    Path(tmp_path / "a-file").touch()
    answer = shell("demo", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert answer.out == ""
