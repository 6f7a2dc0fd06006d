from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_ws.client import ConnectFailed, HandshakeTimeout
from twisted_ws.commands.connect.talk import LATE, PATIENCE, Manner, Talk
from twisted_ws.commands.terminal.display import JSONDisplay
from twisted_ws.errors import ConfigurationError, ConnectionClosed, ProtocolError


class Client:
    """Stands for a `WebSocketClient`: the test says what comes, and sees what goes."""

    negotiatedSubProtocol = None

    def __init__(self, answersPings: bool = True) -> None:
        self.answersPings = answersPings
        self.written: list[Any] = []
        self.pongs: list[bytes] = []
        self.pings = 0
        self.closes: list[float] = []
        self.onPing: Callable[[], None] = lambda: None
        self.writes: Callable[[], Deferred[None]] = lambda: succeed(None)
        self._messages: list[Any] = []
        self._reader: Deferred[Any] | None = None
        self._closing: list[Deferred[None]] = []

    def put(self, message: Any) -> None:
        """Have a message, or the exception at the end, come."""
        reader, self._reader = self._reader, None
        if reader is None or reader.called:
            self._messages.append(message)
        elif isinstance(message, Exception):
            reader.errback(message)
        else:
            reader.callback(message)

    def readMessage(self) -> Deferred[Any]:
        if self._messages:
            message = self._messages.pop(0)
            return fail(message) if isinstance(message, Exception) else succeed(message)
        self._reader = Deferred()
        return self._reader

    def writeMessage(self, message: Any) -> Deferred[None]:
        self.written.append(message)
        return self.writes()

    def isOpen(self) -> bool:
        return True

    def ping(self, data: bytes = b"") -> Deferred[float]:
        self.pings += 1
        self.onPing()
        return succeed(0.001) if self.answersPings else Deferred()

    def pong(self, data: bytes) -> Deferred[None]:
        self.pongs.append(data)
        return self.writes()

    def close(self, timeout: float = 60) -> Deferred[None]:
        self.closes.append(timeout)
        closed: Deferred[None] = Deferred()
        self._closing.append(closed)
        return closed

    def answerClose(self, code: int = 1000) -> None:
        """Answer our Close."""
        assert self.closes
        self.put(ConnectionClosed(code))
        for closed in self._closing:
            closed.callback(None)


class Output:
    """Stands for `twisted_ws.commands.terminal.streams.Output`."""

    def __init__(self) -> None:
        self.broken: Deferred[OSError] = Deferred()
        self.isFull = False
        self.waiting: list[Deferred[None]] = []

    def room(self) -> Deferred[None]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def ease(self) -> None:
        self.isFull = False
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)


class Given:
    """A source: batches of messages, or errors to raise instead; waits when it has none."""

    def __init__(self, *batches: Any) -> None:
        self.batches = list(batches)

    async def next(self) -> Any:
        if not self.batches:
            return await Deferred()
        batch = self.batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        return batch


class Scene:
    """A talk that has begun."""

    def __init__(self, source: Given | None = None, client: Client | None = None, **manner: Any) -> None:
        self.clock = Clock()
        self.client = client or Client()
        self.output = Output()
        self.shown: list[bytes] = []
        self.talk = Talk(
            self.clock,
            "ws://x",
            Manner(**manner),
            JSONDisplay(self.shown.append),
            source,
            self.output,  # type: ignore[arg-type]
        )
        self.connecting: Deferred[Any] = Deferred()
        self.results: list[Any] = []

    def begin(self, result: Any = None) -> Scene:
        Deferred.fromCoroutine(self.talk.run(lambda: self.connecting)).addBoth(self.results.append)  # type: ignore[arg-type]
        if isinstance(result, Exception):
            self.connecting.errback(result)
        else:
            self.connecting.callback(self.client)
        return self

    @property
    def code(self) -> int:
        (code,) = self.results
        assert not isinstance(code, Failure), code
        return int(code)

    def kinds(self) -> list[str]:
        return [line.decode().split('"')[3] for line in self.shown]


def test_sendsAll() -> None:
    """At the end of the input, all is sent, the server is asked whether it has read it, and then it is closed."""
    scene = Scene(Given(["a", "b"], [], [b"c"], None)).begin()
    assert scene.client.written == ["a", "b", b"c"]
    assert scene.client.pings == 1
    assert scene.client.closes == [60]
    assert not scene.results
    scene.client.put("late")
    scene.client.answerClose()
    assert scene.code == 0
    assert scene.talk.trouble == ""
    assert scene.kinds() == ["open", "text", "close"]
    assert not scene.clock.getDelayedCalls()


