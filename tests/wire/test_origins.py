from __future__ import annotations

import pytest

from twisted_ws.wire.origins import AllowedOrigins, parseHost, parseOrigin


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("https://example.com", ("https", "example.com", 443)),
        ("HTTP://Example.COM:8080", ("http", "example.com", 8080)),
        ("http://[::1]:80", ("http", "[::1]", 80)),
        ("http://[::1]", ("http", "[::1]", 80)),
        ("wss://a", ("wss", "a", 443)),
        ("chrome-extension://abc", ("chrome-extension", "abc", -1)),
        ("null", None),
        ("", None),
        ("://a", None),
        ("http:/a", None),
        ("http://", None),
        ("http://a/", None),
        ("http://a/b", None),
        ("http://a?b", None),
        ("http://user@a", None),
        ("http://a:", None),
        ("http://a:x", None),
        ("http://a:+1", None),
        ("http://a:123456", None),
        ("http://a:1:2", None),
        ("http://a\\b", None),
        ("http://a b", None),
        ("http://[::1", None),
        ("http://[::1]x", None),
        ("ht tp://a", None),
        ("é://a", None),
        ("--://a", None),
    ],
)
def test_parseOrigin(text, parsed):
    """An origin is scheme, host and port, or nothing."""
    assert parseOrigin(text) == parsed


def test_parseHost():
    """A host has the default port unless it names one."""
    assert parseHost("A.example", 7) == ("a.example", 7)
    assert parseHost("a:8", 7) == ("a", 8)
    assert parseHost("", 7) is None


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "isSecure", "result"),
    [
        # The own host.
        ((), "http://a.example", "a.example", False, True),
        ((), "http://a.example:80", "a.example", False, True),
        ((), "http://a.example", "a.example:80", False, True),
        ((), "http://A.Example", "a.example", False, True),
        ((), "https://a.example", "a.example", False, True),
        ((), "https://a.example", "a.example:443", True, True),
        ((), "http://a.example", "a.example", True, False),
        ((), "http://a.example:81", "a.example", False, False),
        ((), "https://a.example:8443", "a.example:8443", True, True),
        ((), "http://a.example.evil", "a.example", False, False),
        ((), "http://evil-a.example", "a.example", False, False),
        ((), "ws://a.example", "a.example", False, False),
        ((), "null", "null", False, False),
        ((), "file://", "", False, False),
        ((), "http://", "", False, False),
        # The list.
        (("https://app.example",), "https://app.example", "x", True, True),
        (("https://app.example",), "https://app.example:443", "x", True, True),
        (("https://app.example:443",), "https://APP.example", "x", True, True),
        (("https://app.example",), "http://app.example", "x", True, False),
        (("https://app.example",), "https://app.example:444", "x", True, False),
        (("https://app.example",), "https://app.example.evil", "x", True, False),
        (("https://app.example",), "https://xapp.example", "x", True, False),
        (("https://app.example",), "https://app-example", "x", True, False),
        (("https://*.app.example",), "https://a.app.example", "x", True, True),
        (("https://*.app.example",), "https://a.b.app.example", "x", True, True),
        (("https://*.app.example",), "https://app.example", "x", True, False),
        (("https://*.app.example",), "https://evilapp.example", "x", True, False),
        (("https://*.app.example:444",), "https://a.app.example", "x", True, False),
        (("null",), "null", "x", True, True),
        (("null",), "file://", "x", True, False),
        (("FILE://",), "file://", "x", True, True),
        (("chrome-extension://abc",), "chrome-extension://abc", "x", True, True),
        (("*",), "https://anywhere", "x", True, True),
        (("*",), "\x1bgarbage", "x", True, True),
    ],
)
def test_allows(allowed, origin, host, isSecure, result):
    """The own host and the listed origins are allowed, compared whole; nothing else is."""
    assert AllowedOrigins(allowed).allows(origin, host, isSecure) is result


@pytest.mark.parametrize(
    "origin",
    ["app.example", "https://", "https://a*.example", "https://*", "https://a/", "https://*.*.example", "", "https://a.*"],
)
def test_wrongOrigins(origin):
    """What is no origin is refused when the server is made, with the forms that are."""
    with pytest.raises(ValueError, match=r"is no origin: write scheme://host\[:port\], scheme://\*\.host, null or \*$"):
        AllowedOrigins([origin])
