"""A program whose callback forks; the child lets the callback return.

``python forked_callback.py URL``: the child must end, without touching the parent's connection;
that is used once more and must be the same.
"""

from __future__ import annotations

import os
import sys
import threading

from tunnel import TunnelService

LONG = 20.0


def main() -> None:
    """Fork in a callback."""
    children: list[int] = []
    answers: list[str | bytes] = []
    answered = threading.Event()

    def on_message(message: str | bytes) -> None:
        if message == "fork":
            child = os.fork()
            if child == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where the clear error goes
                return
            children.append(os.waitpid(child, 0)[1])
        answers.append(message)
        answered.set()

    with TunnelService(on_message=on_message) as service:
        service.connect(sys.argv[1], timeout=LONG)
        for text in ("fork", "after"):
            answered.clear()
            service.send(text)
            assert answered.wait(LONG)
        print(len(children), answers, service.statistics()["reconnections"])


if __name__ == "__main__":
    main()
