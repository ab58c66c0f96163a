from __future__ import annotations

import copy
import gc
import io
import json
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from tunnel.secrets import HIDDEN, Secret, bare, raises_bare, scrub

TEXT = "hunter2"


def test_a_secret_is_revealed_only_on_request() -> None:
    """`reveal` gives the text; a secret of a secret is the same secret."""
    assert Secret(TEXT).reveal() == TEXT
    assert Secret(Secret(TEXT)).reveal() == TEXT


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{:>20}".format,
        "{!r}".format,
        "{!s}".format,
        "{!a}".format,
        lambda secret: f"{secret}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - the old way must be safe too
        lambda secret: str([secret, {secret: secret}]),
        lambda secret: json.dumps({"token": secret}, default=str),
    ],
)
def test_a_secret_is_not_shown(show) -> None:
    """No way of making text out of a secret shows it."""
    assert TEXT not in show(Secret(TEXT))


def test_what_is_shown_instead() -> None:
    """One sees that there is a secret."""
    assert str(Secret(TEXT)) == HIDDEN
    assert repr(Secret(TEXT)) == "Secret('***')"


def test_json_refuses_a_secret() -> None:
    """JSON takes strings, and a secret is none."""
    with pytest.raises(TypeError):
        json.dumps({"token": Secret(TEXT)})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_refuses_a_secret(protocol: int) -> None:
    """A secret does not leave the process by accident."""
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps([Secret(TEXT)], protocol)
    assert TEXT not in str(caught.value)


def test_copies_are_the_same_secret() -> None:
    """Copying what holds a secret works, and makes no second one."""
    secret = Secret(TEXT)
    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_a_secret_does_not_change() -> None:
    """Attributes can neither be set nor deleted nor added."""
    secret = Secret(TEXT)
    for name in ("_value", "other"):
        with pytest.raises(AttributeError):
            setattr(secret, name, "x")
        with pytest.raises(AttributeError):
            delattr(secret, name)
    assert secret.reveal() == TEXT


def test_equal_secrets() -> None:
    """Secrets of the same text are equal, with equal hashes; nothing else is equal to one."""
    assert Secret(TEXT) == Secret(TEXT)
    assert hash(Secret(TEXT)) == hash(Secret(TEXT))
    assert Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT
    assert Secret("\ud800") == Secret("\ud800")


def test_an_empty_secret_is_false() -> None:
    """Whether there is a token can be asked without showing it."""
    assert Secret(TEXT)
    assert not Secret("")


@pytest.mark.parametrize("value", [None, b"hunter2", 7])
def test_only_texts_are_secrets(value: object) -> None:
    """What is no text is refused, and not shown."""
    with pytest.raises(TypeError, match="must be a str") as caught:
        Secret(value)  # type: ignore[arg-type]
    assert TEXT not in str(caught.value)


def test_loguru_with_values_shows_no_secret() -> None:
    """A traceback with the values of variables has the wrapper only."""

    def fail(secret: Secret) -> None:
        raise RuntimeError(secret and secret.reveal and f"{secret!r}")

    secret = Secret(TEXT)
    shown = io.StringIO()
    handler = logger.add(shown, diagnose=True)
    try:
        fail(secret)
    except RuntimeError:
        logger.exception("it failed")
    finally:
        logger.remove(handler)
    assert "Secret('***')" in shown.getvalue()
    assert TEXT not in shown.getvalue()


def test_a_traceback_shows_no_secret() -> None:
    """Nor has one with captured locals."""

    def fail(secret: Secret) -> None:
        raise RuntimeError(bool(secret))

    try:
        fail(Secret(TEXT))
    except RuntimeError as error:
        lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    assert "Secret('***')" in "".join(lines)
    assert TEXT not in "".join(lines)


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("nothing secret here", "nothing secret here"),
        ("Authorization: Bearer hunter2", "Authorization: ***"),
        ("'Authorization': 'Basic hunter2', 'X': 'y'", "'Authorization': ***', 'X': 'y'"),
        ("proxy-authorization=hunter2", "proxy-authorization=***"),
        ("sent Bearer hunter2, got 401", "sent Bearer ***, got 401"),
        ("BASIC hunter2==", "BASIC ***"),
        ("wss://me:hunter2@host/path", "wss://***@host/path"),
        ("wss://hunter2@host", "wss://***@host"),
        ("wss://host/a@b", "wss://host/a@b"),
        ("ws://host/p?a=hunter2&b=hunter2&c#f", "ws://host/p?a=***&b=***&c#f"),
        ("Set-Cookie: a=hunter2; b=hunter2", "Set-Cookie: ***"),
        ("{'set-cookie': 'a=hunter2', 'x': 'y'}", "{'set-cookie': ***', 'x': 'y'}"),
        ('{"access_token": "hunter2", "x": 1}', '{"access_token": ***", "x": 1}'),
        ("password = hunter2", "password = ***"),
        ("X-Api-Key: hunter2", "X-Api-Key: ***"),
        ("my-secret=b'hunter2' and", "my-secret=***' and"),
        ("the token expired", "the token expired"),
        ("a\r\nb\x00c\x1b[31m", "a  b c [31m"),
        ("", ""),
    ],
)
def test_texts_are_scrubbed(text: str, scrubbed: str) -> None:
    """What looks like a credential is replaced, control characters become spaces."""
    assert scrub(text) == scrubbed


