from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, NewType, TypedDict, Union

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from twisted_ws.dispatch.binding import Binder
from twisted_ws.errors import BindingError


class Item(msgspec.Struct):
    price: Annotated[float, Meta(ge=0)]
    name: str = ""


class Order(msgspec.Struct):
    items: list[Item]
    prices: dict[str, Item] = {}


class Shop(msgspec.Struct):
    order: Order


class Tree(msgspec.Struct):
    child: Tree | None = None


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    a: int = 0


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    name: str


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0

    def __post_init__(self) -> None:
        if self.x == 13:
            raise ValueError("the secret of thirteen")
        if self.x == 14:
            raise KeyError("a bug")


class Movie(TypedDict):
    title: str


class Exact(msgspec.Struct):
    price: decimal.Decimal
    rest: msgspec.Raw = msgspec.Raw(b"null")


class NotJSON:
    pass


class Holder(msgspec.Struct):
    it: NotJSON


@dataclasses.dataclass
class Undefined:
    it: Nowhere  # type: ignore[name-defined]  # noqa: F821 - that is the point


Name = NewType("Name", str)
Short = Annotated[str, Meta(max_length=2)]


@pytest.mark.parametrize(
    ("annotation", "message", "bound"),
    [
        (Any, "a", "a"),
        (Any, b"a", b"a"),
        (object, b"{}", b"{}"),
        (str, "{", "{"),
        (bytes, b"\xff", b"\xff"),
        (str | bytes, "a", "a"),
        (Union[bytes, str], b"a", b"a"),  # noqa: UP007 - the older spelling is an object of another kind
        (str | None, "a", "a"),
        (bytes | None, b"a", b"a"),
        (Short, "ab", "ab"),
        (Annotated[bytes, Meta(min_length=1)], b"a", b"a"),
        (Name, "a", "a"),
        (dict, '{"a": 1}', {"a": 1}),
        (dict, b'{"a": 1}', {"a": 1}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict[int, int], '{"1": 1}', {1: 1}),
        (list[int], "[1, 2]", [1, 2]),
        (int, "7", 7),
        (None, "null", None),
        (Literal["a", "b"], '"b"', "b"),
        (datetime.date, '"2026-01-02"', datetime.date(2026, 1, 2)),
        (Point, '{"x": 1}', Point(1)),
        (Movie, '{"title": "M"}', {"title": "M"}),
        (Order, '{"items": [{"price": 1}]}', Order([Item(1)])),
        (Cat | Dog, '{"type": "dog", "name": "Rex"}', Dog("Rex")),
        (Annotated[int, Meta(ge=0)], "0", 0),
        (list[Any], "[1, null]", [1, None]),
        (list[object], "[1, null]", [1, None]),
        (Tree, '{"child": {"child": null}}', Tree(Tree())),
    ],
)
def test_bind(annotation: Any, message: str | bytes, bound: Any) -> None:
    """Each kind of annotation gets the value that it describes."""
    assert Binder(annotation).bind(message) == bound


@pytest.mark.parametrize(
    ("annotation", "message", "field", "reason"),
    [
        (str, b"a", "", "bad data: text expected"),
        (bytes, "a", "", "bad data: binary expected"),
        (str | None, b"a", "", "bad data: text expected"),
        (Short, "abc", "", "bad data: the message"),
        (Short, b"a", "", "bad data: text expected"),
        (dict, "[]", "", "bad data: the message"),
        (dict, "{", "", "bad data: JSON expected"),
        (dict, "", "", "bad data: JSON expected"),
        (dict, b"\xff\xfe", "", "bad data: JSON expected"),
        (dict, b'{"a": "\xff"}', "", "bad data: JSON expected"),
        (dict, "\ud800", "", "bad data: JSON expected"),
        (Shop, '{"order": {"items": [{"price": "x"}]}}', "order.items[0].price", "bad data: order.items[0].price"),
        (Shop, '{"order": {"items": [{"price": -1}]}}', "order.items[0].price", "bad data: order.items[0].price"),
        (Shop, '{"order": {"items": [{"price": 1}, {}]}}', "order.items[1].price", "bad data: order.items[1].price"),
        (Shop, "{}", "order", "bad data: order"),
        (Shop, '{"order": null}', "order", "bad data: order"),
        (Order, '{"items": [], "prices": {"\\u001b": {"price": -1}}}', "prices[...].price", "bad data: prices[...].price"),
        (list[int], '[1, "x"]', "[1]", "bad data: [1]"),
        (dict[int, int], '{"x": 1}', "", "bad data: the message"),
        (Strict, '{"b": 1}', "b", "bad data: b"),
        (Strict, '{"\\u001b[31m\\n`": 1}', "\\x1b[31m\\n", "bad data: \\x1b[31m\\n"),
        (Point, '{"x": 13}', "", "bad data: the message"),
        (Cat | Dog, '{"type": "cow"}', "type", "bad data: type"),
        (int, "9" * 5000, "", "bad data: the message"),
        (Tree, '{"child":' * 100_000 + "null" + "}" * 100_000, "", "bad data: JSON expected"),
        (list[Any], "[" * 100_000, "", "bad data: JSON expected"),
    ],
)
def test_misfit(annotation: Any, message: str | bytes, field: str, reason: str) -> None:
    """A message that does not fit is refused with 1003 and the name of the field, and reveals nothing of the service."""
    with pytest.raises(BindingError) as caught:
        Binder(annotation).bind(message)
    assert (caught.value.code, caught.value.field, caught.value.reason) == (1003, field, reason)
    assert "secret" not in caught.value.reason


