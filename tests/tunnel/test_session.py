from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine import InvalidTransition
from tests.ctrl_c import was_interrupted_at
from tunnel.secrets import Secret
from tunnel.session import Item, Session
from tunnel.session_frames import (
    ASK_FRAME,
    MAX_UINT32,
    OVERHEAD,
    EncodedText,
    End,
    FrameKind,
    Gone,
    Limits,
    Open,
    Opened,
    Parcel,
    Resume,
    Resumed,
    SessionViolation,
    encode,
    numbered_header,
    read_answer,
    read_greeting,
)
from tunnel.session_lifecycle import SessionState

K = FrameKind
S = SessionState
EVERYTHING = 2**40
ROOMY = Limits(messages=4000, bytes=4000, message_size=1000)
ID, TOKEN = bytes(range(16)), Secret("5a" * 32)


class Pair(NamedTuple):
    client: Session
    server: Session


def pair(
    limits: Limits = ROOMY, *, keep: tuple[int, int] = (10_000, 10_000), number: int = 0
) -> Pair:
    """Two ends that are attached; so many frames went each way before, and were acknowledged."""
    client = Session(limits, keep=keep, accepts=[K.RESPONSE])
    server = Session(limits, keep=keep, accepts=[K.REQUEST, K.CANCEL])
    greeting = read_greeting(encode(client.greeting()))
    assert isinstance(greeting, Open)
    answer = read_answer(encode(server.open(greeting, ID, TOKEN, 600)))
    assert client.answered(answer)
    for session in (client, server):
        session.acknowledged = session.last_number = session._written = number
        session._confirmed_on_link, session._next_on_link = number, number + 1
        session.received = session._taken = session._acknowledged_to_peer = number
    return Pair(client, server)


def come_back(client: Session, server: Session, *, is_noticed: bool = True) -> None:
    """The client is back on a new link."""
    client.detach()
    if is_noticed:
        server.detach()
    greeting = read_greeting(encode(client.greeting()))
    assert isinstance(greeting, Resume)
    assert client.answered(read_answer(encode(server.resume(greeting))))


def deliver(sender: Session, receiver: Session, items: list[Item | None]) -> list[Item]:
    frames = sender.send(items)
    sender.confirm(len(frames))
    return receiver.receive(frames)


def settle(sender: Session, receiver: Session, count: int) -> None:
    """So many are taken, and acknowledged."""
    receiver.take(count)
    assert sender.receive([receiver.acknowledgement()]) == []
    assert sender.violation is None


def ack(number: int) -> bytes:
    return numbered_header(K.ACK, number & MAX_UINT32)


def binary(number: int, payload: bytes = b"") -> bytes:
    return numbered_header(K.BINARY, number & MAX_UINT32) + payload


def broken(session: Session) -> str:
    """How the peer broke the protocol; and then nothing more is received."""
    assert session.violation is not None
    received = session.received
    assert session.receive([binary(received + 1)]) == []
    assert session.received == received
    return str(session.violation)


# Numbers and frames


@pytest.mark.requirement("1.7")
def test_a_session_is_opened() -> None:
    """The client learns id, token and limits from the answer; both ends are attached."""
    theirs = Limits(7, 8, 9)
    client, server = Session(ROOMY, keep=(1, 1)), Session(theirs, keep=(1, 1))
    greeting = client.greeting()
    assert greeting == Open(ROOMY)
    assert client.state == "opening"
    assert isinstance(greeting, Open)
    answer = server.open(greeting, ID, TOKEN, 600)
    assert answer == Opened(ID, TOKEN, 600, theirs)
    assert client.answered(answer) is True
    assert client.state == server.state == "attached"
    assert (client.id, client.token, client.kept_for) == (ID, TOKEN, 600)
    assert (client.peer_limits, server.peer_limits) == (theirs, ROOMY)


@pytest.mark.requirement("1.7")
def test_text_stays_text_and_bytes_stay_bytes() -> None:
    """Whatever the payload, an empty one too, it arrives as what it was sent."""
    client, server = pair()
    items: list[Item | None] = ["", b"", "täxt", b"\xff\x00", "\U0001f600"]
    for one, other in ((client, server), (server, client)):
        found = deliver(one, other, items)
        assert found == items
        assert [type(item) for item in found] == [str, bytes, str, bytes, str]


def test_a_message_costs_five_bytes_more() -> None:
    """The frame is kind, number and payload."""
    client, _ = pair(number=0x01020303)
    assert client.send(["ä", b"b"]) == [b"\1\1\2\3\4\xc3\xa4", b"\2\1\2\3\5b"]
    assert OVERHEAD == 5


_ONE_OF_EACH: list[tuple[Item | None, FrameKind, bytes]] = [
    (b"a", K.BINARY, b"a"),
    ("\u00fc", K.TEXT, b"\xc3\xbc"),
    (None, K.SKIP, b""),
    (EncodedText(b"\xc3\xbc"), K.TEXT, b"\xc3\xbc"),
    (Parcel(K.CANCEL, b"12345678"), K.CANCEL, b"12345678"),
]


