"""What docs/metrics-and-logs.rst says is so: its code runs, and its tables are those of the code.

Each piece of code runs in a process of its own, since it configures logging and registries.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import list_metrics  # setup.cfg puts docs/ on the path
import pytest
import yaml

from tests.plain_server import echo, plain_server
from tunnel import MetricsCollector, TunnelService
from tunnel.metrics_collector import connection_quality
from tunnel.prometheus import render

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "metrics-and-logs.rst").read_text("utf-8")
BLOCK = re.compile(r"^\.\. code-block:: python\n   :name: (.*)\n\n((?:   .*\n|\n)+)", re.MULTILINE)
EXAMPLES = {found[1]: textwrap.dedent(found[2]) for found in BLOCK.finditer(TEXT)}
ADDRESS = "wss://echo.example.com/"
SECRET = "geheim4711"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs examples by name, between a preparation and a check, with a server of ours."""

    def program(
        *names: str, before: str = "", after: str = "", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        source = "\n".join([before, *(EXAMPLES[name] for name in names), after])
        for old, new in {ADDRESS: address, **changes}.items():
            source = source.replace(old, new)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", source], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done

    with plain_server(echo) as url:
        address = f"{url.replace('//', f'//me:{SECRET}@')}path?token={SECRET}"
        yield program


def test_all_code_is_tried_here() -> None:
    """Each piece of code on the page has a name that a test below uses."""
    assert TEXT.count(".. code-block:: python") == len(EXAMPLES)
    source = Path(__file__).read_text("utf-8")
    untried = [name for name in EXAMPLES if f'"{name}"' not in source]
    assert not untried


@pytest.mark.requirement("3.4")
def test_prometheus_scrapes_the_example(run: Run) -> None:
    """A scrape by HTTP shows the tunnel, and the text of `render` the same."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    done = run(
        "prometheus",
        "page",
        before="import urllib.request",
        after=f"""
print(urllib.request.urlopen("http://127.0.0.1:{port}/metrics").read().decode())
assert 'tunnel_connected{{tunnel="prices"}} 1.0' in page
tunnels.remove("prices")
print("removed", urllib.request.urlopen("http://127.0.0.1:{port}/metrics").read().decode())
service.disconnect()
""",
        **{"start_http_server(9464)": f"start_http_server({port}, addr='127.0.0.1')"},
    )
    present, removed = done.stdout.split("removed")
    assert 'tunnel_connected{tunnel="prices"} 1.0' in present
    assert 'tunnel_state{state="connected",tunnel="prices"} 1.0' in present
    assert "prices" not in removed
    assert "# TYPE tunnel_connected gauge" in removed
    assert SECRET not in done.stdout


def test_opentelemetry_gets_the_example(run: Run) -> None:
    """The global providers get the span of the connect, and the metrics when they are collected."""
    done = run(
        "opentelemetry",
        before="""
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
metrics.set_meter_provider(MeterProvider([reader]))
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(exporter))
""",
        after="""
print(reader.get_metrics_data().to_json())
service.disconnect()
trace.get_tracer_provider().force_flush()
print([span.name for span in exporter.get_finished_spans()])
""",
    )
    assert '"tunnel.connected"' in done.stdout
    assert done.stdout.endswith("['tunnel.connect']\n")
    assert SECRET not in done.stdout


CONNECT = f'import tunnel\ntunnel.connect("{ADDRESS}").disconnect()\n'


def test_lines_come_when_they_are_asked_for(run: Run) -> None:
    """Before `enable` there are none, nor after `disable`; a part can be taken out."""
    disabled = 'print("off", file=sys.stderr)\nlogger.disable("tunnel")\n'
    done = run("enable", before=f"import sys\n{CONNECT}", after=f"{CONNECT}{disabled}{CONNECT}")
    lines, rest = done.stderr.split("off\n")
    assert "connected: connected" in lines
    assert lines.count("connecting: connecting") == 1
    assert rest == ""
    done = run("enable", after=f'logger.disable("tunnel.service")\n{CONNECT}')
    assert done.stderr == ""


def test_importing_configures_nothing(run: Run) -> None:
    """Neither loguru's sinks and context nor the standard library's logging are touched."""
    done = run(
        before="""
import logging
from loguru import logger
before = repr(logger), list(logging.root.handlers), logging.root.level
import tunnel
import tunnel.prometheus, tunnel.opentelemetry
after = repr(logger), list(logging.root.handlers), logging.root.level
assert before == after, (before, after)
assert logging.getLogger("tunnel").handlers == []
"""
        + CONNECT
        + "logger.info('mine: {extra}', extra='none')"
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("mine: none\n")


def test_lines_have_the_ids_of_the_example(run: Run) -> None:
    """Each line after the first names the dial by the connection's id and a number."""
    done = run("ids")
    id = done.stdout.split()[-1]
    assert re.fullmatch("[0-9a-f]{32}", id)
    assert done.stderr.splitlines() == [
        "INFO None connecting: connecting",
        f"INFO {id}-1 connected: connected",
        f"INFO {id}-1 closing: closed by the application",
        f"INFO {id}-1 disconnected: disconnected",
    ]


