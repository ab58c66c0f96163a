"""Durable queues and what really happens to them: killed processes, full disks, two at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tunnel.errors import QueueInUseError
from tunnel.request_queue import RequestQueue

LONG = 60  # seconds; nothing here takes as long unless it hangs

WRITER = """
# Enqueues from several threads, and says of each message when it was accepted.
import os, sys, threading
from tunnel import RequestQueue

queue = RequestQueue(10**6, path=sys.argv[1])

def work(name):
    number = 0
    while True:
        size = (0, 10, 1000, 9000)[number % 4]
        queue.enqueue(f"{name}:{number}:" + "x" * size)
        os.write(1, f"{name}:{number}\\n".encode())
        number += 1

for name in range(6):
    threading.Thread(target=work, args=(name,)).start()
"""

SENDER = """
# Enqueues, numbers and acknowledges like a session, and says what it has done.
import os, sys, threading
from tunnel import RequestQueue
from tunnel.secrets import Secret
from tunnel.session import Ticket
from tunnel.session_frames import Limits

queue = RequestQueue(100, path=sys.argv[1])
limits = Limits(10**6, 10**9, 10**6)
queue.save_session("ws://x", Ticket(b"x" * 16, Secret("ab" * 32), limits, limits, 600))

def say(line):
    os.write(1, line.encode() + b"\\n")

def produce():
    number = 0
    while True:
        if queue.enqueue_many([f"{number}:" + "x" * (number % 1500)]):
            say(f"accepted {number}")
            number += 1
        else:
            queue.wait_for_room()

threading.Thread(target=produce).start()
number = 1
while True:
    items = queue.take_many(7, number=number)
    for item in items:
        say(f"numbered {number} {item.partition(':')[0]}")
        number += 1
    queue.hand_over(len(items))
    if number > 50 and number % 3 == 0:
        queue.acknowledge(number - 50)
        say(f"acknowledged {number - 50}")
"""


def kill_in_the_midst(program: str, path: Path, lines: int) -> list[str]:
    """Run a program until it has said so many lines, and kill it; all that it has said."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process, process.stdout:
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


class TestKilled:
    @pytest.mark.requirement("5.9")
    @pytest.mark.parametrize("lines", [1, 300, 3000])
    def test_what_was_accepted_is_there_and_nothing_twice(self, tmp_path: Path, lines: int) -> None:
        """SIGKILL while several threads enqueue: each message that was accepted is on file."""
        path = tmp_path / "queue.db"
        accepted = kill_in_the_midst(WRITER, path, lines)
        with RequestQueue(10**6, path=path) as queue:
            found = [item.rpartition(":")[0] for item in queue.snapshot()]
            assert queue.skipped == 0
        assert len(set(found)) == len(found)
        assert set(accepted) <= set(found)
        for name in range(6):
            own = [item for item in found if item.startswith(f"{name}:")]
            assert own == [f"{name}:{number}" for number in range(len(own))]
        assert len(found) - len(accepted) <= 6  # what each thread was about to be told

    @pytest.mark.parametrize("lines", [100, 1500])
    def test_a_session_goes_on_where_it_was(self, tmp_path: Path, lines: int) -> None:
        """SIGKILL of a sender: each message waits, has its number, or was acknowledged."""
        path = tmp_path / "queue.db"
        said = kill_in_the_midst(SENDER, path, lines)
        accepted = [int(line.split()[1]) for line in said if line.startswith("accepted")]
        numbered = {
            int(line.split()[1]): int(line.split()[2])
            for line in said
            if line.startswith("numbered")
        }
        acknowledged = [int(line.split()[1]) for line in said if line.startswith("acknowledged")]
        with RequestQueue(100, path=path) as queue:
            saved = queue.saved_session()
            waiting = [int(item.partition(":")[0]) for item in queue.snapshot()]
        assert saved is not None
        assert saved.acknowledged >= max(acknowledged, default=0)
        assert numbered or lines < 1000  # within few lines the numbering may not have begun
        assert saved.last_number >= max(numbered, default=0)
        kept = {n: int(str(item).partition(":")[0]) for n, item in saved.messages.items()}
        assert list(kept) == list(range(saved.acknowledged + 1, saved.last_number + 1))
        assert {n: kept[n] for n in numbered if n in kept} == {
            n: text for n, text in numbered.items() if n > saved.acknowledged
        }
        assert [*kept.values(), *waiting] == list(
            range(saved.acknowledged, saved.acknowledged + len(kept) + len(waiting))
        )
        assert max(accepted) <= max([*kept.values(), *waiting])

    @pytest.mark.requirement("5.10")
    @pytest.mark.parametrize("seed", range(3))
    def test_the_log_of_a_killed_process_may_be_damaged(self, tmp_path: Path, seed: int) -> None:
        """One changed byte in it costs what it hits, and not all that was committed later."""
        path = tmp_path / "queue.db"
        accepted = kill_in_the_midst(WRITER, path, 200)
        log = path.with_name("queue.db-wal")
        whole = log.read_bytes()
        database = path.read_bytes()
        rng = random.Random(seed)
        for number in range(6):
            # Not the last commit: damaged, it looks like one that was never finished.
            offset = rng.randrange(len(whole) - 10 * 4120) if number % 2 else rng.randrange(56)
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << rng.randrange(8)
            path.write_bytes(database)
            log.write_bytes(damaged)
            with RequestQueue(10**6, path=path) as queue:
                found = [item.rpartition(":")[0] for item in queue.snapshot()]
            assert len(set(found)) == len(found)
            # A changed byte in the list of a page's rows can hide one row and damage another.
            assert len(set(accepted) - set(found)) <= 1


