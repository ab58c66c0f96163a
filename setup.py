"""What setup.cfg cannot say: how to make the same bytes from the same source.

The wheel of setuptools heeds ``SOURCE_DATE_EPOCH``; its sdist keeps the times, owners and modes of
the files as they lie about, and the time of the build. Here the sdist has none of that, and since
the wheel is made from it, two builds of one commit are equal (with one version of setuptools, which
the wheel names).
"""

from __future__ import annotations

import gzip
import os
import tarfile
import time
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

os.umask(0o022)  # the modes of what a build makes are in the wheel


class ReproducibleSdist(sdist):
    """Writes the archive with `SOURCE_DATE_EPOCH` as the time of everything; not set, it is now."""

    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        """Make the archive of a folder, its files in order; see the base class.

        Raises:
            ValueError: Another format than gztar is asked for.
        """
        if format != "gztar" or base_dir is None:
            raise ValueError(f"the sdist is made as gztar, not as {format}")
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime = epoch
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        target = Path(f"{base_name}.tar.gz")
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(target, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(Path(root_dir or ".", base_dir), arcname=base_dir, filter=anonymous)
        return str(target)


setup(cmdclass={"sdist": ReproducibleSdist})