@pytest.mark.parametrize(
    "kinds", [[], [0, 0, 0], [1, 1, 1], [0, 1, 0], [3, 3], [4, 4], [0, 1, 2, 3, 4]]
)
@pytest.mark.parametrize("number", [0, *range(2**32 - 5, 2**32 + 1)])
def test_a_batch_is_numbered_as_its_messages_one_by_one(kinds: list[int], number: int) -> None:
    """Whether or not all are of one kind, also where the numbers on the wire wrap around."""
    client, _ = pair(number=number)
    batch = [_ONE_OF_EACH[kind] for kind in kinds]
    assert client.send([item for item, _, _ in batch]) == [
        numbered_header(kind, (number + place) % 2**32) + payload
        for place, (_, kind, payload) in enumerate(batch, 1)
    ]
    assert client.unacknowledged_bytes == sum(len(payload) for _, _, payload in batch)
    assert client.unacknowledged_items() == tuple(i for i, _, _ in batch if i is not None)


@pytest.mark.parametrize("number", [2**32 - 3, 2**31 - 3, 7 * 2**32 - 1])
def test_numbers_go_on_past_the_end_of_32_bits(number: int) -> None:
    """On the wire they wrap around; messages, acknowledgements and resuming do not notice."""
    client, server = pair(number=number)
    for _ in range(2):
        assert deliver(client, server, [b"1", "2", None]) == [b"1", "2"]
        settle(client, server, 2)
    assert client.acknowledged == client.last_number == server.received == number + 6
    client.send([b"lost", b"again"])
    come_back(client, server)
    assert server.receive(client.replay(9, EVERYTHING)) == [b"lost", b"again"]
    assert server.receive([binary(number + 6), binary(number)]) == []
    assert (server.duplicates, server.violation) == (2, None)


def test_what_is_not_wanted_any_more_uses_its_number_up() -> None:
    """None is sent as SKIP: the other end sees nothing of it, and acknowledges it."""
    client, server = pair()
    assert client.send([None]) == [b"\x06\0\0\0\1"]
    assert server.receive([b"\x06\0\0\0\1"]) == []
    assert (server.received, server.taken) == (1, 1)
    settle(client, server, 0)
    assert client.unacknowledged == 0


def test_what_cannot_be_sent_changes_nothing() -> None:
    """A text with half a character raises, and none of its batch got a number."""
    client, server = pair()
    with pytest.raises(UnicodeEncodeError):
        client.send(["fine", "\ud800"])
    assert (client.last_number, client.unacknowledged, client.unacknowledged_bytes) == (0, 0, 0)
    assert deliver(client, server, ["next"]) == ["next"]


# Windows


def fill(sender: Session, sizes: Iterable[int]) -> list[int]:
    """Send payloads of these sizes while there is room; the sizes that went out."""
    sent = []
    for size in sizes:
        if not sender.has_room_for(size):
            break
        sender.send([bytes(size)])
        sent.append(size)
    return sent


def frames_of(sizes: Iterable[int]) -> list[bytes]:
    return [binary(number, bytes(size)) for number, size in enumerate(sizes, 1)]


@pytest.mark.parametrize(
    ("limits", "sizes", "fitting"),
    [
        (Limits(3, 100, 99), [1, 1, 1, 1], 3),
        (Limits(9, 10, 99), [4, 6, 0, 0, 1], 4),
        (Limits(9, 10, 99), [4, 7], 1),
        (Limits(9, 10, 99), [11, 0], 1),
        (Limits(9, 10, 99), [99, 99], 1),
        (Limits(9, 10, 99), [0, 11], 1),
        (Limits(1, 1, 1), [0, 0], 1),
    ],
)
def test_both_ends_agree_on_the_window(limits: Limits, sizes: list[int], fitting: int) -> None:
    """A sender that fills its room is not refused; what would not have fitted is."""
    client, server = pair(limits)
    assert fill(client, sizes) == sizes[:fitting]
    assert len(server.receive(frames_of(sizes[:fitting]))) == fitting
    assert server.violation is None
    assert len(server.receive([binary(fitting + 1, bytes(sizes[fitting]))])) == 1
    assert broken(server) == "more than was offered to be held"


@given(
    limits=st.builds(Limits, st.integers(1, 5), st.integers(1, 9), st.just(20)),
    sizes=st.lists(st.integers(0, 12), max_size=12),
    taken=st.integers(0, 12),
)
def test_a_window_that_opens_again_is_the_same_at_both_ends(
    limits: Limits, sizes: list[int], taken: int
) -> None:
    """After any acknowledgement, what fits is received and what does not is refused."""
    client, server = pair(limits)
    sent = fill(client, sizes)
    server.receive(frames_of(sent))
    settle(client, server, min(taken, len(sent)))
    for size in sizes:
        fits = client.has_room_for(size)
        number = client.last_number + 1
        assert len(server.receive([binary(number, bytes(size))])) == 1
        assert (server.violation is None) is fits
        if not fits:
            return
        client.send([bytes(size)])


