"""The examples of docs/observing.rst run as they stand there."""

from __future__ import annotations

import re
import socket
import textwrap
from pathlib import Path
from typing import Any

import pytest

import tunnel.status.server as server_module

PAGE = Path(__file__).parent.parent / "docs" / "observing.rst"
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
@pytest.mark.usefixtures("no_leaks", "status_folders")
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would try them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    examples = BLOCK.findall(PAGE.read_text("utf-8"))
    assert len(examples) == 4
    try:
        for example in examples:
            exec(compile(textwrap.dedent(example), str(PAGE), "exec"), names)
    finally:
        if server_module._serving is not None:
            server_module._serving.close()
    assert (tmp_path / "run.json").is_file()
    assert names["timeline"].startswith("<svg")
