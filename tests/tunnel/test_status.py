"""The status socket, from both ends, within one process."""

from __future__ import annotations

import json
import os
import selectors
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

import tunnel.status.client as client_module
import tunnel.status.server as server_module
from tunnel import TunnelConfig, TunnelConnectionState, TunnelService, roll
from tunnel.errors import ConnectRefusedError
from tunnel.events import ConnectionEvent, ConnectionEventType
from tunnel.status import ProcessStatus, StatusClient, StatusError, serve, served_paths
from tunnel.status.report import _last_error, _latest_attempt, look
from tunnel.testing import FakeClock, ScriptedTransport, drive

pytestmark = [
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets"),
    pytest.mark.usefixtures("no_leaks"),
]


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch, status_folders: Path) -> None:
    """Tunnels of other tests are not seen, nor sockets of other programs."""
    monkeypatch.setattr(roll, "_members", type(roll._members)())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.sock"


def seen_in_recovery() -> ProcessStatus:
    """What is seen of a tunnel that has lost its link, as its second attempt is announced."""
    clock = FakeClock()
    network = ScriptedTransport(clock)
    config = TunnelConfig(reconnect_base_delay=2.0, jitter=0.0)
    service = TunnelService(config, clock=clock, new_transport=network)
    seen: list[ProcessStatus] = []

    def on_event(event: ConnectionEvent) -> None:
        if event.metadata.get("attempt") == 1:
            service.send("never shown")
        if event.metadata.get("attempt") == 2:
            seen.append(look(histories=True))
            network.accept()

    service.subscribe(on_event)
    service.connect(
        "ws://me:password1@example.com/?token=hidden-in-a-query", "secret-token", user_id="prices"
    )
    network.refuse(ConnectRefusedError("refused"))
    network.cut()
    drive(service, lambda: bool(seen), timeout=60)
    service.disconnect()
    return seen[0]


