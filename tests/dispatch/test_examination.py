from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet.defer import inlineCallbacks

from twisted_ws.dispatch.examination import EVENTS, examine
from twisted_ws.dispatch.handlers import handlerName
from twisted_ws.errors import ServiceError
from twisted_ws.service import WebSocketService, dispatches

if TYPE_CHECKING:
    from twisted_ws.caller import Caller


class Order(msgspec.Struct):
    id: int


class NotJSON:
    pass


def nothing(*arguments: Any) -> None:
    """Take anything."""


def service(**members: Any) -> Any:
    """Return an object of a class Chat with these members."""
    return type("Chat", (), members)()


def mistake(what: object) -> str:
    with pytest.raises(ServiceError) as caught:
        examine(what)
    text = str(caught.value)
    assert "\n" not in text
    return text


def handler(signature: str, annotation: Any = None) -> Callable[..., Any]:
    """Return a function with these parameters, the last of them annotated."""
    scope: dict[str, Any] = {}
    exec(f"def f({signature}): pass", scope)
    if annotation is not None:
        scope["f"].__annotations__ = {signature.rpartition(",")[2].strip(): annotation}
    return scope["f"]  # type: ignore[no-any-return]


def test_allEvents() -> None:
    """A service with every event and no setting is valid, and says what it handles."""
    handlers = examine(service(**{name: handler(", ".join(("self", *EVENTS[name]))) for name in EVENTS}))
    assert handlers.events == set(EVENTS)
    assert (handlers.byName, handlers.byValue, handlers.subProtocols, handlers.idleTimeout) == ({}, {}, (), 0)
    assert (handlers.envelope, handlers.streamId) == (None, "")


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("onMesage", "onMessage"),
        ("onMessages", "onMessage"),
        ("onTextmessage", "onTextMessage"),
        ("ontextmessage", "onTextMessage"),
        ("on_text_message", "onTextMessage"),
        ("onTxtMessage", "onTextMessage"),
        ("onBinarymessage", "onBinaryMessage"),
        ("on_open", "onOpen"),
        ("onopen", "onOpen"),
        ("OnOpen", "onOpen"),
        ("onOpened", "onOpen"),
        ("onClosed", "onClose"),
        ("on_close", "onClose"),
        ("onPng", "onPing"),
        ("onErr", "onError"),
        ("onTimeout", "onIdleTimeout"),
        ("onIdleTimeOut", "onIdleTimeout"),
        ("onUpgraded", "onUpgrade"),
    ],
)
def test_misspelt(name: str, right: str) -> None:
    """A misspelt event is named, with the right name."""
    text = mistake(service(onOpen=nothing, **{name: nothing}))
    assert (
        text == f"Chat.{name} is not an event: did you mean {right}? (on<Event> methods get messages only with a dispatcherKey)"
    )


@pytest.mark.parametrize("name", ["once", "only", "online", "ongoing", "onset", "onBrokerLost", "onDatabaseError", "on"])
def test_others(name: str) -> None:
    """Methods that only look a little like events are the service's own."""
    examine(service(onOpen=nothing, **{name: lambda self, reason: None}))
    if not name[2:3].isupper():
        examine(service(onOpen=nothing, dispatcherKey="event", **{name: lambda self, reason: None}))


