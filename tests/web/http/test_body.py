from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_ws.limits import Limits
from twisted_ws.web.http.body import Body, ChunkedBody, bodyOf
from twisted_ws.web.http.errors import HttpError
from twisted_ws.wire.door.head import parseHead

LIMITS = Limits(body=1000)


def take(body: Body, buffer: bytearray) -> bytes:
    """Take everything there is, in as many steps as it needs."""
    return body.take(buffer, 1_000_000)[0]


def bodyFor(*headers: str, method: str = "POST", version: str = "1.1") -> Body | None:
    lines = [f"{method} / HTTP/{version}", "Host: a", *headers, "", ""]
    return bodyOf(parseHead("\r\n".join(lines).encode("latin-1"), LIMITS), LIMITS)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], 400),
        (["Content-Length: 5", "Content-Length: 5"], 400),
        (["Content-Length: 5", "Content-Length: 6"], 400),
        (["Content-Length: 5, 5"], 400),
        (["Content-Length: +5"], 400),
        (["Content-Length: -5"], 400),
        (["Content-Length: 5_0"], 400),
        (["Content-Length: 0x5"], 400),
        (["Content-Length: \u00b2"], 400),
        (["Content-Length:"], 400),
        (["Content-Length: " + "1" * 20], 400),
        (["Content-Length: " + "9" * 5000], 400),
        (["Content-Length: " + "9" * 19], 413),
        (["Content-Length: 1001"], 413),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: chunked, chunked"], 501),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 501),
        (["Transfer-Encoding: identity"], 501),
        (["Transfer-Encoding: xchunked"], 501),
        (["Transfer-Encoding: \x20chunked;q=1"], 501),
    ],
)
def test_badFraming(headers: list[str], status: int) -> None:
    """A head that leaves the end of its body in doubt, or makes it too long, is refused."""
    with pytest.raises(HttpError) as caught:
        bodyFor(*headers)
    assert caught.value.status == status


def test_noLength() -> None:
    """A body without a length is refused when it is read."""
    body = bodyFor()
    assert body is not None
    with pytest.raises(HttpError) as caught:
        take(body, bytearray())
    assert caught.value.status == 411


def test_chunkedInHttp10() -> None:
    """Chunks in HTTP/1.0 are refused: through a proxy of that version, they would be smuggling."""
    with pytest.raises(HttpError) as caught:
        bodyFor("Transfer-Encoding: chunked", version="1.0")
    assert caught.value.status == 400


@pytest.mark.parametrize("header", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "post"])
def test_bodyWithoutMeaning(method: str, header: str) -> None:
    """A body with a method that has none is refused."""
    with pytest.raises(HttpError) as caught:
        bodyFor(header, method=method)
    assert caught.value.status == 400


def test_noBody() -> None:
    """A request without a length, or with the length 0, has no body; only methods such as POST must declare it."""
    assert bodyFor(method="GET") is None
    assert bodyFor("Content-Length: 0", method="GET") is None
    assert bodyFor("Content-Length: 0") is None
    assert bodyFor("Content-Length: 000") is None


