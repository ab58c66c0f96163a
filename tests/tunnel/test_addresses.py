from __future__ import annotations

import base64
import copy
import dataclasses
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.addresses import TunnelUrl, bearer_header, validate_headers, validate_subprotocols
from tunnel.errors import ConfigurationError
from tunnel.secrets import Secret, scrub

MARK = "hunter2"
"""Stands for a secret, and must not be found in what is shown."""


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "scheme", "host", "port", "resource"),
        [
            ("ws://example.com", "ws", "example.com", 80, "/"),
            ("wss://example.com", "wss", "example.com", 443, "/"),
            ("WSS://EXAMPLE.com:8443/A/b?C=d", "wss", "example.com", 8443, "/A/b?C=d"),
            ("ws://example.com?x=1", "ws", "example.com", 80, "/?x=1"),
            ("ws://example.com:/x", "ws", "example.com", 80, "/x"),
            ("ws://example.com:1", "ws", "example.com", 1, "/"),
            ("ws://example.com:65535", "ws", "example.com", 65535, "/"),
            ("ws://example.com:00080/", "ws", "example.com", 80, "/"),
            ("ws://example.com./", "ws", "example.com.", 80, "/"),
            ("ws://my_service-1/", "ws", "my_service-1", 80, "/"),
            ("ws://localhost//a//b", "ws", "localhost", 80, "//a//b"),
            ("ws://127.0.0.1:8080/", "ws", "127.0.0.1", 8080, "/"),
            ("ws://[::1]:8080/", "ws", "::1", 8080, "/"),
            ("ws://[2001:DB8:0::1]", "ws", "2001:db8::1", 80, "/"),
            ("ws://[fe80::1%25eth0]/", "ws", "fe80::1%eth0", 80, "/"),
            ("ws://münchen.example/", "ws", "xn--mnchen-3ya.example", 80, "/"),
            ("ws://MÜNCHEN.example/", "ws", "xn--mnchen-3ya.example", 80, "/"),
            ("ws://xn--mnchen-3ya.example/", "ws", "xn--mnchen-3ya.example", 80, "/"),
            ("ws://h/ü?ß=é", "ws", "h", 80, "/%C3%BC?%C3%9F=%C3%A9"),
            ("ws://h/%C3%BC%20x", "ws", "h", 80, "/%C3%BC%20x"),
            ("ws://h/;a=1/x;b=2?c=[d]", "ws", "h", 80, "/;a=1/x;b=2?c=[d]"),
            ('ws://h/"<>^`{|}', "ws", "h", 80, "/%22%3C%3E%5E%60%7B%7C%7D"),
            ("ws://h/@?a@b", "ws", "h", 80, "/@?a@b"),
        ],
    )
    def test_a_url_is_taken_apart(
        self, url: str, scheme: str, host: str, port: int, resource: str
    ) -> None:
        """Each part of a valid URL is where one looks for it, in one canonical form."""
        parsed = TunnelUrl.parse(url)
        assert parsed == TunnelUrl(scheme, host, port, resource)
        assert parsed.is_secure is (scheme == "wss")

    @pytest.mark.requirement("9.3")
    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("", "must begin with ws:// or wss://"),
            ("example.com", "must begin with ws:// or wss://"),
            ("example.com:80", "must begin with ws:// or wss://"),
            ("//example.com", "must begin with ws:// or wss://"),
            ("ws:example.com", "must begin with ws:// or wss://"),
            ("ws:/example.com", "must begin with ws:// or wss://"),
            ("http://example.com", "scheme must be ws or wss, not 'http'; use ws"),
            ("https://example.com", "scheme must be ws or wss, not 'https'; use wss"),
            ("ftp://example.com", "scheme must be ws or wss, not 'ftp'"),
            (f"{'x' * 99}://h", f"scheme must be ws or wss, not '{'x' * 16}'"),
            ("ws://", "it has no host"),
            ("ws:///path", "it has no host"),
            ("ws://:80/", "it has no host"),
            ("ws://me@/", "it has no host"),
            ("ws://h:0/", "port must be from 1 to 65535, not 0"),
            ("ws://h:65536/", "port must be from 1 to 65535, not 65536"),
            (f"ws://h:{'9' * 5000}/", "port must be from 1 to 65535, not 99999999999999999999"),
            ("ws://h:-1/", "port must be a number from 1 to 65535"),
            ("ws://h:http/", "port must be a number from 1 to 65535"),
            ("ws://h:\u0661/", "port must be a number from 1 to 65535"),
            ("ws://::1/", "port must be a number from 1 to 65535|it has no host"),
            ("ws://h#", "fragment"),
            ("ws://h/p#f", "fragment"),
            ("ws://h/ p", "U\\+0020"),
            (" ws://h/", "U\\+0020"),
            ("ws://h/\r\nX: y", "U\\+000D"),
            ("ws://h/\n", "U\\+000A"),
            ("ws://h/\x00", "U\\+0000"),
            ("ws://h/\x7f", "U\\+007F"),
            ("ws://h/\u2028", "U\\+2028"),
            ("ws://h/\u202e", "U\\+202E"),
            ("ws://h/\ud800", "U\\+D800"),
            ("ws://h\\@other/", "backslash"),
            ("ws://[::1/", "not closed"),
            ("ws://[::1]x/", "not closed"),
            ("ws://[1.2.3.4]/", "not an IPv6 address"),
            ("ws://[]/", "not an IPv6 address"),
            ("ws://[fe80::1%eth0]/", "not an IPv6 address"),
            ("ws://[fe80::1%25]/", "zone"),
            ("ws://[fe80::1%25a!]/", "zone"),
            ("ws://1.2.3/", "not a valid IPv4 address"),
            ("ws://1.2.3.256/", "not a valid IPv4 address"),
            ("ws://0x7f000001/", "not a valid IPv4 address"),
            ("ws://2130706433/", "not a valid IPv4 address"),
            ("ws://a..b/", "not a valid name"),
            ("ws://./", "not a valid name"),
            ("ws://-a/", "not a valid name"),
            ("ws://a-/", "not a valid name"),
            ("ws://a%2fb/", "not a valid name"),
            ("ws://a*b/", "not a valid name"),
            ("ws://\u2100.example/", "not a valid name"),  # becomes "a/c" when it is normalised
            (f"ws://{'a' * 64}/", "not a valid name"),
            (f"ws://{'a.' * 130}a/", "not a valid name"),
            ("ws://a@b@c/", "must be written %40"),
            ("ws://a%3Ab:c@h/", "cannot be sent as Basic authentication"),
            ("ws://a:%0D%0A@h/", "cannot be sent as Basic authentication"),
            ("ws://a:%FF@h/", "cannot be sent as Basic authentication"),
        ],
    )
    def test_a_url_that_is_none(self, url: str, problem: str) -> None:
        """What is wrong with a URL is said at once, as a ConfigurationError and ValueError."""
        with pytest.raises(ValueError, match=problem) as caught:
            TunnelUrl.parse(url)
        assert type(caught.value) is ConfigurationError
        assert caught.value.message.startswith("the URL is not valid: ")

    @pytest.mark.parametrize("url", [None, b"ws://h/", 7, ["ws://h/"]])
    def test_a_url_of_a_wrong_type(self, url: object) -> None:
        """Anything but a `str` is a TypeError."""
        with pytest.raises(TypeError, match="the URL must be a str, not "):
            TunnelUrl.parse(url)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "url",
        [
            f"ws://me:{MARK}@h:x/",
            f"ws://me:{MARK}",
            f"ws://{MARK}@me@h/",
            f"{MARK}",
            f"me:{MARK}@h",
            f"ws://h/?token={MARK}#x",
            f"ws://h/?token={MARK} ",
            f"ws://{MARK}*/",
        ],
    )
    def test_a_wrong_url_is_not_shown(self, url: str) -> None:
        """An error never shows a part that might be a credential."""
        with pytest.raises(ConfigurationError) as caught:
            TunnelUrl.parse(url)
        assert MARK not in str(caught.value.to_dict())

    @pytest.mark.parametrize(
        ("user_information", "credentials"),
        [
            ("me:hunter2", "me:hunter2"),
            ("me", "me:"),
            (":hunter2", ":hunter2"),
            ("me:a:b", "me:a:b"),
            ("m%40e:%3a%2F%C3%BC", "m@e::/ü"),
        ],
    )
    def test_credentials_are_split_off(self, user_information: str, credentials: str) -> None:
        """User information becomes Basic authentication, and is no part of any address."""
        parsed = TunnelUrl.parse(f"wss://{user_information}@h/")
        assert parsed.credentials == Secret(credentials)
        assert parsed.authorization is not None
        scheme, encoded = parsed.authorization.reveal().split(" ")
        assert scheme == "Basic"
        assert base64.b64decode(encoded).decode("utf-8") == credentials
        assert parsed.address == "wss://h/"

    @pytest.mark.parametrize("url", ["ws://h/", "ws://@h/"])
    def test_no_credentials(self, url: str) -> None:
        """A URL without user information has neither credentials nor a header for them."""
        parsed = TunnelUrl.parse(url)
        assert parsed.credentials is None
        assert parsed.authorization is None

    @pytest.mark.parametrize(
        ("url", "header", "address", "redacted"),
        [
            ("ws://h", "h", "ws://h/", "ws://h/"),
            ("wss://h:443/a", "h", "wss://h/a", "wss://h/a"),
            ("ws://h:443/", "h:443", "ws://h:443/", "ws://h:443/"),
            ("ws://[::1]/", "[::1]", "ws://[::1]/", "ws://[::1]/"),
            ("ws://[fe80::1%25eth0]:8/", "[fe80::1]:8", "ws://[fe80::1]:8/", "ws://[fe80::1]:8/"),
            (
                "ws://h/p?a=hunter2&hunter2&b=&=c&&d=e=f",
                "h",
                "ws://h/p?a=hunter2&hunter2&b=&=c&&d=e=f",
                "ws://h/p?a=***&***&b=***&=***&&d=***",
            ),
            ("ws://h/p?", "h", "ws://h/p?", "ws://h/p?"),
        ],
    )
    def test_how_a_url_is_written(self, url: str, header: str, address: str, redacted: str) -> None:
        """The Host header, the address to dial and what may be shown."""
        parsed = TunnelUrl.parse(url)
        assert parsed.host_header == header
        assert parsed.address == address
        assert parsed.redacted == redacted

    def test_a_url_shows_no_secret(self) -> None:
        """Texts of a parsed URL have neither credentials nor values of its query."""
        parsed = TunnelUrl.parse(f"wss://me:{MARK}@h/p?token={MARK}")
        assert str(parsed) == "wss://h/p?token=***"
        assert repr(parsed) == "TunnelUrl('wss://h/p?token=***')"
        assert f"{parsed}" == str(parsed)

    def test_a_url_does_not_change(self) -> None:
        """A parsed URL is a value: frozen, and equal to one with the same parts."""
        parsed = TunnelUrl.parse("ws://h/")
        with pytest.raises(dataclasses.FrozenInstanceError):
            parsed.host = "other"  # type: ignore[misc]
        assert hash(parsed) == hash(TunnelUrl.parse("WS://H"))

    @given(st.text() | st.text(st.sampled_from("ws:/[]@#?%.a1é\\ \r-")).map("ws://".__add__))
    def test_any_text_is_parsed_or_refused(self, text: str) -> None:
        """A text is refused by the one error, or parsed so that its address means the same."""
        try:
            parsed = TunnelUrl.parse(text)
        except ConfigurationError:
            return
        assert parsed.address.isascii()
        assert parsed.address.isprintable()
        assert " " not in parsed.address
        again = TunnelUrl.parse(parsed.address)
        assert again.address == parsed.address
        assert again.resource == parsed.resource