class TestReport:
    def test_a_recovery_is_told(self) -> None:
        """State, attempt, queue, and the latest error with its code; and its times."""
        (status,) = seen_in_recovery().tunnels
        assert status.name == "prices"
        assert status.state == "reconnecting"
        assert (status.attempt, status.max_attempts) == (2, 10)
        assert (status.queued, status.max_queued) == (1, 100)
        assert status.last_error is not None
        assert (status.last_error.code, status.last_error.message) == ("TUNNEL_001", "refused")
        assert status.since is not None
        assert status.next_attempt is not None
        assert status.next_attempt > status.since

    def test_it_holds_no_secrets_and_no_messages(self) -> None:
        """Neither password nor token nor query nor what was sent is in the answer."""
        text = json.dumps(seen_in_recovery().to_dict())
        for secret in ("password1", "secret-token", "hidden-in-a-query", "never shown"):
            assert secret not in text

    def test_a_tunnel_that_was_only_made_is_told(self) -> None:
        """It has a name by its number, and nothing else is made up."""
        service = TunnelService(clock=FakeClock())
        (status,) = look().tunnels
        assert status.name == f"tunnel-{status.number}"
        assert status.state == service.state.value
        assert status.since is status.server_url is status.last_error is status.round_trip is None

    def test_it_names_the_connection_as_log_lines_do(self) -> None:
        """So the lines of the tunnel that is looked at can be found; each `connect` has its own."""
        clock = FakeClock()
        service = TunnelService(clock=clock, new_transport=ScriptedTransport(clock))
        lines: list[str] = []
        handler = logger.add(lines.append, level="DEBUG", format="{extra[connection_id]}")
        logger.enable("tunnel")
        try:
            service.connect("ws://example.com/")
        finally:
            logger.disable("tunnel")
            logger.remove(handler)
        (status,) = look().tunnels
        assert {line.strip() for line in lines} == {status.connection_id}
        service.disconnect()

    def test_an_answer_without_the_connection_is_one(self) -> None:
        """A program that runs since before it was told is still asked."""
        answer = json.loads(json.dumps(seen_in_recovery().to_dict()))
        del answer["tunnels"][0]["connection_id"]
        assert ProcessStatus.from_dict(answer).tunnels[0].connection_id is None

    @pytest.mark.parametrize("events", [0, 500])
    def test_a_hundred_changes_are_remembered(self, events: int) -> None:
        """However many events are."""
        clock = FakeClock()
        service = TunnelService(
            TunnelConfig(max_event_history=events),
            clock=clock,
            new_transport=ScriptedTransport(clock),
        )
        for _ in range(30):  # four changes each
            service.connect("ws://example.com/")
            service.disconnect()
        (history,) = look(histories=True).histories
        assert len(history.steps) == 100

    def test_a_tunnel_whose_observer_hangs_can_be_looked_at(self) -> None:
        """In the midst of a change of state no lock is held that the look would wait for."""
        clock = FakeClock()
        seen: list[str] = []

        def on_state_change(record: object) -> None:
            looking = threading.Thread(target=lambda: seen.append(look().tunnels[0].state))
            looking.start()
            looking.join(10.0)  # as long as this observer hangs

        service = TunnelService(
            clock=clock,
            new_transport=ScriptedTransport(clock),
            on_state_change=on_state_change,
        )
        service.connect("ws://example.com/")
        service.subscribe(on_state_change)
        service.disconnect()
        assert seen[:2] == ["connecting", "connected"]
        assert seen[-1] == "disconnected"

    def test_what_an_application_records_is_no_attempt(self) -> None:
        """Anybody may record events, whatever they hold; and a health check is no error."""
        then = datetime(2026, 1, 1, tzinfo=timezone.utc)
        later = then + timedelta(seconds=5)
        kind = ConnectionEventType.RECONNECTING
        announced = ConnectionEvent(kind, then, "attempt 1", {"attempt": 1, "delay": 2.0})
        events = (
            announced,
            ConnectionEvent(kind, later, "mine", {"attempt": 7}),
            ConnectionEvent(kind, later, "mine", {"attempt": "none", "delay": None}),
        )
        assert _latest_attempt(events) == (1, then.timestamp() + 2.0)
        checked = ConnectionEvent(ConnectionEventType.HEALTH_CHECK, later, "well")
        error = _last_error(ConnectRefusedError("refused"), (announced, checked))
        assert error is not None
        assert error.time == then.timestamp()

    def test_it_survives_json(self) -> None:
        """What a client reads is what the process has said, its histories included."""
        said = seen_in_recovery()
        assert ProcessStatus.from_dict(json.loads(json.dumps(said.to_dict()))) == said
        (history,) = said.histories
        assert history.tracker.state is TunnelConnectionState.RECONNECTING
        assert [step.trigger for step in history.steps] == ["connect", "opened", "lost", "recover"]

    @pytest.mark.parametrize(
        ("name", "value"), [("name", 5), ("queued", "many"), ("attempt", True), ("since", [])]
    )
    def test_names_that_are_numbers_are_refused(self, name: str, value: object) -> None:
        """What is shown has to be what it says; it may come from somebody else."""
        answer = json.loads(json.dumps(seen_in_recovery().to_dict()))
        answer["tunnels"][0][name] = value
        with pytest.raises(StatusError, match=f"is no status .*{name} is"):
            ProcessStatus.from_dict(answer)

    def test_a_whole_number_may_stand_for_seconds(self) -> None:
        """JSON does not tell 1 from 1.0."""
        answer = json.loads(json.dumps(seen_in_recovery().to_dict()))
        answer["tunnels"][0]["since"] = 1
        assert ProcessStatus.from_dict(answer).tunnels[0].since == 1

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            ({"error": "no mood"}, "the program answers: no mood"),
            ({}, "answers in version None"),
            ({"version": 1}, "is no status"),
            ({"version": 1, "pid": 1, "program": "", "time": 0, "tunnels": [{}]}, "is no status"),
        ],
    )
    def test_another_answer_is_refused(self, answer: dict[str, Any], text: str) -> None:
        """With a sentence that says what is wrong with it."""
        with pytest.raises(StatusError, match=text):
            ProcessStatus.from_dict(answer)


