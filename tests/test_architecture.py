"""The imports of the packages point one way; other libraries are imported where they belong.

The tables below are the architecture. They are held against every import in the source, those
inside functions and under TYPE_CHECKING too. A table names only modules that exist.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("statemachine", "tunnel")

LAYERS: tuple[tuple[str, frozenset[str]], ...] = (
    # From the top. A module imports from its own layer and from those below. A package's modules
    # stand where the package stands; the root of `tunnel`, which only gathers names, stands alone.
    (
        "programs and test kit",
        frozenset(
            {
                "tunnel.__main__",
                "tunnel.cli",
                "tunnel.commands",
                "tunnel.demo",
                "tunnel.gateway",
                "tunnel.testing",
            }
        ),
    ),
    ("public names", frozenset({"tunnel"})),
    (
        "service",
        frozenset(
            {
                "tunnel.closing",
                "tunnel.dialler",
                "tunnel.driver",
                "tunnel.exits",
                "tunnel.greeter",
                "tunnel.heartbeat_websocket",
                "tunnel.metric_sources",
                "tunnel.metric_table",
                "tunnel.network_follower",
                "tunnel.opentelemetry",
                "tunnel.parts",
                "tunnel.prometheus",
                "tunnel.reconnecting",
                "tunnel.recording",
                "tunnel.request_handler",
                "tunnel.requests",
                "tunnel.sender",
                "tunnel.service",
                "tunnel.status",
                "tunnel.thread_work",
                "tunnel.waits",
                "tunnel.worker",
            }
        ),
    ),
    (
        "recovery, heartbeat, queue, session",
        frozenset(
            {
                "tunnel.acknowledger",
                "tunnel.backpressure",
                "tunnel.callback_lane",
                "tunnel.circuit_breaker",
                "tunnel.closing_handshake",
                "tunnel.connection_recovery",
                "tunnel.connection_state_tracker",
                "tunnel.delivery",
                "tunnel.event_log",
                "tunnel.group_commit",
                "tunnel.history",
                "tunnel.link",
                "tunnel.liveness",
                "tunnel.metrics_collector",
                "tunnel.outbox",
                "tunnel.pending_requests",
                "tunnel.pictures",
                "tunnel.queue_contents",
                "tunnel.queue_core",
                "tunnel.queue_entries",
                "tunnel.queue_file",
                "tunnel.queue_flush",
                "tunnel.queue_intake",
                "tunnel.queue_journal",
                "tunnel.queue_log",
                "tunnel.queue_rows",
                "tunnel.queue_salvage",
                "tunnel.request_queue",
                "tunnel.session",
                "tunnel.session_channel",
                "tunnel.session_handshake",
                "tunnel.session_keeper",
                "tunnel.session_receiving",
                "tunnel.session_sending",
                "tunnel.state_effects",
                "tunnel.state_watch",
                "tunnel.tracker_snapshot",
                "tunnel.websocket_heartbeat",
                "tunnel.writer",
            }
        ),
    ),
    (
        "transport and policies",
        frozenset(
            {
                "tunnel.backoff",
                "tunnel.certificate",
                "tunnel.connect_race",
                "tunnel.dial",
                "tunnel.dial_options",
                "tunnel.handshake_socket",
                "tunnel.happy_eyeballs",
                "tunnel.frames",
                "tunnel.masking",
                "tunnel.name_lookup",
                "tunnel.network_netlink",
                "tunnel.network_outlook",
                "tunnel.network_routes",
                "tunnel.network_watch",
                "tunnel.nested_tls",
                "tunnel.proxy",
                "tunnel.proxy_handshake",
                "tunnel.reconnection_manager",
                "tunnel.reconnection_run",
                "tunnel.spki",
                "tunnel.stream",
                "tunnel.tls",
                "tunnel.transport",
                "tunnel.turnstile",
                "tunnel.waker",
            }
        ),
    ),
    (
        "vocabulary",
        frozenset(
            {
                "tunnel.addresses",
                "tunnel.arguments",
                "tunnel.classify",
                "tunnel.clock",
                "tunnel.config",
                "tunnel.config_rules",
                "tunnel.error_base",
                "tunnel.error_codes",
                "tunnel.errors",
                "tunnel.events",
                "tunnel.forks",
                "tunnel.handshake_errors",
                "tunnel.interruptible",
                "tunnel.lifecycle",
                "tunnel.log_context",
                "tunnel.log_line",
                "tunnel.proxy_errors",
                "tunnel.request_frames",
                "tunnel.responses",
                "tunnel.roll",
                "tunnel.secrets",
                "tunnel.session_frames",
                "tunnel.session_lifecycle",
                "tunnel.timers",
            }
        ),
    ),
    ("engine", frozenset({"statemachine"})),
)

LIBRARIES: dict[str, frozenset[str]] = {
    # Who may import what is neither ours nor Python's: the modules, or a whole package.
    "graphviz": frozenset({"statemachine"}),
    "h11": frozenset({"tunnel.proxy_handshake"}),
    "loguru": frozenset({"statemachine", "tunnel"}),
    "opentelemetry": frozenset({"tunnel.opentelemetry"}),
    "prometheus_client": frozenset({"tunnel.prometheus"}),
    "rich": frozenset({"tunnel.commands", "tunnel.demo"}),
    "socksio": frozenset({"tunnel.proxy_handshake"}),
    "tenacity": frozenset({"tunnel.reconnection_manager"}),
    "transitions": frozenset({"statemachine"}),
    "typing_extensions": frozenset({"statemachine", "tunnel"}),  # for type checkers alone
    # The transport, and what classifies its exceptions.
    "websocket": frozenset({"tunnel.classify", "tunnel.handshake_errors", "tunnel.transport"}),
    "websockets": frozenset({"tunnel.demo", "tunnel.gateway", "tunnel.masking", "tunnel.testing"}),
    "wsaccel": frozenset({"tunnel.masking"}),
    # For users' tests; not needed to import the kit.
    "freezegun": frozenset({"tunnel.testing"}),
    "pytest": frozenset({"tunnel.testing"}),
}

LOG_METHODS = frozenset(
    {"trace", "debug", "info", "success", "warning", "error", "critical", "exception", "log"}
)


@dataclass(frozen=True)
class Import:
    """One imported name: who imports it, what, where, and whether that happens at import time."""

    importer: str
    imported: str
    line: int
    at_import: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.imported}"


def test_every_module_is_placed() -> None:
    """Each module of the packages belongs to exactly one layer."""
    homeless = [m for m in sorted(MODULES) if not _placements(m)]
    torn = [m for m in sorted(MODULES) if len(_placements(m)) > 1]
    assert not homeless, (
        f"place {', '.join(homeless)} in LAYERS ({Path(__file__).name}): in the lowest layer that "
        "holds everything they import"
    )
    assert not torn, f"in more than one layer: {', '.join(torn)}"


def test_the_tables_name_only_what_exists() -> None:
    """A name in the tables that belongs to no module any more is taken out of them."""
    named = set().union(*(names for _, names in LAYERS), *LIBRARIES.values())
    gone = sorted(name for name in named if name not in MODULES)
    assert not gone, f"no such module; take it out of the tables above: {', '.join(gone)}"


def test_imports_point_down() -> None:
    """No module imports from a layer above its own."""
    upward = [
        f"{i} ({LAYERS[_layer(i.imported)][0]}) from below ({LAYERS[_layer(i.importer)][0]})"
        for i in IMPORTS
        if _placements(i.imported)
        and _placements(i.importer)
        and _layer(i.imported) < _layer(i.importer)
    ]
    assert not upward, "\n".join(upward)


def test_no_module_needs_itself_to_be_imported() -> None:
    """Imports that happen at import time form no circle."""
    needs: dict[str, set[str]] = {module: set() for module in MODULES}
    for i in IMPORTS:
        if i.at_import and i.imported in MODULES and i.imported != i.importer:
            needs[i.importer].add(i.imported)
    while free := [module for module in needs if not needs[module]]:
        for module in free:
            del needs[module]
        for remaining in needs.values():
            remaining.difference_update(free)
    assert not needs, f"a circle of imports, or behind one: {', '.join(sorted(needs))}"


def test_the_engine_knows_nothing_of_networks() -> None:
    """`statemachine` imports nothing from `tunnel`, and no network module of Python's."""
    network = {"tunnel", "socket", "ssl", "select", "selectors", "asyncio", "http", "urllib"}
    found = [
        str(i)
        for i in IMPORTS
        if _top(i.importer) == "statemachine" and _top(i.imported) in network
    ]
    assert not found, "\n".join(found)


