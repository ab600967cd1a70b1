"""IPython magics ``%%llm`` and ``%llm_config``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nest_asyncio
import pandas as pd
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"
BOTH = [MODEL, "anthropic/claude-haiku-4-5"]


@dataclass
class Answer:
    word: str


@pytest.fixture
def shell(simulator: SimulatorThread) -> Iterator[InteractiveShell]:
    """Return a shell with the extension loaded and a simulated hub."""
    interactive_shell = InteractiveShell()
    try:
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:
            llmhub.configure(hub)
            interactive_shell.run_line_magic("load_ext", "llmhub")
            interactive_shell.user_ns["frame"] = pd.DataFrame(
                {"t": ["one", None], "lang": ["Czech", "French"]}, index=["b", "a"]
            )
            yield interactive_shell
    finally:
        llmhub.configure(None)
        interactive_shell.history_manager.end_session()  # type: ignore[union-attr]


def cell(shell: InteractiveShell, line: str, body: str) -> Any:
    return shell.run_cell_magic("llm", line, body)


def test_cell_is_sent_unchanged(shell: InteractiveShell) -> None:
    body = 'Say {"a": 1}\nand $HOME.\n'
    answer = cell(shell, f"{MODEL} --temperature 0.5 --max-tokens 9", body)
    same = llmhub.complete('Say {"a": 1}\nand $HOME.', model=MODEL, temperature=0.5, max_tokens=9)
    assert answer.text == same.text
    assert "_repr_html_" in dir(answer)


def test_out_assigns_the_response(shell: InteractiveShell) -> None:
    assert cell(shell, f"-m {MODEL} --out said", "Say hi") is None
    assert shell.user_ns["said"].text == llmhub.complete("Say hi", model=MODEL).text
    for wrong in ("1x", "a b", "a.b"):
        with pytest.raises(UsageError, match="is not a variable name"):
            cell(shell, f"{MODEL} --out '{wrong}'", "Say hi")


def test_cell_over_a_frame(shell: InteractiveShell) -> None:
    line = f"--df frame --out rows -m {BOTH[0]} -m {BOTH[1]} --system 'In {{lang}}.' --no-progress --n 2"
    assert cell(shell, line, "Say {t}\n") is None
    rows = shell.user_ns["rows"]
    options = {"model": BOTH, "system": "In {lang}.", "n": 2, "progress": False}
    same = llmhub.llm(shell.user_ns["frame"]).complete("Say {t}", **options)
    assert rows["response"].tolist()[:4] == same["response"].tolist()[:4]
    assert list(rows.index) == ["b"] * 4 + ["a"] * 4
    plan = cell(shell, f"--df frame --plan {MODEL}", "Say {t}")
    assert plan.calls == 1
    single = cell(shell, f"--df frame {MODEL} --no-progress --prefix x_", "Say {t}")
    assert single["x_status"].tolist() == ["ok", "skipped"]


def test_fill_replaces_variables(shell: InteractiveShell) -> None:
    shell.user_ns |= {"name": "Ada", "kind": Answer}
    answer = cell(shell, f"{MODEL} --fill", "Greet {name} in {{}}.")
    assert answer.text == llmhub.complete("Greet Ada in {}.", model=MODEL).text
    with pytest.raises(UsageError, match="no variable 'nobody'"):
        cell(shell, f"{MODEL} -f", "Greet {nobody}.")
    rows = cell(shell, f"{MODEL} --df frame --schema kind --no-progress", "Say {t}")
    assert rows["status"].tolist()[0] == "ok"
    assert sorted(rows["parsed"].tolist()[0]) == ["word"]
    options = cell(shell, f"{MODEL} --schema kind", "Say hi")
    assert options.text == llmhub.complete("Say hi", model=MODEL, response_schema=Answer).text


def test_stream_is_printed_while_it_arrives(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert cell(shell, f"{MODEL} --stream --out said", "Say hi") is None
    assert capsys.readouterr().out == f"{shell.user_ns['said'].text}\n"
    assert cell(shell, f"{MODEL} --stream", "Say hi") is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no model"),
        ("--nothing", "unrecognized arguments: --nothing"),
        (f"{MODEL} --temperature hot", "invalid float value: 'hot'"),
        (f"{MODEL} --df nowhere", "no variable 'nowhere'"),
        (f"{MODEL} --n 2", "--n needs --df"),
        (f"{MODEL} --plan", "--plan needs --df"),
        (" ".join(BOTH), "several models need --df"),
        (f"{MODEL} --system 'open", "No closing quotation"),
        (f"{MODEL} --out", "expected one argument"),
        (f"{MODEL} --schema nothing", "no variable 'nothing'"),
    ],
)
def test_usage_errors(shell: InteractiveShell, simulator: SimulatorThread, line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cell(shell, line, "Say hi")
    assert simulator.counts()["requests"] == 0


def test_invalid_requests_raise(shell: InteractiveShell) -> None:
    with pytest.raises(BadRequestError, match=r"^model: 'nobody' names no provider"):
        cell(shell, "nobody", "Say hi")
    with pytest.raises(BadRequestError, match=r"^prompt: 'x' is not a column"):
        cell(shell, f"--df frame {MODEL}", "Say {x}")


def test_help_does_not_exit(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert cell(shell, "-h", "x") is None
    text = capsys.readouterr().out
    assert all(option in text for option in ("--out", "--df", "--temperature", "--max-tokens", "--n-jobs"))
    assert shell.run_line_magic("llm_config", "-h") is None
    help_text = " ".join(capsys.readouterr().out.split())
    assert "Known limits: cells queued by 'Run all' may not run afterwards" in help_text


def test_llm_config(shell: InteractiveShell, tmp_path: Any) -> None:
    path = tmp_path / "runs.db"
    line = f"--model {MODEL} --temperature 0.25 --cache {path} --budget-usd 5 --concurrency 3"
    text = repr(shell.run_line_magic("llm_config", line))
    assert "openai" in text
    assert "sim-key" not in text
    assert str(path) in text
    hub = llmhub.current_hub()
    assert (hub.budget_usd, hub.concurrency) == (5.0, 3)
    answer = cell(shell, "", "Say hi")
    assert answer.text == llmhub.complete("Say hi", model=MODEL, temperature=0.25).text
    assert path.exists()
    assert cell(shell, "--temperature 0.5", "Say hi").text
    shell.run_line_magic("llm_config", "--cache none")
    assert llmhub.current_hub().cache is None
    hub.close()
    shell.run_line_magic("llm_config", "--reset")
    with pytest.raises(UsageError, match="no model"):
        cell(shell, "", "Say hi")
    with pytest.raises(UsageError, match="unrecognized"):
        shell.run_line_magic("llm_config", "--modle x")


def test_llm_config_shows_no_keys(shell: InteractiveShell) -> None:
    endpoint = llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="sk-very-secret")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings()) as hub, llmhub.using(hub):
        assert "secret" not in repr(shell.run_line_magic("llm_config", ""))


def test_nest_asyncio_only_on_request(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[int] = []
    monkeypatch.setattr(nest_asyncio, "apply", lambda: applied.append(1))
    shell.run_line_magic("llm_config", "")
    assert applied == []
    shell.run_line_magic("llm_config", "--nest-asyncio")
    assert applied == [1]


async def test_cell_in_a_running_loop(shell: InteractiveShell) -> None:
    assert asyncio.get_running_loop().is_running()
    assert cell(shell, MODEL, "Say hi").text


def test_unload_extension(shell: InteractiveShell) -> None:
    shell.run_line_magic("unload_ext", "llmhub")
    assert "llm" not in shell.magics_manager.magics["cell"]
    assert "llm_config" not in shell.magics_manager.magics["line"]
