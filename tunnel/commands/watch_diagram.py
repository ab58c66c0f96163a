"""The file of ``tunnel watch --diagram``."""

from __future__ import annotations

import math
from pathlib import Path

from tunnel.commands.history_files import write_picture
from tunnel.errors import ConfigurationError
from tunnel.pictures import Picture, as_page, draw_diagram
from tunnel.pictures.words import moment
from tunnel.status import ProcessStatus


def checked_diagram(path: Path | None) -> Path | None:
    """Return the path.

    Raises:
        ConfigurationError: Its name does not say what to draw.
    """
    if path is not None and path.suffix not in (".html", ".svg"):
        raise ConfigurationError(
            f"--diagram {path}: give a name that ends in .html, for a page with all tunnels, or in "
            ".svg, for the picture of a single one"
        )
    return path


def draw(process: ProcessStatus, path: Path, every: float) -> None:
    """Write the diagrams of a process.

    Args:
        process: With histories.
        path: The file.
        every: Seconds until the next look.

    Raises:
        ConfigurationError: A picture can show one tunnel, and there is another number of them; or
            the file cannot be written.
    """
    pictures = [
        Picture(tunnel.name, draw_diagram(history, now=process.time))
        for tunnel, history in zip(process.tunnels, process.histories, strict=True)
    ]
    if path.suffix == ".html":
        page = as_page(
            f"{process.program}, process {process.pid}",
            pictures,
            footer=f"As of {moment(process.time)}; a tunnel remembers its last 100 changes.",
            refresh=max(1, math.ceil(every)),
        )
        write_picture(page, path)
        return
    if len(pictures) != 1:
        raise ConfigurationError(
            f"--diagram {path}: a .svg shows one tunnel, and the program has {len(pictures)}; "
            "give a name that ends in .html"
        )
    write_picture(pictures[0].svg, path)
