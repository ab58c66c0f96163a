"""A program that forks while it is connected, and says what the child and the parent saw.

``python forked.py URL QUEUE ENDING CA``: `ENDING` is how the child ends; `CA` a file with the
authority to trust, or nothing. One JSON object on standard output; both processes end with 0.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import ssl
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

from tunnel import (
    HeartbeatWebSocket,
    InvalidStateError,
    RequestQueue,
    TunnelConfig,
    TunnelConnectionState,
    TunnelService,
)

LONG = 20.0

Things: TypeAlias = list[Any]
"""What the child inherits: a service, its queue, a watched connection, and an iterator."""


def refusals(things: Things, url: str) -> list[str]:
    """Which calls do not say in a child what is wrong; and what they do say."""
    service, queue, watched, messages = things
    calls: dict[str, Callable[[], object]] = {
        "connect": lambda: service.connect(url),
        "send": lambda: service.send("from the child"),
        "send_many": lambda: service.send_many(["from the child"]),
        "request": lambda: service.request(b""),
        "submit": lambda: service.submit(b""),
        "reconnect": service.reconnect,
        "disconnect": service.disconnect,
        "disconnect at once": lambda: service.disconnect(graceful=False),
        "flush": service.flush,
        "wait_for": lambda: service.wait_for(TunnelConnectionState.CONNECTED),
        "messages": service.messages,
        "messages before the fork": lambda: next(messages),
        "test_connection": service.test_connection,
        "handle_network_change": lambda: service.handle_network_change(True),
        "update_config": lambda: service.update_config(TunnelConfig()),
        "subscribe": lambda: service.subscribe(print),
        "enqueue": lambda: queue.enqueue("from the child"),
        "enqueue_many": lambda: queue.enqueue_many(["from the child"]),
        "dequeue": queue.dequeue,
        "take": queue.take,
        "clear": queue.clear,
        "wait_for_room": queue.wait_for_room,
        "the queue again": lambda: RequestQueue(path=sys.argv[2]),
        "start": watched.start,
        "send to the watched": lambda: watched.send("from the child"),
        "close": watched.close,
        "messages of the watched": lambda: next(watched.messages()),
    }
    wrong = []
    for name, call in calls.items():
        try:
            wrong.append(f"{name} returned {call()!r}")
        except InvalidStateError as error:
            # The parent still has the file: that is another error, and as clear.
            if "made in another process" not in error.message:
                wrong.append(f"{name}: {error.message}")
        except Exception as error:
            if name != "the queue again":
                wrong.append(f"{name}: {error!r}")
    wrong += [repr(thing) for thing in (service, queue) if "another process" not in repr(thing)]
    return wrong


def end(how: str) -> None:
    """End the child, if that is to be done in a special way."""
    if how == "_exit":
        os._exit(0)
    if how == "exit":
        sys.exit()


def work_as_child(things: Things, url: str) -> list[str]:
    """All that a child does; returns what was wrong."""
    wrong = refusals(things, url)
    with TunnelService() as own:
        own.connect(url, timeout=LONG, ssl_context=trusted())
        own.send("of the child's own")
        if next(own.messages()) != "of the child's own":
            wrong.append("the child's own service does not work")
        own.disconnect()
    return wrong


def trusted() -> ssl.SSLContext | None:
    """What trusts the server."""
    return ssl.create_default_context(cafile=sys.argv[4]) if len(sys.argv) > 4 else None


def fork(how: str, pipe: tuple[int, int], things: Things, url: str) -> int:
    """Have a child do its work. Returns its exit code, in the parent alone."""

    def work() -> None:
        try:
            wrong = work_as_child(things, url)
        except Exception:
            wrong = [traceback.format_exc()]
        os.write(pipe[1], json.dumps(wrong).encode())

    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join(60)
        return process.exitcode if process.exitcode is not None else -1
    child = os.fork()
    if child == 0:
        work()
        end(how)
        raise ChildIsDoneError
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class ChildIsDoneError(BaseException):
    """The child leaves all blocks that it was in, and ends in the usual way."""


def main() -> None:
    """Fork, and look at both."""
    _, url, path, how, *_ = sys.argv
    result: dict[str, object] = {}
    pipe = os.pipe()
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(RequestQueue(path=path))
        service = stack.enter_context(TunnelService(request_queue=queue))
        service.connect(url, timeout=LONG, ssl_context=trusted())
        watched = HeartbeatWebSocket(url, ssl_context=trusted())
        stack.enter_context(watched)
        service.send("before")
        messages = service.messages()
        assert next(messages) == "before"
        result["exit code"] = fork(how, pipe, [service, queue, watched, messages], url)
        result["wrong"] = json.loads(os.read(pipe[0], 65536))
        service.send("after")
        result["after"] = next(messages)
        watched.send("after")
        result["watched"] = next(watched.messages())
        result["reconnections"] = service.statistics()["reconnections"]
        result["threads"] = threading.active_count()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(ChildIsDoneError):
        main()