def test_longField() -> None:
    """However long a field name the peer sends, the reason fits into a Close frame."""
    with pytest.raises(BindingError) as caught:
        Binder(Strict).bind(msgspec.json.encode({"€" * 1000: 1}))
    assert len(caught.value.reason.encode()) <= 123
    assert caught.value.reason.isprintable()


def test_bugInType() -> None:
    """An exception other than ValueError or TypeError from a type's own code is not blamed on the message, but passed on."""
    with pytest.raises(KeyError):
        Binder(Point).bind('{"x": 14}')


def test_exactly() -> None:
    """A type that needs the exact digits or text gets them as they came."""
    bound = Binder(Exact).bind('{"price": 0.12345678901234567890, "rest": {"a":  1}}')
    assert bound.price == decimal.Decimal("0.12345678901234567890")
    assert bytes(bound.rest) == b'{"a":  1}'


@pytest.mark.parametrize(
    "annotation",
    [
        NotJSON,
        list[NotJSON],
        dict[str, NotJSON],
        Holder,
        Cat | Item | Order,
        Callable[[int], int],
        complex,
        bytearray,
        memoryview,
        5,
        "x",
        ...,
    ],
)
def test_unbindable(annotation: Any) -> None:
    """An annotation that no message could ever fit is refused when the binder is made."""
    with pytest.raises(TypeError):
        Binder(annotation)


def test_undefined() -> None:
    """A type with a field whose type is not defined is refused when the binder is made."""
    with pytest.raises(NameError):
        Binder(Undefined)


@pytest.mark.parametrize(("annotation", "isMade"), [(list, True), (Any, False), (str, False), (msgspec.Raw, False)])
def test_tooManyValues(annotation: Any, isMade: bool) -> None:
    """JSON with too many values is refused before any object is made of it, unless the handler takes it undecoded."""
    binder, message = Binder(annotation), json.dumps([[]] * 10)
    assert binder.bind(message, 11) is not None
    if isMade:
        with pytest.raises(BindingError, match="more than 10 JSON values") as caught:
            binder.bind(message, 10)
        assert (caught.value.reason, caught.value.code) == ("bad data: too many values", 1003)
    else:
        assert binder.bind(message, 10) is not None


@given(st.one_of(st.text(), st.binary(), st.text('{}[]",:0159.e-truefalsnl \\u')))
def test_anything(message: str | bytes) -> None:
    """Whatever the message, a binder raises only BindingError, with a reason that can be sent."""
    for annotation in (Shop, dict, list[int], Point, Cat | Dog, Exact, str):
        reason = misfit(Binder(annotation), message)
        assert len(reason.encode()) <= 123
        assert reason.isprintable() or not reason


def misfit(binder: Binder, message: str | bytes) -> str:
    try:
        binder.bind(message)
    except BindingError as error:
        return error.reason
    return ""


def test_alias() -> None:
    """An alias made by a `type` statement (Python 3.12) works as what it stands for."""
    alias = type("TypeAliasType", (), {"__value__": str})()
    assert Binder(alias).bind("{") == "{"
