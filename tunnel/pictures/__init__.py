"""Pictures of one tunnel, as SVG without any library: where it stands, and how it got there."""

from __future__ import annotations

from tunnel.pictures.live_diagram import draw_diagram
from tunnel.pictures.page import Picture, as_page
from tunnel.pictures.timeline import draw_timeline

__all__ = ["Picture", "as_page", "draw_diagram", "draw_timeline"]
