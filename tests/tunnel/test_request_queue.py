from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.ctrl_c import was_interrupted_at
from tunnel.errors import PayloadTypeError, QueueFullError
from tunnel.queue_core import QueueCore, _Waiter
from tunnel.request_queue import RequestPriority, RequestQueue
from tunnel.testing import FakeClock

HIGH, NORMAL, LOW = RequestPriority


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(clock: FakeClock) -> RequestQueue:
    return RequestQueue(5, clock=clock)


def drained(queue: RequestQueue) -> list[Any]:
    return list(iter(queue.dequeue, None))


class TestOrder:
    @pytest.mark.requirement("5.2")
    def test_high_goes_before_normal_before_low_and_each_is_first_in_first_out(
        self, queue: RequestQueue
    ) -> None:
        """Items leave by priority, and in the order of their coming within one."""
        for item, priority in [("l1", LOW), ("n1", NORMAL), ("h1", HIGH), ("n2", NORMAL)]:
            queue.enqueue(item, priority)
        queue.enqueue("h2", HIGH)
        assert drained(queue) == ["h1", "h2", "n1", "n2", "l1"]

    def test_normal_is_the_default(self, queue: RequestQueue) -> None:
        """An item without a priority goes between high and low."""
        queue.enqueue("low", LOW)
        queue.enqueue("none")
        queue.enqueue("high", HIGH)
        assert drained(queue) == ["high", "none", "low"]

    def test_an_empty_queue_hands_out_none(self, queue: RequestQueue) -> None:
        """Nothing waiting is no error."""
        assert queue.dequeue() is None
        assert queue.take() is None
        assert queue.take_many(3) == []
        assert queue.is_empty

    def test_priorities_are_their_lower_case_names(self) -> None:
        """The value is what JSON and settings show, and equal values have equal hashes."""
        assert [priority.value for priority in RequestPriority] == ["high", "normal", "low"]
        assert {HIGH: 1}["high"] == 1  # type: ignore[index]

    @pytest.mark.parametrize("item", [0, "", b"", (), object(), bytearray(b"x"), math.nan])
    def test_any_object_but_none_may_be_an_item(self, queue: RequestQueue, item: object) -> None:
        """The queue does not look at what it holds."""
        queue.enqueue(item)
        assert queue.dequeue() is item