@pytest.mark.parametrize("name", ["onRing", "onSong", "onLose", "onTimeout", "onReopen"])
def test_likeness(name: str) -> None:
    """A name that only resembles an event's is a mistake if the method takes the event's parameters."""
    examine(service(onOpen=nothing, **{name: handler("self")}))
    examine(service(onOpen=nothing, **{name: handler("self, a, b, c, d")}))
    assert "did you mean" in mistake(service(onOpen=nothing, **{name: nothing}))


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("idletimeout", "idleTimeout"),
        ("idle_timeout", "idleTimeout"),
        ("idleTimout", "idleTimeout"),
        ("dispatchKey", "dispatcherKey"),
        ("dispatcherkey", "dispatcherKey"),
        ("dispatcher_stream_id", "dispatcherStreamId"),
        ("subprotocols", "subProtocols"),
        ("subProtocol", "subProtocols"),
    ],
)
def test_misspeltSettings(name: str, right: str) -> None:
    """A misspelt setting is named, with the right name: of the class, of a class above it, and of the object."""
    wanted = f"Chat.{name} is not a setting: did you mean {right}?"
    assert mistake(service(onOpen=nothing, **{name: "x"})) == wanted
    assert mistake(type("Chat", (type(service(onOpen=nothing, **{name: "x"})),), {})()) == wanted
    chat = service(onOpen=nothing)
    setattr(chat, name, "x")
    assert mistake(chat) == wanted


def test_ownSettings() -> None:
    """An attribute that only resembles a setting is the service's own."""
    names = ("timeout", "idleTimeouts", "IDLE_TIMEOUT", "_idleTimeout", "protocol", "dispatcher", "key", "idle")
    examine(service(onOpen=nothing, **dict.fromkeys(names, 5)))
    examine(service(onOpen=nothing, idle_timeout=handler("self")))
    chat = service(onOpen=nothing, idleTimeout=property(lambda self: self.idle_timeout))
    chat.idle_timeout = 5  # type: ignore[attr-defined]
    assert examine(chat).idleTimeout == 5


def test_forgottenKey() -> None:
    """A method for dispatched messages without a dispatcherKey is a mistake, as nothing would ever call it."""
    text = mistake(service(onOpen=nothing, onSubscribe=handler("self, caller, message")))
    assert (
        text == 'Chat.onSubscribe is not an event: to dispatch messages to onSubscribe, set dispatcherKey = "..." (a JSON field)'
    )
    assert "needs a dispatcherKey" in mistake(
        service(onOpen=nothing, subscribe=dispatches("subscribe")(handler("self, caller, m")))
    )


def test_underscores() -> None:
    """A dispatched handler in the wrong spelling is named, with the spelling that messages find."""
    chat = service(dispatcherKey="event", onOpen=nothing, on_un_subscribe=handler("self, caller, message"))
    assert mistake(chat) == "Chat.on_un_subscribe is never called: to get messages, name it onUnSubscribe"


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("on_open", "self, caller, message"),
        ("onOpen_", "self, caller, message"),
        ("onTextmessage", "self, caller, message"),
        ("onclose", "self, caller, message"),
        ("onMesage", "self, caller, message"),
        ("onBinaryMesage", "self, caller, message"),
        ("onClosed", "self, caller, statusCode, reason"),
        ("onOpened", "self, caller"),
    ],
)
def test_misspeltWithKey(name: str, signature: str) -> None:
    """With a dispatcherKey, wrong spellings, typos in long names, and an event's parameters still reveal a mistake."""
    text = mistake(service(dispatcherKey="event", onOpen=nothing, **{name: handler(signature)}))
    assert "did you mean" in text
    assert 'mark it @dispatches("...")' in text


@pytest.mark.parametrize(
    "name", ["onMessages", "onClosed", "onOpened", "onErrors", "onChatMessage", "onSong", "onUpdate", "on1st"]
)
def test_dispatchedNames(name: str) -> None:
    """With a dispatcherKey, any other on<Event> with the parameters of a message is a handler."""
    assert set(examine(service(dispatcherKey="event", **{name: nothing})).byName) == {name}