def test_the_smaller_of_keeping_and_offered_counts() -> None:
    """A sender may keep less than the other end would hold, in messages or in bytes."""
    client, _ = pair(ROOMY, keep=(2, 10))
    assert client.room() == (2, 10)
    client.send([b"123"])
    assert client.room() == (1, 7)
    assert client.has_room_for(7)
    assert not client.has_room_for(8)
    client.send([b"4567890"])
    assert client.room() == (0, 0)
    assert not client.has_room_for(0)


def test_one_large_message_goes_alone() -> None:
    """What is larger than the window goes while nothing else is on its way."""
    client, server = pair(Limits(5, 10, 1000))
    assert client.has_room_for(500)
    assert deliver(client, server, [bytes(500)]) == [bytes(500)]
    assert server.violation is None
    assert client.room() == (0, 0)
    assert not client.has_room_for(0)
    settle(client, server, 1)
    client.send([b""])
    assert client.room() == (4, 10)
    assert not client.has_room_for(11)


def test_what_comes_before_an_overflow_is_received() -> None:
    """The batch in which the window was overrun is handed over; then nothing more."""
    _, server = pair(Limits(2, 10, 10))
    assert server.receive([binary(n) for n in (1, 2, 3)]) == [b"", b"", b""]
    assert broken(server) == "more than was offered to be held"


# Acknowledging


def test_taken_is_what_is_acknowledged() -> None:
    """What has arrived and was not taken is not acknowledged, and kept at the other end."""
    client, server = pair()
    deliver(client, server, ["a", "b", "c"])
    server.take(2)
    assert (server.received, server.taken, server.has_untold) == (3, 2, True)
    assert server.acknowledgement() == ack(2)
    assert not server.has_untold
    client.receive([ack(2)])
    assert client.unacknowledged_items() == ("c",)
    assert (client.acknowledged, client.unacknowledged, client.unacknowledged_bytes) == (2, 1, 1)


def test_more_cannot_be_taken_than_has_arrived() -> None:
    """That would be a mistake of the owner."""
    _, server = pair()
    with pytest.raises(AssertionError):
        server.take(1)


@pytest.mark.parametrize(
    ("messages", "due_after"), [(1, 1), (7, 1), (8, 2), (40, 10), (4000, 256), (2**31 - 1, 256)]
)
def test_an_acknowledgement_is_due_by_count(messages: int, due_after: int) -> None:
    """After a quarter of the window in frames, and after 256 at the latest."""
    limits = Limits(messages, 10**6, 1)
    server = Session(limits, keep=(1, 1))
    server.open(Open(ROOMY), ID, TOKEN, 1)
    server.receive([binary(n + 1) for n in range(min(due_after, messages))])
    assert server.takes_until_due == due_after
    for _ in range(due_after - 1):
        server.take(1)
        assert not server.is_acknowledgement_due
    assert server.takes_until_due == 1
    server.take(1)
    assert server.is_acknowledgement_due
    server.acknowledgement()
    assert not server.is_acknowledgement_due
    assert server.takes_until_due == due_after


def test_an_acknowledgement_is_due_by_bytes() -> None:
    """After a quarter of the window in bytes, counting what was taken only."""
    _, server = pair(Limits(4000, 400, 400))
    server.receive([binary(n, bytes(25)) for n in range(1, 5)])
    assert not server.is_acknowledgement_due
    assert server.takes_until_due == 4
    server.take(1)
    assert server.takes_until_due == 3
    server.take(2)
    assert not server.is_acknowledgement_due
    assert server.takes_until_due == 1
    server.take(1)
    assert server.is_acknowledgement_due
    assert server.takes_until_due == 1
    server.acknowledgement()
    assert not server.is_acknowledgement_due


def test_bytes_alone_do_not_make_it_due_before_they_are_there() -> None:
    """Many frames hold few bytes: the count decides."""
    _, server = pair(Limits(40, 400, 400))
    server.receive([binary(1, bytes(99)), *(binary(n) for n in range(2, 20))])
    assert server.takes_until_due == 10
    server.receive([binary(20, b"1")])
    assert server.takes_until_due == 10
    server.take(10)
    assert server.is_acknowledgement_due


def test_the_other_end_can_ask() -> None:
    """ASK is answered at once with what was taken, and after that until all is acknowledged."""
    client, server = pair()
    deliver(client, server, ["a", "b", "c"])
    server.take(1)
    assert not server.is_acknowledgement_due
    assert server.receive([ASK_FRAME]) == []
    assert server.is_acknowledgement_due
    assert server.acknowledgement() == ack(1)
    assert not server.is_acknowledgement_due
    server.take(1)
    assert server.is_acknowledgement_due
    assert server.acknowledgement() == ack(2)
    server.take(1)
    assert server.acknowledgement() == ack(3)
    deliver(client, server, ["d"])
    server.take(1)
    assert not server.is_acknowledgement_due


