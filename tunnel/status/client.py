"""Asks a process on this machine what its tunnels are doing."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tunnel.status.errors import StatusEndedError, StatusError
from tunnel.status.places import check_folder, usual_folders
from tunnel.status.report import ProcessStatus

_PIECE = 64 * 1024
_MAX_ANSWER = 64 * 2**20  # bytes; some hundred thousand tunnels


class StatusClient:
    """A connection to a process that serves its status; a context manager that ends it.

    Not for several threads.

    Args:
        path: The socket's file.
        timeout: Seconds for the process to answer each question.

    Raises:
        StatusError: Nobody answers there; the text says why, and what to do.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float = 5.0) -> None:
        self.path = Path(path)
        self._timeout = timeout
        self._socket = _connect(self.path, timeout)

    def __enter__(self) -> StatusClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(self, *, histories: bool = False) -> ProcessStatus:
        """Ask how all tunnels stand.

        Args:
            histories: And what each went through.

        Raises:
            StatusEndedError: The process has ended.
            StatusError: It does not answer in time, or not as it should.
        """
        question = {"ask": "histories" if histories else "status"}
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(json.dumps(question).encode() + b"\n")
            line = self._line()
        except TimeoutError as error:
            raise StatusError(
                f"the program at {self.path} does not answer within {self._timeout:g} s"
            ) from error
        except OSError as error:
            raise StatusEndedError(self._over()) from error
        if not line:
            raise StatusEndedError(self._over())
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise StatusError(f"what {self.path} answers is no JSON") from error
        if not isinstance(answer, dict):
            raise StatusError(f"what {self.path} answers is no status")
        return ProcessStatus.from_dict(answer)

    def _line(self) -> bytes:
        """The answer, which has to be there in time as a whole; what came of it if there is more.

        Nothing follows it: the next is only sent when it is asked for.
        """
        deadline = time.monotonic() + self._timeout
        line = bytearray()
        while not line.endswith(b"\n") and len(line) < _MAX_ANSWER:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            piece = self._socket.recv(_PIECE)
            if not piece:
                break
            line += piece
        return bytes(line)

    def _over(self) -> str:
        return f"the program at {self.path} has ended, or answers too many others"


@dataclass(frozen=True)
class Search:
    """What a look at the places where programs serve their status has found.

    Attributes:
        paths: The sockets, whether anybody listens or not.
        folders: Where they were looked for; not all of these need exist.
        refusals: Why a folder was not looked into, a sentence each.
    """

    paths: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    refusals: tuple[str, ...] = ()


def search() -> Search:
    """Look where the commands look by themselves.

    A folder that is not this user's alone is not looked into: others could pretend to be programs.
    """
    if not hasattr(socket, "AF_UNIX"):
        return Search()
    folders = usual_folders()
    paths: list[Path] = []
    refusals = []
    for folder in folders:
        try:
            check_folder(folder)
            paths += sorted(folder.glob("*.sock"))
        except FileNotFoundError:
            continue
        except StatusError as error:
            refusals.append(str(error))
        except OSError as error:
            refusals.append(f"{folder} cannot be looked into: {error.strerror}")
    return Search(tuple(paths), tuple(folders), tuple(refusals))


def served_paths() -> list[Path]:
    """Return the sockets where the commands look by themselves, whether anybody listens or not.

    Raises:
        StatusError: None was found, and a folder could not be looked into, as it is not this user's
            alone: others could pretend to be programs.
    """
    found = search()
    if found.refusals and not found.paths:
        raise StatusError("; ".join(found.refusals))
    return list(found.paths)


def _connect(path: Path, timeout: float) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise StatusError("asking for a status needs Unix sockets, which this system lacks")
    try:
        is_socket = stat.S_ISSOCK(path.stat().st_mode)
    except FileNotFoundError as error:
        raise StatusError(
            f"there is no {path}: the program does not run, or has not called "
            "tunnel.status.serve() with this path"
        ) from error
    except OSError as error:
        raise StatusError(f"{path} cannot be looked at: {error.strerror}") from error
    if not is_socket:
        raise StatusError(f"{path} is no socket; give the path that was given to status.serve()")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(os.fspath(path))
    except OSError as error:
        sock.close()
        raise StatusError(_why_not(path, error, timeout)) from error
    return sock


def _why_not(path: Path, error: OSError, timeout: float) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens at {path} any more: the program has ended; the file may be removed"
    if isinstance(error, PermissionError):
        return f"{path} belongs to another user, who alone may ask there"
    if isinstance(error, TimeoutError):
        return f"the program at {path} does not answer within {timeout:g} s"
    return f"{path} cannot be asked: {error.strerror or error}"
