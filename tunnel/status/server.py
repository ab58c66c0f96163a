"""Answers on a Unix socket what the tunnels of this process are doing.

One thread serves all who ask and never waits for one of them: sockets do not block, a request is
short, and who does not read its answer is not read from either. At most sixteen are served at once.

The socket's file is made for its owner alone before anybody can connect: without `listen` there is
nobody to connect to. A file that a killed program left behind is replaced; any other is left alone.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from loguru import logger

from tunnel.forks import close_in_child, disown, is_inherited, register
from tunnel.status.errors import StatusError
from tunnel.status.places import default_folder, make_folder
from tunnel.status.report import look
from tunnel.waker import Waker

_MAX_CLIENTS = 16
_MAX_REQUEST = 1024  # bytes
_PATIENCE = 1.0  # seconds for the thread to end
_PAUSE = 0.2  # seconds after a connection could not be accepted, for want of descriptors perhaps


class _Client:
    """Somebody who asks."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked = b""  # not yet answered
        self.unsent = b""

    def read(self) -> None:
        """Take what has come.

        Raises:
            OSError: That was the end, or more than anybody has to ask.
        """
        chunk = self.sock.recv(_MAX_REQUEST)
        self.asked += chunk
        if not chunk or len(self.asked.rpartition(b"\n")[2]) > _MAX_REQUEST:
            raise ConnectionAbortedError

    def talk(self) -> None:
        """Answer line by line, each when the answer before it is out.

        Raises:
            BlockingIOError: It does not read what it has asked for; the rest is for later.
            OSError: It is gone.
        """
        while self.unsent or b"\n" in self.asked:
            if not self.unsent:
                line, _, self.asked = self.asked.partition(b"\n")
                self.unsent = _answer(line)
            self.unsent = self.unsent[self.sock.send(self.unsent) :]