def test_a_question_with_nothing_taken_is_answered_with_the_first_that_is() -> None:
    """There is nothing to say before."""
    client, server = pair()
    deliver(client, server, ["a"])
    server.receive([ASK_FRAME])
    assert not server.is_acknowledgement_due
    server.take(1)
    assert server.is_acknowledgement_due


@pytest.mark.requirement("1.7")
def test_the_last_acknowledgement_is_said_again_on_a_new_link() -> None:
    """It may have been lost; without it a sender with a full window would wait for ever."""
    client, server = pair(Limits(1, 10, 10))
    deliver(client, server, ["a"])
    server.take(1)
    server.acknowledgement()  # never arrives
    come_back(client, server)
    assert not client.has_room_for(0)
    assert server.is_acknowledgement_due
    assert not server.has_untold
    client.receive([server.acknowledgement()])
    assert client.has_room_for(0)
    assert not server.is_acknowledgement_due


def test_an_old_acknowledgement_says_nothing_new() -> None:
    """One that was overtaken, however it came to that, does no harm."""
    client, server = pair()
    deliver(client, server, ["a", "b"])
    settle(client, server, 2)
    client.receive([ack(1), ack(2), ack(0), ack(2 - 2**31)])
    assert (client.acknowledged, client.violation) == (2, None)


# Parcels


def test_parcels_arrive_as_what_they_are() -> None:
    """Requests and cancellations at the server, answers at the client, among the messages."""
    client, server = pair()
    parcels: list[Item | None] = [Parcel(K.REQUEST, b"q"), "between", Parcel(K.CANCEL, b"c")]
    found = deliver(client, server, parcels)
    assert found == [b"q", "between", b"c"]
    assert [getattr(item, "kind", None) for item in found] == [K.REQUEST, None, K.CANCEL]
    (answer,) = deliver(server, client, [Parcel(K.RESPONSE, b"r")])
    assert isinstance(answer, Parcel)
    assert (answer, answer.kind) == (b"r", K.RESPONSE)


def test_what_the_application_does_not_see_it_does_not_have_to_take() -> None:
    """Asides count as taken with what comes before them; a request has to be taken."""
    client, server = pair()
    cancel = Parcel(K.CANCEL, b"c")
    deliver(client, server, [cancel, "1", cancel, None, "2", Parcel(K.REQUEST, b"3"), cancel])
    expected = [1, 4, 5, 7]
    assert server.taken == expected[0]
    for number in expected[1:]:
        server.take(1)
        assert server.taken == number
    deliver(client, server, [cancel])
    assert server.taken == 8


@given(st.lists(st.booleans(), max_size=12), st.data())
def test_taking_several_at_once_is_taking_one_after_another(
    is_aside: list[bool], data: st.DataObject
) -> None:
    """Wherever the asides are, and however the taking is divided."""
    items: list[Item | None] = [None if aside else b"m" for aside in is_aside]
    (client, one), (_, many) = pair(), pair()
    frames = client.send(items)
    one.receive(frames)
    many.receive(frames)
    left = is_aside.count(False)
    while left:
        count = data.draw(st.integers(1, left))
        left -= count
        many.take(count)
        for _ in range(count):
            one.take(1)
        assert one.taken == many.taken
    assert one.taken == len(items)


# Resuming


@pytest.mark.requirement("1.7")
def test_only_what_is_missing_is_sent_again() -> None:
    """Both ends go on after what the other has received, taken or not."""
    client, server = pair()
    frames = client.send(["1", "2", "3", "4"])
    client.confirm(4)
    server.receive(frames[:2])
    server.send(["a"])
    come_back(client, server)
    assert client.has_replay
    assert server.has_replay
    frames = client.replay(9, EVERYTHING)
    assert frames == [b"\1\0\0\0\x033", b"\1\0\0\0\x044"]
    assert not client.has_replay
    assert server.receive(frames) == ["3", "4"]
    assert client.receive(server.replay(9, EVERYTHING)) == ["a"]
    assert (client.replayed, server.replayed) == (2, 0)  # "a" was never written before
    assert (client.duplicates, server.duplicates) == (0, 0)
    assert deliver(client, server, ["5"]) == ["5"]


def test_nothing_is_sent_again_if_nothing_is_missing() -> None:
    """What has arrived waits for its acknowledgement only."""
    client, server = pair()
    deliver(client, server, ["1"])
    come_back(client, server)
    assert not client.has_replay
    assert client.replay(9, EVERYTHING) == []
    assert client.unacknowledged == 1


def test_the_newest_link_wins() -> None:
    """A server that has not missed its client lets the new link have the session all the same."""
    client, server = pair()
    client.send(["lost"])
    come_back(client, server, is_noticed=False)
    assert server.state == "attached"
    assert server.receive(client.replay(9, EVERYTHING)) == ["lost"]