@pytest.mark.parametrize(
    ("name", "signature", "text"),
    [
        ("onOpen", "self", "must take (caller), but takes ()"),
        ("onOpen", "self, caller, more", "must take (caller), but takes (caller, more)"),
        ("onClose", "self, caller", "must take (caller, statusCode, reason), but takes (caller)"),
        ("onTextMessage", "self, text", "must take (caller, text), but takes (text)"),
        ("onUpgrade", "self", "must take (request), but takes ()"),
        ("onMessage", "self, caller, message, *, more", "must take (caller, message), but takes (caller, message, *, more)"),
        ("onOpen", "caller, self, more", "must take (caller), but takes (self, more)"),
    ],
)
def test_parameters(name: str, signature: str, text: str) -> None:
    """A handler with the wrong parameters is named, with the right ones."""
    assert mistake(service(**{name: handler(signature)})) == f"Chat.{name} {text}"


@pytest.mark.parametrize("name", ["onUpgrade", "onError", "onClose"])
def test_generators(name: str) -> None:
    """An event whose result is not sent cannot be a generator, which would never run; with inlineCallbacks it may yield."""

    def plain(*arguments: Any) -> Any:
        yield

    async def asynchronous(*arguments: Any) -> Any:
        yield

    for each in (plain, asynchronous):
        assert mistake(service(**{name: each})).startswith(f"Chat.{name} must not yield: it would never run")
    examine(service(**{name: inlineCallbacks(plain)}))
    examine(service(onOpen=plain, onIdleTimeout=asynchronous))


@pytest.mark.parametrize(
    "signature", ["*args", "self, *args", "self, caller, text, more=1", "self, caller, text, **kw", "self, c, t, /"]
)
def test_moreParameters(signature: str) -> None:
    """Defaults, *args and other parameter names are allowed."""
    examine(service(onTextMessage=handler(signature)))


def test_decorated() -> None:
    """A decorated handler is checked by the parameters it declares."""
    generator = inlineCallbacks(handler("self, caller"))
    assert "must take (caller, text), but takes (caller)" in mistake(service(onTextMessage=generator))


def test_decoratedAnnotation() -> None:
    """The annotation of a decorated handler is the one it was written with."""

    class Chat:
        @inlineCallbacks
        def onMessage(self, caller: Caller, message: Order) -> Any:
            yield

    assert examine(Chat()).message.bind('{"id": 1}') == Order(1)


class Callable_:
    def __call__(self, caller: Caller, message: Order) -> None: ...


def test_kindsOfMethods() -> None:
    """Static and class methods, partials, callable objects and instance attributes are handlers like any other."""

    class Chat:
        dispatcherKey = "event"

        @staticmethod
        def onOpen(caller: Any) -> None: ...

        @classmethod
        def onClose(cls, caller: Any, statusCode: int, reason: str) -> None: ...

        @staticmethod
        @dispatches("static")
        def one(caller: Any, message: Order) -> None: ...

        @dispatches("class")
        @classmethod
        def two(cls, caller: Any, message: Order) -> None: ...

        onCallable = Callable_()

        def __init__(self) -> None:
            self.onPartial = functools.partial(handler("extra, caller, message", Order), 1)
            self.onPing = nothing
            self.onBuiltin = print
            self.onType = types.SimpleNamespace(__call__=1)

    handlers = examine(Chat())
    assert handlers.events == {"onOpen", "onClose", "onPing"}
    assert set(handlers.byName) == {"onCallable", "onPartial", "onBuiltin"}
    assert {value: each.name for value, each in handlers.byValue.items()} == {"static": "one", "class": "two"}
    for dispatch in (handlers.byName["onCallable"], handlers.byName["onPartial"], *handlers.byValue.values()):
        assert dispatch.binder.bind('{"id": 1}') == Order(1)
    assert "must take (caller), but takes ()" in mistake(service(onOpen=staticmethod(lambda: None)))


def test_module() -> None:
    """Any object with some of the methods is a service: a module, too."""
    module = types.ModuleType("chat")
    module.onOpen = handler("caller")  # type: ignore[attr-defined]
    assert examine(module).events == {"onOpen"}
    other = types.ModuleType("other")
    other.onPing = handler("caller, data")  # type: ignore[attr-defined]
    assert examine(other).events == {"onPing"}