def test_long_texts_are_cut() -> None:
    """A scrubbed text has 500 characters at most, and shows that it was cut."""
    assert scrub("x" * 500) == "x" * 500
    assert scrub("x" * 501) == "x" * 497 + "..."
    assert scrub("x " * 1_000_000).endswith("...")
    # One that becomes short by scrubbing was longer than what was looked at.
    assert scrub("password=" + "x" * 2000) == "password=***..."


@given(st.text())
def test_any_text_becomes_one_line(text: str) -> None:
    """The result is printable, bounded, and scrubbing it again changes nothing about that."""
    once = scrub(text)
    assert once == "" or once.isprintable()
    assert len(once) <= 500


@pytest.mark.parametrize("unit", ["a-", "a_", "Bearer ", "?", "&a", "://", "token:", "'\"", "@:"])
def test_hostile_texts_take_no_time(unit: str) -> None:
    """No text makes the patterns take more than linear time; this would hang otherwise."""
    assert len(scrub(unit * 1_000_000)) <= 500


def test_secrets_in_use_are_scrubbed() -> None:
    """The text of a secret is removed wherever it stands, as long as there is such a secret."""
    first, second = Secret("rosebud-1941"), Secret("rosebud-1941")
    longer = Secret("rosebud-1941-and-more")
    assert scrub("it is rosebud-1941!") == "it is ***!"
    assert scrub("it is rosebud-1941-and-more") == "it is ***"
    del first, longer
    gc.collect()
    assert scrub("it is xrosebud-1941-and-more") == "it is x***-and-more"
    del second
    gc.collect()
    assert scrub("it is rosebud-1941!") == "it is rosebud-1941!"


def test_of_many_secrets_each_is_scrubbed() -> None:
    """Thousands in use, of several lengths, hide none of them; nor does a text as long as one."""
    secrets = [Secret(f"{number:x}".rjust(6 + number % 60, "s")) for number in range(1000, 3000)]
    for secret in secrets[::97]:
        assert scrub(secret.reveal()) == HIDDEN
        assert secret.reveal() not in scrub(f"it is {secret.reveal()} or {secrets[0].reveal()}")


def test_short_secrets_are_not_looked_for() -> None:
    """Five characters may be any word; looking for them would spoil texts and hide nothing."""
    secret = Secret("five5")
    assert scrub("a five5 b") == "a five5 b"
    assert secret


def test_a_secret_is_scrubbed_where_a_text_is_cut() -> None:
    """No half of a secret is left at the end of a long text."""
    secret = Secret("rosebud-" * 10)
    for size in (450, 490, 960, 990):
        assert "rosebud" not in scrub("x" * size + secret.reveal())


def _fail(password: str, cause: BaseException | None = None) -> None:
    try:
        raise KeyError(password)
    except KeyError:
        raise ValueError(len(password)) from cause


def _caught(cause: BaseException | None = None) -> ValueError:
    with pytest.raises(ValueError) as caught:
        _fail(TEXT, cause)
    return caught.value


def _shown(error: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def test_a_bare_error() -> None:
    """It has no frames, and nothing behind it that was put out of sight; nor have its causes."""
    error = _caught()
    assert TEXT in _shown(error)
    assert bare(error) is error
    assert error.__traceback__ is None
    assert error.__context__ is None
    outer = _caught(cause := _caught(OSError("kept")))
    assert bare(outer).__cause__ is cause
    assert str(cause.__cause__) == "kept"
    assert cause.__context__ is None
    assert TEXT not in _shown(outer)


def test_what_is_in_sight_stays_there() -> None:
    """What was being handled when an error was raised stays with it, without its frames."""
    error = RuntimeError("second")
    error.__context__ = _caught()
    context = bare(error).__context__
    assert isinstance(context, ValueError)
    assert context.__traceback__ is None


def test_a_circle_of_causes() -> None:
    """A chain of causes that leads back to its beginning has an end here."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert bare(first) is first


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_function_that_raises_bare_errors(kind: type[BaseException]) -> None:
    """What it raises shows the caller's frames and no argument; what it returns is returned."""

    @raises_bare
    def work(password: str, *, fails: bool = False) -> int:
        """Works."""
        if fails:
            raise kind(len(password))
        return len(password)

    assert work(TEXT) == len(TEXT)
    assert (work.__name__, work.__doc__) == ("work", "Works.")
    with pytest.raises(kind) as caught:
        work(TEXT, fails=True)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in frames][1:] == ["call"]
    inner = caught.value.__traceback__.tb_next  # behind this test's own frame
    assert inner.tb_frame.f_locals == {"function": inner.tb_frame.f_locals["function"]}
