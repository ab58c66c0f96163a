from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tunnel.clock import SYSTEM_CLOCK, Clock
from tunnel.errors import ResourceExhaustedError
from tunnel.requests import NetworkChange, Request
from tunnel.testing import FakeClock
from tunnel.timers import SYSTEM_TIMERS
from tunnel.waker import Waker
from tunnel.worker import Worker

DEADLINE = 20.0


def mail(name: str) -> Request:
    return NetworkChange(True, name)


class Recorder:
    """A work that notes what happens, and does what a test gave it to do."""

    def __init__(self, clock: Clock) -> None:
        self.waker = Waker()
        self.log: list[str] = []
        self.obeyed: list[Any] = []
        self.jobs: list[Callable[[], object]] = []
        self.on_rest: Callable[[], object] = lambda: None
        self.worker = Worker(self, clock, self.waker, self.start)

    def start(self) -> None:
        self.log.append("start")

    def obey(self, request: Request) -> None:
        assert isinstance(request, NetworkChange)
        self.obeyed.append(request.network_type)
        self.log.append("obey")

    def act(self) -> bool:
        if not self.jobs:
            return False
        self.log.append("act")
        self.jobs.pop(0)()
        return True

    def rest(self) -> None:
        self.log.append("rest")
        self.on_rest()


@pytest.mark.parametrize("clock", [SYSTEM_CLOCK, FakeClock()], ids=["thread", "driven"])
def test_all_work_is_done_within(clock: Clock) -> None:
    """A thread is within from its beginning to its end; without one, each step is."""
    work = Recorder(clock)

    @contextmanager
    def within() -> Iterator[None]:
        work.log.append("in")
        yield
        work.log.append("out")

    work.worker = Worker(work, clock, work.waker, within=within)
    work.jobs = [lambda: None]
    work.worker.post(mail("hello"))
    work.worker.join(DEADLINE)
    if clock is SYSTEM_CLOCK:
        assert work.log == ["in", "obey", "act", "rest", "out"]
    else:
        assert work.log == ["in", "obey", "act", "out", "in", "rest", "out"]


def test_lives_from_the_first_request_to_the_last_work() -> None:
    """The thread begins with a request, works until there is no work, and is gone then."""
    work = Recorder(SYSTEM_CLOCK)
    threads: list[str] = []
    work.jobs = [lambda: threads.append(threading.current_thread().name)] * 2
    assert not work.worker.is_running
    work.worker.post(mail("a"))
    work.worker.join(DEADLINE)
    assert not work.worker.is_running
    assert threads == ["tunnel", "tunnel"]
    assert work.log == ["start", "obey", "act", "act", "rest"]


def test_begins_anew_after_its_end() -> None:
    """A request that comes after the end starts another thread, and a start without mail, too."""
    work = Recorder(SYSTEM_CLOCK)
    for _ in range(2):
        work.worker.post(mail("a"))
        work.worker.join(DEADLINE)
    work.worker.start()
    work.worker.join(DEADLINE)
    assert work.log == ["start", "obey", "rest"] * 2 + ["start", "rest"]


def test_starting_twice_is_starting_once() -> None:
    """A start while the work goes on does nothing."""
    work = Recorder(FakeClock())
    work.worker.start()
    work.worker.start()
    work.worker.post(mail("a"))
    assert work.log == ["start"]


def test_obeys_before_it_acts_and_in_order() -> None:
    """All mail is read before the next piece of work."""
    work = Recorder(FakeClock())
    work.jobs = [lambda: None]
    for name in "abc":
        work.worker.post(mail(name))
    assert work.worker.step()
    assert work.obeyed == ["a", "b", "c"]
    assert work.log == ["start", "obey", "obey", "obey", "act"]


def test_mail_that_comes_with_the_end_is_obeyed() -> None:
    """A request that is posted when there was no work left keeps the thread from its end."""
    work = Recorder(FakeClock())
    late = [lambda: work.worker.post(mail("late"))]

    def act() -> bool:
        if late:
            late.pop()()
        return False

    work.act = act  # type: ignore[method-assign]
    work.worker.start()
    assert work.worker.step()
    assert not work.worker.step()
    assert work.log == ["start", "obey", "rest"]


