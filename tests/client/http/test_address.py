from __future__ import annotations

import pytest

from twisted_ws.client import InvalidURL
from twisted_ws.client.http.address import parseURL


@pytest.mark.parametrize(
    ("url", "isSecure", "host", "port", "target", "authority"),
    [
        ("ws://localhost", False, "localhost", 80, "/", "localhost"),
        ("WSS://Example.COM/", True, "example.com", 443, "/", "example.com"),
        ("ws://example.com:80/x", False, "example.com", 80, "/x", "example.com"),
        ("ws://example.com:443/x", False, "example.com", 443, "/x", "example.com:443"),
        ("wss://example.com:80", True, "example.com", 80, "/", "example.com:80"),
        ("ws://[::1]:8080/ws?a=b&c", False, "::1", 8080, "/ws?a=b&c", "[::1]:8080"),
        ("ws://127.0.0.1?x=%20/", False, "127.0.0.1", 80, "/?x=%20/", "127.0.0.1"),
        ("ws://bücher.example/käse?grün", False, "xn--bcher-kva.example", 80, "/k%C3%A4se?gr%C3%BCn", "xn--bcher-kva.example"),
        ("ws://[fe80::1%25eth0]:8080/", False, "fe80::1%eth0", 8080, "/", "[fe80::1]:8080"),
        ("ws://[fe80::1%eth0]/", False, "fe80::1%eth0", 80, "/", "[fe80::1]"),
        ("wss://[FE80::1%25Eth0]/", True, "fe80::1%Eth0", 443, "/", "[fe80::1]"),
        ("ws://[fe80::1%2525]/", False, "fe80::1%25", 80, "/", "[fe80::1]"),
        ("ws://[fe80::1%25]/", False, "fe80::1%25", 80, "/", "[fe80::1]"),
        ("ws://my_host.:1/;a=1", False, "my_host.", 1, "/;a=1", "my_host.:1"),
    ],
)
def test_read(url, isSecure, host, port, target, authority):
    """A URL says where to connect and what to ask for."""
    address = parseURL(url)
    assert (address.isSecure, address.host, address.port, address.target) == (isSecure, host, port, target)
    assert address.authority == authority


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "ws://"),
        ("localhost:8080", "ws://"),
        ("http://localhost", "write ws://"),
        ("https://localhost", "write wss://"),
        ("ws://", "no usable host"),
        ("ws:///path", "no usable host"),
        ("ws://-a.example", "no usable host"),
        ("ws://a..b", "no usable host"),
        ("ws://[fe80::1%\u6f22]/", "no usable host"),
        ("ws://" + "a" * 64, "no usable host"),
        ("ws://a/b c", "percent-encode"),
        ("ws://a/\udcff", "percent-encode"),
        ("ws://a/?token=secret\udcff", "percent-encode"),
        ("ws://a/b\r\nHost: c", "percent-encode"),
        ("ws://a/#b", "fragment"),
        ("ws://a/#", "fragment"),
        ("ws://a:0", "port 0"),
        ("ws://a:65536", "not a URL"),
        ("ws://a:x", "not a URL"),
        ("ws://[::1", "not a URL"),
        ("ws://alice:secret@a/?token=secret", "credentials=Basic"),
        ("ws://alice:secret@a:x/?token=secret", "not a URL"),
    ],
)
def test_refused(url, hint):
    """An unusable URL is refused with the reason, and without what may be secret."""
    with pytest.raises(InvalidURL) as caught:
        parseURL(url)
    assert hint in str(caught.value)
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_wrongType():
    """A URL is a str."""
    with pytest.raises(TypeError, match="not bytes"):
        parseURL(b"ws://localhost")  # type: ignore[arg-type]


def test_shown():
    """An address is shown without its query, which may hold a token."""
    address = parseURL("wss://[::1]:8443/ws?token=secret")
    assert str(address) == "wss://[::1]:8443/ws"
    assert address.hostAndPort == "[::1]:8443"
    assert "secret" not in repr(address)