class TestBound:
    @pytest.mark.requirement("5.1", "1.3")
    def test_a_queue_holds_100_items_by_default(self) -> None:
        """The hundred and first item is refused."""
        queue = RequestQueue()
        assert queue.max_size == 100
        assert queue.enqueue_many(range(101)) == 100
        assert queue.is_full
        with pytest.raises(QueueFullError):
            queue.enqueue("one more")

    @pytest.mark.requirement("5.4")
    @pytest.mark.parametrize(
        ("item", "described"),
        [
            ("secret", "a text of 6 characters"),
            (b"secret", "a message of 6 bytes"),
            (memoryview(b"secret"), "a message of 6 bytes"),
            ({"secret": 1}, "an item of type dict"),
        ],
    )
    def test_a_full_queue_says_what_it_refused(
        self, queue: RequestQueue, item: object, described: str
    ) -> None:
        """The error has code TUNNEL_006 and names the item, the bound and the priority."""
        queue.enqueue_many(["abcde"] * 5)
        with pytest.raises(QueueFullError) as caught:
            queue.enqueue(item, LOW)
        assert caught.value.code == "TUNNEL_006"
        assert caught.value.accepted == 0
        assert (
            caught.value.message
            == f"the queue is full (5 items): refused {described}, low priority"
        )
        assert caught.value.context == {
            "max_size": 5,
            "refused": 1,
            "priority": "low",
            "accepted": 0,
        }
        assert "secret" not in str(caught.value.to_dict())
        assert queue.size == 5

    @pytest.mark.requirement("5.4")
    def test_the_refusal_of_many_says_how_many(self, queue: RequestQueue) -> None:
        """The error for a rest counts it, describes its first item and tells what was accepted."""
        error = queue.refusal(["ab", "c"], HIGH, accepted=7)
        assert error.accepted == 7
        assert error.message == (
            "the queue is full (5 items): "
            "refused 2 items, the first a text of 2 characters, high priority"
        )

    def test_what_fits_is_accepted_from_the_first(self, queue: RequestQueue) -> None:
        """`enqueue_many` takes as many as there is room for, and says how many."""
        queue.enqueue_many([1, 2])
        assert queue.enqueue_many([3, 4, 5, 6], HIGH) == 3
        assert queue.enqueue_many([7]) == 0
        assert drained(queue) == [3, 4, 5, 1, 2]

    def test_many_may_come_from_an_iterator(self, queue: RequestQueue) -> None:
        """Any iterable will do, and an empty one does nothing."""
        assert queue.enqueue_many(iter([])) == 0
        assert queue.enqueue_many(number for number in range(3)) == 3
        assert queue.snapshot() == (0, 1, 2)

    def test_taken_items_use_room_until_confirmed(self, queue: RequestQueue) -> None:
        """An item that may come back keeps its place."""
        queue.enqueue_many(range(5))
        queue.take_many(5)
        assert queue.is_full
        assert queue.is_empty
        assert (queue.size, queue.waiting) == (5, 0)
        queue.confirm()
        assert not queue.is_full
        assert queue.size == 4

    def test_who_keeps_a_bound_of_his_own_may_go_beyond(self, queue: RequestQueue) -> None:
        """`enqueue_beyond` is never refused, and what it put in goes out in its turn."""
        queue.enqueue_many(range(5))
        queue.enqueue_beyond("beyond")
        queue.enqueue_beyond("urgent", HIGH)
        assert (queue.size, queue.fill, queue.is_full) == (7, 1.0, True)
        assert queue.enqueue_many([9]) == 0
        assert drained(queue) == ["urgent", 0, 1, 2, 3, 4, "beyond"]

    def test_resize_drops_nothing(self, queue: RequestQueue) -> None:
        """A queue above a new, smaller bound refuses until it is below; a larger one makes room."""
        queue.enqueue_many(range(5))
        queue.resize(2)
        assert queue.max_size == 2
        assert queue.fill == 1.0
        assert queue.enqueue_many([8]) == 0
        assert [queue.dequeue() for _ in range(4)] == [0, 1, 2, 3]
        queue.enqueue(8)
        queue.resize(3)
        queue.enqueue(9)
        assert drained(queue) == [4, 8, 9]

    def test_fill_is_the_part_in_use(self, queue: RequestQueue) -> None:
        """Fill goes from 0 to 1."""
        assert queue.fill == 0.0
        queue.enqueue_many(range(3))
        assert queue.fill == 0.6
        assert repr(queue) == "<RequestQueue 3 of 5, 0 taken>"


class TestBadInput:
    @pytest.mark.requirement("9.3")
    @pytest.mark.parametrize("size", [0, -1])
    def test_a_bound_below_one_is_refused(self, queue: RequestQueue, size: int) -> None:
        """The bound has to leave room for an item, at first and later."""
        with pytest.raises(ValueError, match=f"max_size must be at least 1, not {size}"):
            RequestQueue(size)
        with pytest.raises(ValueError, match="max_size"):
            queue.resize(size)
        assert queue.max_size == 5

    @pytest.mark.parametrize("size", [1.5, "5", None, True])
    def test_a_bound_that_is_no_integer_is_refused(self, size: Any) -> None:
        """The bound counts items."""
        with pytest.raises(TypeError, match="max_size must be an integer"):
            RequestQueue(size)

    @pytest.mark.parametrize("put", ["enqueue", "enqueue_beyond", "adopt"])
    def test_wrong_arguments_leave_the_queue_untouched(self, queue: RequestQueue, put: str) -> None:
        """None as an item, a priority of another type and an expiry in the past are mistakes."""
        call: Callable[..., None] = getattr(queue, put)
        with pytest.raises(TypeError, match="None cannot be queued"):
            call(None)
        with pytest.raises(TypeError, match="must be a RequestPriority, not 'high'"):
            call("x", "high")
        for wrong in (0, -1.0, math.nan):
            with pytest.raises(ValueError, match=f"expires_in must be .* not {wrong}"):
                call("x", expires_in=wrong)
        assert queue.size == 0

    def test_many_wrong_items_leave_the_queue_untouched(self, queue: RequestQueue) -> None:
        """One None among many refuses all; one text is not several items."""
        with pytest.raises(TypeError, match="None cannot be queued"):
            queue.enqueue_many(["x", None])
        for single in ("abc", b"abc"):
            with pytest.raises(TypeError, match="several items, not one"):
                queue.enqueue_many(single)
        assert queue.size == 0

    def test_no_more_can_be_confirmed_than_is_taken(self, queue: RequestQueue) -> None:
        """A wrong count confirms nothing."""
        queue.enqueue_many([1, 2, 3])
        queue.take_many(2)
        for wrong in (3, -1):
            with pytest.raises(ValueError, match=f"cannot confirm {wrong} items: 2 are taken"):
                queue.confirm(wrong)
        assert queue.snapshot() == (1, 2, 3)

    def test_a_limit_below_one_is_refused(self, queue: RequestQueue) -> None:
        """To take nothing is a mistake."""
        with pytest.raises(ValueError, match="limit must be at least 1, not 0"):
            queue.take_many(0)