def test_knows_its_own_thread() -> None:
    """In the work the caller is on the worker's thread, and nowhere else."""
    work = Recorder(SYSTEM_CLOCK)
    seen: list[bool] = []
    work.jobs = [
        lambda: seen.append(work.worker.is_own_thread),
        lambda: work.worker.join(DEADLINE),  # of itself: returns at once
    ]
    work.worker.start()
    work.worker.join(DEADLINE)
    assert seen == [True]
    assert not work.worker.is_own_thread
    assert work.worker.is_threaded


def test_the_timers_thread_counts_as_its_own() -> None:
    """Some callbacks are called there; and what they could wait for needs that thread."""
    worker = Recorder(SYSTEM_CLOCK).worker
    seen: list[bool] = []
    done = threading.Event()

    def look() -> None:
        seen.append(worker.is_own_thread)
        done.set()

    SYSTEM_TIMERS.call_at(SYSTEM_CLOCK.monotonic(), look)
    assert done.wait(10)
    assert seen == [True]
    assert not worker.is_own_thread


def test_knows_its_own_thread_while_it_is_driven() -> None:
    """On another clock, whoever is inside a step counts as the worker's thread."""
    work = Recorder(FakeClock())
    seen: list[bool] = []
    work.jobs = [lambda: seen.append(work.worker.is_own_thread)]
    work.worker.start()
    work.worker.step()
    assert seen == [True]
    assert not work.worker.is_own_thread
    assert not work.worker.is_threaded