class TestTwoProcesses:
    PROGRAM = """
import sys
from tunnel import RequestQueue
from tunnel.errors import QueueInUseError
try:
    queue = RequestQueue(path=sys.argv[1])
except QueueInUseError as error:
    print("refused")
else:
    print("opened", *queue.snapshot(), flush=True)
    sys.stdin.read()
"""

    def start(self, path: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def test_the_second_is_refused_until_the_first_is_gone(self, tmp_path: Path) -> None:
        """A killed owner leaves no lock; what it holds goes to the next."""
        path = tmp_path / "queue.db"
        with RequestQueue(path=path) as queue:
            queue.enqueue("a")
            with self.start(path) as process:
                assert self.answer(process) == "refused"
        with self.start(path) as process:
            assert self.answer(process) == "opened a"
            with pytest.raises(QueueInUseError):
                RequestQueue(path=path)
            process.kill()
            process.wait(LONG)
        with RequestQueue(path=path) as queue:
            assert queue.snapshot() == ("a",)

    def test_of_some_that_start_together_one_gets_it(self, tmp_path: Path) -> None:
        """They are not all refused because they were in each other's way."""
        path = tmp_path / "queue.db"
        for _ in range(3):
            processes = [self.start(path) for _ in range(4)]
            answers = sorted(self.answer(process) for process in processes)
            for process in processes:
                process.communicate(timeout=LONG)
            assert answers == ["opened", "refused", "refused", "refused"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.parametrize("ending", ["sys.exit()", "queue.close()", "del queue; gc.collect()"])
    def test_a_forked_child_does_not_touch_the_file(self, tmp_path: Path, ending: str) -> None:
        """However the child ends, what its parent accepts is safe; using the queue there raises."""
        path = tmp_path / "queue.db"
        program = f"""
import gc, os, signal, sys
from tunnel import RequestQueue
from tunnel.errors import InvalidStateError
queue = RequestQueue(path={str(path)!r})
queue.enqueue("before")
child = os.fork()
if child == 0:
    try:
        queue.enqueue("child")
    except InvalidStateError as error:
        print(error.message, flush=True)
    {ending}
    os._exit(0)
os.waitpid(child, 0)
queue.enqueue("after")
os.kill(os.getpid(), signal.SIGKILL)
"""
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG
        )
        assert result.returncode == -signal.SIGKILL
        assert "made in another process" in result.stdout
        with RequestQueue(path=path) as queue:
            assert queue.snapshot() == ("before", "after")


FILLER = """
# Fills a disk through a queue, then makes room and goes on.
import json, os, sys
from tunnel import RequestQueue
from tunnel.errors import QueueStorageError

path, ballast = sys.argv[1:]
queue = RequestQueue(10**6, path=path)
accepted, refusals = [], []
number = 0
while len(refusals) < 3:
    text = f"{number}:" + "x" * 3000
    number += 1
    try:
        queue.enqueue(text)
        accepted.append(text)
    except QueueStorageError as error:
        refusals.append(error.message)
        assert list(queue.snapshot()) == accepted, "refused, and still there"
queue.take()
queue.confirm()  # cannot be written perhaps; must not raise
accepted.pop(0)
if ballast:
    os.unlink(ballast)
    queue.enqueue("after")
    accepted.append("after")
queue.close()
again = RequestQueue(10**6, path=path)
found = list(again.snapshot())
print(json.dumps([refusals, len(accepted), found[-len(accepted):] == accepted, len(found)]))
"""


class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Path:
        """A file system of 2 MiB, seen by this test's child alone."""
        unshare = shutil.which("unshare")
        if unshare is None:
            pytest.skip("needs unshare, of util-linux")
        mount = tmp_path / "disk"
        mount.mkdir()
        probe = subprocess.run(
            [unshare, "-rm", "mount", "-t", "tmpfs", "-o", "size=2m", "none", str(mount)],
            capture_output=True,
            timeout=LONG,
        )
        if probe.returncode:
            pytest.skip(f"no mounts here: {probe.stderr.decode().strip()}")
        return mount

    def check(self, output: str, reason: str) -> None:
        refusals, count, is_same, found = json.loads(output)
        assert all(reason in refusal for refusal in refusals), refusals
        assert count > 50
        assert is_same
        assert found - count <= 1  # the confirmed one, if that could not be written

    @pytest.mark.requirement("5.9")
    def test_a_full_disk_refuses_and_loses_nothing(self, small_disk: Path) -> None:
        """Each call that does not fit says so; once there is room again, it goes on."""
        script = (
            f"mount -t tmpfs -o size=2m none {small_disk} && "
            f"head -c 700000 /dev/zero > {small_disk}/ballast && "
            f'exec "$0" -c "$1" {small_disk}/queue.db {small_disk}/ballast'
        )
        result = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, sys.executable, FILLER],
            capture_output=True,
            text=True,
            timeout=LONG,
        )
        assert result.stderr == ""
        self.check(result.stdout, "full")

    def test_a_limit_on_files_is_like_a_full_disk(self, tmp_path: Path) -> None:
        """What the system refuses for any reason is an error at the call, and no more."""
        program = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))\n"
        result = subprocess.run(
            [sys.executable, "-c", program + FILLER, str(tmp_path / "queue.db"), ""],
            capture_output=True,
            text=True,
            timeout=LONG,
        )
        assert result.stderr == ""
        self.check(result.stdout, "queue.db: ")
