"""Masking of frames and the keys for it (RFC 6455, section 5.3), by the fastest means installed.

Every byte that a client sends is combined with a mask key, so this is its hottest loop. The best
masker found is chosen once, when the module is imported; none of the faster ones is required:

============== ============================================ ========== ==========
`MASKER`       implementation                                    64 B      1 MiB
============== ============================================ ========== ==========
`"websockets"` C, from the package websockets (extra `fast`)  0.15 us    0.05 ms
`"wsaccel"`    Cython, from the package wsaccel                0.7 us     1.5 ms
`"python"`     the two functions below                         1.0 us     2.5 ms
============== ============================================ ========== ==========

Keys come from `os.urandom`, many at a time, because a system call for each would cost more than the
masking. A key must be unpredictable and serves one frame only: so the stock is a list whose `pop`
hands each key out once, whatever the threads do, and a forked child throws away what it inherited,
because parent and child would otherwise use the same keys.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

__all__ = [
    "MASKER",
    "apply_mask",
    "apply_mask_python",
    "choose_masker",
    "mask_key",
    "renew_on_fork",
]

Masker = Callable[[bytes, bytes], bytes]

_KEYS_AT_ONCE = 256
"""Keys made by one call of `os.urandom`: 1 KiB of randomness, 12 KiB of objects in the process."""

_STRIDED_FROM = 256
"""Size in bytes from which four strided translations are faster than one XOR of two integers."""

_IDENTITY = int.from_bytes(bytes(range(256)), "little")
_ONES = int.from_bytes(b"\x01" * 256, "little")


@functools.cache
def _table(key_byte: int) -> bytes:
    """Return the table for `bytes.translate` that combines a byte with `key_byte`."""
    return (_IDENTITY ^ _ONES * key_byte).to_bytes(256, "little")


def apply_mask_python(data: bytes, key: bytes) -> bytes:
    """Mask or unmask `data`, in Python alone (RFC 6455, section 5.3). Thread-safe.

    Args:
        data: The payload of a frame, or a part of it that starts at a multiple of four bytes.
        key: The mask key, four bytes.

    Returns:
        As many bytes, each combined with the byte of the key whose turn it is.
    """
    size = len(data)
    if size < _STRIDED_FROM:
        keys = (key * (size // 4 + 1))[:size]
        masked = int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")
        return masked.to_bytes(size, "little")
    work = bytearray(data)
    for offset, key_byte in enumerate(key):
        work[offset::4] = work[offset::4].translate(_table(key_byte))
    return bytes(work)


def choose_masker() -> tuple[str, Masker]:
    """Find the fastest masker that is installed.

    Returns:
        Its name (see the module's table) and a function like `apply_mask_python`.
    """
    try:
        return "websockets", _masker_of_websockets()
    except ImportError:  # not installed, or installed without its C extension
        pass
    try:
        masker = importlib.import_module("wsaccel.xormask").XorMaskerSimple  # it has no types
    except ImportError:
        return "python", apply_mask_python

    def apply_mask_wsaccel(data: bytes, key: bytes) -> bytes:
        return bytes(masker(key).process(data))  # bytes() of bytes copies nothing

    return "wsaccel", apply_mask_wsaccel


def _masker_of_websockets() -> Masker:
    """Load one extension of websockets, and not the package, whose start takes twenty times longer.

    Raises:
        ImportError: It is not installed.
    """
    name = "websockets.speedups"
    if name in sys.modules:
        found: Masker = importlib.import_module(name).apply_mask
        return found
    package = find_spec("websockets")
    places = package.submodule_search_locations if package is not None else None
    spec = PathFinder.find_spec(name, places) if places is not None else None
    if spec is None or spec.loader is None:
        raise ImportError(name)
    extension = module_from_spec(spec)
    spec.loader.exec_module(extension)
    if sys.modules.get(name) is extension:  # some put themselves there
        del sys.modules[name]  # who imports it shall get it whole
    found = extension.apply_mask
    return found


MASKER, apply_mask = choose_masker()

# Guarded by nothing: a list's own `pop`, `extend` and `clear` are atomic, and there is no lock that
# could be held by another thread at the moment of a fork.
_keys: list[bytes] = []


def mask_key() -> bytes:
    """Hand out a mask key: four unpredictable bytes, never the same stock twice. Thread-safe.

    Returns:
        The key of one frame.
    """
    while True:
        try:
            return _keys.pop()
        except IndexError:
            stock = os.urandom(4 * _KEYS_AT_ONCE)
            _keys.extend([stock[at : at + 4] for at in range(0, len(stock), 4)])


def renew_on_fork() -> None:
    """Make forked children throw away the keys that they share with their parent.

    Called once, at import. Where the system cannot fork there is nothing to do.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_keys.clear)


renew_on_fork()
