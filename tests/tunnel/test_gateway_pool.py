"""Threads for handlers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tunnel.gateway.pool import Pool, run_in

pytestmark = pytest.mark.usefixtures("no_leaks")
WAIT = 10.0


def test_work_is_done_in_order_by_so_many_threads() -> None:
    """One thread does one thing after the other; more do as many at a time."""
    pool = Pool(2, "test")
    gate, inside, done = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
    names: list[str] = []

    def work() -> None:
        names.append(threading.current_thread().name)
        inside.release()
        gate.wait(WAIT)
        done.release()

    for _ in range(5):
        pool.submit(work)
    assert inside.acquire(timeout=WAIT)
    assert inside.acquire(timeout=WAIT)
    assert not inside.acquire(blocking=False)
    assert pool.waiting == 3
    gate.set()
    for _ in range(5):
        assert done.acquire(timeout=WAIT)
    assert set(names) == {"test-1", "test-2"}
    assert pool.stop(WAIT)


def test_an_idle_thread_is_used_again() -> None:
    """A second thread is started only while the first is busy."""
    pool = Pool(5, "test")
    for _ in range(20):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(WAIT)
        while not pool._idle:
            pass
    assert len(pool._threads) == 1
    assert pool.stop(WAIT)


def test_work_that_raises_costs_no_thread() -> None:
    """It is logged, and the next has its turn."""
    pool = Pool(1, "test")
    done = threading.Event()
    pool.submit(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    pool.submit(done.set)
    assert done.wait(WAIT)
    assert pool.stop(WAIT)


def test_stopping_drops_what_waits() -> None:
    """What is being done is waited for, what waits is not done, what comes later neither."""
    pool = Pool(1, "test")
    gate, begun = threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> None:
        begun.set()
        gate.wait(WAIT)
        done.append("first")

    pool.submit(work)
    pool.submit(lambda: done.append("second"))
    assert begun.wait(WAIT)
    assert not pool.stop(0.0)
    pool.submit(lambda: done.append("third"))
    gate.set()
    assert pool.stop(WAIT)
    assert done == ["first"]


def test_without_threads_left_the_others_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system has no thread left, the work waits for those that there are."""
    pool = Pool(2, "test")
    gate, begun, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(WAIT)

    pool.submit(work)
    assert begun.wait(WAIT)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        pool.submit(done.set)
    assert pool.waiting == 1
    gate.set()
    assert done.wait(WAIT)
    assert pool.stop(WAIT)


def test_results_and_errors_come_back_to_the_loop() -> None:
    """`run_in` is awaited; a result that nobody waits for any more is dropped."""

    async def scenario() -> None:
        pool = Pool(1, "test")
        assert await run_in(pool, lambda: 42) == 42
        with pytest.raises(ZeroDivisionError):
            await run_in(pool, lambda: 1 / 0)
        gate = threading.Event()
        waiting = asyncio.create_task(run_in(pool, lambda: gate.wait(WAIT)))
        behind = asyncio.create_task(run_in(pool, lambda: 1 / 0))
        while not pool.waiting:
            await asyncio.sleep(0)
        for task in (waiting, behind):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.set()
        assert await run_in(pool, lambda: "next") == "next"
        assert pool.stop(WAIT)

    asyncio.run(scenario())
