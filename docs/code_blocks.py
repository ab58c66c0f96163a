"""The code in the documentation, found so that tests can run it.

In a page, these are for the tests:

- ``.. code-block:: python`` is run, block after block, in one program for each page. With a
  ``:caption:`` that is the name of a file it is written into that file instead.
- ``.. check:`` begins a comment of reStructuredText, which no reader sees; what is indented below
  it is run like a block, and asserts what the text says.
- ``.. files of: PAGE`` adds the files of another page of the same folder.
- ``.. not run: WHY`` right before a block keeps it from being run.
- ``.. needs: MODULE, MODULE`` says what must be installed; else the page is skipped.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^(?P<unrun>\.\. not run: .*\n(?:   .*\n)*\n?)?"
    r"(?:\.\. (?P<check>check):|\.\. code-block:: (?P<language>[\w-]+))\n"
    r"(?P<options>(?:   +:.*\n)*)\n"
    r"(?P<body>(?:   .*\n|\n)+)",
    re.MULTILINE,
)
_CAPTION = re.compile(r":caption: (\S+\.\w+)\n")
_NEEDS = re.compile(r"^\.\. needs: (.*)$", re.MULTILINE)
_FILES_OF = re.compile(r"^\.\. files of: (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A piece of code in a page.

    Attributes:
        language: As the page says it.
        line: Where its code begins, counted from 1.
        code: Without its indentation.
        file: The file that it is, if it is one.
        is_run: Whether it is part of the page's program.
    """

    language: str
    line: int
    code: str
    file: str | None
    is_run: bool


@dataclass(frozen=True)
class Page:
    """What a page has for tests.

    Attributes:
        path: Where it is.
        blocks: Its code, in order.
        needs: Modules that must be there.
        neighbours: Pages whose files it uses.
    """

    path: Path
    blocks: tuple[Block, ...]
    needs: tuple[str, ...]
    neighbours: tuple[str, ...]

    @property
    def files(self) -> dict[str, str]:
        """The files that it shows or uses, with what is in them."""
        files: dict[str, str] = {}
        for name in self.neighbours:
            files |= read_page(self.path.with_name(f"{name}.rst")).files
        own = {block.file: block.code for block in self.blocks if block.file is not None}
        return files | own

    @property
    def program(self) -> str:
        """What is run; each line has the number that it has in the page, for tracebacks."""
        lines: list[str] = []
        for block in self.blocks:
            if block.is_run:
                lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
        return "\n".join(lines)


def read_page(path: Path) -> Page:
    """Find the code of a page, and what it needs."""
    text = path.read_text("utf-8")
    modules = [name.strip() for line in _NEEDS.findall(text) for name in line.split(",")]
    return Page(path, tuple(_blocks(text)), tuple(modules), tuple(_FILES_OF.findall(text)))


def _blocks(text: str) -> Iterator[Block]:
    for found in _BLOCK.finditer(text):
        language = "python" if found["check"] else found["language"]
        caption = _CAPTION.search(found["options"])
        file = caption[1] if caption else None
        yield Block(
            language,
            text[: found.start("body")].count("\n") + 1,
            textwrap.dedent(found["body"]).rstrip("\n") + "\n",
            file,
            language == "python" and file is None and found["unrun"] is None,
        )