def test_backPressure() -> None:
    """The input is read no faster than the server takes it."""
    handed: Deferred[None] = Deferred()
    client = Client()
    client.writes = lambda: handed
    source = Given(["a", "b"], ["c"])
    Scene(source, client).begin()
    assert client.written == ["a", "b"]
    assert source.batches == [["c"]]
    handed.callback(None)
    assert client.written == ["a", "b", "c"]


def test_quiet() -> None:
    """As long as answers come between two pongs, there may be more."""
    client = Client()
    client.onPing = lambda: client.put("answer") if client.pings <= 3 else None
    scene = Scene(Given(["a"], None), client).begin()
    assert client.pings == 4
    assert client.closes == [60]
    client.answerClose()
    assert scene.kinds().count("text") == 3


def test_neverQuiet() -> None:
    """A server that never stops sending is closed a while after it has shown that it has read everything."""
    client = Client()
    scene = Scene(Given(None), client)

    def more() -> None:
        client.put("tick")
        scene.clock.advance(LATE / 10)

    client.onPing = more
    scene.begin()
    assert 10 <= client.pings <= 12
    assert client.closes == [60]


def test_noPong() -> None:
    """A server that answers no ping is waited for as long as messages come, and a while longer."""
    client = Client(answersPings=False)
    scene = Scene(Given(None), client).begin()
    client.put("answer")
    scene.clock.advance(PATIENCE)
    assert not client.closes
    scene.output.isFull = True  # so nothing could come
    scene.clock.advance(PATIENCE)
    assert not client.closes
    scene.output.isFull = False
    scene.clock.advance(PATIENCE)
    assert client.closes == [60]


def test_lostWhileQuiet() -> None:
    """A connection that ends meanwhile ends it."""
    client = Client()
    client.ping = lambda data=b"": fail(ConnectionClosed(1006))  # type: ignore[method-assign]
    scene = Scene(Given(None), client).begin()
    assert client.closes == [60]
    client.put(ConnectionClosed(1001))
    assert scene.code == 0


def test_wait() -> None:
    """With --wait, the time counts from the last message, and nothing else ends it."""
    client = Client()
    scene = Scene(Given(None), client, wait=8).begin()
    for _ in range(4):
        scene.clock.advance(7)
        client.put("again")
        assert not client.closes
    scene.clock.advance(7.9)
    assert not client.closes
    scene.clock.advance(0.2)
    assert client.closes == [60]


@pytest.mark.parametrize("manner", ["keepOpen", "one"])
def test_stays(manner: str) -> None:
    """The end of the input need not end the connection."""
    scene = Scene(Given(["a"], None), **{manner: True}).begin()
    assert not scene.client.closes
    assert not scene.client.pings
    scene.client.put(ConnectionClosed(1000))
    assert scene.code == 0


def test_one() -> None:
    """With --one, the first message ends it, however the server answers our Close."""
    scene = Scene(one=True).begin()
    scene.client.put("first")
    scene.client.put("second")
    scene.client.answerClose(4000)
    assert scene.code == 0
    assert scene.kinds() == ["open", "text"]


def test_fullOutput() -> None:
    """While no one reads our output, no message is read, not even to see whether the server is done."""
    scene = Scene(Given(None))
    scene.output.isFull = True
    scene.client.put("first")
    scene.client.put("second")
    scene.begin()
    assert scene.kinds() == ["open", "text"]
    assert not scene.client.closes
    scene.output.ease()
    assert scene.kinds() == ["open", "text", "text"]
    assert scene.client.closes == [60]


def test_refused() -> None:
    """If no connection comes about, the error is reported, and gives the exit code."""
    scene = Scene().begin(HandshakeTimeout("no answer: allow more time with handshakeTimeout"))
    assert (scene.code, scene.talk.trouble) == (7, "no answer: allow more time with --timeout")
    assert scene.kinds() == ["error"]
    scene = Scene()

    def wrong() -> Any:
        raise ConfigurationError("a file is missing")

    Deferred.fromCoroutine(scene.talk.run(wrong)).addBoth(scene.results.append)
    assert (scene.code, scene.talk.trouble) == (2, "a file is missing")


def test_serverBreaksRules() -> None:
    """The server's violation is reported, with the exit code for the Close that it got."""
    scene = Scene().begin()
    scene.client.put(ProtocolError("the server broke RFC 6455"))
    assert (scene.code, scene.talk.trouble) == (12, "the server broke RFC 6455")


@pytest.mark.parametrize(("closed", "code"), [(1000, 1), (4000, 40)])
def test_unsent(closed: int, code: int) -> None:
    """If the server closes before everything is sent, that is a failure, whatever its code."""
    client = Client()
    client.writes = lambda: fail(ConnectionClosed(closed))
    scene = Scene(Given(["a"]), client).begin()
    client.put(ConnectionClosed(closed))
    assert scene.code == code
    assert "not all of standard input was sent" in scene.talk.trouble


