from __future__ import annotations

import pytest

from twisted_ws.engines.redis.server.url import Address, RedisURL, parseURL
from twisted_ws.errors import ConfigurationError

ONE = (Address("host", 6379),)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("redis://host", RedisURL(ONE)),
        ("redis://host/", RedisURL(ONE)),
        ("redis://host:7000/3", RedisURL((Address("host", 7000),), database=3)),
        ("redis://[::1]:7000", RedisURL((Address("::1", 7000),))),
        ("redis://[::1]", RedisURL((Address("::1", 6379),))),
        ("redis://ann@host", RedisURL(ONE, user="ann")),
        ("redis://a,b:1", RedisURL((Address("a", 6379), Address("b", 1)))),
        ("redis://host?prefix=shop&wait=0.5", RedisURL(ONE, prefix="shop", wait=0.5)),
        ("rediss://host", RedisURL(ONE, isSecure=True)),
        ("rediss://host?ca=/a&certificate=/b&key=/c", RedisURL(ONE, isSecure=True, ca="/a", certificate="/b", key="/c")),
        ("rediss://host?certificate=/b", RedisURL(ONE, isSecure=True, certificate="/b", key="/b")),
        ("redis+unix:///run/a.sock?db=2", RedisURL((Address("", 0, "/run/a.sock"),), database=2)),
        ("redis+sentinel://a,b:1/main", RedisURL((Address("a", 26379), Address("b", 1)), master="main")),
        ("redis+sentinel://a/main/2?tls=on", RedisURL((Address("a", 26379),), master="main", database=2, isSecure=True)),
    ],
)
def test_valid(text, wanted):
    """A URL says which servers, and what of them."""
    assert parseURL(text) == wanted


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("redis://:geheim@host", "password"),
        ("redis://ann:geheim@host", "password"),
        ("http://host", "begin with"),
        ("redis:host", "no host"),
        ("redis://", "no host"),
        ("redis://ho st", "no host"),
        ("redis://[::1", "invalid"),
        ("redis://a..b", "name"),
        (f"redis://{'a' * 70}", "name"),
        ("redis://host:0", "port"),
        ("redis://host:65536", "port"),
        ("redis://host:x", "port"),
        ("redis://::1", "brackets"),
        ("redis://a,a", "twice"),
        ("redis://host/x", "database"),
        ("redis://host/1/2", "path"),
        ("redis://host#a", "fragment"),
        ("redis://host?prefix=a*", "prefix"),
        ("redis://host?prefix=", "empty"),
        ("redis://host?prefix=a&prefix=b", "twice"),
        ("redis://host?wait=x", "wait"),
        ("redis://host?wait=nan", "wait"),
        ("redis://host?perfix=a", "perfix is not an option of redis URLs: did you mean prefix?"),
        ("redis://host?ca=/a", "ca is not an option of redis URLs."),
        ("rediss://host?key=/a", "certificate"),
        ("redis+unix://host/a", "socket"),
        ("redis+unix:///", "socket"),
        ("redis+sentinel://a", "primary"),
        ("redis+sentinel://a/main?tls=yes", "tls"),
    ],
)
def test_invalid(text, word):
    """A wrong URL is refused in one line that says what is wrong, and never repeats a password."""
    with pytest.raises(ConfigurationError, match=word.replace("?", r"\?")) as caught:
        parseURL(text)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)