def test_a_greeting_that_was_long_on_its_way_does_no_harm() -> None:
    """It says less than is known since; nothing is taken back, and nothing sent that was taken."""
    client, server = pair()
    client.detach()
    late = client.greeting()
    assert isinstance(late, Resume)
    client.detach()
    come_back(client, server, is_noticed=False)
    deliver(server, client, ["1", "2"])
    settle(server, client, 1)
    assert server.resume(late) == Resumed(0, 1)
    assert server.replay(9, EVERYTHING) == [b"\1\0\0\0\x022"]
    come_back(client, server)
    assert not server.has_replay


def test_a_replay_is_cut_into_batches() -> None:
    """By count and by bytes; the first of a batch may be longer, and numbers cost nothing."""
    client, server = pair()
    client.send([bytes(5), bytes(9), bytes(5), b"", None, b"x"])
    come_back(client, server)
    assert [frame[4] for frame in client.replay(1, EVERYTHING)] == [1]
    assert [frame[4] for frame in client.replay(9, 3)] == [2]
    assert [frame[4] for frame in client.replay(9, 5)] == [3, 4, 5]
    assert client.has_replay
    assert [frame[4] for frame in client.replay(9, 5)] == [6]
    assert not client.has_replay


def test_a_link_lost_in_the_middle_of_a_replay() -> None:
    """The next one begins anew where the other end stands."""
    client, server = pair()
    client.confirm(len(client.send([b"1", b"2", b"3"])))
    come_back(client, server)
    server.receive(client.replay(1, EVERYTHING))
    client.confirm(1)
    come_back(client, server)
    assert server.receive(client.replay(9, EVERYTHING)) == [b"2", b"3"]
    assert client.replayed == 3


def test_a_link_that_is_lost_before_the_answer() -> None:
    """The client asks again; before there was a session it opens one again."""
    client = Session(ROOMY, keep=(9, 9))
    assert isinstance(client.greeting(), Open)
    client.detach()
    assert client.state == "new"
    assert isinstance(client.greeting(), Open)
    assert client.answered(Opened(ID, TOKEN, 1, ROOMY))
    for _ in range(2):
        client.detach()
        assert client.greeting() == Resume(ID, TOKEN, 0)


def test_duplicates_are_dropped_and_counted() -> None:
    """What has been here, taken or not and of whatever kind, is not handed over again."""
    client, server = pair()
    frames = client.send(["a", b"b", None, Parcel(K.REQUEST, b"q")])
    assert len(server.receive([*frames, *frames])) == 3
    assert server.receive(frames[1:]) == []
    assert (server.received, server.duplicates, server.violation) == (4, 7, None)


# Written or not


def test_only_what_is_written_for_the_first_time_is_counted() -> None:
    """A message that is sent again was counted before."""
    client, server = pair()
    client.send([b"1", b"2", b"3"])
    assert client.confirm(2) == 2
    come_back(client, server)
    client.replay(9, EVERYTHING)
    assert [client.confirm(1) for _ in range(3)] == [0, 0, 1]


def test_what_is_confirmed_late_was_written_all_the_same() -> None:
    """An acknowledgement may be quicker than the thread that wrote."""
    client, server = pair()
    server.receive(client.send([b"1"]))
    settle(client, server, 1)
    assert client.confirm(1) == 1


def test_what_the_other_end_has_was_written() -> None:
    """Even if nobody has said so before the link was lost."""
    client, server = pair()
    server.receive(client.send([b"1", b"2"])[:1])
    come_back(client, server)
    loss = client.lose("over")
    assert (loss.unacknowledged, loss.unwritten) == ([b"1"], [b"2"])


def test_a_lost_session_says_what_became_of_what_it_kept() -> None:
    """Written or not, in order and with numbers; then nothing is kept any more."""
    client, server = pair(number=10)
    deliver(client, server, ["had", b"maybe", None, b"perhaps"])
    settle(client, server, 1)
    client.send([b"never", None, "nor this"])
    loss = client.lose("it was time")
    assert loss.reason == "it was time"
    assert loss.unacknowledged == [b"maybe", b"perhaps"]
    assert loss.unwritten == [b"never", "nor this"]
    assert loss.unwritten_numbers == [15, 17]
    assert client.state == "lost"
    assert (client.unacknowledged, client.unacknowledged_bytes) == (0, 0)
    assert client.acknowledged == client.last_number == 17
    assert not client.has_replay
    again = client.lose("again")
    assert (again.unacknowledged, again.unwritten) == ([], [])


def test_a_session_that_is_gone() -> None:
    """The server does not know it any more: it is lost, with everything it kept."""
    client, _ = pair()
    client.confirm(len(client.send(["a"])))
    client.detach()
    client.greeting()
    assert client.answered(read_answer(encode(Gone("expired")))) is False
    assert client.state == "lost"
    assert client.lose("gone").unacknowledged == ["a"]
    with pytest.raises(InvalidTransition):
        client.greeting()


