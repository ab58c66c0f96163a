"""A program that forks again and again while other threads use its tunnel.

``python forked_busy.py URL QUEUE COUNT``: each of the children does what that of `forked.py` does,
within some seconds. Prints what was wrong as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from itertools import chain

from forked import LONG, work_as_child

from tunnel import HeartbeatWebSocket, RequestQueue, TunnelService

_PATIENCE = 20  # seconds; then the child is ended by SIGALRM


def keep_busy(service: TunnelService, stop: threading.Event) -> None:
    """Have locks held, most of the time."""
    while not stop.is_set():
        service.send("x")
        service.statistics()
        service.request(b"x")
        service.tracker.to_json()


def fork(things: list[object], url: str) -> list[str]:
    """What is wrong in one child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(_PATIENCE)
        try:
            wrong = work_as_child(things, url)
        except Exception:
            wrong = [traceback.format_exc()]
        os.write(writer, json.dumps(wrong).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(said) if code == 0 else [f"it ended with {code}, and {said!r}"]


def main() -> None:
    """Fork, with threads at work."""
    _, url, path, count = sys.argv
    stop = threading.Event()
    with RequestQueue(path=path) as queue, HeartbeatWebSocket(url) as watched:
        service = TunnelService(request_queue=queue)
        service.connect(url, timeout=LONG)
        threads = [threading.Thread(target=keep_busy, args=(service, stop)) for _ in range(3)]
        consumer = threading.Thread(target=lambda: [None for _ in service.messages()])
        for thread in [consumer, *threads]:
            thread.start()
        messages = service.messages()
        wrong = [fork([service, queue, watched, messages], url) for _ in range(int(count))]
        stop.set()
        for thread in threads:
            thread.join()
        reconnections = service.statistics()["reconnections"]
        report = service.disconnect()
        consumer.join()
    left = len(report.unsent + report.unacknowledged)
    print(json.dumps([list(chain(*wrong)), reconnections, left]))


if __name__ == "__main__":
    main()