def test_libraries_are_imported_where_they_belong() -> None:
    """Each library is imported only by the modules that the table gives it to."""
    astray = [
        str(i)
        for i in IMPORTS
        if _top(i.imported) not in sys.stdlib_module_names
        and _top(i.imported) not in PACKAGES
        and not any(
            _within(i.importer, place) for place in LIBRARIES.get(_top(i.imported), frozenset())
        )
    ]
    assert not astray, "not allowed by LIBRARIES:\n" + "\n".join(astray)


def test_extras_are_not_needed_to_import() -> None:
    """What only an extra installs is imported when it is used, except by the programs."""
    needed = {"loguru", "tenacity", "transitions", "websocket"}
    programs = LAYERS[0][1]
    early = [
        str(i)
        for i in IMPORTS
        if i.at_import
        and _top(i.imported) in LIBRARIES.keys() - needed
        and not any(_within(i.importer, program) for program in programs)
    ]
    assert not early, "\n".join(early)


def test_log_messages_are_constant_templates() -> None:
    """A log call's message is a literal: braces in a joined one would raise into the caller.

    A function that hands messages on calls its parameter `template`.
    """
    bent = [
        f"{module}, line {call.lineno}: {ast.unparse(call)}"
        for module, tree in TREES.items()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and _is_log_call(call) and not _has_literal_message(call)
    ]
    assert not bent, "\n".join(bent)