def test_a_session_is_ended() -> None:
    """The other end hears END and receives nothing after it, not even in the same batch."""
    client, server = pair()
    frame = client.end()
    assert client.state == "ended"
    assert server.receive([binary(1, b"x"), frame, binary(2, b"y")]) == [b"x"]
    assert (server.ended_by_peer, server.violation) == ("", None)
    assert server.receive([binary(2, b"y")]) == []
    assert server.received == 1


def test_an_end_may_have_a_reason() -> None:
    """However long it is."""
    client, _ = pair()
    assert client.receive([binary(1), encode(End("the server stops")), b"\0nonsense"]) == [b""]
    assert (client.ended_by_peer, client.violation) == ("the server stops", None)


# Another process goes on


def restored(
    session: Session,
    messages: dict[int, Item],
    *,
    acknowledged: int | None = None,
    keep: tuple[int, int] = (9999, 9999),
) -> Session:
    """The session after its process was killed and another found this on disk."""
    return Session.restored(
        session.ticket,
        keep=keep,
        accepts=[K.RESPONSE],
        acknowledged=session.acknowledged if acknowledged is None else acknowledged,
        last_number=session.last_number,
        messages=messages,
    )


@pytest.mark.requirement("1.7")
def test_another_process_sends_what_is_missing() -> None:
    """Outgoing messages arrive once, with the same numbers; those that have arrived, not again."""
    client, server = pair()
    deliver(client, server, ["taken", "arrived"])
    settle(client, server, 1)
    client.send([b"written?", "not"])
    client = restored(client, {2: "arrived", 3: b"written?", 4: "not"})
    assert client.state == "detached"
    assert client.unacknowledged_items() == ("arrived", b"written?", "not")
    assert client.unacknowledged_bytes == 18
    come_back(client, server)
    assert server.receive(client.replay(9, EVERYTHING)) == [b"written?", "not"]
    assert client.replayed == 2
    assert deliver(client, server, ["new"]) == ["new"]
    assert (server.received, server.duplicates) == (5, 0)


def test_another_process_hears_again_what_was_not_acknowledged() -> None:
    """And nothing of what was: each incoming message is seen at least once, without a hole."""
    client, server = pair()
    deliver(server, client, ["1", "2", "3"])
    settle(server, client, 1)
    client.take(1)  # but that was never told
    client = restored(client, {})
    come_back(client, server)
    assert (client.received, client.taken) == (1, 1)
    assert client.receive(server.replay(9, EVERYTHING)) == ["2", "3"]
    assert server.replayed == 2
    client.take(2)
    server.receive([client.acknowledgement()])
    assert server.unacknowledged == 0


def test_a_killed_process_may_not_know_what_was_acknowledged() -> None:
    """What is on disk may be late; what the server has is dropped from it."""
    client, server = pair()
    deliver(client, server, ["1", "2"])
    settle(client, server, 2)
    client = restored(client, {1: "1", 2: "2"}, acknowledged=0)
    come_back(client, server)
    assert not client.has_replay
    client.receive([server.acknowledgement()])
    assert client.unacknowledged == 0


def test_a_number_whose_message_is_gone_is_skipped() -> None:
    """The server sees no gap, and the application nothing."""
    client, server = pair()
    client.send(["1", "2", "3"])
    client = restored(client, {1: "1", 3: "3"})
    assert client.unacknowledged_items() == ("1", "3")
    come_back(client, server)
    assert server.receive(client.replay(9, 2)) == ["1", "3"]
    settle(client, server, 2)
    assert client.acknowledged == 3


def test_nothing_new_goes_out_while_it_is_not_known_what_the_server_holds() -> None:
    """A message that is gone here may lie there untaken, of any size: the window may be full."""
    client, server = pair(Limits(5, 10, 100))
    deliver(client, server, [bytes(50)])
    client = restored(client, {})
    come_back(client, server)
    assert client.room() == (0, 0)
    assert not client.has_room_for(0)
    settle(client, server, 1)
    assert client.room() == (5, 10)
    assert client.unacknowledged_bytes == 0


def test_nobody_knows_what_a_killed_process_has_written() -> None:
    """If the session is lost then, everything may have arrived, and nothing is sent again."""
    client, _ = pair()
    client.send(["1", "2"])
    client = restored(client, {1: "1"})
    loss = client.lose("gone")
    assert (loss.unacknowledged, loss.unwritten) == (["1"], [])


def test_a_second_process_may_be_killed_before_it_heard_anything() -> None:
    """The third one starts from the same."""
    client, server = pair()
    deliver(server, client, ["1", "2"])
    settle(server, client, 1)
    for _ in range(2):
        client = restored(client, {})
        greeting = client.greeting()
        assert greeting == Resume(ID, TOKEN, 0)
        assert isinstance(greeting, Resume)
        assert server.resume(greeting) == Resumed(0, 1)  # lost on its way
    client.detach()
    come_back(client, server)
    assert client.receive(server.replay(9, EVERYTHING)) == ["2"]


