from __future__ import annotations

from urllib.request import getproxies_environment

import pytest

from twisted_ws.client import InvalidURL
from twisted_ws.client.http.address import parseURL
from twisted_ws.client.http.proxies import Proxy, parseProxy, proxyFor

PLAIN, SECURE = parseURL("ws://app.example:8080/"), parseURL("wss://app.example/")


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:3128", Proxy(False, "proxy.example", 3128)),
        ("http://proxy.example/", Proxy(False, "proxy.example", 80)),
        ("proxy.example:3128", Proxy(False, "proxy.example", 3128)),
        ("HTTP://[::1]:8080", Proxy(False, "::1", 8080)),
        ("socks5://10.0.0.1", Proxy(True, "10.0.0.1", 1080)),
        ("socks5h://alice:p%40ss@s.example:9", Proxy(True, "s.example", 9, "alice", "p@ss")),
    ],
)
def test_read(url, proxy):
    """The URL of a proxy gives its kind, its address and the credentials."""
    found = parseProxy(url, "proxy")
    assert found == proxy
    assert "ss" not in repr(found).replace("isSocks", "")
    assert found.hostAndPort.endswith(f":{proxy.port}")


@pytest.mark.parametrize(
    "url",
    [
        "https://s3cret:s3cret@proxy",
        "socks4://s3cret@proxy",
        "http://s3cret@",
        "http://s3cret@:80",
        "http://s3cret@a:0",
        "http://s3cret@a:x",
        "http://s3cret@[::1",
        f"socks5://{'s3cret' * 50}@a",
        "http://s3cret\udcff@a",
    ],
)
def test_refused(url):
    """An unusable proxy URL is refused, and what may be a password in it is not shown."""
    with pytest.raises(InvalidURL) as caught:
        parseProxy(url, "HTTPS_PROXY")
    assert "HTTPS_PROXY" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_environment(monkeypatch):
    """HTTPS_PROXY is for wss:, HTTP_PROXY for ws:, ALL_PROXY for both; lower case counts too."""
    http, https, both = {"http": "a:1"}, {"https": "b:2"}, {"all": "c:3"}
    assert proxyFor(PLAIN, True, {**http, **https, **both}).host == "a"
    assert proxyFor(SECURE, True, {**http, **https, **both}).host == "b"
    assert proxyFor(SECURE, True, {**http, **both}).host == "c"
    assert proxyFor(SECURE, True, {**http, "https": ""}) is None
    assert proxyFor(PLAIN, True, {}) is None
    for name in getproxies_environment():
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    assert proxyFor(PLAIN, True) is None
    monkeypatch.setenv("http_proxy", "d:4")
    assert proxyFor(PLAIN, True).host == "d"


def test_chosen():
    """The caller's argument takes precedence over the environment."""
    environment = {"all": "c:3", "no": "*"}
    assert proxyFor(PLAIN, False, environment) is None
    assert proxyFor(PLAIN, "socks5://s", environment) == Proxy(True, "s", 1080)
    with pytest.raises(TypeError):
        proxyFor(PLAIN, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidURL, match="ALL_PROXY"):
        proxyFor(PLAIN, True, {"all": "ftp://x"})


@pytest.mark.parametrize(
    ("exempt", "url", "isExempt"),
    [
        ("*", "ws://anything", True),
        ("", "ws://app.example", False),
        (" , ,", "ws://app.example", False),
        ("app.example", "ws://app.example", True),
        ("other, APP.example ", "ws://app.example", True),
        ("example", "ws://app.example", True),
        (".example", "ws://app.example", True),
        ("*.example", "ws://app.example", True),
        ("pp.example", "ws://app.example", False),
        (".", "ws://app.example", False),
        ("app.example:8080", "ws://app.example:8080", True),
        ("app.example:8080", "ws://app.example", False),
        ("app.example:443", "wss://app.example", True),
        ("10.0.0.0/8", "ws://10.1.2.3", True),
        ("10.0.0.0/8", "ws://11.1.2.3", False),
        ("10.1.2.3", "ws://10.1.2.3", True),
        ("10.1.2.3", "ws://app.example", False),
        ("::1", "ws://[::1]:80", True),
        ("[::1]:81", "ws://[::1]:81", True),
        ("[::1]:81", "ws://[::1]:82", False),
        ("fd00::/8", "ws://[fd12::1]", True),
        ("10.0.0.0/99", "ws://10.1.2.3", False),
    ],
)
def test_exempt(exempt, url, isExempt):
    """NO_PROXY lists domains with their subdomains, addresses and networks, with and without a port."""
    found = proxyFor(parseURL(url), True, {"all": "proxy:1", "no": exempt})
    assert (found is None) is isExempt
