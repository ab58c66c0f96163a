"""Sphinx configuration. Build with `make docs`: a warning is an error."""

from importlib.metadata import version as _version

project = "resilient-tunnel"
author = "The resilient-tunnel developers"
copyright = f"2026, {author}"
release = version = _version("resilient-tunnel")

extensions: list[str] = []
exclude_patterns = ["_build"]
nitpicky = True
html_theme = "furo"
html_title = f"resilient-tunnel {release}"