class TestHeaders:
    @pytest.mark.parametrize(
        "headers",
        [
            {"X-One": "1", "x-two": " two\t"},
            [("X-One", "1"), ["x-two", "two"]],
            (pair for pair in [("X-One", "1"), ("x-two", "two")]),
        ],
    )
    def test_mappings_and_pairs(self, headers) -> None:
        """Headers come as a mapping or as pairs, and leave as pairs in the same order."""
        assert validate_headers(headers) == (("X-One", "1"), ("x-two", "two"))

    @pytest.mark.parametrize("headers", [None, {}, []])
    def test_no_headers(self, headers) -> None:
        """No headers are no pairs."""
        assert validate_headers(headers) == ()

    @pytest.mark.parametrize("name", ["Authorization", "Cookie", "Origin", "User-Agent", "!#$%'~"])
    @pytest.mark.parametrize("value", ["", "a b\tc", "é", "\xa0", '"=,;:/?'])
    def test_what_is_allowed(self, name: str, value: str) -> None:
        """Every other name is the application's, and values are Latin-1."""
        assert validate_headers({name: value}) == ((name, value),)

    def test_a_name_may_come_twice(self) -> None:
        """Pairs may repeat a name, as HTTP allows."""
        assert len(validate_headers([("X", "1"), ("X", "2")])) == 2

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (f"{MARK}\r\nX: y", "a control character"),
            (f"{MARK}\n", "a control character"),
            (f"\r{MARK}", "a control character"),
            (f"{MARK}\0", "a control character"),
            (f"{MARK}\x1b", "a control character"),
            (f"{MARK}\x7f", "a control character"),
            (f"{MARK}€", "not in Latin-1"),
            (f"{MARK}\ud800", "not in Latin-1"),
        ],
    )
    def test_values_that_are_refused(self, value: str, problem: str) -> None:
        """The error names the header and what is wrong, and does not show the value."""
        with pytest.raises(
            ValueError, match=f"the value of the header 'X-Key' .*{problem}"
        ) as found:
            validate_headers({"X-Key": value})
        assert type(found.value) is ConfigurationError
        assert MARK not in str(found.value.to_dict())

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("", "''"),
            ("X Y", "'X'"),
            (f"Authorization: Bearer {MARK}", "'Authorization'"),
            ("X\r\n", "'X'"),
            ("\nX", "''"),
            ("Ü", "''"),
            ("X(y)", "'X'"),
            ("x" * 100 + ":", f"'{'x' * 40}'"),
        ],
    )
    def test_names_that_are_refused(self, name: str, shown: str) -> None:
        """A name is a token; of one that is not only the valid beginning is shown."""
        with pytest.raises(ConfigurationError, match="not a token") as caught:
            validate_headers({name: "value"})
        assert f"begins with {shown} " in caught.value.message
        assert MARK not in str(caught.value.to_dict())

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("Host", "it follows from the URL"),
            ("upgrade", "part of the WebSocket handshake"),
            ("CONNECTION", "part of the WebSocket handshake"),
            ("Sec-WebSocket-Key", "part of the WebSocket handshake"),
            ("Sec-WebSocket-Version", "part of the WebSocket handshake"),
            ("Sec-WebSocket-Accept", "part of the WebSocket handshake"),
            ("sec-websocket-extensions", "part of the WebSocket handshake"),
            ("Sec-WebSocket-Anything", "part of the WebSocket handshake"),
            ("Sec-WebSocket-Protocol", "pass subprotocols instead"),
            ("Content-Length", "has no body"),
            ("Transfer-Encoding", "has no body"),
            ("Expect", "has no body"),
            ("TE", "about the connection"),
            ("Trailer", "about the connection"),
            ("Keep-Alive", "about the connection"),
            ("Proxy-Connection", "about the connection"),
            ("Tunnel-Resume", "negotiates sessions itself"),
        ],
    )
    def test_names_that_are_the_handshakes(self, name: str, reason: str) -> None:
        """The handshake's own headers cannot be set, and the error says why."""
        with pytest.raises(ConfigurationError, match=reason):
            validate_headers({name: "x"})

    @pytest.mark.parametrize(
        "headers",
        [
            "X: 1",
            b"X: 1",
            ["X: 1"],
            ["ab"],
            [("X",)],
            [("X", "1", "2")],
            [5],
            5,
            {5: "x"},
            {b"X": "x"},
            {"X": 5},
            {"X": None},
            {"X": b"1"},
            {"X": Secret("1")},
        ],
    )
    def test_wrong_types(self, headers) -> None:
        """What is no text, or not in pairs, is a TypeError."""
        with pytest.raises(TypeError):
            validate_headers(headers)