class StatusServer:
    """The one socket of this process; made by `serve`. A context manager that closes it.

    Attributes:
        path: The socket's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = _listen(path)
        found = path.lstat()
        self._file = found.st_dev, found.st_ino
        self._waker = Waker()
        self._is_closing = False
        self._clients: dict[int, _Client] = {}  # by descriptor; the thread's own
        close_in_child(self._listener)
        register(self)
        self._thread = threading.Thread(target=self._run, name="tunnel-status", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._listener.close()
            path.unlink()
            raise StatusError("the thread that tells the status cannot be started") from error
        atexit.register(self.close)

    def __repr__(self) -> str:
        return "<StatusServer of another process>" if is_inherited(self) else f"<{self.path}>"

    def __enter__(self) -> StatusServer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Tell nothing more, and remove the socket's file. From any thread, any number of times.

        The end of the program does it as well. In a forked child it does nothing.
        """
        if is_inherited(self):
            return
        atexit.unregister(self.close)
        self._is_closing = True
        self._waker.wake()
        self._thread.join(_PATIENCE)
        _forget(self)

    def leave_to_parent(self) -> None:
        """This is a forked child now: socket and file are the parent's; for `tunnel.forks`."""
        disown(self)

    # The thread

    def _run(self) -> None:
        try:
            assert hasattr(selectors, "PollSelector")  # else there would be no such socket
            with selectors.PollSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                selector.register(self._waker.fileno(), selectors.EVENT_READ)
                while not self._is_closing:
                    for key, events in selector.select():
                        if key.fileobj is self._listener:
                            self._accept(selector)
                        elif key.fd in self._clients:
                            self._serve(selector, self._clients[key.fd], events)
        except Exception:
            logger.exception("the status is told no more")
        finally:
            self._give_back()

    def _give_back(self) -> None:
        self._remove_file()  # first: who finds it shall find somebody there
        self._listener.close()
        for client in self._clients.values():
            client.sock.close()
        self._clients.clear()
        self._waker.close()

    def _remove_file(self) -> None:
        try:
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._file:  # else it is another program's by now
                self.path.unlink()
        except OSError:  # it is gone, or the folder is; nothing is left to do
            return

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:  # whoever it was has left
            return
        except OSError as error:
            logger.warning("somebody asks for the status, and cannot be answered: {}", error)
            self._waker.event.wait(_PAUSE)
            return
        close_in_child(sock)
        sock.setblocking(False)
        if len(self._clients) >= _MAX_CLIENTS:
            sock.close()
            return
        self._clients[sock.fileno()] = _Client(sock)
        selector.register(sock, selectors.EVENT_READ)

    def _serve(self, selector: selectors.BaseSelector, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                client.read()
            client.talk()
        except BlockingIOError:
            pass
        except OSError:  # gone, or to be gone: it asks for more than there is
            del self._clients[client.sock.fileno()]
            selector.unregister(client.sock)
            client.sock.close()
            return
        wanted = selectors.EVENT_WRITE if client.unsent else selectors.EVENT_READ
        selector.modify(client.sock, wanted)


def serve(path: str | os.PathLike[str] | None = None) -> StatusServer:
    """Let ``tunnel status`` and ``tunnel watch`` see the tunnels of this process.

    Tunnels may be made before and after. A forked child is not seen through its parent's socket; it
    may serve one of its own.

    Args:
        path: A file for the socket, in a folder that exists; None: one named after the process, in
            a folder where the commands look by themselves. Only the user of this process can
            connect to it.

    Raises:
        StatusError: This process serves already; another one does so at this path; there is
            something else; or this system has no Unix sockets, as Windows in Python.
        OSError: The socket's file cannot be made.
    """
    global _serving
    if not hasattr(socket, "AF_UNIX"):
        raise StatusError("serving the status needs Unix sockets, which this system does not have")
    with _choosing:
        if _serving is not None:
            raise StatusError(
                f"this process serves its status already, at {_serving.path}; close that first"
            )
        if path is None:
            folder = default_folder()
            make_folder(folder)
            _remove_left_behind(folder)
            path = folder / f"{os.getpid()}.sock"
        _serving = StatusServer(Path(path).absolute())
        return _serving


_choosing = threading.Lock()  # guards `_serving`
_serving: StatusServer | None = None


def _forget(server: StatusServer) -> None:
    global _serving
    with _choosing:
        if _serving is server:
            _serving = None


def _begin_anew() -> None:
    """This is a forked child now: a thread that is not here may have had the lock."""
    global _choosing, _serving
    _choosing, _serving = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _listen(path: Path) -> socket.socket:
    _make_room(path)
    assert hasattr(socket, "AF_UNIX")  # else it would have been refused
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    is_there = False
    try:
        listener.bind(os.fspath(path))
        is_there = True
        path.chmod(0o600)
        listener.setblocking(False)
        listener.listen(_MAX_CLIENTS)
    except OSError as error:
        listener.close()
        if is_there:
            path.unlink()
        if "too long" in str(error):
            raise StatusError(
                f"{path} is too long for a socket, which takes some 100 characters"
            ) from error
        raise StatusError(f"there can be no socket at {path}: {error.strerror}") from error
    return listener


def _make_room(path: Path) -> None:
    """Remove the socket of a program that has ended; refuse to remove anything else."""
    try:
        found = path.lstat()
    except OSError:  # nothing is there; or `bind` will say what is wrong
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StatusError(f"{path} is there and is no socket; it is left alone: give another path")
    assert hasattr(socket, "AF_UNIX")  # as above
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # somebody is there, and busy
            pass
        except OSError as error:
            raise StatusError(f"{path} is there, and not ours: {error.strerror}") from error
    raise StatusError(f"another program serves its status at {path}; give another path")


def _remove_left_behind(folder: Path) -> None:
    """Remove the sockets of programs that were killed; each is named after its process."""
    for path in folder.glob("*.sock"):
        if path.stem.isdecimal() and not _is_alive(int(path.stem)):
            with suppress(StatusError, OSError):  # it lives in another namespace, or is gone
                _make_room(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _answer(line: bytes) -> bytes:
    try:
        asked = json.loads(line).get("ask")
    except (ValueError, AttributeError, RecursionError):
        asked = None
    if asked not in ("status", "histories"):
        return _encoded({"version": 1, "error": 'ask {"ask": "status"} or {"ask": "histories"}'})
    try:
        return _encoded(look(histories=asked == "histories").to_dict())
    except Exception as error:
        logger.exception("the status could not be told")
        return _encoded({"version": 1, "error": f"it failed with {type(error).__name__}"})


def _encoded(answer: dict[str, object]) -> bytes:
    return json.dumps(answer).encode() + b"\n"