class TestServing:
    def test_questions_are_answered_until_it_is_closed(self, path: Path) -> None:
        """Several clients ask several times; then the file is gone, and the clients are told."""
        service = TunnelService(clock=FakeClock())
        with serve(path) as server:
            assert server.path == path
            assert str(path) in repr(server)
            with StatusClient(path) as first, StatusClient(path) as second:
                for client in (first, second, first):
                    answer = client.ask(histories=client is second)
                    assert answer.pid == os.getpid()
                    assert [tunnel.state for tunnel in answer.tunnels] == [service.state.value]
                    assert len(answer.histories) == (client is second)
                server.close()
                server.close()
                with pytest.raises(StatusError, match="has ended"):
                    first.ask()
        assert not path.exists()

    @pytest.mark.fault("status-strangers")
    def test_only_its_user_can_connect(self, path: Path) -> None:
        """The file is its owner's alone, whatever the umask is."""
        before = os.umask(0)
        try:
            with serve(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
        finally:
            os.umask(before)

    def test_a_place_of_its_own(self, tmp_path: Path) -> None:
        """Without a path it is where the commands look; that folder is the user's alone."""
        with serve() as server:
            assert server.path == tmp_path / "resilient-tunnel" / f"{os.getpid()}.sock"
            assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700
            assert served_paths() == [server.path]
        assert served_paths() == []

    def test_without_a_runtime_folder_it_is_in_the_temporary_one(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """There the folder is named after the user, since others are there, too."""
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with serve() as server:
            assert server.path.parent == tmp_path / f"resilient-tunnel-{os.getuid()}"

    def test_a_folder_where_others_may_write_is_refused(self, tmp_path: Path) -> None:
        """They could put a socket of theirs in the place of ours."""
        folder = tmp_path / "resilient-tunnel"
        folder.mkdir()
        folder.chmod(0o777)
        with pytest.raises(StatusError, match="not a folder of yours alone"):
            serve()

    @pytest.mark.fault("status-left-behind")
    def test_what_a_killed_program_left_behind_is_replaced(self, path: Path) -> None:
        """A socket on which nobody listens is no obstacle."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(os.fspath(path))
        with pytest.raises(StatusError, match=r"nobody listens at .* any more"):
            StatusClient(path)
        with serve(path), StatusClient(path) as client:
            assert client.ask().tunnels == ()

    @pytest.mark.fault("status-left-behind")
    def test_what_killed_programs_left_in_the_usual_place_is_removed(self, tmp_path: Path) -> None:
        """And nothing else: no socket of a process that lives, or that somebody serves."""
        folder = tmp_path / "resilient-tunnel"
        folder.mkdir(mode=0o700)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        names = {str(ended.pid): False, "9" * 9: True, str(os.getppid()): False, "feed": False}
        with ExitStack() as stack:
            for name, is_served in names.items():
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.bind(os.fspath(folder / f"{name}.sock"))
                if is_served:
                    sock.listen()
            with serve() as server:
                left = {path.stem for path in folder.iterdir()} - {server.path.stem}
        assert left == names.keys() - {str(ended.pid)}

    @pytest.mark.fault("status-left-behind")
    def test_what_is_not_ours_is_left_alone(self, path: Path) -> None:
        """Neither another file nor a socket that somebody serves is touched."""
        path.write_text("precious")
        with pytest.raises(StatusError, match="no socket; it is left alone"):
            serve(path)
        assert path.read_text() == "precious"
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(os.fspath(path))
            other.listen()
            with pytest.raises(StatusError, match="another program serves its status"):
                serve(path)
        assert path.exists()

    def test_a_file_that_took_its_place_stays(self, path: Path) -> None:
        """Closing removes the socket that this process has made, and no other file."""
        with serve(path):
            path.unlink()
            path.write_text("another's")
        assert path.read_text() == "another's"

    def test_a_removed_file_is_no_trouble(self, path: Path) -> None:
        """Somebody tidied up; closing has nothing to remove."""
        with serve(path):
            path.unlink()

    def test_one_is_enough(self, path: Path, tmp_path: Path) -> None:
        """A second one is refused; after the end of the first there may be another."""
        with serve(path), pytest.raises(StatusError, match="serves its status already, at"):
            serve(tmp_path / "other.sock")
        with serve(path):
            pass

    @pytest.mark.parametrize(
        ("name", "text"),
        [("x" * 200, "too long for a socket"), ("no/such/folder.sock", "there can be no socket")],
    )
    def test_an_impossible_path_is_a_sentence(self, name: str, text: str, tmp_path: Path) -> None:
        """Nothing is left of it, and another path can be taken."""
        with pytest.raises(StatusError, match=text):
            serve(tmp_path / name)
        with serve(tmp_path / "s"):
            pass

    def test_a_thread_that_cannot_be_started(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error says so, and no file is left."""

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(StatusError, match="thread that tells the status"):
                serve(path)
        assert not path.exists()

    def test_without_unix_sockets_it_says_so(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on Windows: a sentence at both ends, and no files to look at."""
        monkeypatch.delattr(socket, "AF_UNIX")
        with pytest.raises(StatusError, match="needs Unix sockets"):
            serve(path)
        with pytest.raises(StatusError, match="needs Unix sockets"):
            StatusClient(path)
        assert served_paths() == []


@pytest.fixture
def served(path: Path) -> Iterator[Path]:
    with serve(path):
        yield path


def raw(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5.0)
    sock.connect(os.fspath(path))
    return sock


@pytest.mark.fault("status-strangers")
class TestStrangers:
    @pytest.mark.parametrize("line", [b"what?", b"[]", b'{"ask": "tokens"}', b"[" * 900])
    def test_nonsense_is_answered_with_a_sentence(self, line: bytes, served: Path) -> None:
        """And the next question on the same connection with a status."""
        with raw(served) as sock, sock.makefile("rb") as answers:
            sock.sendall(line + b"\n")
            assert "ask" in json.loads(answers.readline())["error"]
            sock.sendall(b'{"ask": "status"}\n')
            assert json.loads(answers.readline())["pid"] == os.getpid()

    def test_an_endless_question_ends_the_connection(self, served: Path) -> None:
        """Memory is bounded; others are answered all the same."""
        with raw(served) as sock:
            sock.sendall(b"x" * 4096)
            with suppress(ConnectionError):  # there is more that nobody has read
                assert sock.recv(1) == b""
        with StatusClient(served) as client:
            client.ask()

    def test_there_is_a_limit_to_how_many_ask(self, served: Path) -> None:
        """Those beyond it are sent away, and told so; the others go on."""
        socks = [raw(served) for _ in range(server_module._MAX_CLIENTS)]
        with StatusClient(served) as late, pytest.raises(StatusError, match="too many others"):
            late.ask()
        socks[0].sendall(b'{"ask": "status"}\n')
        assert socks[0].recv(10)
        for sock in socks:
            sock.close()

    def test_who_does_not_read_keeps_nobody_waiting(self, served: Path) -> None:
        """Its questions pile up in its own socket, and others are answered."""
        with raw(served) as deaf:
            deaf.settimeout(0.2)
            with pytest.raises(TimeoutError):
                deaf.sendall(b'{"ask": "status"}\n' * 100_000)  # more than buffers hold
            with StatusClient(served) as client:
                assert client.ask().pid == os.getpid()

    def test_a_failure_is_told(self, served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bug in one answer ends neither the thread nor the connection."""

        def fail(**_: object) -> ProcessStatus:
            raise KeyError("bug")

        with StatusClient(served) as client:
            with monkeypatch.context() as patch:
                patch.setattr(server_module, "look", fail)
                with pytest.raises(StatusError, match="it failed with KeyError"):
                    client.ask()
            client.ask()


class TestAsking:
    @pytest.mark.parametrize(
        ("answer", "text"),
        [(b"", "has ended"), (b"hm\n", "is no JSON"), (b"[]\n", "is no status")],
    )
    def test_another_peer_is_noticed(self, path: Path, answer: bytes, text: str) -> None:
        """What somebody else says there is refused with a sentence."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()
            with StatusClient(path) as client:
                peer, _ = listener.accept()
                peer.sendall(answer)
                peer.shutdown(socket.SHUT_WR)
                with pytest.raises(StatusError, match=text):
                    client.ask()
                peer.close()

    def test_silence_has_an_end(self, path: Path) -> None:
        """A program that hangs is not waited for for ever."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()
            with (
                StatusClient(path, timeout=0.05) as client,
                pytest.raises(StatusError, match=r"does not answer within 0\.05 s"),
            ):
                client.ask()

    def test_dripping_has_an_end(self, path: Path) -> None:
        """The whole answer has to be there in time, not only the next byte."""
        over = threading.Event()

        def drip(peer: socket.socket) -> None:
            with peer, suppress(OSError):
                while not over.wait(0.01):
                    peer.sendall(b" ")

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()
            with StatusClient(path, timeout=0.2) as client:
                dripping = threading.Thread(target=drip, args=(listener.accept()[0],))
                dripping.start()
                with pytest.raises(StatusError, match=r"does not answer within 0\.2 s"):
                    client.ask()
                over.set()
                dripping.join(20)

    def test_a_folder_of_anybodys_is_not_looked_into(self, tmp_path: Path) -> None:
        """Where others may write, they could pretend to be programs."""
        assert served_paths() == []
        folder = tmp_path / "resilient-tunnel"
        folder.mkdir(mode=0o700)
        assert served_paths() == []
        folder.chmod(0o777)
        with pytest.raises(StatusError, match="not a folder of yours alone"):
            served_paths()

    @pytest.mark.parametrize("served_at", ["runtime", "users", "temporary", "shared"])
    @pytest.mark.parametrize("asks_from", ["runtime", "users", "temporary", "nowhere"])
    def test_the_environment_may_be_another(
        self, served_at: str, asks_from: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A service and a login shell find each other, wherever their environments lead them."""
        user = str(os.getuid())
        for folder in ("runtime", "temporary", "shared"):
            (tmp_path / folder).mkdir()
        (tmp_path / "users" / user).mkdir(parents=True)

        def enter(place: str) -> None:
            runtime = {"runtime": tmp_path / "runtime", "users": tmp_path / "users" / user}
            temporary = {"temporary": tmp_path / "temporary"}
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime.get(place, "")))
            monkeypatch.setattr("tempfile.tempdir", str(temporary.get(place, tmp_path / "shared")))

        enter(served_at)
        with serve() as server:
            enter(asks_from)
            can_be_known = served_at in ("users", "shared", asks_from)
            assert served_paths() == ([server.path] if can_be_known else [])

    def test_a_folder_is_looked_into_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where two ways lead to it, as to a folder for temporary files."""
        (tmp_path / "shared").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "shared")
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "link"))
        with serve() as server:
            assert served_paths() == [server.path]

    def test_a_folder_of_others_hides_nobody(self, tmp_path: Path) -> None:
        """Where somebody else has taken a name, the programs in other folders are found."""
        (tmp_path / "shared" / f"resilient-tunnel-{os.getuid()}").mkdir(parents=True)
        taken = tmp_path / "shared" / f"resilient-tunnel-{os.getuid()}"
        taken.chmod(0o777)
        (taken / "1.sock").write_text("bait")
        with serve() as server:
            assert served_paths() == [server.path]
        with pytest.raises(StatusError, match=r"shared.* is not a folder of yours alone"):
            served_paths()

    def test_a_folder_that_cannot_be_reached_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As that of another user's session, which an environment may still name."""

        def refuse(folder: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(client_module, "check_folder", refuse)
        with pytest.raises(StatusError, match="cannot be looked into: Permission denied"):
            served_paths()

    def test_nobody_there_is_a_sentence(self, path: Path) -> None:
        """No file, or one that is no socket: what it means, and what to do."""
        with pytest.raises(StatusError, match="does not run, or has not called"):
            StatusClient(path)
        path.write_text("")
        with pytest.raises(StatusError, match="is no socket; give the path"):
            StatusClient(path)
        with pytest.raises(StatusError, match="cannot be looked at: Not a directory"):
            StatusClient(path / "below")

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (PermissionError(13, "Permission denied"), "belongs to another user"),
            (TimeoutError("timed out"), "does not answer within 5 s"),
            (OSError(24, "Too many open files"), "cannot be asked: Too many open files"),
        ],
    )
    def test_why_one_cannot_connect(self, path: Path, error: OSError, text: str) -> None:
        """Each reason has its sentence."""
        assert text in client_module._why_not(path, error, 5.0)


