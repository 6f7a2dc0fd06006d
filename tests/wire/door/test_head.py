from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twisted_ws.limits import Limits
from twisted_ws.wire import speedups
from twisted_ws.wire.door.head import BadHead, RequestHead, emptyLines, headEnd, parseHead
from twisted_ws.wire.speedups import pure

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
        (b"", 400, "not an HTTP"),
        (b"\x16\x03\x01\x02\x00\x01", 400, "This port does not speak TLS"),
        (b"GET /", 400, "request line"),
        (b"GET  / HTTP/1.1", 400, "request line"),
        (b"GET / x HTTP/1.1", 400, "request line"),
        (b" GET / HTTP/1.1", 400, "not an HTTP"),
        (b"GET / HTTP/1.1 ", 400, "request line"),
        (b"GET\t/\tHTTP/1.1", 400, "request line"),
        (b"GET /\x0b HTTP/1.1", 400, "request line"),
        (b"GET /\x85 HTTP/1.1", 400, "percent-encoded"),
        (b"GET /\n HTTP/1.1", 400, "CRLF"),
        (b"G\xc9T / HTTP/1.1", 400, "method"),
        (b"\xc9T / HTTP/1.1", 400, "not an HTTP"),
        (b"G(T / HTTP/1.1", 400, "method"),
        (b" / HTTP/1.1", 400, "not an HTTP"),
        (b"GET / HTTP/2.0", 505, "HTTP/1.1"),
        (b"GET / HTTP/0.9", 505, "HTTP/1.1"),
        (b"GET / HTTP/3", 505, "HTTP/1.1"),
        (b"GET / HTTP/1.10", 505, "HTTP/1.1"),
        (b"GET / HTTP/x", 400, "request line"),
        (b"GET / http/1.1", 400, "request line"),
        (b"GET / HTTP/", 400, "request line"),
        (b"GET //evil/x HTTP/1.1", 400, "one slash"),
        (b"GET http://a//evil/x HTTP/1.1", 400, "one slash"),
        (b"GET ftp://a/x HTTP/1.1", 400, "one slash"),
        (b"GET http:/x HTTP/1.1", 400, "one slash"),
        (b"GET http:///x HTTP/1.1", 400, "host"),
        (b"GET http://user@a/x HTTP/1.1", 400, "host"),
        (b"GET http://a\\b/x HTTP/1.1", 400, "host"),
        (b"GET http://\xc3\xbc/x HTTP/1.1", 400, "host"),
        (b"GET http://a/\xc3\xbc HTTP/1.1", 400, "percent-encoded"),
        (b"GET http://a/#x HTTP/1.1", 400, "percent-encoded"),
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
        *[(b"X-A: a%cb" % byte, "control") for byte in (*range(9), 11, 12, *range(14, 32), 127)],
        *[(b"X-A: a%cb" % byte, "CRLF") for byte in (10, 13)],
        *[(b"X%cA: ab" % byte, "control") for byte in (0, 11, 12, 28)],
        *[(b"X%cA: ab" % byte, "name") for byte in (128, 133, 159, 255)],
    ],
)
def test_headers(line, message):
    """A header that could be two, or none, for another parser is refused."""
    refused = refusal(b"GET / HTTP/1.1", b"Host: a", line)
    assert refused.status == 400
    assert message in refused.message


@pytest.mark.parametrize("byte", range(0x80, 0x100))
def test_opaque(byte):
    """Bytes from 0x80 on are kept in a value as they are (RFC 9110 section 5.5), at its ends, too."""
    value = bytes([byte, 65, byte])
    head = parse(b"GET / HTTP/1.1", b"Host: a", b"X-A: " + value)
    assert head.getAll("x-a")[0].encode("latin-1") == value


@pytest.mark.parametrize("version", range(1, 10))
def test_laterVersions(version):
    """A later minor version is taken for HTTP/1.1 (RFC 9110 section 2.5)."""
    assert parse(b"GET / HTTP/1.%d" % version, b"Host: a").version == (1, 1)