class TestTokens:
    @pytest.mark.parametrize("token", ["abc.DEF-123_~+/==", Secret("abc.DEF-123_~+/==")])
    def test_a_token_becomes_a_header(self, token: str | Secret) -> None:
        """A token is sent as RFC 6750 says."""
        assert bearer_header(token) == ("Authorization", "Bearer abc.DEF-123_~+/==")

    @pytest.mark.parametrize(
        ("token", "problem"),
        [
            ("", "the token is empty"),
            (f"{MARK}\r\nX: y", "not visible ASCII"),
            (f"{MARK}\n", "not visible ASCII"),
            (f" {MARK}", "not visible ASCII"),
            (f"{MARK}é", "not visible ASCII"),
        ],
    )
    def test_a_token_that_cannot_be_sent(self, token: str, problem: str) -> None:
        """A token that would break the header is refused, and not shown."""
        with pytest.raises(ConfigurationError, match=problem) as caught:
            bearer_header(token)
        assert MARK not in str(caught.value.to_dict())

    def test_a_token_of_a_wrong_type(self) -> None:
        """A token is a text."""
        with pytest.raises(TypeError):
            bearer_header(b"abc")  # type: ignore[arg-type]


class TestSubprotocols:
    @pytest.mark.parametrize(
        ("offered", "found"),
        [
            (None, ()),
            ([], ()),
            (["chat", "v2.Chat"], ("chat", "v2.Chat")),
            (iter(["a"]), ("a",)),
        ],
    )
    def test_subprotocols(self, offered, found: tuple[str, ...]) -> None:
        """Subprotocols are offered in the order given."""
        assert validate_subprotocols(offered) == found

    @pytest.mark.parametrize("name", ["", "a b", "a,b", "a\r\n", "é", "a/b"])
    def test_no_token(self, name: str) -> None:
        """A subprotocol's name is a token (RFC 6455, section 4.1)."""
        with pytest.raises(ConfigurationError, match="not a token"):
            validate_subprotocols(["chat", name])

    def test_twice(self) -> None:
        """None may be offered twice; names are compared exactly."""
        with pytest.raises(ConfigurationError, match="twice"):
            validate_subprotocols(["chat", "chat"])
        assert validate_subprotocols(["chat", "Chat"]) == ("chat", "Chat")

    @pytest.mark.parametrize("offered", ["chat", b"chat", [b"chat"], [None], 5])
    def test_wrong_types(self, offered) -> None:
        """One string instead of several is a mistake, and so is anything that is no string."""
        with pytest.raises(TypeError):
            validate_subprotocols(offered)