class TestTaking:
    def test_what_is_not_confirmed_comes_back_first(self, queue: RequestQueue) -> None:
        """Restored items go before everything, even before a higher priority, in their order."""
        queue.enqueue_many([1, 2, 3], LOW)
        assert queue.take_many(2) == [1, 2]
        queue.enqueue("urgent", HIGH)
        queue.restore()
        assert queue.snapshot() == (1, 2, "urgent", 3)
        assert drained(queue) == [1, 2, "urgent", 3]

    def test_restoring_twice_keeps_the_order(self, queue: RequestQueue) -> None:
        """What was taken again goes in front of what was restored and not taken since."""
        queue.enqueue_many([1, 2, 3, 4])
        queue.take_many(3)
        queue.restore()
        assert queue.take() == 1
        queue.restore()
        assert queue.take_many(9) == [1, 2, 3, 4]

    def test_confirming_forgets_the_oldest(self, queue: RequestQueue) -> None:
        """`confirm` counts from the item that was taken first."""
        queue.enqueue_many([1, 2, 3, 4])
        queue.take_many(3)
        queue.confirm(2)
        queue.confirm(0)
        queue.restore()
        assert queue.snapshot() == (3, 4)

    def test_restoring_nothing_changes_nothing(self, queue: RequestQueue) -> None:
        """Restore is harmless after everything was confirmed."""
        queue.enqueue_many([1, 2])
        queue.take()
        queue.confirm()
        queue.restore()
        assert queue.snapshot() == (2,)

    def test_an_adopted_item_is_taken_and_may_exceed_the_bound(self, queue: RequestQueue) -> None:
        """What is already half written is kept, even by a full queue, and comes back first."""
        queue.enqueue_many(range(5))
        queue.adopt("half", LOW)
        assert (queue.size, queue.waiting, queue.fill) == (6, 5, 1.0)
        assert queue.enqueue_many([9]) == 0
        queue.restore()
        assert queue.dequeue() == "half"
        assert queue.is_full

    def test_bytes_are_limited_by_length(self, queue: RequestQueue) -> None:
        """A batch stays within `max_bytes`, over the lines, and what does not fit waits."""
        queue.enqueue_many([b"123", "12"])
        queue.enqueue_many([bytearray(b"1"), b""], LOW)
        assert queue.take_many(9, max_bytes=5) == [b"123", "12"]
        assert queue.take_many(9, max_bytes=5) == [b"1", b""]
        queue.restore()
        assert queue.take_many(9, max_bytes=4) == [b"123"]
        queue.restore()
        assert queue.take_many(3, max_bytes=99) == [b"123", "12", b"1"]

    def test_no_later_item_overtakes_one_that_is_too_long(self, queue: RequestQueue) -> None:
        """The limit of bytes ends a batch, also where a shorter item of another line would fit."""
        queue.enqueue_many([b"1", b"22"], HIGH)
        queue.enqueue(b"3")
        assert queue.take_many(9, max_bytes=2) == [b"1"]

    def test_the_first_item_is_handed_out_however_long(self, queue: RequestQueue) -> None:
        """One item above the limit does not block the queue; nothing goes with it."""
        queue.enqueue_many([b"12345", b"1"])
        assert queue.take_many(9, max_bytes=0) == [b"12345"]
        assert queue.take_many(9, max_bytes=0) == [b"1"]

    def test_the_first_item_may_be_limited_too(self, queue: RequestQueue) -> None:
        """One above its own limit is not handed out; one above that of all together may be."""
        queue.enqueue_many([b"12345", b"1"])
        assert queue.next_length == 5
        assert queue.take_many(9, max_bytes=2, max_first=4) == []
        assert queue.take_many(9, max_bytes=2, max_first=5) == [b"12345"]
        assert queue.take_many(9, max_bytes=2, max_first=0) == [b"1"]
        assert queue.next_length is None

    def test_other_objects_have_no_length_here(self, queue: RequestQueue) -> None:
        """A list is one item without bytes."""
        queue.enqueue_many([[1] * 99, [2]])
        assert len(queue.take_many(9, max_bytes=1)) == 2


