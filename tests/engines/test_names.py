from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_ws import ChannelError
from twisted_ws.engines.names import SortedNames, checkName, checkNameOrPattern, isPattern, patternsOf


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


class Name(str):
    """A name that counts how often any is compared with another."""

    __slots__ = ()
    compared = 0

    def __lt__(self, other):
        Name.compared += 1
        return str.__lt__(self, other)


def test_sortedNamesSteps():
    """Among 20,000 names, adding one, removing one and reading a page compare a few dozen, wherever they are."""
    names = SortedNames()
    for number in range(20_000):
        names.add(Name(f"{number * 7919 % 20_000:05}"))
    for work in (
        lambda: names.page("", "10000", 10),
        lambda: names.page("19", "", 10),
        lambda: names.remove(Name("15000")),
        lambda: names.add(Name("15000")),
    ):
        Name.compared = 0
        work()
        assert Name.compared < 60
    assert list(names) == sorted(names)
    assert names.page("", "10000", 3) == ["10001", "10002", "10003"]
    assert len(names.page("1", "", 20_000)) == 10_000


@given(st.lists(st.tuples(st.sampled_from("+++-"), st.text("ab.", min_size=1, max_size=6)), max_size=60), st.data())
def test_sortedNames(moves, data):
    """Whatever comes and goes, a page is what sorting all of them would give."""
    names, model = SortedNames(), set()
    for how, name in moves:
        if how == "+" and name not in model:
            names.add(name)
            model.add(name)
        elif how == "-" and model:
            gone = sorted(model)[len(name) % len(model)]
            names.remove(gone)
            model.remove(gone)
    assert list(names) == sorted(model)
    prefix, after = data.draw(st.text("ab.", max_size=2)), data.draw(st.text("ab.", max_size=4))
    wanted = [each for each in sorted(model) if each.startswith(prefix) and each > after]
    assert names.page(prefix, after, 5) == wanted[:5]