def test_badInput() -> None:
    """Input that cannot be sent closes the connection, and is reported."""
    scene = Scene(Given(["a"], ConfigurationError("no text"))).begin()
    scene.client.answerClose()
    assert (scene.code, scene.talk.trouble) == (1, "no text")
    assert scene.client.written == ["a"]


def test_interrupt() -> None:
    """A signal closes the connection soon and gives the exit code; no more input is read."""
    scene = Scene(Given()).begin()
    scene.talk.interrupt(130)
    scene.talk.interrupt(143)
    assert scene.client.closes == [2, 2]
    scene.client.answerClose()
    assert (scene.code, scene.talk.trouble) == (130, "")


def test_interruptWhileFull() -> None:
    """A signal also ends a wait for the reader of our output."""
    scene = Scene(ping=5)
    scene.output.isFull = True
    scene.client.put("first")
    scene.begin()
    scene.talk.interrupt(130)
    scene.client.answerClose()
    assert scene.code == 130
    assert not scene.clock.getDelayedCalls()


def test_interruptWhileWriting() -> None:
    """What could not be sent because of a signal is not reported."""
    handed: Deferred[None] = Deferred()
    client = Client()
    client.writes = lambda: handed
    scene = Scene(Given(["a"]), client).begin()
    scene.talk.interrupt(130)
    handed.errback(ConnectionClosed(1000))
    client.answerClose()
    assert (scene.code, scene.talk.trouble) == (130, "")


def test_interruptWhileConnecting() -> None:
    """A signal ends the attempt to connect; before that, there is nothing to end."""
    scene = Scene()
    scene.talk.interrupt(130)
    Deferred.fromCoroutine(scene.talk.run(lambda: scene.connecting)).addBoth(scene.results.append)  # type: ignore[arg-type,return-value]
    scene.talk.interrupt(130)
    assert scene.code == 130


@pytest.mark.parametrize(("error", "code"), [(errno.EPIPE, 141), (errno.ENOSPC, 1)])
def test_brokenOutput(error: int, code: int) -> None:
    """Output that cannot be written ends it: silently, if the reader has gone."""
    scene = Scene(Given()).begin()
    scene.output.broken.callback(OSError(error, "why"))
    scene.client.answerClose()
    assert scene.code == code
    assert ("cannot be written (why)" in scene.talk.trouble) == (code == 1)


def test_handlers() -> None:
    """Pings are answered and shown, pongs and reconnects are shown."""
    scene = Scene().begin()
    client: Any = scene.client
    scene.talk.onPing(client, b"p")
    scene.talk.onPong(client, b"q")
    scene.talk.onReconnect(client)
    assert client.pongs == [b"p"]
    assert scene.kinds() == ["open", "ping", "pong", "open"]


def test_pingFlood() -> None:
    """A server that pings endlessly, and takes no pong, fills neither its own buffer nor that of our reader."""
    scene = Scene().begin()
    client: Any = scene.client
    pongs: list[Deferred[None]] = []

    def waits() -> Deferred[None]:
        pongs.append(Deferred())
        return pongs[-1]

    client.writes = waits
    for number in range(100):
        scene.talk.onPing(client, b"%d" % number)
    assert client.pongs == [b"0"]
    pongs[0].callback(None)
    assert client.pongs == [b"0", b"99"]
    pongs[1].errback(ConnectionClosed())
    scene.talk.onPing(client, b"again")
    assert client.pongs == [b"0", b"99", b"again"]
    shown = len(scene.kinds())
    scene.output.isFull = True
    scene.talk.onPing(client, b"p")
    scene.talk.onPong(client, b"q")
    assert len(scene.kinds()) == shown


def test_pings() -> None:
    """--ping shows each round trip, and stops with the connection; a ping that is lost is not shown."""
    scene = Scene(ping=5).begin()
    scene.clock.advance(5)
    assert scene.kinds() == ["open", "pong", "pong"]
    scene.client.isOpen = lambda: False  # type: ignore[method-assign]
    scene.clock.advance(5)
    scene.client.isOpen = lambda: True  # type: ignore[method-assign]
    scene.client.ping = lambda data=b"": fail(ConnectionClosed())  # type: ignore[method-assign]
    scene.clock.advance(5)
    scene.client.put(ConnectionClosed(1000))
    assert scene.kinds() == ["open", "pong", "pong", "close"]
    assert scene.code == 0
    assert not scene.clock.getDelayedCalls()


def test_neverConnected() -> None:
    """A refusal after a signal still gives the signal's exit code."""
    scene = Scene()
    scene.talk.interrupt(143)
    scene.begin(ConnectFailed("no"))
    assert (scene.code, scene.talk.trouble) == (143, "")
