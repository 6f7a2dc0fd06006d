from __future__ import annotations

import pytest

from twisted_ws.wire.door.head import RequestHead
from twisted_ws.wire.door.proxies import TrustedProxies

LIST = ("10.0.0.0/8", "2001:db8::/32", "127.0.0.1")


def client(networks, address, forwardedFor=(), proto=(), isSecure=False):
    headers = [("x-forwarded-for", value) for value in forwardedFor] + [("x-forwarded-proto", value) for value in proto]
    return TrustedProxies(networks).client(address, isSecure, RequestHead("GET", "/", (1, 1), tuple(headers), "a"))


@pytest.mark.parametrize(
    ("networks", "address", "forwardedFor", "expected"),
    [
        ((), "10.0.0.1", ["6.6.6.6"], "10.0.0.1"),
        (LIST, "6.6.6.6", ["1.1.1.1"], "6.6.6.6"),
        (LIST, "10.0.0.1", [], "10.0.0.1"),
        (LIST, "10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        (LIST, "10.0.0.1", ["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        (LIST, "10.0.0.1", ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
        (LIST, "10.0.0.1", ["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
        (LIST, "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (LIST, "10.0.0.1", ["1.1.1.1, garbage"], "10.0.0.1"),
        (LIST, "10.0.0.1", ["1.1.1.1, \x1b[31mroot, 10.0.0.2"], "10.0.0.2"),
        (LIST, "10.0.0.1", ["1.1.1.1:1234"], "1.1.1.1"),
        (LIST, "10.0.0.1", ["6.6.6.6, 1.1.1.1:1234, 10.0.0.2:80"], "1.1.1.1"),
        (LIST, "10.0.0.1", ["[2a00::1]:443"], "2a00::1"),
        (LIST, "10.0.0.1", ["[2A00::0001]"], "2a00::1"),
        (LIST, "10.0.0.1", ["[::ffff:1.1.1.1]:80"], "1.1.1.1"),
        (LIST, "10.0.0.1", ["[1.1.1.1]:80"], "1.1.1.1"),
        *[(LIST, "10.0.0.1", [text], "10.0.0.1") for text in ("[2a00::1", "[]:80", "1.1.1.1:", "1.1.1.1:x", "a:80", "[a]:80")],
        (LIST, "10.0.0.1", ["unknown"], "10.0.0.1"),
        (LIST, "::ffff:10.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        (LIST, "2001:db8::1", ["2001:DB8:0::2, 2a00::1"], "2a00::1"),
        (LIST, "10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        (LIST, "10.0.0.1", ["::ffff:1.1.1.1"], "1.1.1.1"),
        (LIST, "", ["1.1.1.1"], ""),
        (("unix",), "", ["1.1.1.1"], "1.1.1.1"),
        (("unix",), "10.0.0.1", ["1.1.1.1"], "10.0.0.1"),
        (LIST, "garbage", ["1.1.1.1"], "garbage"),
    ],
)
def test_address(networks, address, forwardedFor, expected):
    """The address is the last one that a listed proxy saw and that is not a listed proxy itself; nothing else is believed."""
    assert client(networks, address, forwardedFor) == (expected, False)


@pytest.mark.parametrize(
    ("address", "proto", "isSecure", "expected"),
    [
        ("10.0.0.1", ["https"], False, True),
        ("10.0.0.1", ["WSS"], False, True),
        ("10.0.0.1", ["http"], True, False),
        ("10.0.0.1", ["https, http"], False, False),
        ("10.0.0.1", [], True, True),
        ("6.6.6.6", ["https"], False, False),
        ("6.6.6.6", ["http"], True, True),
    ],
)
def test_protocol(address, proto, isSecure, expected):
    """Only a listed proxy can say whether there was TLS."""
    assert client(LIST, address, proto=proto, isSecure=isSecure) == (address, expected)


@pytest.mark.parametrize("network", ["nonsense", "10.0.0.1/8", "10.0.0.0/33", "", "example.com"])
def test_wrongNetworks(network):
    """Anything that is not a network is refused, and named."""
    with pytest.raises(ValueError, match=f"^'{network}' is not a network: "):
        TrustedProxies([network])
