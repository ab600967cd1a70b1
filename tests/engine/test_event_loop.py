"""The background loop: blocking calls from any thread, interrupts as stop requests, shutdown, and forked children."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from llmhub.engine import event_loop as module
from llmhub.engine.event_loop import StopSignal, background_loop, run_in_background, run_in_thread, run_sync, submit

# Blocking calls


async def where() -> tuple[asyncio.AbstractEventLoop, str]:
    return asyncio.get_running_loop(), threading.current_thread().name


def test_all_threads_share_one_loop() -> None:
    results: list[Any] = [run_sync(lambda _: where()) for _ in range(2)]
    threads = [threading.Thread(target=lambda: results.append(run_sync(lambda _: where()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert set(results) == {(background_loop(), "llmhub-loop")}


async def test_blocking_call_works_inside_another_loop() -> None:
    loop, _ = run_sync(lambda _: where())
    assert loop is background_loop()
    assert loop is not asyncio.get_running_loop()
    assert await run_in_background(where()) == (loop, "llmhub-loop")


def test_blocking_call_on_the_background_loop_raises() -> None:
    async def nested(stop: StopSignal) -> None:
        run_sync(lambda _: where())

    with pytest.raises(RuntimeError, match="await the async form"):
        run_sync(nested)


def test_run_in_background_on_the_background_loop_awaits_directly() -> None:
    async def nested(stop: StopSignal) -> Any:
        return await run_in_background(where())

    assert run_sync(nested)[0] is background_loop()


class DefectError(Exception):
    pass


@pytest.mark.parametrize("error", [DefectError("x"), TimeoutError("of the work itself"), KeyError("k")])
def test_exceptions_propagate_unchanged(error: Exception) -> None:
    async def fail(stop: StopSignal) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run_sync(fail)
    assert (type(caught.value), caught.value.args) == (type(error), error.args)


async def test_cancelling_the_caller_cancels_the_work() -> None:
    started, ended = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(run_in_background(work()))
    await asyncio.get_running_loop().run_in_executor(None, started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.get_running_loop().run_in_executor(None, ended.wait, 10)


async def test_sleeping_caller_loop_notices_a_cancellation() -> None:
    """A notebook kernel cancels an awaiting cell from a signal handler like this."""
    started, ended = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def interrupt() -> None:
        assert started.wait(10)
        loop.call_soon(task.cancel)
        assert ended.wait(10)

    loop, task = asyncio.get_running_loop(), asyncio.create_task(run_in_background(work()))
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(asyncio.CancelledError):
        await task
    thread.join()


async def test_run_in_thread_does_not_block_the_loop() -> None:
    ident = threading.get_ident()
    other, args = await run_in_thread(lambda *given: (threading.get_ident(), given), 1, 2)
    assert other != ident
    assert args == (1, 2)


def test_closed_loop_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    monkeypatch.setattr(module._BACKGROUND, "loop", closed)
    before = set(threading.enumerate())
    loop = background_loop()
    assert loop is not closed
    assert submit(where()).result(10)[0] is loop
    (thread,) = set(threading.enumerate()) - before
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


# Stop requests


def test_second_stop_request_is_immediate() -> None:
    stop, seen = StopSignal(), []
    stop.add_listener(lambda: seen.append((stop.requested, stop.immediate)))
    assert (stop.requested, stop.immediate) == (False, False)
    for _ in range(3):
        stop.request()
    assert seen == [(True, False), (True, True), (True, True)]


def interrupted(program: str, presses: int) -> tuple[int, str, str]:
    """Run a program, interrupt it the first ``presses`` times it prints ``ready``; return exit code, output, errors."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    output: list[str] = []
    for line in process.stdout:
        output.append(line)
        if line == "ready\n" and presses:
            presses -= 1
            process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, "".join(output), errors


