"""What the operator says of channels: reading the tables, and finding those that hold for a name."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twisted_ws.access.namespaces import MOST_TABLES, OPTIONS, POLICIES, Namespaces, partsOf
from twisted_ws.channels.subscribers.mailbox import Policy
from twisted_ws.errors import ConfigurationError

TOKEN = st.sampled_from(["a", "b", "c"])
TABLE_TOKEN = st.sampled_from(["a", "b", "{user}"])


@st.composite
def patterns(draw, token):
    tokens = draw(st.lists(token, max_size=4))
    end = draw(st.sampled_from(["", "*"])) if tokens else "*"
    return ".".join([*tokens, *([end] if end else [])])


NAMES = patterns(TOKEN)
TABLES = st.dictionaries(
    patterns(TABLE_TOKEN).filter(lambda pattern: pattern.count("{user}") < 2),
    st.dictionaries(st.sampled_from(["history-messages", "history-age", "presence-delay"]), st.just(1), max_size=2),
    max_size=12,
)


def fits(table, name):
    """Return whether a table stands for a name, or for all that a pattern stands for: token by token."""
    (tableIsOpen, mine), (isOpen, theirs) = partsOf(table), partsOf(name)
    if len(theirs) < len(mine) or (len(theirs) > len(mine) and not tableIsOpen) or isOpen > tableIsOpen:
        return False
    if tableIsOpen and not isOpen and len(theirs) == len(mine):
        return False
    return all(one in ("{user}", other) for one, other in zip(mine, theirs, strict=False))


def best(tables, name):
    """Return those that fit: the longest first, then the one that has a literal token first."""
    found = [table for table in tables if fits(table, name)]
    return sorted(
        found, key=lambda each: (-len(partsOf(each)[1]), [token == "{user}" for token in partsOf(each)[1]], each.endswith("*"))
    )


@given(TABLES, st.lists(NAMES, min_size=1, max_size=5))
@example({"a.{user}.*": {}, "a.b.*": {}, "a.{user}.c": {}}, ["a.b.c"])
def test_theLongestHolds(tables, names):
    """What holds for a name is what a walk over all tables finds: each option is said by the best table that fits and says it."""
    namespaces = Namespaces(tables)
    for name in names:
        found, walked = namespaces.find(name), best(tables, name)
        assert found.pattern == (walked[0] if walked else "")
        says = {option: next((each for each in walked if option in tables[each]), None) for option in OPTIONS}
        assert found.said == {option: table for option, table in says.items() if table is not None}
        assert found.values.keys() == found.said.keys()
        assert namespaces.find(name) is found


@given(TABLES, NAMES.filter(lambda name: name.endswith("*")))
def test_narrower(tables, pattern):
    """A table is within a pattern if it stands for some of its names, and is longer."""
    _, tokens = partsOf(pattern)
    within = []
    for table in tables:
        _, mine = partsOf(table)
        if len(mine) > len(tokens) and all(one in ("{user}", other) for one, other in zip(mine, tokens, strict=False)):
            within.append(table)
    assert sorted(each.pattern for each in Namespaces(tables).narrower(pattern)) == sorted(within)


def test_reservedNames():
    """Names of the server are reached by their own tables alone."""
    namespaces = Namespaces({"*": {"history-messages": 1}, "~x": {"history-age": 1}})
    assert namespaces.find("~x").values == {"history-age": 1}
    assert namespaces.find("~y").values == {}
    assert [each.pattern for each in namespaces.narrower("*")] == []


def test_manyNames(monkeypatch):
    """However many combinations of tables peers find names for, so many are kept at most; the others are found again."""
    monkeypatch.setattr("twisted_ws.access.namespaces.MERGED", 2)
    namespaces = Namespaces({"a": {}, "b": {}, "c": {"policy": "latest"}})
    first = namespaces.find("a")
    assert [namespaces.find(each).pattern for each in "bca"] == ["b", "c", "a"]
    assert namespaces.find("a") is not first
    assert namespaces.find("c").values == {"policy": "latest"}


def test_whatIsSaid():
    """Whether any table says something is known without a channel."""
    namespaces = Namespaces({"a": {"policy": "latest"}, "b.*": {"subscribe": ["granted", "ask"]}})
    assert namespaces.says("policy", "wildcards")
    assert not namespaces.says("wildcards")
    assert namespaces.asking == "b.*"
    assert Namespaces().asking is None


def test_policies():
    """The names of policies are those of mailboxes."""
    assert {each.value for each in Policy} == {*POLICIES}


@pytest.mark.parametrize(
    ("tables", "message", "key"),
    [
        ({"orders*": {}}, 'channels."orders*" must be a channel or a pattern', ("orders*",)),
        ({"a.{user}.{user}": {}}, "must be a channel or a pattern", ("a.{user}.{user}",)),
        ({"a..b": {}}, "must be a channel or a pattern", ("a..b",)),
        ({"a": "anyone"}, 'channels."a" must be a table', ("a",)),
        ({"a": {"subcribe": "anyone"}}, 'channels."a".subcribe is not an option: did you mean subscribe?', ("a", "subcribe")),
        ({"a": {"subscribe": "everyone"}}, "'everyone' is nobody: did you mean anyone?", ("a", "subscribe")),
        ({"a": {"subscribe": []}}, "must be one or several of", ("a", "subscribe")),
        ({"a": {"subscribe": True}}, "must be one or several of", ("a", "subscribe")),
        ({"a": {"subscribe": "scope:"}}, "'scope:' is nobody", ("a", "subscribe")),
        ({"a": {"subscribe": "owner"}}, "an owner needs {user}", ("a", "subscribe")),
        ({"a": {"subscribe": "subscribers"}}, "subscribers are those who", ("a", "subscribe")),
        ({"a": {"presence": "ask"}}, "the back end is asked who may subscribe", ("a", "presence")),
        ({"a": {"wildcards": "yes"}}, "must be true or false", ("a", "wildcards")),
        ({"a": {"history-messages": -1}}, "must be a whole number of messages", ("a", "history-messages")),
        ({"a": {"history-messages": 10**6 + 1}}, "must be a whole number of messages", ("a", "history-messages")),
        ({"a": {"history-age": 1e9}}, "must be a number of seconds", ("a", "history-age")),
        ({"a": {"history-messages": True}}, "must be a whole number of messages", ("a", "history-messages")),
        ({"a": {"history-messages": 1.5}}, "must be a whole number of messages", ("a", "history-messages")),
        ({"a": {"history-age": 0}}, "must be a number of seconds, more than 0", ("a", "history-age")),
        ({"a": {"history-age": float("nan")}}, "must be a number of seconds", ("a", "history-age")),
        ({"a": {"presence-delay": float("inf")}}, "must be a number of seconds", ("a", "presence-delay")),
        ({"a": {"policy": "newest"}}, "must be close, drop-oldest or latest, not 'newest'", ("a", "policy")),
        ({"a": {"policy": ["close"]}}, "must be close, drop-oldest or latest", ("a", "policy")),
        ({"~x.*": {}}, 'channels."~x.*": no pattern stands for names that begin with ~', ("~x.*",)),
        ({"~x.{user}": {}}, "no pattern stands for names that begin with ~", ("~x.{user}",)),
        ({str(n): {} for n in range(MOST_TABLES + 1)}, "more than 1000 tables", ()),
    ],
)
def test_mistakes(tables, message, key):
    """A mistake in a table is named with the table and the option, in words and as a key."""
    with pytest.raises(ConfigurationError) as caught:
        Namespaces(tables)
    assert message in str(caught.value)
    assert caught.value.key == ("channels", *key)
