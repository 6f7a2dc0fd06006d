from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_ws.errors import ConfigurationError
from twisted_ws.server.routes import Routes


def routes(*paths):
    made = Routes()
    for path in paths:
        made.add(path, path)
    return made


ALL = routes("/ws", "/ws/admin", "/rooms/{room}", "/rooms/lobby", "/orders/{id:int}", "/a/{x}/c", "/a/b/{y}", "/{any}/z/{n:str}")


@pytest.mark.parametrize(
    ("path", "value", "parameters"),
    [
        ("/ws", "/ws", {}),
        ("/ws/", "/ws", {}),
        ("/ws/below/it", "/ws", {}),
        ("/ws/admin", "/ws/admin", {}),
        ("/ws/admin/x", "/ws/admin", {}),
        ("/wsx", None, None),
        ("/WS", None, None),
        ("/", None, None),
        ("/%77s", "/ws", {}),
        ("/rooms/lobby", "/rooms/lobby", {}),
        ("/rooms/attic", "/rooms/{room}", {"room": "attic"}),
        ("/rooms/caf%C3%A9", "/rooms/{room}", {"room": "café"}),
        ("/rooms/a%2Fb", "/rooms/{room}", {"room": "a/b"}),
        ("/rooms/", None, None),
        ("/rooms", None, None),
        ("/orders/17", "/orders/{id:int}", {"id": 17}),
        ("/orders/9999999999999999999", "/orders/{id:int}", {"id": 9999999999999999999}),
        ("/orders/10000000000000000000", None, None),
        ("/orders/-1", None, None),
        ("/orders/+1", None, None),
        ("/orders/1_0", None, None),
        ("/orders/%201", None, None),
        ("/orders/%D9%A1", None, None),  # an Arabic digit
        ("/orders/x", None, None),
        ("/a/b/c", "/a/b/{y}", {"y": "c"}),
        ("/a/q/c", "/a/{x}/c", {"x": "q"}),
        ("/q/z/1", "/{any}/z/{n:str}", {"any": "q", "n": "1"}),
        ("/ws/../admin", None, None),
        ("/ws/%2e%2e/admin", None, None),
        ("/ws/.", None, None),
        ("/ws/%00", None, None),
        ("/ws/%0d%0a", None, None),
        ("/ws/%7f", None, None),
        ("/ws/%ff", None, None),
        ("//ws", None, None),
    ],
)
def test_find(path, value, parameters):
    """The longest path wins, a literal before a parameter; what does not parse, and dot segments, lead nowhere."""
    found = ALL.find(path)
    assert (None if found is None else (found.value, found.parameters)) == (None if value is None else (value, parameters))


@pytest.mark.parametrize("path", ["/a\x7f", "/a/\x01/b"])
def test_controls(path):
    """A route with control characters answers nothing, as no path with them does."""
    assert routes(path).find(path) is None


def test_root():
    """The path / answers everything that nothing else does."""
    made = routes("/", "/ws")
    assert [made.find(path).value for path in ("/", "/x/y", "/ws")] == ["/", "/", "/ws"]


@pytest.mark.parametrize("path", ["", "ws", "//ws", "/a//b", "/ws?x", "/ws#x"])
def test_noPath(path):
    """An invalid path is refused, and named."""
    with pytest.raises(ConfigurationError, match=r"is not a path: it must begin with a single / and have no \? or #\.$"):
        routes(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/{", "{ is not a parameter: write {name} or {name:int}"),
        ("/x{name}", "x{name} is not a parameter"),
        ("/{na-me}", "{na-me} is not a parameter"),
        ("/{name:}", "{name:} is not a parameter"),
        ("/a}", "a} is not a parameter"),
        ("/{id:float}", "float is not a type of parameter: use int or str"),
        ("/{a}/{a:int}", "the parameter a appears twice"),
    ],
)
def test_wrongParameters(path, text):
    """A parameter that cannot be read is refused with the path and the mistake."""
    with pytest.raises(ConfigurationError) as raised:
        routes(path)
    assert text in str(raised.value)
    assert path in str(raised.value)


@pytest.mark.parametrize(("first", "second"), [("/ws", "/ws"), ("/ws", "/ws/"), ("/{a}", "/{b}"), ("/{a}", "/{b:int}")])
def test_taken(first, second):
    """Two services on one path are refused, also where only the parameters' names differ."""
    with pytest.raises(ConfigurationError, match="is already taken"):
        routes(first, second)


def test_collection():
    """The mounted paths can be counted and gone through, the longest first."""
    made = routes("/a", "/a/b")
    assert len(made) == 2
    assert list(made) == [("/a/b", "/a/b"), ("/a", "/a")]


@given(st.text(alphabet="/%.a{}2e\x00é", max_size=30))
def test_anyPath(text):
    """No path that a peer can send raises, or is answered outside what is mounted."""
    found = routes("/a", "/b/{x}").find("/" + text)
    assert found is None or found.value in ("/a", "/b/{x}")


@pytest.mark.parametrize("path", ["/caf%C3%A9", "/a/../b", "/."])
def test_writtenAsItReads(path):
    """A path that no request could match is refused when it is mounted."""
    with pytest.raises(ConfigurationError, match="must be written decoded"):
        Routes().add(path, path)
