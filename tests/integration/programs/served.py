"""Programs that serve their status: ``python served.py HOW PATH``, `HOW` a function below."""

from __future__ import annotations

import os
import sys
import threading

from tunnel import TunnelService
from tunnel.status import StatusClient, serve

PATH = sys.argv[2]


def ends() -> None:
    """It ends without closing the socket, while somebody is connected."""
    serve(PATH)
    client = StatusClient(PATH)
    print(len(client.ask().tunnels))


def forks() -> None:
    """Its child sees nothing of it, serves for itself, and ends in good order."""
    service = TunnelService()
    server = serve(PATH)
    with StatusClient(PATH) as client:
        client.ask()
        child = os.fork()
        if child == 0:
            server.close()  # does nothing
            own = serve(f"{PATH}.child")
            with StatusClient(f"{PATH}.child") as asking:
                answer = asking.ask()
            names = [thread.name for thread in threading.enumerate()]
            print(repr(server), answer.pid == os.getpid(), len(answer.tunnels), flush=True)
            print(names.count("tunnel-status"), os.path.exists(own.path), flush=True)
            sys.exit(0)  # with the end of a program, which closes what is the child's own
        os.waitpid(child, 0)
        answer = client.ask()
    print(answer.pid == os.getpid(), len(answer.tunnels), os.path.exists(f"{PATH}.child"))
    with StatusClient(PATH) as asking:
        print(asking.ask().tunnels[0].state == service.state.value, flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
