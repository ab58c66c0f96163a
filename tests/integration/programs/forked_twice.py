"""A program whose child has a tunnel of its own, and forks again.

``python forked_twice.py URL``: prints what the grandchild could do with either tunnel.
"""

from __future__ import annotations

import os
import sys

from tunnel import InvalidStateError, TunnelService, connect

LONG = 20.0


def refusal(service: TunnelService) -> str:
    """How a message is refused; an empty text: it was accepted."""
    try:
        service.send("of a grandchild")
    except InvalidStateError as error:
        return error.message
    return ""


def in_a_child(work: object) -> None:
    """Fork, do it there, and wait for the end."""
    child = os.fork()
    if child == 0:
        assert callable(work)
        work()
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)


def main() -> None:
    """Fork, and fork in the child."""
    url = sys.argv[1]
    with connect(url, on_message=print, timeout=LONG) as parents:

        def child() -> None:
            with connect(url, on_message=print, timeout=LONG) as childs:
                in_a_child(lambda: print(repr(childs), *map(refusal, (parents, childs)), sep="\n"))
                childs.send("of the child")
                assert childs.flush(LONG)

        in_a_child(child)


if __name__ == "__main__":
    main()
