from __future__ import annotations

import unicodedata

import pytest

from twisted_ws.logs import printable
from twisted_ws.upgrade import Headers, Reject, UpgradeRequest, checkHeaders, isToken


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("json", True),
        ("v1.chat!#$%&'*+-.^_`|~", True),
        ("", False),
        ("a b", False),
        ("a,b", False),
        ("a/b", False),
        ('"a"', False),
        ("é", False),
        ("a\n", False),
    ],
)
def test_isToken(text, result):
    """A token is what RFC 9110 says, in ASCII."""
    assert isToken(text) is result


def test_checkHeaders():
    """Headers that can be written come back as pairs; none is none."""
    assert checkHeaders(None) == ()
    assert checkHeaders({"X-A": "1", "Set-Cookie": "a=b; é\t"}) == (("X-A", "1"), ("Set-Cookie", "a=b; é\t"))


@pytest.mark.parametrize("name", ["", "X A", "X:", "X\r\nY", "é", 1])
def test_wrongHeaderNames(name):
    """A header name that is no token is refused."""
    with pytest.raises(ValueError, match="is not a header name"):
        checkHeaders({name: "x"})


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\x00", "a\x7f", "a\x85b", "\u0100", "\u2028", 1, None, b"x"])
def test_wrongHeaderValues(value):
    """A header value that could add a header of its own is refused, and is not repeated in the error."""
    with pytest.raises(ValueError, match=r"^the value of the header X-A must be text without control characters$"):
        checkHeaders({"X-A": value})


def test_reject():
    """A refusal carries status, body and checked headers."""
    reject = Reject(429, "slow down", {"Retry-After": "5"})
    assert (reject.status, reject.body, reject.headers) == (429, "slow down", (("Retry-After", "5"),))
    assert str(reject) == "429 slow down"
    assert (Reject().status, str(Reject())) == (403, "403")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((200,), ValueError, "status 200 does not refuse"),
        ((101,), ValueError, "status 101 does not refuse"),
        ((600,), ValueError, "status 600 does not refuse"),
        ((True,), TypeError, "not bool"),
        (("401",), TypeError, "not str"),
        ((401, b"no"), TypeError, "not bytes"),
        ((401, "no", {"X": "a\r\nb"}), ValueError, "header X"),
    ],
)
def test_wrongRejects(arguments, error, text):
    """A refusal that cannot be written is the service's mistake, told where it is made."""
    with pytest.raises(error, match=text):
        Reject(*arguments)


HEADERS = Headers((("host", "a"), ("x-a", "1"), ("cookie", "s3cret=1"), ("x-a", "2")))


def test_headers():
    """Headers are found in any case, repeated ones joined, and each can be had alone."""
    assert HEADERS["X-A"] == "1, 2"
    assert HEADERS.getAll("X-a") == ["1", "2"]
    assert HEADERS.getAll("nothing") == []
    assert HEADERS.get("nothing") is None
    assert list(HEADERS) == ["host", "x-a", "cookie"]
    assert len(HEADERS) == 3
    assert "HOST" in HEADERS
    with pytest.raises(KeyError):
        HEADERS["nothing"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Пётр".encode(), "Пётр"),
        ("voilà".encode(), "voilà"),
        (b"voil\xe0", "voil\xe0"),
        (b"\xc3", "\xc3"),
        (b"\xed\xa0\x80", "\xed\xa0\x80"),  # a lone surrogate in UTF-8's way, which no encoder would take
        (bytes(range(0x80, 0x100)), "".join(map(chr, range(0x80, 0x100)))),
        ("\u202e\u2028".encode(), "\u202e\u2028"),
    ],
)
def test_opaqueBytes(raw, text):
    """A value that is valid UTF-8 is read as that, any other as Latin-1: it is text that can be sent and written down."""
    value = raw.decode("latin-1")
    for headers in (Headers((("x", value),)), Headers((), {"x": [value]}), UpgradeRequest(headers=(("x", value),)).headers):
        assert (headers["x"], headers.get("X"), headers.getAll("x"), dict(headers)["x"] if len(headers) else text) == (
            text,
            text,
            [text],
            text,
        )
    assert text.encode()
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Cs") or c == "\u202e" for c in printable(text))


