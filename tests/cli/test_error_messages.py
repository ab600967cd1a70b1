"""Wrong input: exit code 2, one line with argument, value and remedy, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmhub.sim import SimulatorThread

Shell: TypeAlias = Callable[..., Any]
Rejected: TypeAlias = Callable[..., str]

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def rejection(shell: Shell, simulator: SimulatorThread, rows: Path, tmp_path: Path) -> Rejected:
    """Run with changed arguments, require one error line and no request, and return the line."""

    def run(
        *,
        source: str | Path = rows,
        target: str | Path = "out.csv",
        prompt: str = "{text}",
        model: str = MODEL,
        more: tuple[str, ...] = ("--simulator", simulator.url),
    ) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        result = shell("run", source, target, "--prompt", prompt, "--model", model, *more)
        assert result.code == 2
        assert result.out == ""
        assert "Traceback" not in result.err
        first, *rest = result.err.splitlines()
        assert rest in ([], ["See 'llmhub run -h'."])
        assert first.startswith("llmhub run: ")
        assert "Hub(" not in first
        assert simulator.counts()["requests"] == 0
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "caches") == before
        return first.removeprefix("llmhub run: ")

    return run


def test_prompt_with_an_unknown_column(rejection: Rejected) -> None:
    line = rejection(prompt="{txet}")
    assert line.startswith("--prompt: 'txet' is not a column")
    assert "Did you mean 'text'?" in line
    assert "'id', 'zip', 'text'" in line


def test_unbalanced_braces(rejection: Rejected) -> None:
    assert rejection(prompt="{text").startswith("--prompt: '{text'")


def test_value_that_cannot_be_formatted(rejection: Rejected) -> None:
    assert rejection(prompt="{zip:.2f}").startswith("--prompt: {zip:.2f} cannot format '00501'")


def test_model_without_a_provider(rejection: Rejected) -> None:
    line = rejection(model="gpt-4o-mini")
    assert line == "--model: 'gpt-4o-mini' names no provider; write 'provider/model', such as 'openai/gpt-4o-mini'"


def test_unknown_provider(rejection: Rejected) -> None:
    assert "Did you mean 'openai'?" in rejection(model="opnai/gpt-4o-mini")


def test_duplicate_model(rejection: Rejected, simulator: SimulatorThread) -> None:
    assert "twice" in rejection(more=("--simulator", simulator.url, "--model", MODEL))


def test_missing_key_suggests_variable_and_simulator(rejection: Rejected) -> None:
    line = rejection(more=())
    assert line.startswith("--model: 'openai/gpt-4o-mini' needs credentials; the simulator (`llmhub sim`) needs none;")
    assert line.endswith("set OPENAI_API_KEY, or pass --simulator URL")


def test_provider_without_base_url(rejection: Rejected) -> None:
    assert "pass --base-url vllm=URL" in rejection(model="vllm/m", more=())


def test_parameter_out_of_range(rejection: Rejected, simulator: SimulatorThread) -> None:
    line = rejection(more=("--simulator", simulator.url, "--temperature", "9"))
    assert line.startswith("--temperature: openai: ")
    assert "9" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--concurrency", "0"), "--concurrency: must be an integer of 1 or more, not '0'"),
        (("--n", "x"), "--n: must be an integer of 1 or more, not 'x'"),
        (("--rpm", "-1"), "--rpm: must be a number above 0, not '-1'"),
        (("--tpm", "nan"), "--tpm: must be a number above 0, not 'nan'"),
        (("--temperature", "warm"), "--temperature: invalid float value: 'warm'"),
        (("--base-url", "openai"), "--base-url: 'openai' is not PROVIDER=URL"),
        (("--base-url", "openai=localhost"), "--base-url: 'localhost' is not an HTTP URL"),
        (("--base-url", "opnai=http://localhost"), "--base-url: no provider is named 'opnai'. Did you mean 'openai'?"),
        (("--simulator", "http://[broken"), "--simulator: 'http://[broken' is not an HTTP URL"),
        (("--simulator", "http://a", "--base-url", "openai=http://b"), "--base-url: not allowed with"),
        (("--cache", "a.db", "--no-cache"), "--no-cache: not allowed with"),
    ],
)
def test_argument_that_cannot_be_parsed(rejection: Rejected, more: tuple[str, ...], message: str) -> pa.Table:
    assert rejection(more=more).startswith(message)


def test_missing_file(rejection: Rejected) -> None:
    assert rejection(source="no.csv") == "INPUT: 'no.csv': cannot be read: No such file or directory"


def test_folder_instead_of_a_file(rejection: Rejected, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert rejection(source="folder.csv") == "INPUT: 'folder.csv' has no rows"
    assert rejection(target="folder.csv") == "OUTPUT: 'folder.csv': is a folder; pass a file"


def test_unknown_extension(rejection: Rejected) -> None:
    assert rejection(source="rows.xlsx").startswith(
        "INPUT: 'rows.xlsx': its extension '.xlsx' is not known; use one of .parquet"
    )
    assert rejection(target="out").startswith("OUTPUT: 'out': it has no extension; use one of .parquet")


def test_missing_output_folder(rejection: Rejected) -> None:
    assert rejection(target="no/out.csv") == "OUTPUT: 'no/out.csv': the folder 'no' does not exist; create it first"


def test_input_is_not_overwritten_by_any_path(rejection: Rejected, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(rows)
    (tmp_path / "hard.csv").hardlink_to(rows)
    for name in (rows, f"../{tmp_path.name}/rows.csv", "link.csv", "hard.csv"):
        assert rejection(target=name).endswith("is the input file; pass another file")


def test_column_that_cannot_be_written_is_found_before_sending(rejection: Rejected, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"text": "a", "odd": {}}\n', encoding="utf-8")
    assert "Parquet cannot hold a column of the input" in rejection(source="odd.jsonl", target="out.parquet")


def test_unreadable_cache_is_rejected_and_kept(rejection: Rejected, simulator: SimulatorThread, tmp_path: Path) -> None:
    cache = tmp_path / "cache.db"
    cache.write_text("not a database, but another file" * 100, encoding="utf-8")
    line = rejection(more=("--simulator", simulator.url, "--cache", "cache.db"))
    assert line.startswith("--cache: cannot use 'cache.db' as a cache")
    assert "pass --no-cache to run without a cache" in line
    assert cache.read_text(encoding="utf-8") == "not a database, but another file" * 100


PARQUET = pa.BufferOutputStream()
parquet.write_table(pa.table({"text": ["a"]}), PARQUET)
CONTENTS = {
    "parquet": PARQUET.getvalue().to_pybytes(),
    "lines": b'{"text": "a"}\n{"text": "b"}\n',
    "array": b'[{"text": "a"}]',
    "csv": b"text\na\n",
    "gzip": b"\x1f\x8b\x08\x00" + bytes(range(64)),
    "utf-16": "text\na\n".encode("utf-16"),
    "latin-1": "text\ncafé\n".encode("latin-1"),
    "binary": b"text\0\xff\xfe\0\0",
    "nothing": b"",
    "ragged": b"text,b\n1,2\n3\n",
    "twice": b"text,text\n1,2\n",
    "cut": PARQUET.getvalue().to_pybytes()[:200],
    "pretty": b'{\n  "text": "a"\n}\n',
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.csv", "parquet", "its extension is that of CSV, but it contains Parquet"),
        ("bad.csv", "lines", "its extension is that of CSV, but it contains JSON lines"),
        ("bad.csv", "utf-16", "its extension is that of CSV, but it contains UTF-16 text"),
        ("bad.csv", "latin-1", "its extension is that of CSV, but it contains text that is not UTF-8"),
        ("bad.csv", "gzip", "its extension is that of CSV, but it contains gzip"),
        ("bad.csv", "binary", "its extension is that of CSV, but it contains binary data"),
        ("bad.csv", "nothing", "is not valid CSV (it is empty"),
        ("bad.csv", "ragged", "is not valid CSV (CSV parse error: Expected 2 columns, got 1"),
        ("bad.csv", "twice", "has 2 columns named 'text'; rename one"),
        ("bad.jsonl", "csv", "its extension is that of JSON lines, but it contains text"),
        ("bad.jsonl", "array", "its extension is that of JSON lines, but it contains one JSON array"),
        ("bad.jsonl", "parquet", "its extension is that of JSON lines, but it contains Parquet"),
        ("bad.ndjson", "pretty", "is not valid JSON lines (line 1 is not a JSON object"),
        ("bad.parquet", "csv", "its extension is that of Parquet, but it contains text"),
        ("bad.parquet", "cut", "is not valid Parquet"),
        ("bad.parquet", "nothing", "is not valid Parquet"),
        ("bad.arrow", "parquet", "its extension is that of Arrow, but it contains Parquet"),
        ("bad.feather", "lines", "its extension is that of Arrow, but it contains JSON lines"),
        ("bad.ipc", "nothing", "is not valid Arrow"),
    ],
)
def test_file_with_a_wrong_extension(
    rejection: Rejected, tmp_path: Path, name: str, content: str, message: str
) -> None:
    Path(tmp_path / name).write_bytes(CONTENTS[content])
    assert rejection(source=name).startswith(f"INPUT: '{name}': {message}")


def test_invalid_configuration_file_is_named(rejection: Rejected, tmp_path: Path) -> pa.Table:
    (tmp_path / "llmhub.toml").write_text("[endpoints", encoding="utf-8")
    assert "llmhub.toml: cannot be read" in rejection()


def test_unknown_option(shell: Shell, rows: Path) -> None:
    result = shell("run", rows, "out.csv", "--prompt", "{text}", "--model", MODEL, "--colour")
    assert result.code == 2
    assert result.err.startswith("llmhub: unrecognized arguments: --colour")


def test_unknown_command(shell: Shell) -> None:
    result = shell("rnu")
    assert result.code == 2
    assert "'rnu'" in result.err
    assert "'run'" in result.err