@pytest.mark.requirement("11.3", "11.4")
def test_json_lines_have_the_facts(run: Run) -> None:
    """Each line is an object with the connection's ids, the event and its facts, and no secret."""
    done = run("json")
    extras = [json.loads(line)["record"]["extra"] for line in done.stderr.splitlines()]
    assert [extra["event"] for extra in extras] == [
        "connecting",
        "connected",
        "closing",
        "disconnected",
    ]
    assert len({extra["connection_id"] for extra in extras}) == 1
    for extra in extras:
        assert set(extra) == {"connection_id", "dial_id", "event", "server_url", "metadata"}
        assert re.fullmatch(r"ws://127\.0\.0\.1:\d+/path\?token=.*", extra["server_url"])
    assert SECRET not in done.stderr


def test_lines_reach_the_logging_of_the_standard_library(run: Run) -> None:
    """They arrive once, by their modules' names, with ids, and obey the levels of `logging`."""
    done = run("propagate", after='logging.getLogger("mine").warning("my own")')
    lines = done.stderr.splitlines()
    assert lines[0] == "INFO tunnel.service [None] connecting: connecting"
    assert re.fullmatch(r"INFO tunnel\.service \[[0-9a-f]{32}-1\] connected: connected", lines[1])
    assert lines[-1] == "WARNING mine my own"
    assert len(lines) == 5
    quiet = 'logging.getLogger("tunnel").setLevel(logging.ERROR)\n'
    done = run("propagate", after=f"{quiet}print(1, file=__import__('sys').stderr)\n{CONNECT}")
    assert done.stderr.split("1\n")[-1] == ""


def test_errors_keep_their_traceback_on_the_way(run: Run) -> None:
    """What a callback raises arrives in `logging` with its traceback."""
    raising = """
import threading
was_called = threading.Event()
def fail(message):
    try:
        raise RuntimeError("mine")
    finally:
        was_called.set()
with tunnel.connect("%s", on_message=fail) as service:
    service.send("hello")
    assert was_called.wait(20)
"""
    done = run("propagate", after=raising % ADDRESS)
    assert "on_message raised" in done.stderr
    assert "RuntimeError: mine" in done.stderr


def test_lines_of_the_standard_library_reach_loguru(run: Run) -> None:
    """They have their level, the place where they were logged, and braces do no harm."""
    done = run("intercept", after='logging.getLogger("websocket").warning("careful {x}")')
    assert "WARNING " in done.stderr
    assert done.stderr.endswith("- careful {x}\n")
    assert "__main__:<module>" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.requirement("3.5")
def test_the_bounds_of_the_quality_are_those_of_the_table() -> None:
    """What the page says of each grade is what the code judges, just below and at the bounds."""
    row = re.compile(r"\* - ``(\w+)``\n     - below (\d+) ms\n     - below (\d+) %")
    bounds = [(name, int(ms) / 1000, int(part) / 100) for name, ms, part in row.findall(TEXT)]
    assert [name for name, _, _ in bounds] == ["excellent", "good", "fair"]
    grades = [*(name for name, _, _ in bounds), "poor"]
    for number, (name, latency, loss) in enumerate(bounds):
        assert connection_quality(latency * 0.999, loss * 0.999).value == name
        assert connection_quality(latency, 0.0).value == grades[number + 1]
        assert connection_quality(0.0, loss).value == grades[number + 1]
    assert connection_quality(None, 1.0).value == "poor"
    assert connection_quality(None, None).value == "unknown"


def test_the_table_of_metrics_is_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what the script writes; and `--check` says when it is not."""
    assert list_metrics.PAGE.read_text("utf-8") == list_metrics.page()
    monkeypatch.setattr(list_metrics, "PAGE", tmp_path / "table.inc")
    assert list_metrics.main(["--check"]) == 1
    assert "run: make metrics" in capsys.readouterr().err
    assert list_metrics.main([]) == 0
    assert list_metrics.main(["--check"]) == 0


def exported() -> str:
    """A page that has every metric with every label that is known beforehand."""
    metrics = MetricsCollector()
    metrics.record_error("TUNNEL_001")
    return render({"service": TunnelService(), "metrics": metrics})


def known(page: str) -> set[str]:
    """The names of the metrics on a page."""
    return set(re.findall(r"^(tunnel_\w+)", page, re.MULTILINE))


def test_the_dashboard_shows_what_there_is() -> None:
    """It parses, its panels have their own places, and name only metrics that are exported."""
    dashboard = json.loads((DOCS / "dashboard.json").read_text("utf-8"))
    panels = dashboard["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len({panel["id"] for panel in panels}) == len(panels)
    labels = {"tunnel", "state", "quality", "code", "outcome", "quantile"}
    for panel in panels:
        for target in panel["targets"]:
            names = set(re.findall(r"tunnel_\w+", target["expr"]))
            assert names, panel["title"]
            assert names <= known(exported()), panel["title"]
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


def test_alerts_ask_for_what_there_is() -> None:
    """The rules parse, are complete, and name only metrics and labels that are exported."""
    page = exported()
    rules = yaml.safe_load((DOCS / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        assert set(re.findall(r"tunnel_\w+", rule["expr"])) <= known(page), rule["alert"]
        for name, label, value in re.findall(r'(\w+)\{(\w+)="(\w+)"\}', rule["expr"]):
            assert re.search(rf'^{name}\{{.*{label}="{value}"', page, re.MULTILINE), rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "{{ $labels.tunnel }}" in rule["annotations"]["summary"]
