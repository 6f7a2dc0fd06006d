from __future__ import annotations

import pytest

from twisted_ws import ChannelError
from twisted_ws.names import checkName, checkNameOrPattern, isPattern, patternsOf


@pytest.mark.parametrize("name", ["a", "orders.42", "A-b_c~d.0", "x" * 128])
def test_names(name):
    """A name consists of tokens of letters, digits and _ - ~, separated by dots."""
    assert checkName(name, 128) == checkNameOrPattern(name, 128) == name
    assert not isPattern(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "a b", "a/b", "a\n", "é", "a*", "a.*", "*", "*.a", "a:b", "a%20", "x" * 129, None, 5, b"a"],
)
def test_noNames(name):
    """Anything else is refused with a code and a sentence, which repeats nothing of it."""
    with pytest.raises(ChannelError) as caught:
        checkName(name, 128)
    assert (caught.value.code, caught.value.status) == ("bad-channel", 400)
    assert "128" in caught.value.message


@pytest.mark.parametrize("pattern", ["*", "a.*", "a.b.*"])
def test_patterns(pattern):
    """A pattern is tokens, the last of which is a star."""
    assert checkNameOrPattern(pattern, 128) == pattern
    assert isPattern(pattern)


@pytest.mark.parametrize("pattern", ["a*", "*.a", "a.*.b", "**", ".*", "a..*", "x" * 127 + ".*", "a b.*"])
def test_noPatterns(pattern):
    """A star anywhere else is refused."""
    with pytest.raises(ChannelError, match="channel name is"):
        checkNameOrPattern(pattern, 128)


def test_patternsOf():
    """A channel matches the patterns of its prefixes, by whole tokens only, and none that begins with the channel itself."""
    assert list(patternsOf("a.bb.c")) == ["a.bb.*", "a.*", "*"]
    assert list(patternsOf("a")) == ["*"]
