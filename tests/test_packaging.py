"""What the package says of itself is so, and so is what its tools are told."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tunnel

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", "utf-8")

TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini", "utf-8")

FOR_DEVELOPERS = {"test", "docs", "bench"}
"""The extras that the packages themselves have no use for."""

USERS = sorted(set(SETUP["options.extras_require"]) - FOR_DEVELOPERS)
"""The other extras."""

DISTRIBUTIONS = {
    "opentelemetry": "opentelemetry-api",
    "websocket": "websocket-client",
    "yaml": "pyyaml",
}
"""Where a module comes from that is not named like its distribution."""

PYTHONS = re.findall(r":: (3\.\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)


def requirements(lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines.split("\n") if line.strip()]


def imported_by(path: Path) -> Iterator[str]:
    """The top-level names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


USED = {
    canonicalize_name(DISTRIBUTIONS.get(module, module))
    for package in ("statemachine", "tunnel")
    for path in (ROOT / package).rglob("*.py")
    for module in imported_by(path)
}
"""The distributions that the packages import from."""


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def workflow() -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.mark.parametrize("extra", USERS)
def test_an_extra_is_used(extra: str) -> None:
    """The packages import what each extra installs: none is there for nothing."""
    listed = requirements(SETUP["options.extras_require"][extra])
    assert listed
    unused = [r.name for r in listed if canonicalize_name(r.name) not in USED]
    assert not unused, (
        f"nothing imports {', '.join(unused)}, which the extra {extra} installs; if its module "
        "has another name, say so in DISTRIBUTIONS"
    )


def test_what_is_required_is_used() -> None:
    """Who installs the package gets nothing that it does not import."""
    listed = requirements(SETUP["options"]["install_requires"])
    assert [r.name for r in listed if canonicalize_name(r.name) not in USED] == []


def test_messages_name_extras_that_exist() -> None:
    """Every ``resilient-tunnel[...]`` in code and documentation can be installed."""
    extras = set(SETUP["options.extras_require"])
    files = [*ROOT.glob("*.rst"), *(ROOT / "docs").rglob("*.rst"), ROOT / "setup.cfg"]
    files += [p for package in ("statemachine", "tunnel") for p in (ROOT / package).rglob("*.py")]
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        if "_build" not in path.parts
        for names in re.findall(r"resilient-tunnel\[([^\]]+)\]", path.read_text("utf-8"))
        for name in names.split(",")
        if name.strip() not in extras
    ]
    assert not wrong


def test_each_python_is_tried() -> None:
    """The classifiers, tox and the workflow name the same Pythons; the oldest is the minimum."""
    assert SETUP["options"]["python_requires"] == f">={PYTHONS[0]}"
    assert SETUP["mypy"]["python_version"] == PYTHONS[0]
    environments = re.split(r",\s*", TOX["tox"]["env_list"])
    assert environments == [*(f"py{version.replace('.', '')}" for version in PYTHONS), "lowest"]
    assert workflow()["jobs"]["tests"]["strategy"]["matrix"]["python"] == PYTHONS


def test_the_oldest_versions_are_those_that_are_required() -> None:
    """Each is the lower bound that setup.cfg has for users; websockets is that of the tests."""
    command = TOX["testenv:lowest"]["commands_pre"].replace("\\\n", " ")
    pins = [word for word in shlex.split(command) if "==" in word]
    lists = (SETUP["options.extras_require"][name] for name in USERS)
    required = [
        requirement
        for lines in (SETUP["options"]["install_requires"], *lists)
        for requirement in requirements(lines)
        if requirement.name != "websockets"
    ]
    lowest = {requirement.name: str(requirement.specifier).strip(">=") for requirement in required}
    lowest["opentelemetry-sdk"] = lowest["opentelemetry-api"]  # by which the tests see it
    pinned = {pin.name: str(pin.specifier).strip("=") for pin in map(Requirement, pins)}
    versions = {name: Version(version) for name, version in lowest.items()}
    assert {name: Version(version) for name, version in pinned.items()} == versions


def test_the_workflow_tries_each_system() -> None:
    """Linux, macOS and Windows; and all that CI checks runs on one of them."""
    jobs = workflow()["jobs"]
    systems = jobs["tests"]["strategy"]["matrix"]["os"]
    assert [name.partition("-")[0] for name in systems] == ["ubuntu", "macos", "windows"]
    assert {"run": ".ci/run"} in jobs["everything"]["steps"]
    assert all("timeout-minutes" in job for job in jobs.values())


def test_the_workflow_calls_what_exists() -> None:
    """Each step runs a target of the Makefile, or a script of the repository."""
    commands = [
        shlex.split(step["run"])
        for job in workflow()["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert {command[0] for command in commands} == {"make", ".ci/run", "choco"}
    assert {command[1] for command in commands if command[0] == "make"} <= targets()


def test_the_hooks_call_what_exists() -> None:
    """Each hook of pre-commit runs a target of the Makefile; nothing is fetched for it."""
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        make, target = shlex.split(hook["entry"])
        assert make == "make"
        assert target in targets()
        assert hook["language"] == "system"


def test_the_changelog_is_kept() -> None:
    """Its sections are those of Keep a Changelog; what is not released yet comes first."""
    text = (ROOT / "CHANGELOG.rst").read_text("utf-8")
    versions = re.findall(r"^(.+)\n-+$", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", name) for name in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^(.+)\n~+$", text, re.MULTILINE)) <= kinds


def test_the_version_stands_in_one_place() -> None:
    """setup.cfg reads it from the package."""
    assert SETUP["metadata"]["version"] == "attr: tunnel.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab.]\w+)?", tunnel.__version__)


def test_no_test_needs_what_is_not_listed() -> None:
    """What the tests import of others is required by the package, or by the extra `test`."""
    lists = (SETUP["options.extras_require"][name] for name in ("test", *USERS, "bench"))
    listed = {
        canonicalize_name(requirement.name)
        for lines in (*lists, SETUP["options"]["install_requires"])
        for requirement in requirements(lines)
    }
    ours = {path.stem for folder in ("tests", "docs") for path in (ROOT / folder).rglob("*.py")}
    ours |= {"statemachine", "tunnel", "tests", "benchmarks", "programs"}
    foreign = {
        module
        for path in (ROOT / "tests").rglob("*.py")
        if path.parent.name != "conformance"  # that has its own list
        for module in imported_by(path)
        if module not in ours and module not in sys.stdlib_module_names
    }
    names = {canonicalize_name(DISTRIBUTIONS.get(module, module)) for module in foreign}
    missing = sorted(names - listed)
    assert not missing, f"add to the extra test, or name them in DISTRIBUTIONS: {missing}"
