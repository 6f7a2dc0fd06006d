from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twisted_ws.limits import Limits
from twisted_ws.wire import pure, speedups
from twisted_ws.wire.head import BadHead, RequestHead, parseHead

LIMITS = Limits()


@pytest.fixture(autouse=True, params=[pytest.param(pure.plainHead, id="python"), pytest.param(speedups.plainHead, id="compiled")])
def plainHead(request):
    """Each promise holds with and without the compiled part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speedups, "plainHead", request.param)
        yield


def parse(*lines, limits=LIMITS):
    return parseHead(b"\r\n".join([*lines, b"", b""]), limits)


def refusal(*lines, limits=LIMITS):
    with pytest.raises(BadHead) as raised:
        parse(*lines, limits=limits)
    return raised.value


def test_goodHead():
    """A head comes back with its parts, header names in lower case, values stripped, in order."""
    head = parse(b"GET /a?b=c HTTP/1.1", b"Host: localhost:8080", b"X-A: \t one ,two\t ", b"x-a:", b"X-B: \xfc")
    assert head == RequestHead(
        "GET", "/a?b=c", (1, 1), (("host", "localhost:8080"), ("x-a", "one ,two"), ("x-a", ""), ("x-b", "ü")), "localhost:8080"
    )
    assert head.getAll("x-a") == ["one ,two", ""]
    assert head.tokens("x-a") == ["one", "two"]
    assert head.getAll("nothing") == head.tokens("nothing") == []


@pytest.mark.parametrize("target", [b"/", b"*", b"/a/b;c?d=/e//f", b"/%00%ff", b"/a:b@c", b"/?//x"])
def test_goodTargets(target):
    """A target in origin-form, and the asterisk of OPTIONS, come back as they are."""
    assert parse(b"OPTIONS " + target + b" HTTP/1.1", b"Host: a").target == target.decode()


def test_http10():
    """HTTP/1.0 does without Host."""
    assert parse(b"GET / HTTP/1.0") == RequestHead("GET", "/", (1, 0), (), "")
    assert parse(b"GET / HTTP/1.0", b"Host: a").host == "a"


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (b"", 400, "request line"),
        (b"GET /", 400, "request line"),
        (b"GET  / HTTP/1.1", 400, "request line"),
        (b"GET / x HTTP/1.1", 400, "request line"),
        (b" GET / HTTP/1.1", 400, "request line"),
        (b"GET / HTTP/1.1 ", 400, "request line"),
        (b"GET\t/\tHTTP/1.1", 400, "request line"),
        (b"GET /\x0b HTTP/1.1", 400, "request line"),
        (b"GET /\x85 HTTP/1.1", 400, "request line"),
        (b"GET /\n HTTP/1.1", 400, "request line"),
        (b"G\xc9T / HTTP/1.1", 400, "method"),
        (b"G(T / HTTP/1.1", 400, "method"),
        (b" / HTTP/1.1", 400, "method"),
        (b"GET / HTTP/2.0", 505, "HTTP/1.1"),
        (b"GET / HTTP/3", 505, "HTTP/1.1"),
        (b"GET / HTTP/1.10", 505, "HTTP/1.1"),
        (b"GET / HTTP/x", 400, "request line"),
        (b"GET / http/1.1", 400, "request line"),
        (b"GET / HTTP/", 400, "request line"),
        (b"GET //evil/x HTTP/1.1", 400, "one slash"),
        (b"GET http://evil/x HTTP/1.1", 400, "one slash"),
        (b"CONNECT host:443 HTTP/1.1", 400, "one slash"),
        (b"GET x HTTP/1.1", 400, "one slash"),
        (b"GET /\xc3\xbc HTTP/1.1", 400, "percent-encoded"),
        (b"GET /#x HTTP/1.1", 400, "percent-encoded"),
        (b"GET /\tx HTTP/1.1", 400, "percent-encoded"),
    ],
)
def test_requestLines(line, status, message):
    """A request line that two parsers could read differently is refused."""
    refused = refusal(line, b"Host: a")
    assert refused.status == status
    assert message in refused.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b" folded", "folded"),
        (b"\tfolded", "folded"),
        (b"no colon", "no colon"),
        (b": no name", "name"),
        (b"X-A : space", "name"),
        (b"X(A: x", "name"),
        (b"X\xc9: x", "name"),
        *[(b"X-A: a%cb" % byte, "control") for byte in (0, 1, 8, 10, 11, 12, 13, 27, 28, 29, 30, 31, 127, 128, 133, 159)],
        *[(b"X%cA: ab" % byte, "control") for byte in (0, 11, 12, 28, 133)],
    ],
)
def test_headers(line, message):
    """A header that could be two, or none, for another parser is refused."""
    refused = refusal(b"GET / HTTP/1.1", b"Host: a", line)
    assert refused.status == 400
    assert message in refused.message


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Host:"],
        [b"Host: a", b"Host: a"],
        [b"Host: a", b"hOST: b"],
        [b"Host: a b"],
        [b"Host: a,b"],
        [b"Host: a/b"],
        [b"Host: a@b"],
        [b"Host: a?b"],
        [b"Host: a#b"],
        [b"Host: a\\b"],
        [b"Host: <a>"],
        [b"Host: \xfc"],
    ],
)
def test_hosts(lines):
    """There is one Host, and it is the name of a host."""
    refused = refusal(b"GET / HTTP/1.1", *lines)
    assert refused.status == 400
    assert "Host" in refused.message


def test_theirOwnWordsAreNotRepeated():
    """What a refusal says holds nothing that the peer sent."""
    refused = refusal(b"GET / HTTP/1.1", b"Host: a", b"s3cret \x1b[31m: x")
    assert "s3cret" not in str(refused)


def test_limits():
    """Exactly the limit is taken, one more is not: 414 for the line, 431 for size and number."""
    small = Limits(requestLine=40, head=200, headers=3)
    line = b"GET /" + b"x" * 26 + b" HTTP/1.1"
    assert parse(line, b"Host: a", limits=small)
    assert refusal(line + b"1", b"Host: a", limits=small).status == 414
    assert parse(b"GET / HTTP/1.1", b"Host: a", b"A: 1", b"B: 2", limits=small)
    assert refusal(b"GET / HTTP/1.1", b"Host: a", b"A: 1", b"B: 2", b"C: 3", limits=small).status == 431
    rest = 200 - len(b"GET / HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n")
    assert parse(b"GET / HTTP/1.1", b"Host: a", b"A: " + b"x" * rest, limits=small)
    assert refusal(b"GET / HTTP/1.1", b"Host: a", b"A: " + b"x" * (rest + 1), limits=small).status == 431


@given(st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x85b")
def test_anyBytes(data):
    """Any bytes are a head or a refusal; a head has no control character in it."""
    try:
        head = parseHead(data + b"\r\n\r\n", LIMITS)
    except BadHead:
        return
    text = "".join([head.method, head.target, *(part for pair in head.headers for part in pair)]).replace("\t", "")
    assert not any(unicodedata.category(c) == "Cc" for c in text)
