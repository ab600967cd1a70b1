"""Bad input, one by one: exit code 2, one line that names the argument, the value and the remedy, and nothing sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmhub.sim import SimulatorThread

Shell: TypeAlias = Callable[..., Any]


Refused: TypeAlias = Callable[..., str]


MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def refused(shell: Shell, simulator: SimulatorThread, rows: Path, tmp_path: Path) -> Refused:
    """Run with some arguments changed, and expect a refusal in a line before anything is sent."""

    def run(
        *,
        source: str | Path = rows,
        target: str | Path = "out.csv",
        prompt: str = "{text}",
        model: str = MODEL,
        more: tuple[str, ...] = ("--simulator", simulator.url),
    ) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        said = shell("run", source, target, "--prompt", prompt, "--model", model, *more)
        assert said.code == 2
        assert said.out == ""
        assert "Traceback" not in said.err
        first, *rest = said.err.splitlines()
        assert rest in ([], ["See 'llmhub run -h'."])
        assert first.startswith("llmhub run: ")
        assert "Hub(" not in first
        assert simulator.counts()["requests"] == 0
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "caches") == before
        return first.removeprefix("llmhub run: ")

    return run


def test_a_field_that_is_no_column(refused: Refused) -> None:
    said = refused(prompt="{txet}")
    assert said.startswith("--prompt: 'txet' is not a column")
    assert "Did you mean 'text'?" in said
    assert "'id', 'zip', 'text'" in said


def test_broken_braces(refused: Refused) -> None:
    assert refused(prompt="{text").startswith("--prompt: '{text'")


def test_a_value_that_cannot_be_formatted(refused: Refused) -> None:
    assert refused(prompt="{zip:.2f}").startswith("--prompt: {zip:.2f} cannot format '00501'")


def test_a_model_without_a_provider(refused: Refused) -> None:
    said = refused(model="gpt-4o-mini")
    assert said == "--model: 'gpt-4o-mini' names no provider; write 'provider/model', such as 'openai/gpt-4o-mini'"


def test_a_provider_that_there_is_not(refused: Refused) -> None:
    assert "Did you mean 'openai'?" in refused(model="opnai/gpt-4o-mini")


def test_a_model_given_twice(refused: Refused, simulator: SimulatorThread) -> None:
    assert "twice" in refused(more=("--simulator", simulator.url, "--model", MODEL))


def test_a_missing_key_says_what_to_set_and_that_the_simulator_needs_none(refused: Refused) -> None:
    said = refused(more=())
    assert said.startswith("--model: 'openai/gpt-4o-mini' needs credentials; the simulator (`llmhub sim`) needs none;")
    assert said.endswith("set OPENAI_API_KEY, or pass --simulator URL")


def test_a_provider_without_an_address(refused: Refused) -> None:
    assert "pass --base-url vllm=URL" in refused(model="vllm/m", more=())


def test_a_provider_that_is_not_simulated_is_not_asked_in_earnest(
    refused: Refused, environ: pytest.MonkeyPatch
) -> None:
    environ.setenv("GROQ_API_KEY", "gsk_0123456789abcdef0123")
    assert "no simulator speaks for 'groq'" in refused(model="groq/llama-3.3-70b")
    assert "no simulator speaks for 'ollama'" in refused(model="ollama/llama3")


def test_a_parameter_out_of_range(refused: Refused, simulator: SimulatorThread) -> None:
    said = refused(more=("--simulator", simulator.url, "--temperature", "9"))
    assert said.startswith("--temperature: openai: ")
    assert "9" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--concurrency", "0"), "--concurrency: '0' is no whole number from 1 up"),
        (("--n", "x"), "--n: 'x' is no whole number from 1 up"),
        (("--rpm", "-1"), "--rpm: '-1' is no number above 0"),
        (("--tpm", "nan"), "--tpm: 'nan' is no number above 0"),
        (("--temperature", "warm"), "--temperature: invalid float value: 'warm'"),
        (("--base-url", "openai"), "--base-url: 'openai' is not PROVIDER=URL"),
        (("--base-url", "openai=localhost"), "--base-url: 'localhost' is no address"),
        (("--base-url", "opnai=http://localhost"), "--base-url: no provider is named 'opnai'. Did you mean 'openai'?"),
        (("--simulator", "http://[broken"), "--simulator: 'http://[broken' is no address"),
        (("--simulator", "http://a", "--base-url", "openai=http://b"), "--base-url: not allowed with"),
        (("--cache", "a.db", "--no-cache"), "--no-cache: not allowed with"),
    ],
)
def test_arguments_that_cannot_be_read(refused: Refused, more: tuple[str, ...], said: str) -> pa.Table:
    assert refused(more=more).startswith(said)


def test_a_file_that_is_not_there(refused: Refused) -> None:
    assert refused(source="no.csv") == "INPUT: 'no.csv': cannot be read: No such file or directory"


def test_a_folder_in_place_of_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert refused(source="folder.csv") == "INPUT: 'folder.csv': cannot be read: Is a directory"
    assert refused(target="folder.csv") == "OUTPUT: 'folder.csv': is a folder; pass a file"


def test_extensions_that_are_not_known(refused: Refused) -> None:
    assert refused(source="rows.xlsx").startswith(
        "INPUT: 'rows.xlsx': its extension '.xlsx' is not known; use one of .parquet"
    )
    assert refused(target="out").startswith("OUTPUT: 'out': it has no extension; use one of .parquet")


def test_an_output_folder_that_is_not_there(refused: Refused) -> None:
    assert refused(target="no/out.csv") == "OUTPUT: 'no/out.csv': the folder 'no' does not exist; create it first"


def test_the_input_is_not_written_over_by_whatever_name(refused: Refused, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(rows)
    (tmp_path / "hard.csv").hardlink_to(rows)
    for name in (rows, f"../{tmp_path.name}/rows.csv", "link.csv", "hard.csv"):
        assert refused(target=name).endswith("is the input; give another file")


def test_a_column_that_the_output_cannot_hold_is_found_before_anything_is_paid(
    refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "odd.jsonl").write_text('{"text": "a", "odd": {}}\n', encoding="utf-8")
    assert "Parquet cannot hold a column of the input" in refused(source="odd.jsonl", target="out.parquet")


def test_an_unreadable_cache_is_refused_and_kept(refused: Refused, simulator: SimulatorThread, tmp_path: Path) -> None:
    cache = tmp_path / "cache.db"
    cache.write_text("not a database, but somebody's" * 100, encoding="utf-8")
    said = refused(more=("--simulator", simulator.url, "--cache", "cache.db"))
    assert said.startswith("--cache: cannot use 'cache.db' as a cache")
    assert "pass --no-cache to run without a cache" in said
    assert cache.read_text(encoding="utf-8") == "not a database, but somebody's" * 100


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
    ("name", "content", "said"),
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
def test_a_file_that_is_not_what_its_extension_says(
    refused: Refused, tmp_path: Path, name: str, content: str, said: str
) -> None:
    Path(tmp_path / name).write_bytes(CONTENTS[content])
    assert refused(source=name).startswith(f"INPUT: '{name}': {said}")


def test_a_configuration_that_cannot_be_read_is_named(refused: Refused, tmp_path: Path) -> pa.Table:
    (tmp_path / "llmhub.toml").write_text("[endpoints", encoding="utf-8")
    assert "llmhub.toml: cannot be read" in refused()


def test_an_option_that_there_is_not(shell: Shell, rows: Path) -> None:
    said = shell("run", rows, "out.csv", "--prompt", "{text}", "--model", MODEL, "--colour")
    assert said.code == 2
    assert said.err.startswith("llmhub: unrecognized arguments: --colour")


def test_no_command_and_a_wrong_command(shell: Shell) -> None:
    assert shell().code == 2
    said = shell("rnu")
    assert said.code == 2
    assert "'rnu'" in said.err
    assert "'run'" in said.err
