"""Many threads, one file: what each asked for is there or was refused, whatever the others did."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tunnel.errors import InvalidStateError
from tunnel.group_commit import Change, GroupCommit

PUT = "INSERT OR REPLACE INTO t VALUES (?)"
WRONG = "INSERT INTO nowhere VALUES (?)"
LONG = 30  # seconds; nothing here takes as long unless it hangs


class Connection(sqlite3.Connection):
    """Counts transactions, and can be made to do something before one ends."""

    commits = 0
    interruptions: list[BaseException]

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            if self.interruptions:
                raise self.interruptions.pop()
            self.commits += 1
        return super().execute(sql, *args)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    connection = sqlite3.connect(
        tmp_path / "t", isolation_level=None, check_same_thread=False, factory=Connection
    )
    connection.interruptions = []
    connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    yield connection
    connection.close()


@pytest.fixture
def group(connection: Connection) -> GroupCommit:
    return GroupCommit(connection)


def put(*numbers: int) -> Change:
    return Change([(PUT, [(number,) for number in numbers])])


def run(group: GroupCommit, *changes: Change) -> None:
    for change in changes:
        group.post(change)
    group.settle(changes[-1])


def held(group: GroupCommit) -> list[int]:
    return [number for (number,) in group.read("SELECT x FROM t ORDER BY x")]


def test_what_is_settled_is_on_file(group: GroupCommit) -> None:
    """A change of one row and one of many are there afterwards."""
    run(group, put(1))
    run(group, put(2, 3))
    assert held(group) == [1, 2, 3]


def test_one_transaction_for_all_that_is_pending(
    group: GroupCommit, connection: Connection
) -> None:
    """Who settles one change settles those before it, too."""
    changes = [put(number) for number in range(5)]
    run(group, *changes)
    assert all(change.is_on_file for change in changes)
    assert connection.commits == 1
    assert held(group) == [0, 1, 2, 3, 4]


def test_a_change_that_cannot_be_made_spoils_no_other(group: GroupCommit) -> None:
    """Those that were committed together are tried alone when together is not possible."""
    good, bad, last = put(1), Change([(PUT, [(2,)]), (WRONG, [(3,)])]), put(4)
    run(group, good, bad, last)
    assert good.is_on_file
    assert last.is_on_file
    assert bad.is_settled
    assert not bad.is_on_file
    assert "no such table" in str(bad.error)
    assert held(group) == [1, 4]


def test_a_change_alone_that_cannot_be_made_leaves_nothing(group: GroupCommit) -> None:
    """All of a change or nothing, and the next goes on."""
    bad = Change([(PUT, [(2,)]), (WRONG, [(3,)])])
    run(group, bad)
    assert isinstance(bad.error, sqlite3.OperationalError)
    run(group, put(5))
    assert held(group) == [5]


@pytest.mark.parametrize("times", [1, 3])
def test_who_is_interrupted_settles_first_and_raises_then(
    group: GroupCommit, connection: Connection, times: int
) -> None:
    """Ctrl-C in the middle of a commit loses nobody's change, not even one's own."""
    connection.interruptions = [KeyboardInterrupt() for _ in range(times)]
    other, own = put(1), put(2)
    group.post(other)
    group.post(own)
    with pytest.raises(KeyboardInterrupt):
        group.settle(own)
    assert other.is_on_file
    assert own.is_on_file
    assert held(group) == [1, 2]


def test_an_interruption_after_the_commit_does_no_harm(
    group: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made twice is there once, and its owner learns how it went."""
    changes = [put(1), put(2), put(3)]
    decide = Change.decide
    interruptions = [KeyboardInterrupt()]

    def interrupted(change: Change, error: Exception | None) -> None:
        if change is changes[1] and interruptions:
            raise interruptions.pop()
        decide(change, error)

    monkeypatch.setattr(Change, "decide", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(group, *changes)
    assert all(change.is_on_file for change in changes)
    assert held(group) == [1, 2, 3]


def test_what_an_interruption_left_settled_is_not_made_again(
    group: GroupCommit, connection: Connection
) -> None:
    """A change that is decided leaves the line, whoever comes next."""
    done = put(1)
    group.post(done)
    done.decide(None)  # as if the thread had been interrupted right after this
    run(group, put(2))
    assert held(group) == [2]


def test_a_closed_file_takes_nothing(group: GroupCommit) -> None:
    """After `close`, which may be repeated, changing and reading raise."""
    run(group, put(1))
    group.close()
    group.close()
    with pytest.raises(InvalidStateError, match="closed"):
        run(group, put(2))
    with pytest.raises(InvalidStateError, match="closed"):
        group.read("SELECT 1")


def test_a_fork_leaves_the_file_to_its_parent(group: GroupCommit) -> None:
    """A child can neither write nor read nor wait for a thread that it does not have."""
    group._file.acquire()
    group.leave_to_parent()
    with pytest.raises(InvalidStateError, match="made in another process"):
        run(group, put(2))
    with pytest.raises(InvalidStateError):
        group.close()


def test_nobody_goes_round_for_ever(group: GroupCommit, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails however often it is tried is raised."""

    def fail() -> None:
        raise RuntimeError("always")

    monkeypatch.setattr(group, "_commit_pending", fail)
    with pytest.raises(RuntimeError, match="always"):
        run(group, put(1))


def test_a_log_that_is_in_the_way_is_emptied(group: GroupCommit, connection: Connection) -> None:
    """When the disk is full, what the log holds goes where there may be room for it."""
    connection.execute("PRAGMA journal_mode=WAL")
    run(group, put(*range(100)))
    log = Path(connection.execute("PRAGMA database_list").fetchone()[2] + "-wal")
    assert log.stat().st_size > 0
    connection.interruptions = [sqlite3.OperationalError("database or disk is full")]
    change = put(200, 201)
    run(group, change)
    assert change.is_on_file
    assert held(group) == [*range(100), 200, 201]


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts the threads that fall asleep; one that nobody wakes sleeps for longer than a test."""
    asleep, sleep = threading.Semaphore(0), Change.sleep

    def counted(change: Change) -> None:
        asleep.release()
        sleep(change)

    monkeypatch.setattr(Change, "sleep", counted)
    monkeypatch.setattr("tunnel.group_commit._LOOK_UP", 10 * LONG)
    return asleep


def await_sleepers(asleep: threading.Semaphore, number: int) -> None:
    for _ in range(number):
        assert asleep.acquire(timeout=LONG)


def test_who_finds_the_file_in_use_is_committed_with_the_others(
    group: GroupCommit, connection: Connection, asleep: threading.Semaphore
) -> None:
    """Threads that slept while the file was in use find their changes made in one transaction."""
    changes = [put(number) for number in range(5)]
    with ThreadPoolExecutor(5) as pool:
        with group._file:
            futures = [pool.submit(run, group, change) for change in changes]
            await_sleepers(asleep, 5)
        group.read("SELECT 1")  # whoever gives the file back wakes one, and that one the others
        for future in futures:
            future.result(LONG)
    assert all(change.is_on_file for change in changes)
    assert connection.commits == 1


def test_a_closed_file_wakes_all_who_wait_for_it(
    group: GroupCommit, asleep: threading.Semaphore
) -> None:
    """Nobody sleeps for a file that will never be free."""
    with ThreadPoolExecutor(3) as pool:
        with group._file:
            futures = [pool.submit(run, group, put(number)) for number in range(3)]
            await_sleepers(asleep, 3)
        group.close()
        for future in futures:
            with pytest.raises(InvalidStateError, match="closed"):
                future.result(LONG)


def test_who_was_not_woken_looks_up(
    group: GroupCommit, asleep: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wake-up that an interruption has swallowed costs a moment and not a message."""
    monkeypatch.setattr("tunnel.group_commit._LOOK_UP", 0.001)
    change = put(1)
    with ThreadPoolExecutor(1) as pool:
        with group._file:
            future = pool.submit(run, group, change)
            await_sleepers(asleep, 2)
        future.result(LONG)
    assert change.is_on_file


def test_who_goes_on_early_is_passed_over(group: GroupCommit) -> None:
    """A thread that was awake anyway, and is gone, does not keep those behind it asleep."""
    first, gone, last = put(1), put(2), put(3)
    first.next, gone.next = gone, last
    for change in (first, gone, last):
        change.lie_down()
        change.decide(None)
    gone.leave()
    assert last._sleep is not None
    last._sleep.acquire(timeout=0)  # woken once, by the one that went early
    first.leave()
    assert last._sleep.acquire(timeout=0)


@pytest.mark.usefixtures("asleep")
def test_many_threads_get_their_changes_made(group: GroupCommit) -> None:
    """Each thread finds its own change on file when it goes on; nobody is forgotten."""
    barrier = threading.Barrier(8)

    def work(name: int) -> None:
        barrier.wait(LONG)
        for number in range(50):
            key = name * 50 + number
            run(group, put(key))
            assert group.read("SELECT x FROM t WHERE x = ?", (key,)) == [(key,)]

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, name) for name in range(8)]:
            future.result(LONG)
    assert held(group) == list(range(400))
