"""Many tunnels whose gateway is killed and started again.

The gateway is killed from outside (`restart`), so that the moments are not those of a process that
has a thousand threads to run; the tunnels are in a process of their own:
``python -m benchmarks.figures.restart_trial PORT COUNT DELAY``.

What a killed gateway had taken is gone with it, so everything is let come back before. Each tunnel
sends a message right after the kill, before it can know, and another one as soon as it knows. What
is handed back with the lost session is sent again. In the end every message must have come back,
and once.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures.servers import ROOT
from tunnel import (
    ConnectionEvent,
    ConnectionEventType,
    SessionLostError,
    TunnelConfig,
    TunnelService,
)
from tunnel.demo.server_process import ServerProcess

_DEADLINE = 45.0  # seconds until all must have come back
_LIMIT = 60.0  # seconds for a whole trial
_WORKERS = 16  # threads that connect


def restart(count: int, base_delay: float) -> dict[str, float]:
    """Run a trial: kill the gateway, and start it in the middle of the first attempts.

    So about half of the tunnels need a second one.

    Args:
        count: Of tunnels.
        base_delay: `TunnelConfig.reconnect_base_delay`; everything else is the default.

    Returns:
        Seconds by which the first tunnel that was back, and the last, were later than their policy
        has it; and for how long the gateway was "down".

    Raises:
        OSError: Messages were lost, or the trial failed in another way.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with ServerProcess() as server:
        trial = subprocess.Popen(
            [sys.executable, "-m", __name__, str(server.port), str(count), str(base_delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
            env={**os.environ, "PYTHONPATH": path},
        )
        ending = threading.Timer(_LIMIT, trial.kill)
        ending.start()
        try:
            assert trial.stdin is not None
            assert trial.stdout is not None
            trial.stdout.readline()  # all are connected
            killed = time.monotonic()
            server.kill()
            print("killed", file=trial.stdin, flush=True)
            threading.Event().wait(max(0.0, killed + base_delay - time.monotonic()))
            server.start()
            ready = time.monotonic()
            print(killed, ready, file=trial.stdin, flush=True)
            answer = trial.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            ending.cancel()
            trial.kill()
            trial.communicate()
    if not answer:
        raise OSError("the trial failed, or took too long")
    return {**json.loads(answer), "down": ready - killed}


class _Lane:
    """A tunnel, what it sent and got, and what its policy gave.

    Attributes:
        delays: Those before its attempts, in order.
        back_at: When it was connected again.
    """

    def __init__(self, number: int, config: TunnelConfig, arrived: threading.Semaphore) -> None:
        self._number = number
        self._numbers = itertools.count()
        self._arrived = arrived
        self._sent: list[str] = []
        self._got: list[str | bytes] = []
        self.delays: list[float] = []
        self.back_at = 0.0
        self.service = TunnelService(
            config, on_message=self._on_message, on_session_lost=self._on_session_lost
        )
        self.service.subscribe(self._on_event)

    def send(self) -> None:
        """Send a message that is like no other."""
        message = f"{self._number}: {next(self._numbers)}"
        self._sent.append(message)
        self.service.send(message)

    @property
    def is_whole(self) -> bool:
        """Whether all that was sent came back, once."""
        return sorted(self._sent) == sorted(map(str, self._got))

    def due(self, killed: float, ready: float) -> float:
        """When the policy has it back, if nothing but delays takes time.

        That is the first attempt that finds the gateway. A tunnel that was late in between may have
        needed fewer than that; then it is the moment when the gateway was there.
        """
        times = list(itertools.accumulate(self.delays, initial=killed))[1:]
        return next((when for when in times if when >= ready), ready)

    def _on_message(self, message: str | bytes) -> None:
        self._got.append(message)
        self._arrived.release()

    def _on_event(self, event: ConnectionEvent) -> None:
        if event.type is ConnectionEventType.RECONNECTED:
            self.back_at = time.monotonic()
        elif event.type is ConnectionEventType.RECONNECTING and "delay" in event.metadata:
            self.delays.append(event.metadata["delay"])
        elif event.type is ConnectionEventType.DISCONNECTED:
            self.send()

    def _on_session_lost(self, error: SessionLostError) -> None:
        for message in error.unacknowledged:
            self.service.send(message)


def main(port: str, count: str, base_delay: str) -> None:
    """What runs in the tunnels' process; `restart` talks with it by its standard streams.

    Args:
        port: Of the gateway.
        count: As for `restart`.
        base_delay: As for `restart`.
    """
    config = TunnelConfig(reconnect_base_delay=float(base_delay))
    arrived = threading.Semaphore(0)
    lanes = [_Lane(number, config, arrived) for number in range(int(count))]
    with ThreadPoolExecutor(_WORKERS) as pool:
        url = f"ws://127.0.0.1:{port}/"
        list(pool.map(lambda lane: lane.service.connect(url, timeout=_DEADLINE), lanes))
    _send_all(lanes)
    _await(arrived, len(lanes))
    for lane in lanes:
        lane.service.flush(_DEADLINE)
    print("connected", flush=True)
    sys.stdin.readline()
    _send_all(lanes)
    killed, ready = map(float, sys.stdin.readline().split())
    _await(arrived, 2 * len(lanes))
    for lane in lanes:
        lane.service.flush(_DEADLINE)
    lost = sum(not lane.is_whole for lane in lanes)
    if lost:
        raise SystemExit(f"{lost} of {count} tunnels did not get each message back once")
    due = [lane.due(killed, ready) for lane in lanes]
    back = [lane.back_at for lane in lanes]
    late = {"first": min(back) - min(due), "last": max(back) - max(due)}
    print(json.dumps(late), flush=True)
    os._exit(0)  # the gateway is not to be burdened with goodbyes


def _send_all(lanes: list[_Lane]) -> None:
    for lane in lanes:
        lane.send()


def _await(arrived: threading.Semaphore, count: int) -> None:
    for _ in range(count):
        if not arrived.acquire(timeout=_DEADLINE):
            raise TimeoutError("messages did not come back")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # a thousand tunnels would go on looking for the gateway
