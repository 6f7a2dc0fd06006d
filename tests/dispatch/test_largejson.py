from __future__ import annotations

import gc
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_ws.dispatch.largejson import decodeLarge, hasMoreValues


def count(value: Any) -> int:
    """Return how many values are in one, names of fields and itself included."""
    if isinstance(value, dict):
        return 1 + sum(1 + count(each) for each in value.values())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


texts = st.text(st.sampled_from('a,:[]{}"\\ \n\u20ac\u00fc'))
values = st.recursive(
    st.one_of(st.none(), st.integers(), st.booleans(), texts),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner)),
    max_leaves=30,
)


@given(values, st.sampled_from([None, 1]), st.booleans())
def test_exact(value: Any, indent: int | None, isAscii: bool) -> None:
    """The count of values is exact, however the text is written."""
    text = json.dumps(value, indent=indent, ensure_ascii=isAscii)
    number = count(value)
    compact = msgspec.json.encode(value)
    for each in (text, text.encode(), compact):
        assert not hasMoreValues(each, number)
        assert hasMoreValues(each, number - 1)


@pytest.mark.parametrize("character", [",", "[", "{", ":", '\\"', "\\\\", '\\\\\\"', "€,"])
def test_strings(character: str) -> None:
    """What is inside a string does not count."""
    text = '["' + character * 1000 + '",1,{"' + character * 1000 + '":2}]'
    assert not hasMoreValues(text, 6)
    assert hasMoreValues(text, 5)
    assert hasMoreValues(text.encode(), 5)
    assert json.loads(text)


@given(st.one_of(st.text(), st.text(st.characters(categories=["Cs", "Po"])), st.binary(), st.text('{}[]",:0\\ ')))
def test_anything(text: str | bytes) -> None:
    """Invalid JSON is counted, too, without an error."""
    assert isinstance(hasMoreValues(text, 1), bool)


def test_withoutCollector() -> None:
    """While a large text is decoded, the garbage collector is paused; afterwards, it is as it was before."""
    text = b"[" + b",".join([b"[]"] * 50_000) + b"]"
    before = gc.get_stats()[0]["collections"]
    assert len(decodeLarge(msgspec.json.decode, text)) == 50_000
    assert gc.get_stats()[0]["collections"] <= before + 1  # each few hundred would be one
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(msgspec.DecodeError):
            decodeLarge(msgspec.json.decode, b"[")
        assert not gc.isenabled()
    finally:
        gc.enable()
