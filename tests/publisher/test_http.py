"""Answers in HTTP/1.1, in whatever pieces they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted_ws_publisher.http import MOST_BODY, MOST_HEAD, Malformed, ResponseReader, encode_request

ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nX-A: 2\r\n\r\nhello", (200, b"hello", True)),
    "none": (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
    "not kept": (b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", (503, b"", False)),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", (200, b"x", False)),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        (200, b"abcde", None),
    ),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", True)),
}


@pytest.mark.parametrize("name", ANSWERS)
@given(data=st.data())
def test_pieces(name, data):
    """An answer is the same in one piece and in many."""
    answer, (status, body, keeps) = ANSWERS[name]
    reader, response, rest = ResponseReader(), None, answer
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        assert response is None
        response = reader.feed(rest[:size])
        rest = rest[size:]
        if response is not None and name == "chunks":
            break  # its last line may still be on its way
    assert response is not None
    assert (response.status, response.body) == (status, body)
    assert keeps is None or response.keeps == keeps


def test_first():
    """Of several headers with one name the first counts, and names have no case."""
    assert ResponseReader().feed(ANSWERS["length"][0]).headers == {"content-length": "5", "x-a": "1"}


def test_whole_chunks_keep():
    """A connection is used again after chunks whose end has come, and not before."""
    answer = ANSWERS["chunks"][0]
    assert ResponseReader().feed(answer).keeps
    assert not ResponseReader().feed(answer[:-2]).keeps


def test_until_the_end():
    """An answer without a length ends with its connection."""
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nab") is None
    assert reader.feed(b"c") is None
    assert reader.feed(b"") == (200, {}, b"abc", False)


def test_more():
    """Who says more than was asked gets no second question."""
    assert not ResponseReader().feed(ANSWERS["length"][0] + b"HTTP").keeps


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MOST_HEAD,
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 200 + b"\r\n",
    ],
)
def test_malformed(answer):
    """What is no answer, or none that may be held in memory, is refused at once."""
    with pytest.raises(Malformed):
        ResponseReader().feed(answer)


@pytest.mark.parametrize("name", ["length", "chunks"])
def test_cut(name):
    """An answer that is cut off is none."""
    answer = ANSWERS[name][0]
    for size in (0, 5, answer.index(b"\r\n\r\n") + 5):
        reader = ResponseReader()
        assert reader.feed(answer[:size]) is None if size else True
        with pytest.raises(Malformed):
            reader.feed(b"")


def test_too_long():
    """An answer without a length and without an end is given up."""
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(MOST_BODY // 1_000_000):
        assert reader.feed(bytes(1_000_000)) is None
    with pytest.raises(Malformed):
        reader.feed(bytes(1_000_000))


def test_request():
    """A request has a length where it may have a body."""
    assert (
        encode_request("POST", "/a", "h:1", {"X": "y"}, b"")
        == b"POST /a HTTP/1.1\r\nHost: h:1\r\nX: y\r\nContent-Length: 0\r\n\r\n"
    )
    assert encode_request("GET", "/a", "h", {}, b"") == b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