# Lies


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (binary(3), "number 3 after 1"),
        (binary(2**31), "number 2147483648 after 1"),
        (numbered_header(K.TEXT, 5), "number 5 after 1"),
        (numbered_header(K.SKIP, 3), "number 3 after 1"),
        (numbered_header(K.REQUEST, 3), "number 3 after 1"),
        (numbered_header(K.TEXT, 2) + b"\xff", "a text that is no UTF-8"),
        (numbered_header(K.TEXT, 2) + b"\xed\xa0\x80", "a text that is no UTF-8"),
        (numbered_header(K.SKIP, 2) + b"x", "SKIP with a payload"),
        (numbered_header(K.RESPONSE, 2), "RESPONSE, which does not belong here"),
        (ack(1), "number 1 acknowledged, never sent"),
        (ack(2**31 - 1), "number 2147483647 acknowledged, never sent"),
        (ack(0) + b"x", "ACK with a payload"),
        (b"", "a frame of 0 bytes"),
        (b"\x01", "a frame of 1 bytes"),
        (b"\x02\0\0\0", "a frame of 4 bytes"),
        (ASK_FRAME + b"x", "a frame of 2 bytes"),
        (ASK_FRAME + b"xxxx", "a frame of kind 0x09, which does not belong here"),
        (b"\0\0\0\0\2", "a frame of kind 0x00, which does not belong here"),
        (b"\x07\0\0\0\2", "a frame of kind 0x07, which does not belong here"),
        (b"\xff\0\0\0\2", "a frame of kind 0xff, which does not belong here"),
        (encode(Open(ROOMY)), "a frame of kind 0x10, which does not belong here"),
        (encode(Resume(ID, TOKEN, 1)), "a frame of kind 0x12, which does not belong here"),
        (encode(Resumed(1, 0)), "a frame of kind 0x13, which does not belong here"),
        (encode(Gone("for good")), "a frame of kind 0x14, which does not belong here"),
        (b"\xf0" + bytes(10**6), "a frame of kind 0xf0, which does not belong here"),
    ],
)
def test_a_frame_that_breaks_the_protocol_is_the_last(frame: bytes, why: str) -> None:
    """It is refused with a reason; what came before it in its batch is handed over."""
    _, server = pair()
    assert server.receive([binary(1, b"before"), frame, binary(2, b"after")]) == [b"before"]
    assert broken(server) == why
    assert server.received == 1


def test_an_answer_does_not_belong_at_the_server_nor_a_request_at_the_client() -> None:
    """Parcels have directions."""
    client, _ = pair()
    assert client.receive([numbered_header(K.REQUEST, 1)]) == []
    assert broken(client) == "REQUEST, which does not belong here"


def test_what_was_written_on_an_earlier_link_may_be_acknowledged_on_this_one() -> None:
    """Somebody who repeats what it has heard says the truth: it costs nobody the session."""
    client, server = pair()
    client.confirm(len(client.send([b"1", b"2", b"3"])))
    come_back(client, server)
    client.replay(1, EVERYTHING)
    client.receive([ack(2)])
    assert client.violation is None
    assert (client.acknowledged, client.unacknowledged) == (2, 1)
    assert client.replay(9, EVERYTHING) == [binary(3, b"3")]
    assert client.confirm(2) == 0
    assert not client.has_replay
    client.receive([ack(3)])
    assert client.violation is None


def test_what_was_never_put_on_a_link_cannot_be_acknowledged() -> None:
    """A number that was given, but never written, cannot have arrived."""
    client, server = pair()
    client.confirm(len(client.send([b"1", b"2"])) - 1)
    come_back(client, server)
    client.receive([ack(2)])
    assert client.acknowledged == 0
    assert broken(client) == "number 2 acknowledged, never sent"


def test_the_server_cannot_have_what_was_never_sent() -> None:
    """Nor may it have lost what it acknowledged; the client says what does not fit."""
    for received in (0, 3, MAX_UINT32):
        client, server = pair()
        deliver(client, server, ["1", "2"])
        settle(client, server, 1)
        client.detach()
        client.greeting()
        with pytest.raises(SessionViolation, match=f"^the peer has {received} frames of 2, of"):
            client.answered(Resumed(received, 0))
        assert client.state == "resuming"
        assert client.lose("it lies").unacknowledged == ["2"]


def test_the_client_cannot_have_what_was_never_sent() -> None:
    """The server refuses, and is as it was."""
    _, server = pair()
    server.send(["1"])
    server.detach()
    with pytest.raises(SessionViolation, match=r"^the peer has 2 frames of 1, of which"):
        server.resume(Resume(ID, TOKEN, 2))
    assert server.state == "detached"
    assert server.resume(Resume(ID, TOKEN, 0)) == Resumed(0, 0)


