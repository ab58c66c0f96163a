"""Sphinx configuration. Build with `make docs`: a warning is an error."""

import re
from importlib.metadata import version as _version

import statemachine
import tunnel
from tunnel import gateway as _gateway
from tunnel import testing as _testing

project = "resilient-tunnel"
author = "The resilient-tunnel developers"
copyright = f"2026, {author}"
release = version = _version("resilient-tunnel")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = True
# Types of the standard library and names that are not public are no links; what is public must be.
nitpick_ignore_regex = [(r"py:.*", r"(?!(tunnel|statemachine)\.[A-Z]).*"), (r"py:.*", r".*\._\w+")]
html_theme = "furo"
html_title = f"resilient-tunnel {release}"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

_PUBLIC = {
    name: f"{module.__name__}.{name}"
    for module in (_testing, _gateway, statemachine, tunnel)
    for name in module.__all__
}
_NAME = re.compile(r"(?<![`:])`([A-Za-z_]\w*)`(?!`)")


def setup(app):
    """Prepare docstrings before napoleon does, which has the usual priority."""
    app.connect("autodoc-process-docstring", _prepare, priority=100)


def _prepare(app, what, name, obj, options, lines):
    """Link public names and error codes, and keep sentences with a colon whole."""
    if isinstance(obj, type) and issubclass(obj, tunnel.TunnelError):
        lines[1:1] = ["", f":Code: :ref:`{obj.code} <{obj.code.lower().replace('_', '-')}>`", ""]
    # Of what is returned, and of a property, napoleon takes all before a colon in the first line
    # for a type. So that line becomes one that is not seen: an escaped space.
    if what in ("attribute", "data", "property"):
        lines.insert(0, "\\ ")
    for number, line in enumerate(lines):
        lines[number] = ":returns:" if line == "Returns:" else _NAME.sub(_link, line)


def _link(found):
    name = _PUBLIC.get(found[1])
    return f":py:obj:`~{name}`" if name else f"``{found[1]}``"