def test_typeCheckersImports() -> None:
    """Only the annotation of the message has to be importable at run time."""

    class Chat:
        def onMessage(self, caller: Caller, message: Order) -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
            return None

    assert examine(Chat()).message.bind('{"id": 1}') == Order(1)


def test_nestedType() -> None:
    """A type that is defined in the service's own class is found."""

    class Chat:
        class Order(msgspec.Struct):
            name: str

        def onMessage(self, caller: Any, message: Order) -> None: ...

    class Sub(Chat):
        pass

    for each in Chat(), Sub():
        assert examine(each).message.bind('{"name": "a"}') == Chat.Order("a")


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("Nowhere", "Chat.onMessage has the annotation Nowhere, which cannot be resolved: name 'Nowhere' is not defined"),
        ("list[", "cannot be resolved"),
        (NotJSON, "Chat.onMessage has an annotation that cannot be bound: JSON has no form for"),
        (list[NotJSON], "cannot be bound"),
        (list["Nowhere"], "cannot be resolved"),  # type: ignore[name-defined]  # noqa: F821
        (5, "cannot be"),
    ],
)
def test_annotations(annotation: Any, text: str) -> None:
    """An annotation that no message can be bound to is named."""
    assert text in mistake(service(onMessage=handler("self, caller, message", annotation)))
    if not isinstance(annotation, int):
        dispatched = handler("self, caller, message", annotation)
        assert text.replace("onMessage", "onOrder") in mistake(service(dispatcherKey="event", onOrder=dispatched))


@pytest.mark.parametrize(
    ("name", "annotation", "right"),
    [
        ("onTextMessage", dict, False),
        ("onTextMessage", bytes, False),
        ("onTextMessage", "Order", False),
        ("onTextMessage", str, True),
        ("onTextMessage", "str", True),
        ("onTextMessage", Any, True),
        ("onTextMessage", object, True),
        ("onBinaryMessage", str, False),
        ("onBinaryMessage", bytearray, False),
        ("onBinaryMessage", bytes, True),
        ("onBinaryMessage", Any, True),
    ],
)
def test_plainMessages(name: str, annotation: Any, right: bool) -> None:
    """OnTextMessage takes str and onBinaryMessage bytes; for anything else there is onMessage."""
    function = handler("self, caller, message", annotation)
    function.__globals__["Order"] = Order
    chat = service(**{name: function})
    if right:
        examine(chat)
    else:
        assert "write onMessage(caller, message: ...)" in mistake(chat)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"subProtocols": "mqtt"}, "Chat.subProtocols must be a list of names, not str"),
        ({"subProtocols": b"mqtt"}, "must be a list"),
        ({"subProtocols": None}, "must be a list"),
        ({"subProtocols": {"mqtt": 1}}, "must be a list"),
        ({"subProtocols": ["a b"]}, "Chat.subProtocols has 'a b', which is not a token"),
        ({"subProtocols": [""]}, "not a token"),
        ({"subProtocols": ["ü"]}, "not a token"),
        ({"subProtocols": [1]}, "not a token"),
        ({"subProtocols": ["a", "a"]}, "lists a name twice"),
        ({"idleTimeout": -1}, "Chat.idleTimeout must be a number of seconds, 0 or more (0: never), not -1"),
        ({"idleTimeout": math.nan}, "must be a number"),
        ({"idleTimeout": math.inf}, "must be a number"),
        ({"idleTimeout": 10**400}, "must be a number"),
        ({"idleTimeout": "5"}, "must be a number"),
        ({"idleTimeout": None}, "must be a number"),
        ({"idleTimeout": True}, "must be a number"),
        ({"dispatcherKey": 5}, 'Chat.dispatcherKey must be a str ("" for none), not int'),
        ({"dispatcherKey": None}, "must be a str"),
        ({"dispatcherStreamId": b"id", "dispatcherKey": "event"}, "Chat.dispatcherStreamId must be a str"),
        ({"dispatcherStreamId": "id"}, "Chat.dispatcherStreamId needs a dispatcherKey"),
        ({"dispatcherKey": 'a"b'}, "Chat.dispatcherKey and dispatcherStreamId must name JSON fields: "),
        ({"onOpen": 5}, "Chat.onOpen must be a method, not int"),
    ],
)
def test_settings(settings: dict[str, Any], text: str) -> None:
    """A setting of the wrong type is named, on the class and on the object."""
    assert text in mistake(service(onPing=nothing, **settings))
    chat = service(onPing=nothing)
    vars(chat).update(settings)
    assert text in mistake(chat)


