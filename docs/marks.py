"""Which tests bear a mark such as ``@pytest.mark.fault("reset")``, read from their source.

A mark stands on a function or class, on a parameter, or for a whole file in its ``pytestmark``.
Nothing is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def collect(mark: str, tests: Path, root: Path) -> dict[str, list[str]]:
    """Collect the marks of one kind of all tests below a folder.

    Args:
        mark: The mark's name, "fault" for ``pytest.mark.fault``.
        tests: The folder to look in.
        root: What the names of files are relative to.

    Returns:
        For each argument of such a mark, the pytest ids of tests, classes or files, in order.

    Raises:
        ValueError: An argument is not a literal string, and so cannot be read.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"), str(path))
        for scope, arguments in _marks(mark, tree, path.relative_to(root).as_posix()):
            for argument in arguments:
                ids = found.setdefault(argument, [])
                if scope not in ids:
                    ids.append(scope)
    return found


def _marks(mark: str, node: ast.AST, scope: str) -> Iterator[tuple[str, list[str]]]:
    """The marks below a node with the id of the file, class or test that bears each."""
    for child in ast.iter_child_nodes(node):
        inner = scope
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = f"{scope}::{child.name}"
        elif isinstance(child, ast.Call) and _is_mark(mark, child.func):
            yield scope, [_literal(mark, argument, scope) for argument in child.args]
        yield from _marks(mark, child, inner)


def _is_mark(mark: str, function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute) or function.attr != mark:
        return False  # nearly all
    return ast.unparse(function) in (f"pytest.mark.{mark}", f"mark.{mark}")


def _literal(mark: str, argument: ast.expr, scope: str) -> str:
    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
        raise ValueError(
            f"{scope}: what a mark {mark} names must be a literal string, not "
            f"{ast.unparse(argument)}; name all of them on the test itself"
        )
    return argument.value
