"""Opening the file of a queue: what is ours is ready or mended, what is not is left alone."""

from __future__ import annotations

import functools
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from loguru import logger

from tunnel.clock import SYSTEM_CLOCK
from tunnel.errors import QueueInUseError, QueueStorageError
from tunnel.queue_file import open_file
from tunnel.request_queue import RequestQueue
from tunnel.testing import FakeClock

COUNT = 120


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []
    logger.enable("tunnel")
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("tunnel")


def messages(seed: int) -> list[bytes]:
    """Messages of all sizes, the large ones on pages of their own."""
    rng = random.Random(seed)
    sizes = (0, 10, 300, 900, 6000)
    return [b"%04d" % n + rng.randbytes(rng.choice(sizes)) for n in range(COUNT)]


def filled(path: Path, items: list[bytes], *, gone: int = 0) -> list[bytes]:
    """Make a file with these items, of which so many are handed out again; what is left."""
    with RequestQueue(COUNT, path=path) as queue:
        queue.enqueue_many(items)
        for _ in range(gone):
            queue.dequeue()
    return items[gone:]


def change_page(path: Path, page: int, offset: int, new: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096 + offset)
        file.write(new)


class NoRoom(sqlite3.Connection):
    """Cannot be copied."""

    def backup(self, *_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")


class TestNew:
    def test_only_the_owner_may_read_it(self, path: Path) -> None:
        """File and log have mode 0600 from the first moment, whatever the process allows."""
        before = os.umask(0)
        try:
            with RequestQueue(path=path) as queue:
                queue.enqueue("x")
                modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()}
        finally:
            os.umask(before)
        assert modes == {"queue.db": 0o600, "queue.db-wal": 0o600}

    def test_an_empty_file_is_as_good_as_none(self, path: Path) -> None:
        """Somebody may have made the file with a mode of his own."""
        path.touch(0o640)
        with RequestQueue(path=path) as queue:
            queue.enqueue("x")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    @pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory", "ä'\";b", " "])
    def test_a_path_means_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """No name has a meaning of SQLite's; a relative path stays what it was."""
        monkeypatch.chdir(tmp_path)
        with RequestQueue(path=name) as queue:
            assert queue.path == str(tmp_path / name)
            monkeypatch.chdir("/")
            queue.enqueue("x")
        with RequestQueue(path=os.fsencode(tmp_path / name).decode()) as queue:
            assert queue.snapshot() == ("x",)


class TestInUse:
    def test_a_second_queue_is_refused(self, path: Path) -> None:
        """In the same process, too; the first goes on, and closing it lets the next in."""
        with RequestQueue(path=path) as first:
            first.enqueue("x")
            for _ in range(2):
                with pytest.raises(QueueInUseError, match=r"queue\.db is in use by another queue"):
                    RequestQueue(path=path, clock=FakeClock())
            first.enqueue("y")
        with RequestQueue(path=path) as second:
            assert second.snapshot() == ("x", "y")

    def test_an_empty_queue_has_the_file_as_well(self, path: Path) -> None:
        """The lock is there before anything is written."""
        with (
            closing(open_file(str(path), SYSTEM_CLOCK)[0]),
            pytest.raises(QueueInUseError) as caught,
        ):
            open_file(str(path), FakeClock())
        assert caught.value.code == "TUNNEL_038"
        assert caught.value.context == {"path": str(path)}

    def test_of_many_that_come_at_once_one_gets_it(self, path: Path) -> None:
        """They are not all refused because they were in each other's way."""
        for _ in range(5):
            barrier = threading.Barrier(4)
            got: list[sqlite3.Connection] = []
            refused: list[QueueInUseError] = []

            def work(
                barrier: threading.Barrier = barrier,
                got: list[sqlite3.Connection] = got,
                refused: list[QueueInUseError] = refused,
            ) -> None:
                barrier.wait(30)
                try:
                    got.append(open_file(str(path), SYSTEM_CLOCK)[0])
                except QueueInUseError as error:
                    refused.append(error)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert (len(got), len(refused)) == (1, 3)
            got[0].close()