def test_rightSettings() -> None:
    """Settings of the right type are accepted."""
    handlers = examine(
        service(onPing=nothing, subProtocols=("b", "a"), idleTimeout=0.5, dispatcherKey="e", dispatcherStreamId="id")
    )
    assert (handlers.subProtocols, handlers.idleTimeout) == (("b", "a"), 0.5)
    assert handlers.streamId == "id"
    assert handlers.envelope is not None
    assert handlers.envelope.read('{"e": "x", "id": 5}') == ("x", msgspec.Raw(b"5"))


def test_changedSettings() -> None:
    """The settings at each handshake count, not those of another object of the class or of an earlier moment."""
    protocols = ["a"]
    kind = type(service(onPing=nothing, subProtocols=protocols))
    assert examine(kind()).subProtocols == ("a",)
    chat = kind()
    chat.idleTimeout = 5
    assert (examine(chat).subProtocols, examine(chat).idleTimeout) == (("a",), 5)
    assert examine(kind()).idleTimeout == 0
    assert examine(kind()) is examine(kind())
    protocols.append("b")
    assert examine(kind()).subProtocols == examine(chat).subProtocols == ("a", "b")
    protocols.append("b")
    assert "lists a name twice" in mistake(kind())
    # What is wrong stays wrong, though it looks like what was right.
    for name, wrong in (
        *(("subProtocols", wrong) for wrong in ("cd", {"c": 1, "d": 2}, iter(["c", "d"]), "", None, [["c"]])),
        *(("idleTimeout", wrong) for wrong in (True, False, 5 + 0j, "5", None)),
    ):
        good, bad = kind(), kind()
        good.subProtocols, good.idleTimeout = ["c", "d"], 1
        examine(good)
        bad.subProtocols, bad.idleTimeout = ["c", "d"], 1
        setattr(bad, name, wrong)
        assert f"Chat.{name}" in mistake(bad)
    # More of them than are kept.
    for seconds in range(1, 200):
        chat.idleTimeout = seconds
        chat.subProtocols = (f"v{seconds}",)
        assert examine(chat) == examine(chat)
        assert (examine(chat).idleTimeout, examine(chat).subProtocols) == (seconds, (f"v{seconds}",))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"a": dispatches("x")(handler("self, c, m")), "b": dispatches("x")(handler("self, c, m"))},
            "Chat.b and a both handle the messages 'x'",
        ),
        ({"onX": nothing, "b": dispatches("x")(handler("self, c, m"))}, "Chat.b and onX both handle the messages 'x'"),
        ({"onX": nothing, "b": dispatches("-x-")(handler("self, c, m"))}, "Chat.b and onX both handle the messages '-x-'"),
        ({"onOpen": dispatches("open")(handler("self, c, m"))}, "put @dispatches on another method"),
        ({"onX": handler("self, caller")}, "Chat.onX must take (caller, message), but takes (caller)"),
        ({"x": dispatches("x")(handler("self, m"))}, "Chat.x must take (caller, message), but takes (m)"),
        ({"onX": nothing, "onXError": handler("self, error")}, "Chat.onXError must take (caller, error), but takes (error)"),
        ({"onNetError": nothing}, "Chat.onNetError is for the binding errors of onNet, which is missing"),
    ],
)
def test_dispatchMistakes(members: dict[str, Any], text: str) -> None:
    """Two handlers for one value, wrong parameters, and error handlers without a handler are named."""
    assert text in mistake(service(dispatcherKey="event", onClose=nothing, **members))


