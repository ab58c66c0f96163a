"""The file of ``tunnel watch --diagram``."""

from __future__ import annotations

import math
from pathlib import Path

from tunnel.commands.history_files import write_picture
from tunnel.commands.status_table import facts
from tunnel.errors import ConfigurationError
from tunnel.pictures import Picture, as_page, draw_diagram
from tunnel.pictures.words import moment
from tunnel.status import ProcessStatus


class DiagramFile:
    """Keeps a file with the diagrams of a program up to date. Not for several threads.

    Args:
        path: The file, which ends in .html or .svg.
        every: Seconds between two looks at the program.

    Raises:
        ConfigurationError: Its name does not say what to draw.
    """

    def __init__(self, path: Path, every: float) -> None:
        if path.suffix not in (".html", ".svg"):
            raise ConfigurationError(
                f"--diagram {path}: give a name that ends in .html, for a page with all tunnels, "
                "or in .svg, for the picture of a single one"
            )
        self._path = path
        self._refresh = max(1, math.ceil(every))
        self._latest: ProcessStatus | None = None

    def draw(self, process: ProcessStatus) -> None:
        """Write the diagrams of a process.

        Args:
            process: With histories.

        Raises:
            ConfigurationError: A picture can show one tunnel, and there is another number of them;
                or the file cannot be written.
        """
        if self._path.suffix == ".html":
            self._write_page(process, refresh=self._refresh)
        elif len(process.histories) == 1:
            write_picture(draw_diagram(process.histories[0], now=process.time), self._path)
        else:
            raise ConfigurationError(
                f"--diagram {self._path}: a .svg shows one tunnel, and the program has "
                f"{len(process.histories)}; give a name that ends in .html"
            )
        self._latest = process

    def close(self, notice: str) -> None:
        """Have a page say that it is not kept up to date any more.

        Args:
            notice: Why.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        if self._latest is not None and self._path.suffix == ".html":
            self._write_page(self._latest, notice=notice)

    def _write_page(
        self, process: ProcessStatus, *, refresh: int | None = None, notice: str = ""
    ) -> None:
        now = process.time
        pictures = [
            Picture(
                f"{tunnel.name}: {tunnel.state}",
                draw_diagram(history, now=now),
                facts(tunnel, now),
            )
            for tunnel, history in zip(process.tunnels, process.histories, strict=True)
        ]
        page = as_page(
            f"{process.program}, process {process.pid}, as of {moment(now)}",
            pictures,
            notice=notice,
            footer="A tunnel remembers its last 100 changes of state.",
            refresh=refresh,
        )
        write_picture(page, self._path)