class TestRefused:
    def refused(self, path: Path) -> str:
        with pytest.raises(QueueStorageError) as caught:
            RequestQueue(path=path)
        assert caught.value.code == "TUNNEL_037"
        assert caught.value.context == {"path": str(path)}
        assert caught.value.message.startswith(f"the queue's file {path}: ")
        return caught.value.message.partition(": ")[2]

    def test_a_directory(self, path: Path) -> None:
        """The error says so, in words."""
        path.mkdir()
        assert self.refused(path) == "unable to open database file"

    def test_no_directory(self, path: Path) -> None:
        """Directories are not made for whoever mistypes a path."""
        assert self.refused(path.parent / "none" / "q") == "No such file or directory"

    def test_no_database(self, path: Path) -> None:
        """What is no SQLite file is not touched."""
        path.write_text("important\n" * 1000)
        assert self.refused(path) == "file is not a database"
        assert path.read_text() == "important\n" * 1000
        assert [f.name for f in path.parent.iterdir()] == ["queue.db"]

    def test_the_database_of_another_program(self, path: Path) -> None:
        """Whoever gives the wrong path does not lose what is there."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE cookies (x)")
        before = path.read_bytes()
        assert self.refused(path) == "it is the database of another program"
        assert path.read_bytes() == before

    def test_a_newer_version(self, path: Path) -> None:
        """What a later version wrote is left to it."""
        filled(path, messages(1))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version=2")
        assert self.refused(path) == "it is of version 2, and this program knows 1"

    def test_a_name_that_cannot_be(self, path: Path) -> None:
        """A path with a zero in it is an error like others."""
        with pytest.raises(QueueStorageError, match="null"):
            RequestQueue(path=str(path) + "\0")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
    @pytest.mark.parametrize("what", ["file", "folder", "all"])
    def test_no_permission(self, path: Path, what: str) -> None:
        """A file that may not be written to is refused at once, not at the first message."""
        items = filled(path, messages(1))
        folder = path.parent
        for name in (folder, *list(folder.parents)[:2]):
            name.chmod(0o755)
        folder.chmod(0o777 if what == "file" else 0o755)
        path.chmod({"file": 0o444, "folder": 0o666, "all": 0o444}[what])
        program = f"""
import os, sys
import tunnel.queue_journal  # while the interpreter's own files can be read
from tunnel import RequestQueue
from tunnel.errors import QueueStorageError
os.setuid(65534)
try:
    RequestQueue(path={str(path)!r})
except QueueStorageError as error:
    print(error.message)
"""
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
        assert result.stderr == ""
        assert result.stdout.startswith(f"the queue's file {path}: ")
        with RequestQueue(path=path) as queue:
            assert list(queue.snapshot()) == items


def test_without_what_a_file_needs_it_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded only for a file may be out of reach by then: that is no bare ImportError."""
    monkeypatch.setitem(sys.modules, "tunnel.queue_journal", None)
    with pytest.raises(QueueStorageError, match="queue_journal"):
        RequestQueue(path=tmp_path / "queue")