def test_oneHeader():
    """One header is the same whether it is asked for alone or among the others; a part of another's name or value is none."""
    request = UpgradeRequest(headers=(("x-a", "1"), ("a", "x-b:2"), ("x-a", ""), ("b", "voilà".encode().decode("latin-1"))))
    for name in ("x-a", "a", "b", "x", "-a", "x-b", "c"):
        assert request.header(name) == request.headers.get(name)
    assert [request.header(name) for name in ("x-a", "a", "b", "x-b")] == ["1, ", "x-b:2", "voilà", None]
    assert UpgradeRequest().header("a") is None
    assert dict(UpgradeRequest().headers) == {}


def test_noSecretsInRepr():
    """No value of a header and no query is in a repr, for they may be secrets."""
    request = UpgradeRequest("/ws?token=s3cret", (("cookie", "s3cret=1"),), peerAddress="192.0.2.1")
    assert repr(HEADERS) == "<Headers host, x-a, cookie>"
    assert repr(request) == "<UpgradeRequest '/ws' from 192.0.2.1>"
    assert repr(UpgradeRequest(peerAddress="")) == "<UpgradeRequest '/' from a local socket>"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", {}),
        ("/a%20b?x=1&y=2&x=3", "/a b", {"x": ["1", "3"], "y": ["2"]}),
        ("/a?flag&empty=", "/a", {"flag": [""], "empty": [""]}),
        ("/a?q=%C3%BC+%26", "/a", {"q": ["ü &"]}),
        ("/a??x=1?", "/a", {"?x": ["1?"]}),
        ("/%ff?%ff", "/\ufffd", {"\ufffd": [""]}),
    ],
)
def test_target(target, path, query):
    """Path and query are decoded, each name with all its values."""
    request = UpgradeRequest(target)
    assert (request.target, request.path, request.query) == (target, path, query)


def test_queryOfTwo():
    """A change that a service makes to the query of one request does not show in that of another."""
    query = UpgradeRequest("/a?x=1").query
    query["x"].append("2")
    query["y"] = ["3"]
    assert UpgradeRequest("/a?x=1").query == {"x": ["1"]}


def test_longQuery():
    """As many query fields as a request line can hold are read: a peer cannot make a service fail with them."""
    request = UpgradeRequest("/ws?" + "a&" * 4000)
    assert request.query == {"a": [""] * 4000}


@pytest.mark.parametrize(
    ("headers", "cookies"),
    [
        ((), {}),
        (("a=1; b=2",), {"a": "1", "b": "2"}),
        (("a=1", "b=2"), {"a": "1", "b": "2"}),
        (("a=first; a=second",), {"a": "first"}),
        (('a="quoted"; b="',), {"a": "quoted", "b": '"'}),
        (("a=x=y; nothing; =1",), {"a": "x=y", "": "1"}),
        (("city=Łódź; x=voilà".encode().decode("latin-1"),), {"city": "Łódź", "x": "voilà"}),
        (
            ("a=voilà; b=voilà; ключ=1".encode().replace("à".encode(), b"\xe0", 1).decode("latin-1"),),
            {"a": "voilà", "b": "voilà", "ключ": "1"},
        ),
        (("a=\x85; \xa0b=\xa0",), {"a": "\x85", "\xa0b": "\xa0"}),
    ],
)
def test_cookies(headers, cookies):
    """Cookies are read as RFC 6265 writes them; of two with one name the first counts."""
    assert UpgradeRequest(headers=tuple(("cookie", value) for value in headers)).cookies == cookies


def test_attributes():
    """What the wire found out is there, in containers of the request's own."""
    params = {"room": "lobby"}
    request = UpgradeRequest(path="/given", pathParams=params, subProtocols=("a", "b"), peerPort=7, isSecure=True)
    params.clear()
    assert (request.path, request.pathParams, request.subProtocols) == ("/given", {"room": "lobby"}, ["a", "b"])
    assert (request.peerAddress, request.peerPort, request.isSecure, request.clientCertificate) == ("127.0.0.1", 7, True, None)
    assert dict(request.headers) == {}
