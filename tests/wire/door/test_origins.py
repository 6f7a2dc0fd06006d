from __future__ import annotations

import pytest

from tests.memory import upgrade
from twisted_ws.limits import Limits
from twisted_ws.wire.door.head import parseHead
from twisted_ws.wire.door.origins import AllowedHosts, AllowedOrigins, isFromElsewhere, parseHost, parseOrigin


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("https://example.com", ("https", "example.com", 443)),
        ("HTTP://Example.COM:8080", ("http", "example.com", 8080)),
        ("http://[::1]:80", ("http", "[::1]", 80)),
        ("http://[::1]", ("http", "[::1]", 80)),
        ("wss://a", ("https", "a", 443)),
        ("ws://a:8080", ("http", "a", 8080)),
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
    assert (parseHost("a:", 7), parseHost("[::1]:", 7)) == (("a", 7), ("[::1]", 7))
    assert (parseHost(":", 7), parseHost("a::", 7), parseHost("[::1", 7)) == (None, None, None)
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
        # As ws4py says it.
        ((), "ws://a.example:8080", "a.example:8080", False, True),
        ((), "wss://a.example", "a.example", True, True),
        ((), "ws://a.example", "a.example", True, False),
        ((), "ws://b.example", "a.example", False, False),
        (("wss://app.example",), "https://app.example", "x", True, True),
        (("https://app.example",), "wss://app.example", "x", True, True),
        # Names in other scripts: browsers send their ASCII form.
        (("https://пример.example",), "https://xn--e1afmkfd.example", "x", True, True),
        (("https://*.Пример.example",), "https://a.xn--e1afmkfd.example", "x", True, True),
        (("https://straße.example:444",), "https://xn--strae-oqa.example:444", "x", True, True),
        (("https://пример.example",), "https://example", "x", True, False),
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
    [
        *("app.example", "https://", "https://a*.example", "https://*", "https://a/", "https://*.*.example", "", "https://a.*"),
        *("https://a..b", "https://$(a)", "https://a;b", "https://-\u0300.example", "https://[x]"),
    ],
)
def test_wrongOrigins(origin):
    """Anything that is not an origin is refused when the server is made, and the error shows the possible forms."""
    with pytest.raises(ValueError, match=r"is not an origin: write scheme://host\[:port\], scheme://\*\.host, null or \*$"):
        AllowedOrigins([origin])