def test_lengthBody() -> None:
    """A body of known length ends there, and leaves the next request alone."""
    body = bodyFor("Content-Length: 5")
    assert body is not None
    buffer = bytearray(b"hel")
    assert (take(body, buffer), body.done, buffer) == (b"hel", False, b"")
    buffer += b"loGET"
    assert (take(body, buffer), body.done, buffer) == (b"lo", True, b"GET")


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
def test_chunkedBody(coding: str) -> None:
    """Chunks are joined, extensions and trailers are skipped, and the next request is left alone."""
    body = bodyFor(f"Transfer-Encoding: {coding}")
    assert body is not None
    buffer = bytearray(b'5;name="v"\r\nhello\r\n00A\r\n, world!!!\r\n0\r\nX-Trailer: 1\r\n\r\nGET')
    assert (take(body, buffer), body.done, buffer) == (b"hello, world!!!", True, b"GET")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"x\r\n", 400),
        (b"\r\n", 400),
        (b"-1\r\n", 400),
        (b"+1\r\n", 400),
        (b"0x1\r\n", 400),
        (b"1_0\r\n", 400),
        (b" 1\r\n", 400),
        (b"1 \r\n", 400),
        (b"1\r", None),  # no line yet
        (b"1\nx\r\n", 400),
        (b"1;a\x00b\r\n", 400),
        (b"1;a\nb\r\n", 400),
        (b'1;a="\r\nx\r\n0\r\n\r\n', 400),
        (b'1;a="b\\"\r\nx\r\n0\r\n\r\n', 400),
        (b'1;a="b"c"\r\nx\r\n0\r\n\r\n', 400),
        (b'1;"\r\nx\r\n', 400),
        (b'1;a="b\\', None),
        (b'1;a="b\\"";c=d;e="";f="\\\\"\r\nx\r\n0\r\n\r\n', None),
        (b"1;\r\nx\r\n0\r\n\r\n", None),
        (b"f" * 16 + b"\r\n", 400),
        (b"1\n", 400),
        (b"1\r\nx\r\n0\r\n\n", 400),
        (b"5;" + b"a" * 300, 400),
        (b"5;" + b"a" * 300 + b"\r\n", 400),
        (b"1\r\nab", 400),
        (b"1\r\na\rb", 400),
        (b"0\r\nA: \x00\r\n\r\n", 400),
        (b"0\r\nA: b\nC: d\r\n\r\n", 400),
        (b"3e9\r\n", 413),
        (b"f" * 15 + b"\r\n", 413),
        (b"1;" + b"a" * 200 + b"\r\nx\r\n", None),
        ((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 6, 413),
        (b"1\r\nx\r\n" * 400, 413),
        (b"0\r\n" + (b"A: " + b"b" * 100 + b"\r\n") * 11, 413),
        (b"1\r\nx\r\n" * 20, 413),
        (b"1\r\nx\r\n" * 10, None),
        (b"0\r\n" + b"A:\r\n" * 20, 413),
        (b'1;a="\r\nx\r\n', 400),
        (b'1;a="\\"\r\nx\r\n', 400),
        (b'1;a="b\\" ;"; c="d"\r\nx\r\n', None),
    ],
)
def test_badChunks(data: bytes, status: int | None) -> None:
    """Malformed or endless chunk framing is refused, however it is cut."""
    for size in (len(data), 1):
        body, buffer, seen = ChunkedBody(LIMITS), bytearray(), None
        try:
            for start in range(0, len(data), size):
                buffer += data[start : start + size]
                take(body, buffer)
                assert len(buffer) <= max(size, 260)
        except HttpError as error:
            seen = error.status
        assert seen == status


@pytest.mark.parametrize(
    "data",
    [
        b"1\r\nx\r\n" * 300,
        b"1;a=b\r\nx\r\n" * 300,
        b"0\r\n" + b"a:\r\n" * 300,
        (b"1;" + b"a" * 250 + b"\r\nx\r\n") * 3,
    ],
)
def test_steps(data: bytes) -> None:
    """However small its pieces, a body within the limit takes few steps to read."""
    body, buffer, most = ChunkedBody(Limits(body=20_000)), bytearray(data), 10
    seen = len(data)
    try:
        while True:
            _, steps = body.take(buffer, most)
            assert steps <= most
            assert seen - len(buffer) <= most * 260
            seen = len(buffer)
            if steps < most:
                break
    except HttpError as error:
        assert error.status == 413  # noqa: PT017 - not all are too many


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    st.lists(st.integers(1, 30), max_size=50),
    st.sampled_from([b"", b";a", b';a="b c"']),
    st.sampled_from([b"", b"T: 1\r\n", b"T: 1\r\nU: 2\r\n"]),
)
def test_likeH11(chunks: list[bytes], cuts: list[int], extension: bytes, trailers: bytes) -> None:
    """Every good chunked body, cut anywhere, gives what an independent parser gives, and the same rest."""
    data = b"".join(b"%X%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"

    other = h11.Connection(h11.SERVER)
    other.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data + b"GET")
    expected = b""
    while not isinstance(event := other.next_event(), h11.EndOfMessage):
        expected += bytes(event.data) if isinstance(event, h11.Data) else b""

    body, buffer, content, rest = ChunkedBody(LIMITS), bytearray(), b"", data + b"GET"
    for cut in [*cuts, len(rest)]:
        buffer += rest[:cut]
        rest = rest[cut:]
        if not body.done:
            content += take(body, buffer)
    assert body.done
    assert content == expected == b"".join(chunks)
    assert bytes(buffer) == other.trailing_data[0] == b"GET"


@given(st.binary(max_size=400), st.integers(1, 50))
def test_anyBytes(data: bytes, size: int) -> None:
    """Whatever comes in place of chunks is either taken or refused, and never kept beyond one line."""
    body, buffer = ChunkedBody(LIMITS), bytearray()
    try:
        for start in range(0, len(data), size):
            buffer += data[start : start + size]
            take(body, buffer)
            assert body.done or len(buffer) <= 260
    except HttpError as error:
        assert error.status in (400, 413)  # noqa: PT017 - most inputs raise, and some do not