@pytest.mark.parametrize(
    ("method", "target", "host", "origin"),
    [
        (b"GET", b"http://a.example/x?y=z", "a.example", "/x?y=z"),
        (b"GET", b"HTTPS://a.example:8443/x", "a.example:8443", "/x"),
        (b"GET", b"ws://[::1]:80/ws", "[::1]:80", "/ws"),
        (b"GET", b"wss://a/", "a", "/"),
        (b"GET", b"http://a.example", "a.example", "/"),
        (b"GET", b"http://a.example?y=http://b/c", "a.example", "/?y=http://b/c"),
        (b"OPTIONS", b"http://a.example", "a.example", "*"),
        (b"OPTIONS", b"http://a.example/", "a.example", "/"),
    ],
)
def test_absoluteForm(method, target, host, origin):
    """The authority of a target in absolute-form is the host, whatever Host says, also among the headers."""
    head = parse(b"%s %s HTTP/1.1" % (method, target), b"X-A: 1", b"Host: other.example", b"X-A: 2")
    assert (head.target, head.host, head.getAll("host"), head.getAll("x-a")) == (origin, host, [host], ["1", "2"])
    assert ("host", "other.example") not in head.headers
    head = parse(b"%s %s HTTP/1.0" % (method, target))
    assert (head.target, head.host, head.headers) == (origin, host, (("host", host),))


@pytest.mark.parametrize("lines", [[], [b"Host: a", b"Host: a"], [b"Host: a b"]])
def test_absoluteFormWantsHost(lines):
    """There must be one Host all the same (RFC 9112 section 3.2)."""
    assert refusal(b"GET http://a/ HTTP/1.1", *lines).status == 400


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
    few = Limits(parameters=3)
    for head in ((b"Host: a",), (b"Host: a", b"A: \xc3\xa4")):  # in C, and in Python
        assert parse(b"GET /?a&b&c HTTP/1.1", *head, limits=few)
        assert refusal(b"GET /?a&b&c&d HTTP/1.1", *head, limits=few).status == 414
    rest = 200 - len(b"GET / HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n")
    assert parse(b"GET / HTTP/1.1", b"Host: a", b"A: " + b"x" * rest, limits=small)
    assert refusal(b"GET / HTTP/1.1", b"Host: a", b"A: " + b"x" * (rest + 1), limits=small).status == 431


@given(st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x85b")
def test_anyBytes(data):
    """Any bytes are a head or a refusal; a head has no control character of ASCII in it."""
    try:
        head = parseHead(data + b"\r\n\r\n", LIMITS)
    except BadHead:
        return
    text = "".join([head.method, head.target, *(part for pair in head.headers for part in pair)]).replace("\t", "")
    assert not any(c < " " or c == "\x7f" for c in text)


class TestHeadEnd:
    @pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore\n"])
    def test_anyCut(self, data):
        """The end is found when it has come, and not before."""
        for size in range(len(data) + 1):
            for searched in range(size + 1):
                if searched < 27:
                    assert headEnd(data[:size], searched, LIMITS) == (27 if size >= 27 else 0)
                    assert headEnd(bytearray(data[:size]), searched, LIMITS) == (27 if size >= 27 else 0)

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nX: \n",
            b"GET / HTTP/1.1\rHost: a",
            b"GET / HTTP/1.1\r\n\r\r",
        ],
    )
    @pytest.mark.parametrize("step", [1, 2, 3, 1000])
    def test_halfEnds(self, data, step):
        """Half an end of a line, which for another parser is a whole one, is refused at once: the other half never comes."""

        def read():
            searched = 0
            for size in range(step, len(data) + step, step):
                assert headEnd(data[:size], searched, LIMITS) == 0
                searched = min(size, len(data))

        with pytest.raises(BadHead, match="400 A line"):
            read()

    def test_limits(self):
        """A line and a head over their limits are not waited for, and those of exactly the limits are, wherever they are cut."""
        small = Limits(requestLine=20, head=50)
        line = b"GET /1234567 HTTP/1.1"
        data = line[:-1] + b"\r\nHost: a\r\nA: "
        data += b"x" * (50 - len(data) - 4) + b"\r\n\r\n"
        for size in range(1, 50):
            assert headEnd(data[:size], size - 1, small) == 0
        assert headEnd(data, 49, small) == 50
        with pytest.raises(BadHead, match="414"):
            headEnd(line + b"\r", 0, small)
        with pytest.raises(BadHead, match="431"):
            headEnd(data[:46] + b"xxxxx", 0, small)

    @pytest.mark.parametrize(
        ("data", "size"), [(b"", 0), (b"\r", 0), (b"G", 0), (b"\r\n\r\nG\r\n", 4), (b"\r\n" * 30_000, 60_000)]
    )
    def test_emptyLines(self, data, size):
        """Empty lines before a request are counted, however many there are."""
        assert emptyLines(data) == emptyLines(bytearray(data)) == size
