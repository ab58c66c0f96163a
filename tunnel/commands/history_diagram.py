"""``tunnel diagram --history FILE``: the lifecycle, and in it what one tunnel went through."""

from __future__ import annotations

from argparse import Namespace

from tunnel.commands.history_files import read_history, write_picture
from tunnel.errors import ConfigurationError
from tunnel.pictures import draw_diagram


def run(arguments: Namespace) -> int:
    """Draw it.

    Returns:
        The exit code: 0.

    Raises:
        ConfigurationError: Another machine or format was asked for, a file cannot be read or
            written, or is no history.
        OSError: The folder cannot be made, or standard output not be written to.
    """
    if arguments.name != "lifecycle":
        raise ConfigurationError(
            "a history is about the lifecycle; it says nothing of "
            + ("other machines" if arguments.name == "all" else f"the {arguments.name}")
        )
    if arguments.check or arguments.format not in (None, ["svg"]):
        raise ConfigurationError("a history is drawn as SVG, and there is nothing to check it with")
    picture = draw_diagram(read_history(arguments.history))
    folder = arguments.output
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    write_picture(picture, None if folder is None else folder / "lifecycle.svg")
    return 0
