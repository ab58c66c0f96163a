"""Pictures and tables of a declaration.

They are drawn from the table and nothing else, so they are the same bytes in every process,
whatever any machine is doing. (The markup of ``transitions`` was tried: it knows no sentences,
joins parallel rows into one long line, and shows the state that a model is in.) Only "svg" depends
on what is installed: it needs the extra ``diagrams`` and Graphviz's `dot`, whose version it names.

================  ==========  =================================================
format            extension   what it is
================  ==========  =================================================
mermaid           mmd         a ``stateDiagram-v2``, as GitHub and others show it
dot               dot         the source of the picture, for Graphviz
svg               svg         the picture; sentences are shown as tooltips
rst               rst         tables of the states, the rows and the other cells
================  ==========  =================================================
"""

from __future__ import annotations

from statemachine.diagram.files import stale, write
from statemachine.diagram.rendering import EXTENSIONS, render

__all__ = ["EXTENSIONS", "render", "stale", "write"]
