from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory import KEY, upgrade
from twisted_ws.limits import Limits
from twisted_ws.wire.door.handshake import Accept, Deny, decide, isUpgrade, parseExtensions
from twisted_ws.wire.door.head import parseHead
from twisted_ws.wire.door.origins import AllowedOrigins

NOBODY_ELSE = AllowedOrigins()


def decided(*lines, origins=NOBODY_ELSE, isSecure=False, raw=None, **replaced):
    head = parseHead(raw or upgrade("/ws", *lines, **replaced), Limits())
    return decide(head, origins, isSecure)


@pytest.mark.parametrize(
    ("value", "result"),
    [("websocket", True), ("WebSocket", True), ("h2c, websocket", True), ("h2c", False), ("websocket2", False), (None, False)],
)
def test_isUpgrade(value, result):
    """A request is for WebSocket when Upgrade names it, in any case, also in a list."""
    assert isUpgrade(parseHead(upgrade(Upgrade=value), Limits())) is result


def test_accept():
    """The example of RFC 6455 is accepted, with what the client offers in its order."""
    assert decided() == Accept(KEY)
    assert decided(
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Protocol: superchat, json",
        "Sec-WebSocket-Extensions: foo, bar; a=1; b",
    ) == Accept(KEY, ("chat", "superchat", "json"), (("foo", {}), ("bar", {"a": ["1"], "b": [True]})))


@pytest.mark.parametrize(
    ("replaced", "lines", "status"),
    [
        ({"Connection": "keep-alive"}, (), 400),
        ({"Connection": None}, (), 400),
        ({"Sec_WebSocket_Version": "8"}, (), 426),
        ({"Sec_WebSocket_Version": "+13"}, (), 426),
        ({"Sec_WebSocket_Version": "1_3"}, (), 426),
        ({"Sec_WebSocket_Version": "13, 8"}, (), 426),
        ({"Sec_WebSocket_Version": None}, (), 426),
        ({}, ("Sec-WebSocket-Version: 13",), 426),
        ({"Sec_WebSocket_Key": None}, (), 400),
        ({"Sec_WebSocket_Key": ""}, (), 400),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ"}, (), 400),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZSE="}, (), 400),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25j!Q=="}, (), 400),
        ({"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jé==="}, (), 400),
        ({"Sec_WebSocket_Key": "========================"}, (), 400),
        ({}, (f"Sec-WebSocket-Key: {KEY}",), 400),
        ({}, ("Content-Length: 1",), 400),
        ({}, ("Content-Length: 0", "Content-Length: 5"), 400),
        ({}, ("Content-Length: -0",), 400),
        ({}, ("Transfer-Encoding: chunked",), 400),
        ({}, ("Transfer-Encoding: identity",), 400),
        ({}, ("Origin: http://localhost", "Origin: http://localhost"), 400),
        ({"Origin": "http://evil.example"}, (), 403),
        ({"Origin": "null"}, (), 403),
        ({"Origin": ""}, (), 403),
        ({}, ("Sec-WebSocket-Protocol: a b",), 400),
        ({}, ("Sec-WebSocket-Protocol: a, a",), 400),
        ({}, ("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a"), 400),
        ({}, ("Sec-WebSocket-Protocol: (a)",), 400),
        ({}, ("Sec-WebSocket-Extensions: ;",), 400),
        ({}, ("Sec-WebSocket-Extensions: a, , b c",), 400),
    ],
)
def test_deny(replaced, lines, status):
    """What RFC 6455 section 4.2.1 does not allow, and what a proxy could read differently, is refused."""
    denied = decided(*lines, **replaced)
    assert isinstance(denied, Deny)
    assert denied.status == status
    assert "evil" not in denied.message


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"POST /ws HTTP/1.1", 405), (b"get /ws HTTP/1.1", 405), (b"GET /ws HTTP/1.0", 400)],
)
def test_requestLine(line, status):
    """A handshake is a GET of HTTP/1.1."""
    denied = decided(raw=upgrade().replace(b"GET /ws HTTP/1.1", line))
    assert denied.status == status
    if status == 405:
        assert denied.headers == (("Allow", "GET"),)


def test_zeroLength():
    """An empty body counts as none."""
    assert isinstance(decided("Content-Length: 0"), Accept)


@pytest.mark.parametrize("name", ["Protocol", "Extensions"])
@pytest.mark.parametrize("value", ["", ",", " , \t,"])
def test_emptyLists(name, value):
    """An empty list is not an error: its empty elements are ignored (RFC 9110 section 5.6.1.2)."""
    assert decided(f"Sec-WebSocket-{name}: {value}") == Accept(KEY)


def test_versionNamed():
    """A client with another version is told which one is spoken (RFC 6455 section 4.4)."""
    assert ("Sec-WebSocket-Version", "13") in decided(Sec_WebSocket_Version="8").headers


def test_version8HasNoOriginOfItsOwn():
    """The Sec-WebSocket-Origin of an old draft cannot stand for the Origin."""
    denied = decided("Sec-WebSocket-Origin: http://localhost", Origin="http://evil.example")
    assert denied.status == 403


def test_origins():
    """A page from elsewhere is refused with a hint for the log; an allowed one, the own host, and no browser at all are not."""
    assert decided(Origin="https://app.example").hint == "to allow it: --allowed-origin https://app.example"
    assert isinstance(decided(Origin="https://app.example", origins=AllowedOrigins(["https://app.example"])), Accept)
    assert isinstance(decided(Origin="http://localhost"), Accept)
    assert decided(Origin="http://localhost", isSecure=True).status == 403
    assert isinstance(decided(Origin="https://localhost", isSecure=True), Accept)
    assert isinstance(decided(), Accept)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], ()),
        (["a"], (("a", {}),)),
        ([" \ta\t "], (("a", {}),)),
        (["a", "b;c"], (("a", {}), ("b", {"c": [True]}))),
        (["A; B=C"], (("a", {"b": ["C"]}),)),
        (["a ; b = c , d"], (("a", {"b": ["c"]}), ("d", {}))),
        (['a; b="c"'], (("a", {"b": ["c"]}),)),
        (["a; b=1; b=2; b"], (("a", {"b": ["1", "2", True]}),)),
        ([""], ()),
        (["", " ", ","], ()),
        (["a,"], (("a", {}),)),
        ([",a"], (("a", {}),)),
        ([" , ,a;b ,\t,, c , "], (("a", {"b": [True]}), ("c", {}))),
        ([",;"], None),
        (["a,;"], None),
        (["a;"], None),
        (["a;;b"], None),
        (["a; b="], None),
        (['a; b="c'], None),
        (['a; b="c d"'], None),
        (["a b"], None),
        (["a; b c"], None),
        (["a\u00a0"], None),
    ],
)
def test_parseExtensions(values, found):
    """Extensions are read as RFC 6455 section 9.1 writes them, and not at all where they are malformed."""
    assert parseExtensions(values) == found


@given(st.text(alphabet='ab;,= "\t1', max_size=40))
def test_anyExtensions(text):
    """Any value is read or refused, in one go."""
    found = parseExtensions([text])
    assert found is None or all(name for name, _ in found)
