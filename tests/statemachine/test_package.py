from __future__ import annotations

import subprocess
import sys
import types

import statemachine


def test_the_public_names_are_there() -> None:
    """Every name that the package promises can be had from it."""
    for name in statemachine.__all__:
        assert hasattr(statemachine, name)


def test_replay_is_the_function() -> None:
    """No submodule hides the function `replay`; `diagram` is the submodule."""
    assert isinstance(statemachine.replay, types.FunctionType)
    assert isinstance(statemachine.diagram, types.ModuleType)


def test_import_needs_no_extra() -> None:
    """The package, drawings included, is imported without Graphviz and logs nothing by itself."""
    program = (
        "import sys; sys.modules['graphviz'] = None\n"
        "import statemachine, loguru\n"
        "statemachine.diagram.render(statemachine.Declaration('d', ['a'], 'a', ['a']), 'dot')\n"
        "m = statemachine.StateMachine(\n"
        "    statemachine.Declaration('d', ['a'], 'a', ['a'],\n"
        "        [statemachine.Transition('t', 'a', 'a', doc='x')]), type('M', (), {})())\n"
        "m.subscribe(lambda record: 1 / 0); m.fire('t')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