def test_errorHandlers() -> None:
    """on<Event>Error belongs to its handler, by name or by value, and handles no messages itself."""
    chat = service(
        dispatcherKey="event",
        onOrder=handler("self, caller, message"),
        onOrderError=handler("self, caller, error"),
        _pay=dispatches("pay now")(handler("self, caller, message")),
        onPayNowError=handler("self, caller, error"),
        onUpset=handler("self, caller, message"),
        fail=dispatches("net error")(handler("self, caller, message")),
    )
    handlers = examine(chat)
    assert {each.name: each.errorName for each in (*handlers.byName.values(), *handlers.byValue.values())} == {
        "onOrder": "onOrderError",
        "_pay": "onPayNowError",
        "onUpset": "",
        "fail": "",
    }


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("un subscribe", "onUnSubscribe"),
        ("subscribe", "onSubscribe"),
        ("un-sub_scribe", "onUnSubScribe"),
        ("chat.message", "onChatMessage"),
        ("  a  b ", "onAB"),
        ("alreadyUpper", "onAlreadyUpper"),
        ("1st", "on1st"),
        ("données", "onDonnées"),
        ("été", "onÉté"),
        ("", "on"),
        ("__class__", "onClass"),
        ("\x00", "on"),
    ],
)
def test_handlerName(value: str, name: str) -> None:
    """A value becomes a method name part by part, each part's first letter in upper case."""
    assert handlerName(value) == name


@pytest.mark.parametrize(
    "value",
    [
        *("upgrade", "open", "text message", "binary message", "message", "ping", "pong", "idle timeout", "error", "close"),
        *("Open", "order error", "OrderError", "", "_secret", "__init__", "handlers", "on", "onOrder", "x" * 1_000_000),
    ],
)
def test_unreachable(value: str) -> None:
    """No value that a peer sends reaches an event, an error handler or any other attribute."""
    members = dict.fromkeys(EVENTS, nothing)
    chat = service(dispatcherKey="event", onOrder=nothing, onOrderError=nothing, _secret=nothing, handlers=nothing, **members)
    assert examine(chat).find(value) is None


def test_longValues() -> None:
    """A value longer than any name is not taken apart; a marked one is still found."""
    value = "a " * 200
    name = handlerName(value)
    assert examine(service(dispatcherKey="event", **{name: nothing})).find(value) is None
    marked = service(dispatcherKey="event", a=dispatches(value)(handler("self, c, m")))
    assert examine(marked).find(value) is not None


def test_reachable() -> None:
    """A value finds its handler by name or by mark; a marked one by its mark only."""
    chat = service(dispatcherKey="event", onOrder=handler("self, c, m"), onPay=dispatches("pay!")(handler("self, c, m")))
    handlers = examine(chat)
    found = {value: handlers.find(value) for value in ("order", "Order", "pay!", "pay")}
    assert {value: each and each.name for value, each in found.items()} == {
        "order": "onOrder",
        "Order": "onOrder",
        "pay!": "onPay",
        "pay": None,
    }


def test_class() -> None:
    """A class in place of an object is refused, with a hint to call it."""

    class Chat(WebSocketService):
        onOpen = nothing

    assert mistake(Chat) == "Chat is a class: pass an instance, Chat()"


@pytest.mark.parametrize("what", [None, "chat", 5, object(), lambda caller: None])
def test_nothing(what: object) -> None:
    """An object without any event is not a service."""
    assert "handles no event: it has none of onUpgrade, onOpen" in mistake(what)
    assert mistake(nothing).startswith(f"function {nothing.__name__} handles no event: ")


