"""A process that ends while requests are in flight waits for them, and files their responses."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import dataset

import llmhub
from llmhub.config import Settings
from llmhub.sim import Latency, Simulator, SimulatorThread, serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

IN_FLIGHT = 8
START = """
import sys, threading
import llmhub
from llmhub.config import Settings
url, cache, sink = sys.argv[1:4]
hub = llmhub.Hub(endpoints={"openai": llmhub.Endpoint(base_url=url, api_key="k")}, settings=Settings(),
                 cache=cache or None, concurrency=8)
frame = {"n": [str(number) for number in range(100)]}
options = {"model": "openai/gpt-4o-mini", "hub": hub, "progress": False}

def started():
    sys.stdin.readline()  # the server has 8 requests
"""
SUBMIT = "job = llmhub.submit(frame, 'Say {n}', **options); started()\n"
ENDINGS = {
    "end of the script": "",
    "sys.exit": "sys.exit(3)",
    "exception": "raise ValueError('broken')",
    "exit in a function": "threading.Thread(target=lambda: None).start(); raise SystemExit",
}


@pytest.fixture
def slow() -> Iterator[SimulatorThread]:
    with serving(Simulator(latency=Latency(0.3))) as served:
        yield served


class Script:
    """A script in a process of its own."""

    def __init__(self, served: SimulatorThread, folder: Path, code: str, *, cache: bool = True, sink: str = "") -> None:
        self.served = served
        self.cache = folder / "runs.db"
        arguments = [served.base_url("openai"), str(self.cache) if cache else "", sink]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START + code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_sent(self, count: int = IN_FLIGHT) -> None:
        while self.served.counts()["requests"] < count:
            assert self.process.poll() is None, self.process.communicate()
            threading.Event().wait(0.005)

    def proceed(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def signal_until_it_ends(self, number: signal.Signals) -> None:
        """Send a signal again and again: two at once would count as one."""
        while self.process.poll() is None:
            self.process.send_signal(number)
            threading.Event().wait(0.05)

    def wait(self) -> int:
        self.output, self.errors = self.process.communicate(timeout=60)
        return self.process.returncode

    def assert_all_filed(self) -> None:
        """Check that every request that was sent has a response in the cache."""
        sent = self.served.counts()["requests"]
        store = llmhub.DiskCache(self.cache).open()
        assert store.ledger is not None
        states = Counter(request.state for request in store.ledger.requests())
        entries = store.stats().entries
        store.close()
        assert sent >= IN_FLIGHT
        assert (entries, dict(states)) == (sent, {"done": sent})


@pytest.mark.parametrize("ending", ENDINGS)
def test_requests_in_flight_are_filed_when_a_script_ends(slow: SimulatorThread, tmp_path: Path, ending: str) -> None:
    script = Script(slow, tmp_path, SUBMIT + ENDINGS[ending])
    script.wait_until_sent()
    script.proceed()
    code = script.wait()
    assert code == {"sys.exit": 3, "exception": 1}.get(ending, 0), script.errors
    assert "Traceback" not in script.errors.replace("Traceback", "", int(ending == "exception"))
    script.assert_all_filed()
    assert slow.counts()["requests"] < 100


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(SUBMIT + "threading.Event().wait()", id="job"),
        pytest.param("llmhub.complete_table(frame, 'Say {n}', **options)", id="table"),
        pytest.param("llmhub.complete_table(frame, 'Say {n}', **options, sink=sink)", id="sink"),
        pytest.param("import asyncio; asyncio.run(llmhub.acomplete_table(frame, 'Say {n}', **options))", id="awaited"),
        pytest.param("for table in llmhub.stream_table(frame, 'Say {n}', **options): pass", id="stream"),
        pytest.param(
            "llmhub.embed_table(frame, 'n', model='openai/text-embedding-3-small', hub=hub, batch_size=1)",
            id="embeddings",
        ),
    ],
)
def test_requests_in_flight_are_filed_at_a_termination_signal(slow: SimulatorThread, tmp_path: Path, code: str) -> None:
    script = Script(slow, tmp_path, code, sink=str(tmp_path / "parts"))
    script.wait_until_sent()
    script.proceed()
    script.process.send_signal(signal.SIGTERM)
    assert script.wait() == -signal.SIGTERM, script.errors
    assert script.errors == ""
    script.assert_all_filed()
    if "sink" in code:
        rows = dataset.dataset(tmp_path / "parts").to_table().column("status").to_pylist()
        assert rows.count("ok") == slow.counts()["requests"]


@pytest.mark.parametrize(
    "start",
    [
        "lambda: llmhub.complete_table(frame, 'Say {n}', **options)",
        "lambda: [llmhub.submit(frame, 'Say {n}', **options), started()]",
    ],
    ids=["table", "job"],
)
def test_work_of_other_threads_is_filed_where_a_handler_of_the_program_exits(
    slow: SimulatorThread, tmp_path: Path, start: str
) -> None:
    """Only the main thread can install a handler, so the default one would end the process at once."""
    code = f"""
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
threading.Thread(target={start}, daemon=True).start()
threading.Event().wait()
"""
    script = Script(slow, tmp_path, code)
    script.wait_until_sent()
    script.process.send_signal(signal.SIGTERM)
    assert script.wait() == 5, script.errors
    script.assert_all_filed()
    assert slow.counts()["requests"] < 100


def test_a_second_termination_signal_does_not_wait(tmp_path: Path) -> None:
    with serving(Simulator(latency=Latency(3600.0))) as hanging:
        script = Script(hanging, tmp_path, SUBMIT + "print('waiting', flush=True); threading.Event().wait()")
        script.wait_until_sent()
        script.proceed()
        assert script.process.stdout is not None
        assert script.process.stdout.readline() == "waiting\n"
        script.signal_until_it_ends(signal.SIGTERM)
        assert script.wait() == -signal.SIGTERM


def test_an_interrupt_while_a_script_ends_does_not_wait(tmp_path: Path) -> None:
    code = "import atexit; atexit.register(lambda: print('ending', flush=True))\n" + SUBMIT
    with serving(Simulator(latency=Latency(3600.0))) as hanging:
        # Registered before the loop was started, so it runs after the requests have been waited for.
        script = Script(hanging, tmp_path, code)
        script.wait_until_sent()
        script.proceed()
        script.signal_until_it_ends(signal.SIGINT)
        script.wait()
        assert script.output == "ending\n"


def test_without_a_cache_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    with serving(Simulator(latency=Latency(3600.0))) as hanging:
        script = Script(hanging, tmp_path, SUBMIT, cache=False)
        script.wait_until_sent()
        script.proceed()
        assert script.wait() == 0, script.errors


def test_an_own_handler_of_the_program_is_kept(slow: SimulatorThread, tmp_path: Path) -> None:
    code = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
table = llmhub.complete_table(frame, "Say {n}", **options)
print(table.column("status").to_pylist().count("ok"))
"""
    script = Script(slow, tmp_path, code)
    script.wait_until_sent()
    script.process.send_signal(signal.SIGTERM)
    assert script.wait() == 0, script.errors
    assert script.output.splitlines() == ["mine", "100"]


def test_a_process_without_runs_dies_of_the_signal(slow: SimulatorThread, tmp_path: Path) -> None:
    code = "llmhub.submit({'n': ['a']}, 'Say {n}', **options).result(); print('done', flush=True); "
    code += "threading.Event().wait()"
    script = Script(slow, tmp_path, code)
    assert script.process.stdout is not None
    assert script.process.stdout.readline() == "done\n"
    script.process.send_signal(signal.SIGTERM)
    assert script.wait() == -signal.SIGTERM


def test_signal_handlers_are_restored(simulator: SimulatorThread) -> None:
    before: Any = signal.getsignal(signal.SIGTERM)
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:
        llmhub.complete_table({"n": ["a"]}, "Say {n}", model="openai/gpt-4o-mini", hub=hub, progress=False)
    assert signal.getsignal(signal.SIGTERM) is before