class TestTrouble:
    def test_a_want_of_descriptors_passes(self, served: Path) -> None:
        """Who cannot be accepted is logged, and the thread goes on a moment later."""

        class Full:
            def accept(self) -> None:
                raise OSError(24, "Too many open files")

        server = server_module._serving
        assert server is not None
        listener = server._listener
        server._listener = Full()  # type: ignore[assignment]
        messages: list[str] = []
        handler = logger.add(messages.append, format="{message}")
        logger.enable("tunnel")
        try:
            server._accept(selectors.SelectSelector())
        finally:
            logger.disable("tunnel")
            logger.remove(handler)
            server._listener = listener
        assert "cannot be answered: [Errno 24] Too many open files" in messages[0]
        with StatusClient(served) as client:
            client.ask()

    def test_a_bug_leaves_nothing_behind(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the thread ends before its time, it takes file and socket with it."""

        def fail() -> None:
            raise RuntimeError("bug")

        with monkeypatch.context() as patch:
            patch.setattr(selectors, "PollSelector", fail)
            server = serve(path)
            server._thread.join(10.0)
        assert not path.exists()
        server.close()

    def test_a_socket_that_cannot_be_made_private_is_not_made(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No file is left that others might connect to."""

        def refuse(self: Path, mode: int) -> None:
            raise OSError(1, "Operation not permitted")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "chmod", refuse)
            with pytest.raises(StatusError, match="Operation not permitted"):
                serve(path)
        assert not path.exists()