def test_listensToBroadcasts() -> None:
    """A subclass of the base without an event is a service: its callers hear broadcasts."""

    class News(WebSocketService):
        idleTimeout = 5

    assert examine(WebSocketService()).events == frozenset()
    assert examine(News()).idleTimeout == 5


def test_disabled() -> None:
    """A handler that a subclass sets to None does not count."""

    class Base:
        onPing = nothing
        onOpen = nothing

    class Quiet(Base):
        onPing = None  # type: ignore[assignment]

    assert examine(Quiet()).events == {"onOpen"}


def test_properties() -> None:
    """A property is not read unless it has a handler's name; if it raises then, that is the service's mistake."""

    class Chat:
        onOpen = nothing

        @property
        def other(self) -> Any:
            raise AssertionError("run")

    examine(Chat())

    class Broken(Chat):
        @property
        def onPing(self) -> Any:
            raise OSError("no\ndatabase")

    assert mistake(Broken()) == "Broken.onPing cannot be read: OSError: no database"


@pytest.mark.parametrize("name", ["subProtocols", "idleTimeout", "dispatcherKey", "dispatcherStreamId"])
def test_brokenSettings(name: str) -> None:
    """A setting that cannot be read is a mistake of the service."""

    def broken(self: Any) -> Any:
        raise OSError("no database")

    assert mistake(service(onOpen=nothing, **{name: property(broken)})) == f"Chat.{name} cannot be read: OSError: no database"


def test_once() -> None:
    """The methods of a class are read once, its objects' own settings each time."""

    class Chat:
        onOpen = nothing

        def __init__(self, idleTimeout: float = 0) -> None:
            self.idleTimeout = idleTimeout

    first = examine(Chat())
    assert examine(Chat()) is first
    assert examine(Chat(5)).idleTimeout == 5
    assert examine(Chat(5)).events is first.events
    assert examine(Chat()).idleTimeout == 0


def test_ownHandlers() -> None:
    """Objects of one class that have handlers or keys of their own are told apart."""

    class Chat:
        onOpen = nothing

        @property
        def onPong(self) -> Any:
            return self.pong

        pong: Any = None

    plain, pings, keyed, pongs = Chat(), Chat(), Chat(), Chat()
    pings.onPing = nothing  # type: ignore[attr-defined]
    keyed.dispatcherKey = "event"  # type: ignore[attr-defined]
    pongs.pong = nothing
    for _ in range(2):
        assert examine(plain).events == {"onOpen"}
        assert examine(pings).events == {"onOpen", "onPing"}
        assert examine(keyed).envelope is not None
        assert examine(pongs).events == {"onOpen", "onPong"}
        assert examine(plain).envelope is None


def test_ownMarks() -> None:
    """A marked function on one object is a handler of that object only; other attributes cost no second reading of the class."""

    class Chat:
        dispatcherKey = "event"
        onOpen = nothing

        def onOrder(self, caller: Any, message: Any) -> None: ...

    marked, without, online = Chat(), Chat(), Chat()
    marked.pay = dispatches("pay")(handler("caller, message"))  # type: ignore[attr-defined]
    without.onOrder = None  # type: ignore[method-assign, assignment]
    online.online = set()  # type: ignore[attr-defined]
    for _ in range(2):
        assert set(examine(marked).byValue) == {"pay"}
        assert examine(Chat()).byValue == {}
        assert (set(examine(Chat()).byName), set(examine(without).byName)) == ({"onOrder"}, set())
        assert examine(online) is examine(Chat())
    online.onPing = 5  # type: ignore[attr-defined]
    assert mistake(online) == "Chat.onPing must be a method, not int"


def test_silentBuiltin() -> None:
    """A callable whose parameters cannot be inspected is accepted."""
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(next)
    assert "onTake" in examine(service(dispatcherKey="event", onTake=next)).byName
    assert examine(service(onOpen=next, onTake=next)).events == {"onOpen"}