class TestTakingAway:
    def test_a_snapshot_changes_nothing(self, queue: RequestQueue) -> None:
        """The snapshot lists the taken first and then what waits, by priority."""
        queue.enqueue_many([1, 2])
        queue.enqueue(3, HIGH)
        queue.take()
        assert queue.snapshot() == (3, 1, 2) == queue.snapshot()
        assert queue.size == 3

    def test_clear_returns_what_it_dropped_and_leaves_the_taken(self, queue: RequestQueue) -> None:
        """What a consumer holds is its own: only what waits can be dropped."""
        queue.enqueue_many([1, 2, 3])
        queue.enqueue(4, HIGH, expires_in=1.0)
        queue.take()
        assert queue.clear() == [1, 2, 3]
        assert queue.snapshot() == (4,)
        queue.confirm()
        assert queue.clear() == []
        assert queue.size == 0


class TestExpiry:
    def test_an_expired_item_is_never_handed_out(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """At the moment of its expiry an item is gone, and counted; others stay."""
        queue.enqueue_many([1, 2], expires_in=10.0)
        queue.enqueue(3, LOW)
        clock.advance(9.999)
        assert queue.dequeue() == 1
        clock.advance(0.001)
        assert queue.expired == 1
        assert drained(queue) == [3]

    @pytest.mark.parametrize(
        ("look", "seen"),
        [
            (lambda queue: queue.size, 1),
            (lambda queue: queue.waiting, 1),
            (lambda queue: queue.fill, 0.2),
            (lambda queue: queue.expired, 4),
            (lambda queue: queue.is_full, False),
            (lambda queue: queue.is_empty, False),
            (lambda queue: queue.snapshot(), ("stays",)),
            (lambda queue: queue.clear(), ["stays"]),
            (lambda queue: queue.take_many(9), ["stays"]),
            (lambda queue: queue.dequeue(), "stays"),
            (lambda queue: queue.enqueue_many(range(9)), 4),
        ],
    )
    def test_whoever_looks_first_sees_no_expired_item(
        self,
        queue: RequestQueue,
        clock: FakeClock,
        look: Callable[[RequestQueue], object],
        seen: object,
    ) -> None:
        """Expired items make room and are not counted, whichever call comes next."""
        queue.enqueue_many([1, 2, 3, 4], expires_in=1.0)
        queue.enqueue("stays", LOW, expires_in=2.0)
        clock.advance(1.5)
        assert look(queue) == seen

    def test_a_taken_item_does_not_expire_but_is_judged_when_it_comes_back(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """`restore` drops and counts what expired in the consumer's hands."""
        queue.enqueue(1, expires_in=1.0)
        queue.enqueue(2, expires_in=3.0)
        queue.take_many(2)
        queue.adopt(3, expires_in=2.0)
        clock.advance(2.0)
        assert queue.snapshot() == (1, 2, 3)
        assert queue.expired == 0
        queue.restore()
        assert queue.snapshot() == (2,)
        assert queue.expired == 2
        clock.advance(1.0)
        assert queue.is_empty


class TestWaitingForRoom:
    def test_there_is_no_wait_when_there_is_room(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """With room the answer is True at once, whatever the time-out."""
        assert queue.wait_for_room(0)
        assert queue.wait_for_room(None, unless=lambda: True)
        assert clock.monotonic() == 0.0

    @pytest.mark.parametrize("timeout", [0, 3.0])
    def test_a_full_queue_is_waited_for_until_the_time_is_up(
        self, queue: RequestQueue, clock: FakeClock, timeout: float
    ) -> None:
        """Without room the answer is False after exactly the time-out."""
        queue.enqueue_many(range(5))
        assert not queue.wait_for_room(timeout)
        assert clock.monotonic() == timeout
        assert not queue._waiters

    @pytest.mark.parametrize(
        "make_room",
        [
            lambda queue: queue.dequeue(),
            lambda queue: (queue.take(), queue.confirm()),
            lambda queue: queue.clear(),
            lambda queue: queue.resize(6),
        ],
    )
    @pytest.mark.parametrize("timeout", [9.0, None])
    def test_a_waiter_wakes_when_room_is_made(
        self,
        queue: RequestQueue,
        clock: FakeClock,
        make_room: Callable[[RequestQueue], object],
        timeout: float | None,
    ) -> None:
        """Every way to make room wakes the waiter at that moment."""
        queue.enqueue_many(range(5))
        clock.call_at(2.0, lambda: make_room(queue))
        assert queue.wait_for_room(timeout)
        assert clock.monotonic() == 2.0

    def test_taking_alone_makes_no_room(self, queue: RequestQueue, clock: FakeClock) -> None:
        """Room comes with the confirmation."""
        queue.enqueue_many(range(5))
        clock.call_at(1.0, queue.take)
        clock.call_at(2.0, queue.confirm)
        assert queue.wait_for_room(9.0)
        assert clock.monotonic() == 2.0

    def test_a_waiter_goes_on_when_another_was_quicker(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """Room that is gone again before the waiter looks counts as none."""
        queue.enqueue_many(range(5))
        clock.call_at(1.0, lambda: (queue.dequeue(), queue.enqueue("quicker")))
        clock.call_at(2.0, queue.dequeue)
        assert queue.wait_for_room(9.0)
        assert clock.monotonic() == 2.0

    def test_an_expiry_wakes_the_waiter(self, queue: RequestQueue, clock: FakeClock) -> None:
        """Nobody has to call anything for an item to expire, and the room it leaves is noticed."""
        queue.enqueue_many(range(4))
        queue.enqueue("short", LOW, expires_in=4.0)
        assert queue.wait_for_room(None)
        assert clock.monotonic() == 4.0

    def test_an_item_that_comes_back_may_be_the_next_to_expire(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """A waiter learns of an expiry that was in a consumer's hands when its wait began."""
        queue.enqueue_many(range(4))
        queue.adopt("short", expires_in=4.0)
        clock.call_at(1.0, queue.restore)
        assert queue.wait_for_room(9.0)
        assert clock.monotonic() == 4.0

    def test_an_interruption_ends_the_wait(self, queue: RequestQueue, clock: FakeClock) -> None:
        """`interrupt` ends waits under way without room, and leaves later ones alone."""
        queue.enqueue_many(range(5))
        clock.call_at(1.0, queue.interrupt)
        assert not queue.wait_for_room(9.0)
        assert clock.monotonic() == 1.0
        assert not queue.wait_for_room(2.0)
        assert clock.monotonic() == 3.0

    def test_an_interruption_just_before_the_wait_is_not_lost(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """What `unless` asks about is looked at after the waiter can be interrupted."""
        queue.enqueue_many(range(5))
        lost = False

        def unless() -> bool:
            nonlocal lost
            if not lost:  # the link is lost right after this look
                lost = True
                queue.interrupt()
                return False
            return True

        assert not queue.wait_for_room(None, unless=unless)
        assert not queue.wait_for_room(None, unless=unless)
        assert clock.monotonic() == 0.0

    def test_no_wait_is_too_long_for_the_system(self) -> None:
        """A time-out above what a thread can wait is cut into waits that it can."""

        class Impatient(FakeClock):
            waits: list[float | None] = []  # noqa: RUF012 - the test has one instance

            def wait(self, event: threading.Event, timeout: float | None) -> bool:
                self.waits.append(timeout)
                queue.interrupt()
                return True

        clock = Impatient()
        queue = RequestQueue(1, clock=clock)
        queue.enqueue("x")
        assert not queue.wait_for_room(1e300)
        assert clock.waits == [threading.TIMEOUT_MAX]

    def test_an_interruption_wakes_a_thread_that_really_waits(self) -> None:
        """On the system's clock a waiting thread is woken, by room or by an interruption."""
        queue = RequestQueue(1)
        queue.enqueue("x")
        answers: list[bool] = []
        about_to_wait = threading.Event()

        def unless() -> bool:
            about_to_wait.set()
            return False

        for wake in (queue.interrupt, queue.dequeue):
            about_to_wait.clear()
            thread = threading.Thread(
                target=lambda: answers.append(queue.wait_for_room(30, unless=unless))
            )
            thread.start()
            assert about_to_wait.wait(30)
            wake()
            thread.join(30)
        assert answers == [False, True]

    def test_who_has_waited_longest_is_woken_first(self) -> None:
        """Room for several wakes one waiter, which wakes the next when it goes."""
        woken: list[list[bool]] = []

        class Nested(FakeClock):
            events: list[threading.Event] = []  # noqa: RUF012 - the test has one instance

            def wait(self, event: threading.Event, timeout: float | None) -> bool:
                self.events.append(event)
                if len(self.events) < 3:
                    assert queue.wait_for_room()
                else:
                    queue.clear()
                woken.append([event.is_set() for event in self.events])
                return True

        queue = RequestQueue(4, clock=Nested())
        queue.enqueue_many(range(4))
        assert queue.wait_for_room()
        # The third goes first, because it finds room without having been woken.
        assert woken[0] == [True, False, False]
        assert [waiters[0] for waiters in woken] == [True] * 3

    def test_a_sender_on_its_way_writes_for_others(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """Who puts something in learns whether to see to its writing, or a woken sender will."""
        queue.enqueue_many(range(5))
        told: list[object] = []

        def overtake() -> None:
            told.append(queue.put("x", NORMAL, None, self))
            queue.clear()
            told.append(queue.due_sender is self)
            told.extend(queue.put(number, NORMAL, None, self) for number in range(6))

        clock.call_at(1.0, overtake)
        assert queue.wait_to_send(self, None)  # though there is no room: it has to write
        assert queue.is_full
        assert queue.due_sender is None
        assert told == [(False, True), True, *[(True, False)] * 5, (False, True)]
        queue.clear()
        assert queue.put("x", NORMAL, None, self) == (True, True)

    def test_another_senders_wait_is_not_relied_on(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """A queue may go from one tunnel to the next while a thread still waits for the first."""
        queue.enqueue_many(range(5))
        told: list[object] = []

        def overtake() -> None:
            queue.clear()
            told.append(queue.put("x", NORMAL, None, "the next tunnel"))
            told.append(queue.put("x", NORMAL, None, self))

        clock.call_at(1.0, overtake)
        assert queue.wait_to_send(self, None)
        assert told == [(True, True), (True, False)]

    def test_a_due_sender_does_not_fall_asleep(self, queue: RequestQueue) -> None:
        """Room that came and went between its first look and the line sends it back to write."""
        queue.enqueue_many(range(5))
        stands = queue._look

        def be_overtaken(waiter: Any) -> bool:
            queue._look = stands  # type: ignore[method-assign]
            queue._lock.release()
            queue.clear()
            for number in range(5):
                assert queue.put(number, NORMAL, None, self) == (True, False)
            queue._lock.acquire()
            return stands(waiter)

        queue._look = be_overtaken  # type: ignore[method-assign]
        assert queue.wait_to_send(self, None)
        assert queue.due_sender is None

    def test_an_interrupted_wake_up_is_made_up_for(self, queue: RequestQueue) -> None:
        """A sender that is due and was not woken, for Ctrl-C, is woken by whatever is done next."""
        clock = queue._clock
        queue.enqueue_many(range(5))

        def wake_in_vain() -> None:
            queue._due = queue._waiters[0]
            queue.put("x", NORMAL, None, "somebody else's")

        assert isinstance(clock, FakeClock)
        clock.call_at(1.0, wake_in_vain)
        assert queue.wait_to_send(self, None)
        assert clock.monotonic() == 1.0

    def test_a_waiter_learns_of_an_earlier_expiry(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """Also one that was not woken when room came and went."""
        queue.enqueue_many(range(5))

        def replace() -> None:
            queue._due = unwoken = _Waiter(bool, is_for_room=True, sender="somebody else")
            queue.dequeue()
            queue.enqueue("short", LOW, expires_in=1.5)
            assert queue.is_full
            queue._due = None
            del unwoken

        clock.call_at(1.0, replace)
        assert queue.wait_for_room()
        assert clock.monotonic() == 2.5

    def test_a_forked_child_is_not_waited_for_by_its_parents_threads(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """What is in memory goes on in the child, where nobody of those who waited is."""
        queue.enqueue_many(range(5))
        told: list[object] = []

        def fork() -> None:
            queue.leave_to_parent()
            queue.clear()
            told.append(queue.put("x", NORMAL, None, self))
            told.append(queue.snapshot())

        clock.call_at(1.0, fork)
        clock.call_at(2.0, queue.interrupt)
        assert queue.wait_to_send(self, 5.0)
        assert told == [(True, True), ("x",)]

    def test_only_senders_are_relied_on(self, queue: RequestQueue, clock: FakeClock) -> None:
        """A thread of the application's that waits for room writes nothing."""
        queue.enqueue_many(range(5))
        told: list[object] = []

        def overtake() -> None:
            queue.clear()
            told.append(queue.put("x", NORMAL, None, self))

        clock.call_at(1.0, overtake)
        assert queue.wait_for_room()
        assert told == [(True, True)]

    def test_ctrl_c_at_any_line_leaves_nobody_in_the_line(self) -> None:
        """A sender that was interrupted is neither woken in place of others nor relied on."""
        number = 0
        finished = False
        while not finished:
            number += 1
            clock = FakeClock()
            queue = RequestQueue(5, clock=clock)
            queue.enqueue_many(range(5))
            clock.call_at(1.0, queue.clear)
            waiting = (QueueCore._stand_in_line, QueueCore._leave, QueueCore._look)
            wait = partial(queue.wait_to_send, self, None)
            finished = not was_interrupted_at(number, wait, *waiting)
            assert queue._waiters == [], number
            assert queue.due_sender is None, number
        assert number > 20

    def test_an_impatient_user_leaves_nobody_in_the_line(self, queue: RequestQueue) -> None:
        """Ctrl-C again and again while a sender goes: it is gone in the end."""
        clock = queue._clock
        assert isinstance(clock, FakeClock)
        queue.enqueue_many(range(5))
        clock.call_at(1.0, queue.clear)
        leave, interruptions = queue._leave, iter(range(3))

        def interrupted(waiter: Any) -> None:
            for _ in interruptions:
                raise KeyboardInterrupt
            leave(waiter)

        queue._leave = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            queue.wait_to_send(self, None)
        assert queue._waiters == []
        assert queue.due_sender is None


class TestWaitingUntilEmpty:
    def test_an_empty_queue_is_not_waited_for(self, queue: RequestQueue, clock: FakeClock) -> None:
        """Nothing held: True at once."""
        assert queue.wait_until_empty(0)
        assert queue.wait_until_empty(None)
        assert clock.monotonic() == 0.0

    def test_the_last_confirmation_ends_the_wait(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """Taken items count until they are confirmed, also those above the bound."""
        queue.enqueue_many(range(5))
        queue.enqueue_beyond(5)
        clock.call_at(1.0, lambda: queue.take_many(6))
        clock.call_at(2.0, lambda: queue.confirm(5))
        clock.call_at(3.0, queue.confirm)
        assert queue.wait_until_empty(9.0)
        assert clock.monotonic() == 3.0

    def test_the_expiry_of_the_last_item_ends_the_wait(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """Nobody has to call anything."""
        queue.enqueue(1, expires_in=2.0)
        assert queue.wait_until_empty(None)
        assert clock.monotonic() == 2.0

    def test_only_the_time_ends_the_wait_for_what_stays(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """An interruption of those who wait for room does not end this wait."""
        queue.enqueue(1)
        clock.call_at(1.0, queue.interrupt)
        assert not queue.wait_until_empty(3.0)
        assert clock.monotonic() == 3.0


class TestDiscarding:
    def test_the_very_objects_leave(self, queue: RequestQueue) -> None:
        """What was put in and waits is dropped; what is equal to it, taken or unknown stays."""
        items = [bytes([65]) * 3 for _ in range(4)]
        queue.enqueue_many(items[:2])
        queue.enqueue(items[2], HIGH)
        assert queue.take() is items[2]
        discarded = queue.discard([items[1], items[2], items[3]])
        assert [id(item) for item in discarded] == [id(items[1])]
        assert (queue.waiting, queue.waiting_bytes, queue.size) == (1, 3, 2)
        assert queue.take() is items[0]
        assert queue.discard([]) == []

    def test_whoever_waits_for_room_gets_it(self, queue: RequestQueue) -> None:
        """A discarded item fills the queue no more."""
        items = [object() for _ in range(5)]
        queue.enqueue_many(items)
        assert not queue.wait_for_room(0)
        queue.discard(items[:1])
        assert queue.wait_for_room(0)

    def test_it_leaves_the_file_too(self, tmp_path: Path) -> None:
        """Whoever opens the file next does not find it."""
        path = tmp_path / "queue"
        items = [f"item {number}" for number in range(3)]
        with RequestQueue(path=path) as queue:
            queue.enqueue_many(items)
            assert queue.discard(items[1:2]) == [items[1]]
        with RequestQueue(path=path) as queue:
            assert queue.snapshot() == ("item 0", "item 2")


class TestWithAService:
    """One sends what is queued."""

    def test_what_cannot_be_sent_is_refused(self, queue: RequestQueue) -> None:
        """At the call that puts it in, and with nothing of the same call accepted."""

        def check(item: object) -> None:
            if item == "bad":
                raise PayloadTypeError("no {item}")

        queue.bind(check, lambda: None)
        calls: list[Callable[[], object]] = [
            lambda: queue.enqueue("bad"),
            lambda: queue.enqueue_many(["good", "bad"]),
            lambda: queue.enqueue_beyond("bad"),
        ]
        for call in calls:
            with pytest.raises(PayloadTypeError):
                call()
        assert queue.is_empty
        queue.enqueue_many(["bad"], is_checked=True)
        queue.enqueue_beyond("bad", is_checked=True)
        assert queue.size == 2

    def test_who_takes_does_not_call_subscribers(self, queue: RequestQueue) -> None:
        """A subscriber that blocks must not hold up whoever writes: it is called by others."""
        signals: list[bool] = []
        soon: list[int] = []
        queue.subscribe(lambda signal: signals.append(signal.should_throttle))
        queue.bind(lambda item: None, lambda: soon.append(1))
        queue.enqueue_many([*"abcd"])
        assert signals == [True]  # its own thread's call has filled it
        soon.clear()
        queue.take_many(4)
        queue.confirm(4)
        assert (signals, soon) == ([True], [1])
        queue.deliver_signals()
        assert signals == [True, False]
        queue.deliver_signals()
        assert signals == [True, False]

    def test_it_is_asked_for_once_until_it_was_done(
        self, queue: RequestQueue, clock: FakeClock
    ) -> None:
        """However often it turns meanwhile; and again for what comes later."""
        signals: list[bool] = []
        soon: list[int] = []
        queue.subscribe(lambda signal: signals.append(signal.should_throttle))
        queue.bind(lambda item: None, lambda: soon.append(1))
        for _ in range(2):
            queue.enqueue_many([*"abcd"])
            soon.clear()
            queue.take_many(1)
            queue.restore()
            queue.take_many(4)
            queue.confirm(4)
            assert soon == [1]
            queue.deliver_signals()
        assert signals == [True, False] * 2

    @pytest.mark.parametrize("call", ["dequeue", "clear", "resize"])
    def test_who_calls_by_himself_hears_at_once(self, queue: RequestQueue, call: str) -> None:
        """The application's own calls deliver on their thread, as without a service."""
        signals: list[bool] = []
        queue.enqueue_many([*"abcd"])
        queue.subscribe(lambda signal: signals.append(signal.should_throttle))
        queue.bind(lambda item: None, lambda: None)
        if call == "resize":
            queue.resize(100)
            queue.enqueue("x")
        else:
            getattr(queue, call)()
        assert signals == [False]