class TestDamage:
    """The message of a damaged record goes, and nothing else, wherever the damage is."""

    def opened(self, path: Path) -> tuple[list[bytes], int]:
        with RequestQueue(COUNT, path=path) as queue:
            found = list(queue.snapshot()), queue.skipped
            queue.enqueue_beyond(b"new")
        with RequestQueue(COUNT, path=path) as queue:
            assert queue.skipped == 0
            assert list(queue.snapshot()) == [*found[0], b"new"]
        return found

    @pytest.mark.requirement("5.10")
    def test_a_damaged_record_is_skipped(self, path: Path, warnings: list[str]) -> None:
        """One changed byte in a message: that message is left out, counted and told once."""
        items = filled(path, messages(2))
        data = path.read_bytes()
        position = data.index(items[40][:50]) + 7
        path.write_bytes(data[:position] + b"\xff\x00" + data[position + 2 :])
        assert self.opened(path) == (items[:40] + items[41:], 1)
        assert warnings == [f"1 damaged records in the queue's file {path} are left out\n"]
        assert [f.name for f in path.parent.iterdir()] == ["queue.db"]

    @pytest.mark.requirement("5.10")
    def test_a_file_that_sqlite_cannot_read_is_salvaged(
        self, path: Path, warnings: list[str]
    ) -> None:
        """The root of a tree is destroyed: all its leaves are found, and a copy is kept."""
        items = filled(path, messages(3))
        change_page(path, 2, 0, bytes(100))
        damaged = path.read_bytes()
        found, _ = self.opened(path)
        assert found == items
        aside = path.with_name("queue.db.damaged-1")
        assert aside.read_bytes()[4096:] == damaged[4096:]
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
        assert warnings == [
            f"the queue's file {path} was damaged: {COUNT} messages could be read; "
            f"as it was, it is kept as {aside}\n"
        ]

    def test_a_second_copy_does_not_replace_the_first(self, path: Path) -> None:
        """Each damage leaves a copy of its own."""
        items = filled(path, messages(3))
        for _ in range(2):
            change_page(path, 2, 0, bytes(100))
            with RequestQueue(COUNT, path=path) as queue:
                assert list(queue.snapshot()) == items
        names = sorted(f.name for f in path.parent.iterdir())
        assert names == ["queue.db", "queue.db.damaged-1", "queue.db.damaged-2"]

    def test_what_was_handed_out_does_not_come_back(self, path: Path) -> None:
        """The pages of deleted messages are free, and what is left on them is not salvaged."""
        left = filled(path, messages(4), gone=80)
        change_page(path, 2, 0, bytes(100))
        assert self.opened(path)[0] == left

    @pytest.mark.parametrize(
        ("offset", "new"), [(0, b"\0" * 8), (16, b"\xff\xff"), (28, b"\xff\xff"), (20, b"\x07")]
    )
    def test_a_damaged_header_is_mended(
        self, path: Path, warnings: list[str], offset: int, new: bytes
    ) -> None:
        """What every header of ours says can be said again, and nothing is lost."""
        items = filled(path, messages(5))
        change_page(path, 1, offset, new)
        assert self.opened(path) == (items, 0)
        assert len(warnings) == 1

    def test_a_damaged_mark_is_made_again(self, path: Path) -> None:
        """A file with exactly our tables is ours."""
        items = filled(path, messages(5))
        change_page(path, 1, 68, b"\0\0")
        assert self.opened(path) == (items, 0)

    def test_a_damaged_schema_is_written_anew(self, path: Path) -> None:
        """A letter of a table's name changes, and all its rows are found."""
        items = filled(path, messages(6))
        data = path.read_bytes()
        path.write_bytes(data[:4096].replace(b"messages", b"massages") + data[4096:])
        assert self.opened(path) == (items, 0)

    def test_a_schema_that_makes_no_sense_is_written_anew(self, path: Path) -> None:
        """The end of the first page is noise, and all rows are found."""
        items = filled(path, messages(6))
        change_page(path, 1, 3584, random.Random(1).randbytes(512))
        assert self.opened(path) == (items, 0)

    def test_what_cannot_be_mended_is_left(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that is damaged still, after all that can be done, is an error and no crash."""
        filled(path, messages(3))
        change_page(path, 1, 28, b"\xff\xff")
        monkeypatch.setattr("tunnel.queue_file.mended_header", lambda header, size: header)
        with pytest.raises(QueueStorageError, match="malformed"):
            RequestQueue(path=path)

    def test_damage_in_file_and_log_is_mended_at_once(self, path: Path) -> None:
        """Neither hides the other."""
        items = filled(path, messages(3)[:60])
        more = messages(9)[60:]
        log = TestDamagedLog().killed(path, more, before=items)
        data = bytearray(log.read_bytes())
        data[32 + 3 * 4120 + 20] ^= 1
        log.write_bytes(data)
        leaf = path.read_bytes().index(items[0][:4]) // 4096 + 1
        change_page(path, leaf, 3, b"\0\1")
        assert self.opened(path) == (items + more, 0)

    def test_without_room_for_a_copy_nothing_is_touched(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A damaged file is only replaced once its copy is there."""
        filled(path, messages(3))
        change_page(path, 2, 0, bytes(100))
        before = path.read_bytes()
        no_room = functools.partial(sqlite3.connect, factory=NoRoom)
        monkeypatch.setattr("tunnel.queue_file.sqlite3.connect", no_room)
        with pytest.raises(QueueStorageError, match="disk is full"):
            RequestQueue(path=path)
        assert [f.name for f in path.parent.iterdir()] == ["queue.db"]
        assert path.read_bytes() == before

    @pytest.mark.requirement("5.10")
    @pytest.mark.parametrize("seed", range(4))
    def test_wherever_it_is_only_what_is_hit_is_lost(self, path: Path, seed: int) -> None:
        """A changed bit at random costs one message at most, and never the program."""
        left = filled(path, messages(seed), gone=30)
        data = path.read_bytes()
        rng = random.Random(seed)
        anywhere: Callable[[], int] = lambda: rng.randrange(len(data))  # noqa: E731
        in_a_head: Callable[[], int] = lambda: anywhere() // 4096 * 4096 + rng.randrange(30)  # noqa: E731
        for number in range(25):
            offset = (anywhere, in_a_head)[number % 2]()
            for other in path.parent.iterdir():
                other.unlink()
            flipped = data[offset] ^ 1 << rng.randrange(8)
            path.write_bytes(data[:offset] + bytes([flipped]) + data[offset + 1 :])
            try:
                queue = RequestQueue(COUNT, path=path)
            except QueueStorageError:
                assert offset < 100  # the header says what nobody can guess
                continue
            with queue:
                found = queue.snapshot()
            assert len(found) >= len(left) - 1
            assert [item for item in left if item in found] == list(found)


class TestDamagedLog:
    """What a killed process had committed is in the log, and SQLite ends where that is damaged."""

    def killed(self, path: Path, items: list[bytes], before: Sequence[bytes] = ()) -> Path:
        """A file, and its log, as a process leaves them that is killed after these messages."""
        (path.parent / "living").mkdir()
        living = path.parent / "living" / path.name
        filled(living, list(before))
        with RequestQueue(COUNT, path=living) as queue:
            for item in items:
                queue.enqueue(item)
            for name in (path.name, f"{path.name}-wal"):
                shutil.copy(living.with_name(name), path.with_name(name))
        return path.with_name(f"{path.name}-wal")

    @pytest.mark.requirement("5.10")
    def test_what_was_committed_later_is_there(self, path: Path, warnings: list[str]) -> None:
        """One changed byte near the beginning hides nothing; log and file are kept as they were."""
        items = messages(8)
        log = self.killed(path, items)
        data = bytearray(log.read_bytes())
        data[32 + 3 * 4120 + 20] ^= 1
        log.write_bytes(data)
        with RequestQueue(COUNT, path=path) as queue:
            assert list(queue.snapshot()) == items
            queue.dequeue()
        with RequestQueue(COUNT, path=path) as queue:
            assert list(queue.snapshot()) == items[1:]
        assert path.with_name("queue.db.damaged-1-log").read_bytes() == data
        assert path.with_name("queue.db.damaged-1").exists()
        assert len(warnings) == 1

    def test_a_whole_log_is_nothing_special(self, path: Path, warnings: list[str]) -> None:
        """What a kill leaves is no damage."""
        items = messages(8)
        self.killed(path, items)
        with RequestQueue(COUNT, path=path) as queue:
            assert list(queue.snapshot()) == items
        assert warnings == []

    def test_without_room_it_is_not_looked_into(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk keeps nobody from opening the queue, with what SQLite sees."""

        class Full(sqlite3.Connection):
            def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
                if "checkpoint(PASSIVE)" in sql:
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *args)  # type: ignore[arg-type]

        items = messages(8)
        self.killed(path, items)
        connect = sqlite3.connect
        monkeypatch.setattr(
            "tunnel.queue_file.sqlite3.connect", lambda *a, **k: connect(*a, **k, factory=Full)
        )
        with RequestQueue(COUNT, path=path) as queue:
            assert list(queue.snapshot()) == items