@pytest.mark.parametrize(
    ("origin", "option"),
    [
        ("https://app.example", "https://app.example"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("chrome-extension://abc", "chrome-extension://abc"),
        ("null", "null"),
        ("file://", "file://"),
        *[(origin, "") for origin in ("", "*", "https://*", "https://*.example", "https://", "app.example", "garbage \x1b[31m")],
        *[(origin, "") for origin in ("http://$(id)", "http://a;b", "http://a`b`", "http://\xd0\xbf.example", "https://a/b")],
    ],
)
def test_originHint(origin, option):
    """The hint for the operator names a value that the option takes, which lets in that origin and no other; or nothing."""
    hint = AllowedOrigins.hint(origin)
    assert hint == (f"to allow it: --allowed-origin {option}" if option else "")
    if option:
        allowed = AllowedOrigins([option])
        assert allowed.allows(origin, "x", True)
        assert not allowed.allows("https://other.example", "x", True)


@pytest.mark.parametrize(
    ("hosts", "origins", "host", "allowed"),
    [
        # What nobody can let lead here.
        *[((), (), host, True) for host in ("localhost", "localhost:9000", "LOCALHOST.", "app.localhost:8080", "a.b.localhost")],
        *[
            ((), (), host, True)
            for host in ("127.0.0.1", "127.0.0.1:8080", "127.0.0.1:", "192.168.1.5", "10.0.0.1:9000", "127.1", "0x7f.1")
        ],
        *[((), (), host, True) for host in ("[::1]", "[::1]:8080", "[fe80::1%25eth0]:1", "[::ffff:127.0.0.1]", "2130706433")],
        *[((), (), host, True) for host in ("backend", "backend:8080", "chat", "My-Box", "")],
        # This machine's own.
        *[((), (), host, True) for host in ("box.corp.example", "BOX.corp.example.:8080", "dev.test")],
        # Anybody else's.
        *[((), (), host, False) for host in ("rebound.example", "rebound.example:8080", "127.0.0.1.rebound.example", "a.b.")],
        *[((), (), host, False) for host in ("localhost.rebound.example", "evillocalhost.example")],
        *[((), (), host, False) for host in ("corp.example", "x.box.corp.example", "1.2.3.4.5", "1.2.3.400", "a.b:x", "a.b:")],
        # Those of the options.
        (("app.example",), (), "app.example", True),
        (("App.Example.:99",), (), "APP.example.:8080", True),
        (("app.example",), (), "x.app.example", False),
        (("*.app.example",), (), "x.app.example:8080", True),
        (("*.app.example",), (), "a.b.app.example", True),
        (("*.app.example",), (), "app.example", False),
        (("*.app.example",), (), "evilapp.example", False),
        (("a.example", "b.example"), (), "b.example", True),
        (("пример.example",), (), "xn--e1afmkfd.example", True),
        (("*",), (), "rebound.example", True),
        ((), ("https://app.example:8443",), "app.example:8080", True),
        ((), ("https://*.app.example",), "x.app.example", True),
        ((), ("*", "null", "file://"), "rebound.example", False),
    ],
)
def test_allowedHosts(hosts, origins, host, allowed):
    """On loopback, the server answers to names that nobody else can point there, and to those of the options, on any port."""
    known = AllowedHosts(hosts, origins, ["box.corp.example", "Dev.test."])
    assert known.allows(host) is allowed
    assert known.allows(host) is allowed


@pytest.mark.parametrize("host", ["", "https://a", "a b", "a/b", "*.*", "*.", "a.*", "a:x", "a..b", "user@a"])
def test_wrongHosts(host):
    """Anything that is not a name is refused when the server is made, and the error shows the possible forms."""
    with pytest.raises(ValueError, match=r"is not a host name: write app.example, \*.app.example or \*$"):
        AllowedHosts([host])


@pytest.mark.parametrize(
    ("host", "option"),
    [
        ("rebound.example:8080", "rebound.example"),
        ("A.Example", "a.example"),
        ("a..b", ""),
        ("*.b.c", ""),
        ("a.$(id)", ""),
        ("a.b:", "a.b"),
        ("a.b:x", ""),
    ],
)
def test_hostHint(host, option):
    """The hint for the operator names the option, with a value that it takes where there is one."""
    assert AllowedHosts.hint(host) == (f"to answer it: --allowed-host {option}" if option else "see --allowed-host")
    if option:
        assert AllowedHosts([option]).allows(host)


@pytest.mark.parametrize(
    ("method", "site", "mode", "dest", "elsewhere"),
    [
        ("GET", "cross-site", "no-cors", "script", True),
        ("GET", "cross-site", "no-cors", "image", True),
        ("GET", "cross-site", "cors", "empty", True),
        ("GET", "cross-site", "navigate", "iframe", True),
        ("GET", "cross-site", "navigate", "object", True),
        ("GET", "cross-site", None, None, True),
        ("GET", "cross-site", "navigate", "document", False),
        ("HEAD", "cross-site", "navigate", "document", False),
        ("POST", "cross-site", "navigate", "document", True),
        ("POST", "cross-site", "no-cors", "empty", True),
        *[
            (method, site, "no-cors", "empty", False)
            for method in ("GET", "POST")
            for site in ("same-site", "same-origin", "none", None)
        ],
    ],
)
def test_isFromElsewhere(method, site, mode, dest, elsewhere):
    """A page of another site is one, also without an Origin, unless its visitor goes on to ours."""
    named = (("Site", site), ("Mode", mode), ("Dest", dest))
    lines = [f"Sec-Fetch-{name}: {value}" for name, value in named if value is not None]
    head = parseHead(upgrade("/", *lines).replace(b"GET", method.encode()), Limits())
    assert isFromElsewhere(head) is elsewhere
