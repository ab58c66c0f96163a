"""The maskers and the stock of mask keys: `tunnel.masking`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunnel import masking

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 64, 125, 126, 255, 256, 257, 258, 259, 1024, 65537)
MODULES = {"websockets": "websockets.speedups", "wsaccel": "wsaccel.xormask"}


def by_definition(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def masker(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[bytes, bytes], bytes]:
    """The masker chosen where nothing faster than `name` is installed."""
    for faster, module in MODULES.items():
        if faster == name:
            break
        monkeypatch.setitem(sys.modules, module, None)
    chosen, function = masking.choose_masker()
    assert chosen == name
    return function


@pytest.mark.parametrize("name", ["websockets", "wsaccel", "python"])
def test_the_best_that_is_installed_masks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever is missing, the next best is taken silently and masks as the RFC defines it."""
    if name in MODULES:
        pytest.importorskip(MODULES[name])
    apply_mask = masker(monkeypatch, name)
    for size in SIZES:
        data = os.urandom(size)
        masked = apply_mask(data, b"\x00\x37\xfa\xff")
        assert masked == by_definition(data, b"\x00\x37\xfa\xff")
        assert type(masked) is bytes
        assert apply_mask(masked, b"\x00\x37\xfa\xff") == data


def test_the_masker_in_use_is_named() -> None:
    """`MASKER` names the masker that `apply_mask` is."""
    name, _ = masking.choose_masker()
    assert name == masking.MASKER
    assert masking.apply_mask(b"Hello", b"\x37\xfa\x21\x3d") == b"\x7f\x9f\x4d\x51\x58"


@untimed
@given(st.binary(max_size=600), st.binary(min_size=4, max_size=4))
def test_python_masks_any_bytes_with_any_key(data: bytes, key: bytes) -> None:
    """The masker in Python alone agrees with the definition, below and above its threshold."""
    assert masking.apply_mask_python(data, key) == by_definition(data, key)


def test_keys_are_made_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of `os.urandom` makes the keys of many frames; each is handed out once."""
    masking._keys.clear()
    made = []

    def urandom(size: int) -> bytes:
        made.append(real(size))
        return made[-1]

    real = os.urandom
    monkeypatch.setattr(os, "urandom", urandom)
    keys = [masking.mask_key() for _ in range(512)]
    assert len(made) == 2
    stock = b"".join(made)
    assert sorted(keys) == sorted(stock[i : i + 4] for i in range(0, len(stock), 4))


def test_threads_never_get_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads draw on the stock, each key is handed out once."""
    counter = iter(range(1, 1_000_000))
    lock = threading.Lock()

    def numbered(size: int) -> bytes:
        with lock:
            return b"".join(next(counter).to_bytes(4, "big") for _ in range(size // 4))

    monkeypatch.setattr(os, "urandom", numbered)
    masking._keys.clear()
    drawn: list[list[bytes]] = [[] for _ in range(8)]

    def draw(keys: list[bytes]) -> None:
        keys.extend(masking.mask_key() for _ in range(2000))

    threads = [threading.Thread(target=draw, args=(keys,)) for keys in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    masking._keys.clear()
    keys = [key for keys in drawn for key in keys]
    assert len(set(keys)) == len(keys) == 16000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_keys_of_its_own() -> None:
    """After a fork the child does not use the keys that its parent holds in stock."""
    program = """
import os
from tunnel import masking
masking.mask_key()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, b"".join(masking.mask_key() for _ in range(64)))
    os._exit(0)
os.wait()
theirs = os.read(reader, 4096)
ours = b"".join(masking.mask_key() for _ in range(64))
assert len(theirs) == len(ours)
print("same" if theirs == ours else "different")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert (run.stdout, run.stderr) == ("different\n", "")


def test_without_fork_there_is_nothing_to_renew(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without `os.register_at_fork` the stock is simply kept."""
    monkeypatch.delattr(os, "register_at_fork", raising=False)
    masking.renew_on_fork()
    assert len(masking.mask_key()) == 4