def test_a_step_that_raises_is_over() -> None:
    """Work that raises on another clock reaches whoever drives, and is not "inside" any more."""
    work = Recorder(FakeClock())
    work.jobs = [lambda: 1 // 0]
    work.worker.start()
    with pytest.raises(ZeroDivisionError):
        work.worker.step()
    assert not work.worker.is_own_thread


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a thread the request is refused and forgotten, and the next one tries again."""
    work = Recorder(SYSTEM_CLOCK)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ResourceExhaustedError, match="cannot be started"):
            work.worker.post(mail("lost"))
        with pytest.raises(ResourceExhaustedError):
            work.worker.start()
    assert not work.worker.is_running
    work.worker.join(DEADLINE)
    assert work.log == ["start", "rest"] * 2
    work.worker.post(mail("a"))
    work.worker.join(DEADLINE)
    assert work.obeyed == ["a"]


def test_need_not_be_told_of_its_beginning() -> None:
    """A work that has nothing to prepare is not asked to."""
    work = Recorder(FakeClock())
    worker = Worker(work, FakeClock(), work.waker)
    worker.start()
    assert not worker.step()
    assert work.log == ["rest"]


def test_an_end_is_not_overtaken_by_the_next_beginning() -> None:
    """Who posts while the thread is ending gets another one, which begins after that end."""
    work = Recorder(SYSTEM_CLOCK)
    resting, go_on = threading.Event(), threading.Event()

    def rest() -> None:
        resting.set()
        assert go_on.wait(DEADLINE)
        work.log.append("rested")

    work.on_rest = rest
    work.worker.start()
    assert resting.wait(DEADLINE)
    poster = threading.Thread(target=lambda: work.worker.post(mail("a")))
    poster.start()
    poster.join(0.02)  # it cannot get through; and if it could, it would have by now
    assert "obey" not in work.log
    go_on.set()
    poster.join(DEADLINE)
    work.worker.join(DEADLINE)
    assert work.log == ["start", "rest", "rested", "start", "obey", "rest", "rested"]


@pytest.mark.parametrize("run", range(5))
def test_many_post_while_it_comes_and_goes(run: int) -> None:
    """However posts and ends fall together, each request is obeyed once; starts and ends alternate.

    The thread has nothing to do, so it ends again and again in the midst of the posts.
    """
    work = Recorder(SYSTEM_CLOCK)

    def post(name: str) -> None:
        for number in range(100):
            work.worker.post(mail(f"{name}{number}"))

    posters = [threading.Thread(target=post, args=(name,)) for name in "abc"]
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join(DEADLINE)
    work.worker.join(DEADLINE)
    assert sorted(work.obeyed) == sorted(f"{name}{n}" for name in "abc" for n in range(100))
    for name in "abc":
        assert [o for o in work.obeyed if o[0] == name] == [f"{name}{n}" for n in range(100)]
    turns = [entry for entry in work.log if entry != "obey"]
    assert turns == ["start", "rest"] * (len(turns) // 2)


def test_waits_for_what_the_work_sets() -> None:
    """With a thread a wait is a wait: True when the event is set, False when the time is up."""
    work = Recorder(SYSTEM_CLOCK)
    done = threading.Event()
    assert not work.worker.wait(done, 0)
    work.jobs = [done.set]
    work.worker.start()
    assert work.worker.wait(done, DEADLINE)
    work.worker.join(DEADLINE)


def test_works_while_it_waits_without_a_thread() -> None:
    """On another clock the wait itself does the work."""
    work = Recorder(FakeClock())
    done = threading.Event()
    work.jobs = [lambda: None, done.set]
    work.worker.start()
    assert work.worker.wait(done, None)
    assert work.worker.is_running
    work.worker.join(1.0)
    assert not work.worker.is_running


def test_drives_until_the_time_is_up() -> None:
    """Driving ends at its time-out even if there is no work; virtual time has passed then."""
    clock = FakeClock()
    work = Recorder(clock)
    assert not work.worker.drive(lambda: False, 7.5)
    assert clock.monotonic() == 7.5
    assert not work.worker.drive(lambda: False, 0)
    assert clock.monotonic() == 7.5


def test_drives_what_is_posted_later() -> None:
    """A request that a timer posts while nothing is to be done is obeyed at its time."""
    clock = FakeClock()
    work = Recorder(clock)
    clock.call_at(3.0, lambda: work.worker.post(mail("a")))
    assert work.worker.drive(lambda: bool(work.obeyed), 10.0)
    assert clock.monotonic() == 3.0


def test_driving_ends_a_wait_of_the_work() -> None:
    """The time-out wakes the work out of a wait for the waker."""
    clock = FakeClock()
    work = Recorder(clock)
    work.jobs = [lambda: clock.wait(work.waker.event, None)]
    work.worker.start()
    assert not work.worker.drive(lambda: False, 5.0)
    assert clock.monotonic() == 5.0


def test_driving_leaves_no_timer_behind() -> None:
    """A drive that ended early is not felt at what would have been its time-out."""
    clock = FakeClock()
    work = Recorder(clock)
    assert work.worker.drive(lambda: True, 3600.0)
    with pytest.raises(RuntimeError, match="never end"):
        work.worker.drive(lambda: False, None)
    assert clock.monotonic() == 0.0


# Calls that take long


class Blocking:
    """A call that blocks until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.inside.set()
        assert self.go_on.wait(DEADLINE)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that lose their patience at once."""
    monkeypatch.setattr("tunnel.worker.PATIENCE", 0.01)


def test_a_quick_call_is_just_a_call() -> None:
    """It is made on the worker's thread, which goes on; on another clock by whoever drives."""
    for clock in (SYSTEM_CLOCK, FakeClock()):
        work = Recorder(clock)
        called: list[threading.Thread] = []
        then: list[threading.Thread] = []
        work.jobs = [
            lambda: work.worker.call(lambda: called.append(threading.current_thread())),  # noqa: B023
            lambda: then.append(threading.current_thread()),  # noqa: B023
        ]
        work.worker.start()
        work.worker.join(DEADLINE)
        assert called == then
        assert len(called) == 1


@pytest.mark.usefixtures("impatient", "no_leaks")
def test_a_slow_call_is_left_alone() -> None:
    """Another thread does the work meanwhile; the old one ends with its call, and does no more."""
    work = Recorder(SYSTEM_CLOCK)
    slow, after = Blocking(), threading.Event()
    seen: list[object] = []

    def call() -> None:
        work.worker.call(slow)
        seen.append((work.worker.is_superseded, work.worker.is_own_thread))

    def next_job() -> None:
        seen.append((threading.current_thread() is slow.thread, work.worker.is_superseded))
        after.set()

    work.jobs = [call, next_job]
    work.worker.start()
    assert after.wait(DEADLINE)
    assert seen == [(False, False)]
    assert slow.thread is not None
    assert slow.thread.is_alive()
    slow.go_on.set()
    slow.thread.join(DEADLINE)
    work.worker.join(DEADLINE)
    assert seen == [(False, False), (True, True)]
    assert work.log.count("act") == 2
    assert work.log[-1] == "rest"


@pytest.mark.usefixtures("impatient", "no_leaks")
def test_several_slow_calls() -> None:
    """Each has its thread, and one can wait for all of them."""
    work = Recorder(SYSTEM_CLOCK)
    calls = [Blocking() for _ in range(3)]
    done = threading.Event()
    work.jobs = [lambda call=call: work.worker.call(call) for call in calls]  # type: ignore[misc]
    work.jobs.append(done.set)
    work.worker.start()
    assert done.wait(DEADLINE)
    assert len({call.thread for call in calls}) == 3
    work.worker.join(None)
    work.worker.join_superseded(0.01)
    for call in calls:
        assert call.thread is not None
        assert call.thread.is_alive()
        call.go_on.set()
    work.worker.join_superseded(DEADLINE)
    assert not any(call.thread.is_alive() for call in calls if call.thread is not None)


@pytest.mark.usefixtures("no_leaks")
def test_many_quick_calls_are_not_one_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long they take together, they stay on one thread: each look finds another call."""
    monkeypatch.setattr("tunnel.worker.PATIENCE", 1e6)  # it is looked when the test says so
    work = Recorder(SYSTEM_CLOCK)
    threads: list[threading.Thread] = []

    def look() -> None:
        threads.append(threading.current_thread())
        timer = work.worker._timer
        assert timer is not None
        if len(threads) > 1:  # at the first call it has just begun to be looked after
            timer.cancel()
            work.worker._look()

    work.jobs = [lambda: work.worker.call(look)] * 20
    work.worker.start()
    work.worker.join(DEADLINE)
    assert len(threads) == 20
    assert len(set(threads)) == 1


@pytest.mark.usefixtures("impatient", "no_leaks")
def test_a_worker_that_has_ended_is_not_watched() -> None:
    """With the work its timer ends, also if its time never comes."""
    work = Recorder(SYSTEM_CLOCK)
    work.worker._watch = lambda: setattr(  # type: ignore[method-assign]
        work.worker, "_timer", SYSTEM_TIMERS.call_at(1e9, lambda: None)
    )
    work.jobs = [lambda: work.worker.call(lambda: None)]
    work.worker.start()
    work.worker.join(DEADLINE)
    assert work.worker._timer is None


@pytest.mark.usefixtures("impatient", "no_leaks")
def test_an_idle_worker_is_not_looked_after() -> None:
    """While it waits for work there is no timer."""
    work = Recorder(SYSTEM_CLOCK)
    work.worker._look = (look := Looks(work.worker._look))  # type: ignore[method-assign]
    waits = threading.Event()
    work.jobs = [lambda: work.worker.call(lambda: None), lambda: waits.wait(DEADLINE)]
    work.worker.start()
    assert look.seen.wait(DEADLINE)
    assert work.worker._timer is None or look.again.wait(DEADLINE)
    assert work.worker._timer is None
    waits.set()
    work.worker.join(DEADLINE)


class Looks:
    """Notes that a worker was looked after, once and again."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self.seen = threading.Event()
        self.again = threading.Event()

    def __call__(self) -> None:
        self._look()
        (self.again if self.seen.is_set() else self.seen).set()


def test_a_call_between_two_steps_of_a_look_is_watched() -> None:
    """A call that begins while the timer gives up sees to another timer."""
    work = Recorder(FakeClock())
    worker = work.worker
    watched: list[int] = []

    def watch() -> None:
        watched.append(1)
        worker._timer = object()  # type: ignore[assignment]

    worker._watch = watch  # type: ignore[method-assign]

    class NoCall(list):  # type: ignore[type-arg]
        def __bool__(self) -> bool:  # the timer finds no call: now one begins
            worker._calls += 1
            assert worker._timer is None, "it would count on a timer that is about to end"
            worker._watch()
            return False

    worker._calls = worker._seen = 2
    worker._in_call = NoCall()
    worker._look()
    assert watched == [1]


def test_a_call_that_begins_during_a_look_is_not_superseded() -> None:
    """It has only just begun, though it is the one that was seen last."""
    work = Recorder(FakeClock())
    superseded: list[int] = []

    class Interrupted(Worker):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "_timer" and value is None and self.is_looking:
                self.is_looking = False
                self._in_call.append(None)
                self._calls += 1
                self._watch()

        is_looking = False

    worker = Interrupted(work, FakeClock(), work.waker)
    worker._supersede = lambda in_call: superseded.append(1)  # type: ignore[method-assign]
    worker._calls = worker._seen = 2
    worker.is_looking = True
    worker._look()
    assert not worker.is_looking
    assert superseded == []
    worker._look()
    assert superseded == [1]


def test_a_call_that_ends_just_in_time_is_not_superseded() -> None:
    """The thread that was to take over finds the call over, and ends."""
    work = Recorder(SYSTEM_CLOCK)
    worker = work.worker
    worker._thread = threading.current_thread()
    worker._supersede([])
    for thread in threading.enumerate():
        if thread.name == "tunnel":
            thread.join(DEADLINE)
    assert worker._thread is threading.current_thread()
    assert not worker.is_superseded


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("run", range(20))
def test_whoever_comes_first_there_is_one_worker(run: int) -> None:
    """However the end of a call and the take-over meet, one thread goes on, and only one."""
    work = Recorder(SYSTEM_CLOCK)
    worker = work.worker
    go, workers = threading.Event(), []

    def call() -> None:
        worker._supersede(worker._in_call)  # as a look would
        for _ in range(run):
            go.wait(0.0)

    def after() -> None:
        workers.append(threading.get_ident())

    work.jobs = [lambda: worker.call(call), after, after, after]
    worker.start()
    worker.join(DEADLINE)
    for thread in threading.enumerate():
        if thread.name == "tunnel":
            thread.join(DEADLINE)
    assert len(workers) == 3
    assert len(set(workers)) == 1
    assert work.log == ["start", "act", "act", "act", "act", "rest"]


@pytest.mark.usefixtures("impatient", "no_leaks")
def test_without_another_thread_a_slow_call_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work goes on when the call is over, on the same thread."""
    work = Recorder(SYSTEM_CLOCK)
    slow, refused, done = Blocking(), threading.Event(), threading.Event()
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "tunnel" and slow.inside.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    def then() -> None:
        threads.append(threading.current_thread())
        done.set()

    work.jobs = [lambda: work.worker.call(slow), then]
    work.worker.start()
    assert refused.wait(DEADLINE)
    slow.go_on.set()
    assert done.wait(DEADLINE)
    assert threads == [slow.thread]
    work.worker.join(DEADLINE)


def test_without_timers_a_call_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be had for them either, the call is made all the same."""
    work = Recorder(SYSTEM_CLOCK)
    called: list[int] = []

    class Refusing:
        def call_at(self, when: float, callback: Callable[[], None]) -> None:
            raise ResourceExhaustedError("no thread for the timers")

    monkeypatch.setattr("tunnel.worker.timers_of", lambda clock: Refusing())
    work.jobs = [lambda: work.worker.call(lambda: called.append(1))]
    work.worker.start()
    work.worker.join(DEADLINE)
    assert called == [1]
    assert work.worker._timer is None


def test_what_a_call_raises_is_raised() -> None:
    """The call is over then, too."""
    work = Recorder(SYSTEM_CLOCK)
    seen: list[str] = []

    def job() -> None:
        try:
            work.worker.call(lambda: 1 // 0)
        except ZeroDivisionError:
            seen.append("raised")

    work.jobs = [job]
    work.worker.start()
    work.worker.join(DEADLINE)
    assert seen == ["raised"]
    assert work.worker._in_call == []
