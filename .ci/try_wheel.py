"""Use the installed wheel as somebody would who has nothing else.

``python try_wheel.py bare`` without any extra, ``extras`` to name those that are for users,
``whole`` with all of these, and ``fixtures`` with pytest as well; with the environment's own
Python, away from the checkout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from pkgutil import walk_packages

FOR_DEVELOPERS = {"test", "docs", "bench"}
PACKAGES = ("statemachine", "tunnel")
PLUGIN = "pytest_tunnel"  # the fixtures, in a module of its own
TEST = '''
from tunnel import TunnelService


def test_without_a_network(tunnel_clock, tunnel_network):
    """A minute's outage takes no time."""
    service = TunnelService(clock=tunnel_clock, new_transport=tunnel_network)
    service.connect("ws://nowhere.example/")
    service.disconnect()


def test_with_a_gateway(tunnel_gateway):
    """A real one, on loopback."""
    with TunnelService() as service:
        service.connect(tunnel_gateway().url)
        assert service.request("?")
'''
COMMAND = str(Path(sysconfig.get_path("scripts")) / "tunnel")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command ``tunnel``."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def check_files() -> None:
    """Both packages are typed and were installed; licence and description are there."""
    for name in PACKAGES:
        folder = Path(str(import_module(name).__file__)).parent
        assert "site-packages" in folder.parts, folder
        assert (folder / "py.typed").is_file(), f"{folder} has no py.typed"
    installed = distribution("resilient-tunnel")
    assert import_module("tunnel").__version__ == installed.version
    files = [str(path) for path in installed.files or ()]
    assert any(path.endswith("LICENSE") and "dist-info" in path for path in files), files
    ours = (*PACKAGES, PLUGIN, "resilient_tunnel-", "../", f"__pycache__/{PLUGIN}.")
    strays = [file for file in files if not file.startswith(ours)]
    assert not strays, strays
    for needed in (f"{PLUGIN}.py", "tunnel/pictures/lifecycle.svg"):
        assert needed in files, needed
    assert any(entry.value == PLUGIN for entry in installed.entry_points), installed.entry_points


def check_bare() -> None:
    """Without extras: both packages, a tunnel's parts, help; and a sentence for what is missing."""
    tunnel = import_module("tunnel")
    for name in tunnel.__all__:
        getattr(tunnel, name)
    shown = run("--help")
    assert shown.returncode == 0, shown
    assert "usage: tunnel" in shown.stdout, shown
    refused = run("demo")
    assert refused.returncode == 2, refused
    assert "resilient-tunnel[gateway]" in refused.stderr, refused
    assert "Traceback" not in refused.stderr, refused


def check_whole() -> None:
    """With all extras: every module can be imported, and the demo loses nothing."""
    for name in PACKAGES:
        for module in walk_packages(import_module(name).__path__, f"{name}."):
            if module.name.endswith("__main__"):
                continue
            try:
                import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name != "pytest":  # what is a plugin of it may need it
                    raise
    demo = run("demo", "--json")
    assert demo.returncode == 0, demo
    report = json.loads(demo.stdout.splitlines()[-1])
    assert report["sent"] == report["received"] > 0, report
    assert report["lost"] == report["duplicated"] == report["reordered"] == 0, report


def check_fixtures() -> None:
    """A run of pytest that does not ask for them has the fixtures, and no thread is left."""
    Path("test_it.py").write_text(TEST, "utf-8")
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    tested = subprocess.run(pytest, capture_output=True, text=True, check=False, timeout=120)
    assert tested.returncode == 0, tested
    assert "2 passed" in tested.stdout, tested


def show_extras() -> None:
    """Print those for users, as pip takes them."""
    extras = distribution("resilient-tunnel").metadata.get_all("Provides-Extra") or []
    print(",".join(name for name in extras if name not in FOR_DEVELOPERS))


check_files()
{"bare": check_bare, "extras": show_extras, "whole": check_whole, "fixtures": check_fixtures}[
    sys.argv[1]
]()