def test_no_test_sleeps() -> None:
    """Tests wait for what they wait for, or use the fake clock; they never call `time.sleep`."""
    sleepers = [
        f"{path.relative_to(ROOT)}, line {node.lineno}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep")
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and any(alias.name == "sleep" for alias in node.names)
        )
    ]
    assert not sleepers, "\n".join(sleepers)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tenacity.wait", [("tenacity.wait", True)]),
        ("from . import clock", [("tunnel.clock", True)]),
        ("from .clock import Clock", [("tunnel.clock", True)]),
        ("from tunnel import clock, connect", [("tunnel.clock", True), ("tunnel", True)]),
        ("def f():\n    import websocket", [("websocket", False)]),
        ("if TYPE_CHECKING:\n    import websocket", [("websocket", False)]),
        ("try:\n    import websockets\nexcept ImportError:\n    pass", [("websockets", False)]),
        ("class A:\n    import rich", [("rich", True)]),
        ("m = importlib.import_module('wsaccel.xormask')", [("wsaccel.xormask", False)]),
    ],
)
def test_imports_are_found(source: str, found: list[tuple[str, bool]]) -> None:
    """The search for imports sees relative, late and conditional ones for what they are."""
    imports = _imports("tunnel.config", ROOT / "tunnel" / "config.py", ast.parse(source))
    assert [(i.imported, i.at_import) for i in imports] == found


def _modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(module: str, path: Path, node: ast.AST, at_import: bool = True) -> Iterator[Import]:
    """The imports below a node of the module's tree.

    Not at import time are those in functions, those for type checkers, and those that may fail.
    """
    for child in ast.iter_child_nodes(node):
        for name in _names_imported(module, path, child):
            assert isinstance(child, (ast.stmt, ast.Call))
            called = isinstance(child, ast.Call)
            yield Import(module, name, child.lineno, at_import and not called)
        late = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try)) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from _imports(module, path, child, at_import and not late)


def _names_imported(module: str, path: Path, node: ast.AST) -> list[str]:
    """The modules that one statement or call imports, by their full names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module.split(".")[: None if path.name == "__init__.py" else -1]
            package = package[: len(package) - node.level + 1]
            base = ".".join([*package, base] if base else package)
        names = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in MODULES else base for name in names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        # What is no literal is named by a user, and no part of the architecture.
        return [str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)]
    return []


def _is_log_call(call: ast.Call) -> bool:
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr not in LOG_METHODS:
        return False
    return any(
        isinstance(node, (ast.Name, ast.Attribute))
        and (node.id if isinstance(node, ast.Name) else node.attr).lstrip("_") in {"logger", "log"}
        for node in ast.walk(function.value)
    )


def _has_literal_message(call: ast.Call) -> bool:
    assert isinstance(call.func, ast.Attribute)
    position = 1 if call.func.attr == "log" else 0  # log(level, message, ...)
    message = call.args[position] if len(call.args) > position else None
    if isinstance(message, ast.Name):
        return message.id == "template"
    return isinstance(message, ast.Constant) and isinstance(message.value, str)


def _placements(module: str) -> list[int]:
    """The layers that name the module itself or, failing that, the nearest package around it."""
    name = module
    while name:
        layers = [number for number, (_, names) in enumerate(LAYERS) if name in names]
        if layers and (name == module or name != "tunnel"):
            return layers
        name = name.rpartition(".")[0]
    return []


def _layer(module: str) -> int:
    return _placements(module)[0]


def _within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def _top(module: str) -> str:
    return module.partition(".")[0]


MODULES = _modules()
TREES = {name: ast.parse(path.read_text("utf-8"), str(path)) for name, path in MODULES.items()}
IMPORTS = list(
    dict.fromkeys(i for name, tree in TREES.items() for i in _imports(name, MODULES[name], tree))
)
