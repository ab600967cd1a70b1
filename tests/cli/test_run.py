"""``llmhub run``: files in, files out, options, failures, caching."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pytest
from pyarrow import csv, ipc, parquet

from llmhub.sim import Faults, Simulator, SimulatorThread, serving
from llmhub.tables.schema import RESULTS

Shell: TypeAlias = Callable[..., Any]
Script: TypeAlias = Callable[..., Any]

MODEL = "openai/gpt-4o-mini"
OTHER = "anthropic/claude-haiku-4-5"
SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
SOURCE = pa.table({"id": [1, 2, 3], "text": ["one", "two", "three"], "tags": [["a"], [], None]})


def _write(table: pa.Table, path: Path) -> None:
    match path.suffix:
        case ".csv":
            csv.write_csv(table.set_column(2, "tags", pa.array(['["a"]', "[]", None])), path)
        case ".jsonl" | ".ndjson":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
        case ".parquet":
            parquet.write_table(table, path)
        case _:
            with ipc.new_file(path, table.schema) as file:
                file.write_table(table)


def _read(path: Path) -> pa.Table:
    match path.suffix:
        case ".csv":
            return csv.read_csv(path)
        case ".jsonl" | ".ndjson":
            return pa.Table.from_pylist([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
        case ".parquet":
            return parquet.read_table(path)
        case _:
            return ipc.open_file(path).read_all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_input_file_types(shell: Shell, simulator: SimulatorThread, tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"rows{suffix}"
    _write(SOURCE, source)
    result = shell(
        "run", source, "out.parquet", "--prompt", "Say {text}", "--model", MODEL, "--simulator", simulator.url
    )
    assert result.code == 0
    table = parquet.read_table("out.parquet")
    assert table.column("id").to_pylist() == [1, 2, 3]
    assert table.column("text").to_pylist() == ["one", "two", "three"]
    assert table.column("status").to_pylist() == ["ok"] * 3
    assert simulator.counts()["requests"] == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_output_file_types(shell: Shell, simulator: SimulatorThread, tmp_path: Path, suffix: str) -> None:
    _write(SOURCE, tmp_path / "rows.parquet")
    target = tmp_path / f"out{suffix}"
    arguments = ("--prompt", "{text}", "--model", MODEL, "--model", OTHER, "--n", 2, "--simulator", simulator.url)
    assert shell("run", "rows.parquet", target, *arguments).code == 0
    table = _read(target)
    assert table.column_names == ["id", "text", "tags", *RESULTS.names]
    assert table.num_rows == 3 * 2 * 2
    assert table.column("row").to_pylist() == [row for row in range(3) for _ in range(4)]
    assert table.column("id").to_pylist() == [row + 1 for row in range(3) for _ in range(4)]
    assert table.column("sample").to_pylist() == [0, 1] * 6
    assert (
        table.column("model").to_pylist() == ["gpt-4o-mini", "gpt-4o-mini", "claude-haiku-4-5", "claude-haiku-4-5"] * 3
    )
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_parquet_and_arrow_have_the_exact_schema(shell: Shell, simulator: SimulatorThread, tmp_path: Path) -> None:
    _write(SOURCE, tmp_path / "rows.parquet")
    for name in ("out.parquet", "out.arrow"):
        shell("run", "rows.parquet", name, "--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url)
        schema = _read(tmp_path / name).schema
        assert schema.equals(pa.schema([*SOURCE.schema, *RESULTS]))
        assert schema.field("latency_s").metadata[b"unit"] == b"s"
        assert schema.metadata[b"schema_version"] == RESULTS.metadata[b"schema_version"]
        assert len(schema.metadata[b"run_id"]) == 32


def test_text_files_encode_keys_costs_times_and_nested_values(
    shell: Shell, simulator: SimulatorThread, tmp_path: Path
) -> None:
    _write(SOURCE, tmp_path / "rows.parquet")
    arguments = ("--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url, "--no-cache")
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        shell("run", "rows.parquet", name, *arguments)
    exact = parquet.read_table("out.parquet")
    text = csv.read_csv(
        "out.csv", convert_options=csv.ConvertOptions(column_types=dict.fromkeys(RESULTS.names, pa.string()))
    )
    lines = _read(tmp_path / "out.jsonl")
    for table in (text, lines):
        assert table.column("request_key").to_pylist() == [key.hex() for key in exact.column("request_key").to_pylist()]
        assert [Decimal(cost) for cost in table.column("cost_usd").to_pylist()] == exact.column("cost_usd").to_pylist()
        assert all(at.endswith("Z") and "T" in at for at in table.column("started_at").to_pylist())
    assert text.column("tool_calls").to_pylist() == ["[]"] * 3
    assert text.column("tags").to_pylist() == ['["a"]', "[]", ""]
    assert lines.column("tags").to_pylist() == [["a"], [], None]


def test_repeated_command_is_answered_from_the_cache(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    arguments = ("run", rows, "out.parquet", "--prompt", "{text}", "--model", MODEL, "--model", OTHER)
    arguments = (*arguments, "--simulator", simulator.url, "--cache", "runs.db")
    first = shell(*arguments)
    before = parquet.read_table("out.parquet")
    assert simulator.counts()["requests"] == 4
    second = shell(*arguments)
    after = parquet.read_table("out.parquet")
    assert (first.code, second.code) == (0, 0)
    assert simulator.counts()["requests"] == 4
    assert before.column("response").equals(after.column("response"))
    assert set(after.column("cost_usd").drop_null().to_pylist()) == {Decimal(0)}
    assert after.column("list_cost_usd").equals(before.column("list_cost_usd"))
    assert "4 cached" in second.err
    assert "$0" in second.out


def test_no_cache_sends_everything_again(shell: Shell, simulator: SimulatorThread, rows: Path, tmp_path: Path) -> None:
    arguments = ("run", rows, "out.csv", "--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url)
    for _ in range(2):
        assert shell(*arguments, "--no-cache").code == 0
    assert simulator.counts()["requests"] == 4
    assert not (tmp_path / "caches").exists()


def test_row_without_a_value_is_skipped(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    result = shell(
        "run", rows, "out.parquet", "--prompt", "{zip}: {text}", "--model", MODEL, "--simulator", simulator.url
    )
    table = parquet.read_table("out.parquet")
    assert result.code == 0
    assert table.column("status").to_pylist() == ["ok", "skipped", "ok"]
    assert table.column("zip").to_pylist() == ["00501", "10001", "94105"]
    assert table.column("text").to_pylist() == ["a first\nline, and a second", None, "the third"]
    assert "rows skipped because a value of the prompt is missing: 1" in result.err


def test_failed_rows_do_not_affect_others_and_give_exit_code_1(
    shell: Shell, simulator: SimulatorThread, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"q": "good"}\n{"q": "bad [[sim:quota always]]"}\n{"q": "worse [[sim:malformed always]]"}\n', encoding="utf-8"
    )
    result = shell("run", "rows.jsonl", "out.jsonl", "--prompt", "{q}", "--model", MODEL, "--simulator", simulator.url)
    assert result.code == 1
    assert "2 of 3 rows failed" in result.err
    assert "QuotaExhausted" in result.err
    assert "row 2, openai/gpt-4o-mini" in result.err
    table = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in table] == ["ok", "error", "error"]
    assert [row["error_type"] for row in table] == [None, "QuotaExhausted", "Malformed"]
    assert table[0]["response"]
    assert "Wrote 3 rows to out.jsonl" in result.out


def test_on_error_raise_keeps_the_existing_output(shell: Shell, simulator: SimulatorThread, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("q\ngood\nbad [[sim:quota always]]\n", encoding="utf-8")
    (tmp_path / "out.csv").write_text("as it was", encoding="utf-8")
    arguments = ("run", "rows.csv", "out.csv", "--prompt", "{q}", "--model", MODEL, "--simulator", simulator.url)
    result = shell(*arguments, "--on-error", "raise")
    assert result.code == 1
    assert "no output was written" in result.err
    assert "answers are cached" in result.err
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "as it was"
    assert shell(*arguments).code == 1
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith('"q","row"')


def test_options_are_sent_to_the_model(
    shell: Shell, scripted: Script, replies: Any, environ: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = scripted([replies.answer("Hi")])
    (tmp_path / "rows.csv").write_text("q\nhello\n", encoding="utf-8")
    more = shlex.split("--system Brief --temperature 0.5 --top-p 0.9 --max-tokens 7 --seed 3 --stop END --stop FIN")
    result = shell(
        "run", "rows.csv", "out.csv", "--prompt", "{q}!", "--model", "compatible/m", *more,
        "--base-url", f"compatible={server.url}/v1", "--no-cache", "--quiet",
    )  # fmt: skip
    assert (result.code, result.out, result.err) == (0, "", "")
    (body,) = [json.loads(body) for body in server.bodies]
    assert body["messages"] == [{"role": "system", "content": "Brief"}, {"role": "user", "content": "hello!"}]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (0.5, 0.9, 7, 3)
    assert body["stop"] == ["END", "FIN"]
    assert server.requests[0].startswith(b"POST /v1/chat/completions")


def test_stream_measures_the_time_to_the_first_token(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    shell("run", rows, "out.parquet", "--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url, "--stream")
    assert parquet.read_table("out.parquet").column("ttft_s").null_count == 1


def test_unsupported_option_can_be_dropped(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    arguments = (
        "run",
        rows,
        "out.parquet",
        "--prompt",
        "{text}",
        "--model",
        OTHER,
        "--simulator",
        simulator.url,
        "--seed",
        1,
    )
    rejected = shell(*arguments)
    assert rejected.code == 2
    assert rejected.err.startswith("llmhub run: --seed: anthropic: ")
    assert simulator.counts()["requests"] == 0
    assert shell(*arguments, "--unsupported", "drop").code == 0
    assert parquet.read_table("out.parquet").column("dropped_params").to_pylist()[0] == ["seed"]


def test_columns_can_be_omitted_or_prefixed(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    arguments = ("--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url)
    shell("run", rows, "bare.parquet", *arguments, "--no-columns")
    assert parquet.read_table("bare.parquet").schema.equals(RESULTS)
    clash = shell("run", "bare.parquet", "again.parquet", "--prompt", "{response}", *arguments[2:])
    assert clash.code == 2
    assert "--prefix: " in clash.err
    assert "pass --prefix llm_" in clash.err
    assert (
        shell("run", "bare.parquet", "again.parquet", "--prompt", "{response}", *arguments[2:], "--prefix", "llm_").code
        == 0
    )
    assert parquet.read_table("again.parquet").column_names == [
        *RESULTS.names,
        *(f"llm_{name}" for name in RESULTS.names),
    ]


def test_empty_input_gives_an_empty_output(shell: Shell, simulator: SimulatorThread, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("q\n", encoding="utf-8")
    result = shell("run", "rows.csv", "out.parquet", "--prompt", "{q}", "--model", MODEL, "--simulator", simulator.url)
    assert result.code == 0
    assert "No rows." in result.out
    assert parquet.read_table("out.parquet").num_rows == 0


def test_prompt_without_columns_is_noted_and_sent_once(shell: Shell, simulator: SimulatorThread, rows: Path) -> None:
    result = shell("run", rows, "out.csv", "--prompt", "Say hi", "--model", MODEL, "--simulator", simulator.url)
    assert result.code == 0
    assert "note: prompt: 'Say hi' names no column, so all 3 rows send the same request" in result.err
    assert simulator.counts()["requests"] == 1


def test_concurrency_and_rate_limits_are_obeyed(shell: Shell, rows: Path) -> None:
    with serving(Simulator(faults=Faults())) as simulator:
        arguments = (
            "--prompt",
            "{text}",
            "--model",
            MODEL,
            "--simulator",
            simulator.url,
            "--rpm",
            "6000",
            "--tpm",
            "1e6",
        )
        assert shell("run", rows, "out.parquet", *arguments, "--concurrency", 1).code == 0
        assert simulator.counts()["max_in_flight"] == 1


def test_unreachable_url_fails_every_row(shell: Shell, rows: Path) -> None:
    result = shell(
        "run", rows, "out.csv", "--prompt", "{text}", "--model", "vllm/m", "--base-url", "vllm=http://127.0.0.1:1/v1"
    )
    assert result.code == 1
    assert "cannot connect to http://127.0.0.1:1" in result.err
    assert "check its base URL" in result.err


def test_key_is_sent_and_not_written(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, replies: Any, rows: Path, tmp_path: Path
) -> None:
    environ.setenv("OPENAI_API_KEY", "sk-real-key-of-somebody")
    server = scripted(
        [replies.reply(b'{"error":{"message":"Incorrect API key: sk-real-key-of-somebody"}}', status=401)]
    )
    result = shell(
        "run", rows, "out.jsonl", "--prompt", "{text}", "--model", MODEL, "--base-url", f"openai={server.url}"
    )
    assert result.code == 1
    assert b"sk-real-key-of-somebody" in server.requests[0]
    assert "AuthFailed" in result.err
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert "sk-real" not in result.out + result.err + written
    assert "[redacted]" in written