def test_what_has_not_arrived_cannot_be_released() -> None:
    """Unless another process had it; and of one's own life one knows."""
    client, server = pair()
    deliver(server, client, ["1"])
    client.detach()
    client.greeting()
    with pytest.raises(SessionViolation, match=r"^2 frames released, of which 1 arrived$"):
        client.answered(Resumed(0, 2))
    client = restored(client, {})
    client.greeting()
    assert client.answered(Resumed(0, 2))
    client.detach()
    client.greeting()
    with pytest.raises(SessionViolation, match=r"^3 frames released, of which 2 arrived$"):
        client.answered(Resumed(0, 3))
    client = restored(client, {})
    client.greeting()
    with pytest.raises(SessionViolation, match="released"):
        client.answered(Resumed(0, 2**63))  # one more could not be told


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Resumed(0, 0), "RESUMED while opening"),
        (Gone("no"), "GONE while opening"),
    ],
)
def test_what_is_no_answer_to_open_is_refused(answer: Resumed | Gone, why: str) -> None:
    """OPEN is answered OPENED."""
    client = Session(ROOMY, keep=(9, 9))
    client.greeting()
    with pytest.raises(SessionViolation, match=f"^{why}$"):
        client.answered(answer)


def test_what_is_no_answer_to_resume_is_refused() -> None:
    """RESUME is answered RESUMED or GONE, and only once."""
    client, _ = pair()
    with pytest.raises(SessionViolation, match=r"^RESUMED while attached$"):
        client.answered(Resumed(0, 0))
    client.detach()
    client.greeting()
    with pytest.raises(SessionViolation, match=r"^OPENED while resuming$"):
        client.answered(Opened(ID, TOKEN, 1, ROOMY))


NUMBERS = st.one_of(st.integers(0, 5), st.integers(MAX_UINT32 - 3, MAX_UINT32), st.just(2**31))
KINDS = st.one_of(st.sampled_from(K), st.integers(0, 255))
FRAMES = st.one_of(
    st.binary(max_size=12),
    st.builds(
        lambda kind, number, payload: numbered_header(kind, number) + payload,
        KINDS,
        NUMBERS,
        st.one_of(st.just(b""), st.binary(max_size=8)),
    ),
)


@given(st.lists(st.lists(FRAMES, max_size=6), max_size=8), st.sampled_from([0, 2**32 - 2]))
def test_whatever_arrives_nothing_is_raised_and_little_is_held(
    batches: list[list[bytes]], number: int
) -> None:
    """Bytes from an enemy: each batch is received up to a violation, within the limits."""
    limits = Limits(3, 10, 8)
    _, server = pair(limits, number=number)
    server.send([b"1", b"2"])
    for batch in batches:
        before = server.received
        items = server.receive(batch)
        assert len(items) <= server.received - before <= len(batch)
        assert server.acknowledged + server.unacknowledged == number + 2
        if server.violation is not None or server.ended_by_peer is not None:
            break
        assert len(server._sizes) == server.received - number <= limits.messages
        assert server._held_bytes <= limits.bytes or len(server._sizes) == 1
        assert len(server._asides) <= limits.messages


# One by one


def test_one_is_sent_like_many() -> None:
    """The short way makes the same frames, and keeps the same books, as the long one."""
    items: list[Item] = ["a", b"b", "ü", b"", Parcel(FrameKind.REQUEST, b"?")]
    long, short = pair(), pair()
    frames = [frame for item in items for frame in long.client.send([item])]
    assert [short.client.send_one(item) for item in items] == frames
    for name in ("last_number", "unacknowledged_bytes", "_kept", "_next_on_link"):
        assert getattr(long.client, name) == getattr(short.client, name)


def test_one_that_has_to_wait() -> None:
    """Without room, or behind a replay, there is no frame and no number."""
    client, _ = pair(Limits(2, 3, 100))
    assert client.send_one("xx") is not None
    assert client.send_one("yy") is None
    assert client.send_one("y") is not None
    assert client.send_one("") is None
    assert client.last_number == 2
    client.detach()
    client.greeting()
    client.answered(Resumed(1, 0))
    assert client.has_replay
    assert client.send_one("") is None


@pytest.mark.parametrize("way", ["one", "many"])
def test_an_interruption_never_gives_too_much_room(way: str) -> None:
    """Ctrl-C at any line of a send: what is kept is never counted for less than it is."""
    line = 0
    while True:
        line += 1
        client, _ = pair()
        calls: dict[str, tuple[Callable[..., object], Callable[[], object]]] = {
            "one": (Session.send_one, functools.partial(client.send_one, "x" * 10)),
            "many": (Session.send, functools.partial(client.send, ["x" * 10] * 2)),
        }
        function, call = calls[way]
        was_interrupted = was_interrupted_at(line, call, function, beside=())
        size = sum(size for _, size in client._kept)
        assert client.unacknowledged_bytes >= size
        client.recount()
        assert client.unacknowledged_bytes == size
        assert client.last_number == len(client._kept)
        if not was_interrupted:
            assert line > 5
            break