class TestWhatIsKept:
    """What was validated is known as secret as long as it is in use."""

    def test_the_values_of_headers(self) -> None:
        """Values are not shown, and are removed from texts that quote them, whole or in part."""
        headers = validate_headers({"Cookie": f"sid={MARK}-1; b=c", "X-Key": f"{MARK}-2"})
        assert headers == (("Cookie", f"sid={MARK}-1; b=c"), ("X-Key", f"{MARK}-2"))
        assert repr(headers) == "(('Cookie', ***), ('X-Key', ***))"
        assert scrub(f"no {MARK}-1, no {MARK}-2") == "no ***, no ***"
        assert repr(validate_headers(None)) == "()"

    def test_headers_that_are_public(self) -> None:
        """What is no secret stays readable in texts."""
        headers = validate_headers({"User-Agent": "thermometer", "Accept-Language": "de-CH-1996"})
        assert scrub("thermometer de-CH-1996") == "thermometer de-CH-1996"
        assert headers

    def test_the_parts_of_a_url(self) -> None:
        """A password, encoded or not, and the values of a query are removed from texts."""
        url = TunnelUrl.parse(f"ws://u:{MARK}%40@host/path-of-it?a={MARK}%3a%20x&short=y&empty=")
        encoded = base64.b64encode(f"u:{MARK}@".encode()).decode()
        for text in (f"{MARK}@", f"{MARK}%40", encoded, f"{MARK}%3a%20x", f"{MARK}: x"):
            assert MARK not in scrub(text)
            assert encoded not in scrub(text)
        assert scrub("path-of-it short y") == "path-of-it short y"
        assert "_known" not in repr(url)
        assert copy.deepcopy(url) == url

    def test_errors_show_no_arguments(self) -> None:
        """The frames in which an argument was looked at are not part of the error."""
        for call, argument in (
            (TunnelUrl.parse, f"ws://u:{MARK}@ho st"),
            (validate_headers, {"X": f"{MARK}\n"}),
            (validate_subprotocols, [f"{MARK} "]),
            (bearer_header, f"{MARK}\n"),
        ):
            with pytest.raises(ConfigurationError) as caught:
                call(argument)
            names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert names == ["test_errors_show_no_arguments", "call"]