PROGRAM = """
    import asyncio
    from llmhub.engine.event_loop import run_sync

    async def work(stop):
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.add_listener(lambda: loop.call_soon_threadsafe(woken.set))
        try:
            while True:
                woken.clear()
                print("ready")
                await woken.wait()
                print("stop", stop.requested, stop.immediate)
                if stop.{when}:
                    return "drained"
        finally:
            print("unwound")

    try:
        print(run_sync(work))
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_first_interrupt_drains_and_returns_results() -> None:
    code, output, errors = interrupted(PROGRAM.format(when="requested"), 1)
    assert (code, output, errors) == (0, "ready\nstop True False\nunwound\ndrained\n", "")


def test_second_interrupt_is_immediate() -> None:
    code, output, errors = interrupted(PROGRAM.format(when="immediate"), 2)
    assert (code, errors) == (0, "")
    assert output == "ready\nstop True False\nready\nstop True True\nunwound\ndrained\n"


def test_third_interrupt_raises() -> None:
    program = PROGRAM.format(when="immediate and False")
    code, output, errors = interrupted(program, 3)
    assert (code, errors) == (0, "")
    assert "interrupted" in output


def test_interrupt_after_a_call_raises_as_usual() -> None:
    program = """
        import signal
        from llmhub.engine.event_loop import run_sync

        async def work(stop):
            return 1

        run_sync(work)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        try:
            print("ready")
            signal.pause()
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert interrupted(program, 1)[1] == "ready\ninterrupted\n"


def test_custom_signal_handler_is_kept() -> None:
    program = """
        import signal, threading, asyncio
        from llmhub.engine.event_loop import run_sync

        heard = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: heard.set())

        async def work(stop):
            print("ready")
            while not heard.is_set():
                await asyncio.sleep(0.01)
            return stop.requested

        print(run_sync(work))
    """
    assert interrupted(program, 1)[1] == "ready\nFalse\n"


# Shutdown


def ended(program: str) -> tuple[int, str]:
    """Return the exit code and output of a program that ends by itself."""
    command = [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only the C library of Linux has on_exit")
def test_pending_timer_does_not_crash_at_exit() -> None:
    program = """
        import ctypes, sys, threading
        from llmhub.engine.event_loop import background_loop

        scheduled, loop = threading.Event(), background_loop()
        # The process sleeps after Python has finished, for as many seconds as its exit code.
        libc = ctypes.CDLL(None)
        libc.on_exit(libc.sleep, None)
        for at in range(1, 9):
            loop.call_soon_threadsafe(loop.call_later, at / 10, print)
        loop.call_soon_threadsafe(scheduled.set)
        scheduled.wait()
        sys.exit(1)
    """
    assert ended(program) == (1, "")


def test_running_tasks_are_cancelled_silently_at_exit() -> None:
    program = """
        import asyncio, threading
        from llmhub.engine.event_loop import submit

        begun = threading.Event()

        async def work():
            begun.set()
            try:
                await asyncio.sleep(100)
            finally:
                print("let go", flush=True)

        submit(work())
        begun.wait()
    """
    assert ended(program) == (0, "let go\n")


def test_exit_does_not_wait_for_a_blocked_loop() -> None:
    program = """
        import threading
        from llmhub.engine.event_loop import background_loop

        begun = threading.Event()
        background_loop().call_soon_threadsafe(lambda: (begun.set(), threading.Event().wait(100)))
        begun.wait()
    """
    assert ended(program)[0] == 0


def test_finalizers_of_hubs_find_the_loop_running() -> None:
    program = """
        import weakref
        from llmhub.engine.event_loop import background_loop, submit

        class Hub:
            pass

        async def finish():
            print("finished")

        hub = Hub()
        background_loop()
        ending = weakref.finalize(hub, lambda: submit(finish()).result(10))
    """
    assert ended(program) == (0, "finished\n")


# Forked children


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.parametrize("used_before", [True, False])
def test_forked_child_has_its_own_loop(used_before: bool) -> None:
    program = f"""
        import os, threading
        from llmhub.engine.event_loop import background_loop, run_sync

        async def work(stop):
            return threading.current_thread().name

        before = background_loop() if {used_before} else None
        child = os.fork()
        if child == 0:
            try:
                assert run_sync(work) == "llmhub-loop"
                assert background_loop() is not before
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert run_sync(work) == "llmhub-loop"
        assert before is None or background_loop() is before
        print("both")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr
