"""Where status sockets are, if nobody says otherwise."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from tunnel.status.errors import StatusError

_RUNTIME = Path("/run/user")  # a folder of each user who is logged in, by number
_TEMPORARY = Path("/tmp")  # where a program without TMPDIR has its temporary files


def default_folder() -> Path:
    """The folder of this user's sockets; it need not exist.

    It is in ``XDG_RUNTIME_DIR``, which belongs to the user, or else in the folder for temporary
    files, which others share.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return _below_runtime(Path(runtime))
    return _below_temporary(Path(tempfile.gettempdir()))


def usual_folders() -> list[Path]:
    """The folders where programs of this user may have their sockets; they need not exist.

    A program and who asks it may have other environments, as a service and a login shell have. So
    these are the folder of this environment, `default_folder`, and those of the usual ones.
    """
    folders = [default_folder(), _below_runtime(_RUNTIME / str(_user()))]
    folders += [_below_temporary(Path(tempfile.gettempdir())), _below_temporary(_TEMPORARY)]
    places: dict[str, Path] = {}
    for folder in folders:  # one way to each is enough
        places.setdefault(os.path.join(os.path.realpath(folder.parent), folder.name), folder)
    return list(places.values())


def _below_runtime(folder: Path) -> Path:
    return folder / "resilient-tunnel"


def _below_temporary(folder: Path) -> Path:
    return folder / f"resilient-tunnel-{_user()}"


def _user() -> int:
    """Who runs the program; on systems without such numbers 0, as in what `lstat` says there."""
    return os.getuid() if hasattr(os, "getuid") else 0


def make_folder(folder: Path) -> None:
    """Make the folder for this user alone, or see that it is so.

    Raises:
        StatusError: It is there, but is somebody else's, or others may write to it.
        OSError: It cannot be made.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """See that a folder is this user's alone.

    Raises:
        StatusError: It is somebody else's, or others may write to it.
        OSError: It is not there, or cannot be looked at.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != _user() or found.st_mode & 0o022:
        raise StatusError(
            f"{folder} is not a folder of yours alone, as others may write there; remove it, or "
            "give a path of your own"
        )
