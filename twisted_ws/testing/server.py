"""A server in a test: the real one, on a network in memory and a fake clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from math import inf
from types import TracebackType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.client import connect
from twisted_ws.identity import Identity
from twisted_ws.message import Published
from twisted_ws.server.server import WebSocketServer
from twisted_ws.testing.client import MemoryClient
from twisted_ws.testing.endpoint import MemoryEndpoint
from twisted_ws.testing.handover import handOver
from twisted_ws.testing.network import Network
from twisted_ws.testing.problems import Problems, Unflushed

_T = TypeVar("_T")

# Real seconds between two tries of `waitFor`.
LOOK = 0.005


class MemoryServer:
    """A `WebSocketServer` in memory; made by `serve`, and a context manager.

    At the end of its ``with`` block the server is stopped, and errors of the service in the log are raised as `Unflushed`.

    Attributes:
        server: the `WebSocketServer`.
        clock: the fake clock of the server and the clients; pass it to a service that wants a reactor.
    """

    def __init__(self, server: WebSocketServer, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self._network = Network(clock)
        self._problems = Problems()

    # Clients.

    def connect(
        self,
        path: str = "/",
        *,
        user: Any = None,
        identity: Identity | None = None,
        address: str = "127.0.0.1",
        secure: bool = False,
        clientCertificate: Any = None,
        segment: int | None = None,
        timeout: float = 0,
        **options: Any,
    ) -> MemoryClient:
        """Open a WebSocket to a service.

        Args:
            path: path and query, or a whole URL (``ws://chat.example/ws``).
            user: the value of `UpgradeRequest.user` before onUpgrade.
            identity: whom the server takes the client for, as if an authenticator had said so.
            address: the client's IP address.
            secure: whether the connection looks like TLS to the server; nothing is encrypted.
            clientCertificate: the value of `UpgradeRequest.clientCertificate`.
            segment: the most bytes that arrive at once, in either direction; 1 shows how a service copes with any cut.
            timeout: seconds of fake time that the handshake may take.
            options: those of `twisted_ws.client.connect`: subProtocols, headers, cookies, credentials, compression, retry …

        Raises:
            ConnectError: what `twisted_ws.client.connect` fails with; `HandshakeRefused` has the `status` of a refusal.
            AssertionError: the handshake was not decided within `timeout`.
        """
        connecting = self.connecting(
            path,
            user=user,
            identity=identity,
            address=address,
            secure=secure,
            clientCertificate=clientCertificate,
            segment=segment,
            **options,
        )
        late = f"the handshake for {path} was not decided in {timeout:g} seconds of fake time: onUpgrade is still running"
        return self._result(connecting, timeout, late)

    def connecting(
        self,
        path: str = "/",
        *,
        user: Any = None,
        identity: Identity | None = None,
        address: str = "127.0.0.1",
        secure: bool = False,
        clientCertificate: Any = None,
        segment: int | None = None,
        **options: Any,
    ) -> Deferred[MemoryClient]:
        """Begin to open a WebSocket like `connect`, for a handshake that must wait for what the test does next.

        Returns:
            A Deferred that fires with the client in a later call of this server's methods; cancelling it gives up.

        Raises:
            ValueError: the URL is for TLS, or the path does not begin with a slash.
        """
        if path.startswith("wss:"):
            raise ValueError("nothing is encrypted in memory: give a path or a ws:// URL, with secure=True")
        if "://" not in path and not path.startswith("/"):
            raise ValueError(f"a path must begin with a slash: {'/' + path!r}, not {path!r}")
        endpoint = MemoryEndpoint(self.server, self._network, user, identity, address, secure, clientCertificate, segment)
        url = path if "://" in path else f"ws://testserver{path}"
        client = MemoryClient(self, path, endpoint)
        opening = connect(url, endpoint=endpoint, reactor=self.clock, **options)

        def opened(found: Any) -> MemoryClient:
            client.client = found
            return client

        connecting = opening.addCallback(opened)
        self.settle()
        return connecting

    # Time.

    def settle(self) -> None:
        """Let everything happen that needs no time. The other methods do this too; call it after what the test does by itself.

        Raises:
            Restless: it does not end.
        """
        self._network.settle()

    def advance(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let fake time pass: pings are sent, timers fire, and everything happens that follows from it.

        Args:
            seconds: how long.
            until: called after each step; if it returns True, stop early.

        Returns:
            What `until` returns at the end.

        Raises:
            Restless: something repeats itself without any time passing.
        """
        if not 0 <= seconds < inf:
            raise ValueError(f"time must advance by a finite number of seconds, 0 or more, not {seconds:g}")
        return self._network.advance(seconds, until)

    def waitFor(self, what: Callable[[], _T] | Deferred[_T], timeout: float = 5) -> Deferred[_T]:
        """Wait in real time for what comes from outside the test: a thread, a process, or the real reactor, which must run.

        ::

            text = await server.waitFor(client.readTextMessage)

        Args:
            what: a Deferred, or a function that is called repeatedly until it no longer raises AssertionError.
            timeout: real seconds.

        Returns:
            A Deferred that fires with the result of `what`, or fails with what it raised last.
        """
        from twisted.internet import reactor  # only when it is needed

        real: Any = reactor
        return Deferred.fromCoroutine(self._waitFor(_fired(what, timeout) if isinstance(what, Deferred) else what, real, timeout))

    async def _waitFor(self, look: Callable[[], _T], reactor: Any, timeout: float) -> _T:
        until = reactor.seconds() + timeout
        while True:
            self.settle()
            try:
                return look()
            except AssertionError:
                if reactor.seconds() >= until:
                    raise
            await deferLater(reactor, LOOK)

    # What the server does.

    @property
    def callers(self) -> Collection[Caller]:
        """The open callers of all services."""
        self.settle()
        return self.server.callers

    def broadcast(self, message: Any) -> int:
        """Send one message to every open caller, and return to how many; see `WebSocketServer.broadcast`."""
        return self._result(self.server.broadcast(message), 0, "the broadcast has not reached everybody yet")

    def publish(self, channel: str, message: Any, **options: Any) -> Published:
        """Send one message to the subscribers of a channel; see `WebSocketServer.publish`."""
        return self._result(self.server.publish(channel, message, **options), 0, f"{channel} is not published yet")

    def handOver(self, services: Mapping[str, object] | None = None) -> int:
        """Let all open callers go on with other service objects, as in the next worker when a server takes new code.

        Each goes through the bytes in which its state would leave the process. Its client notices nothing; the caller is another
        object. Those that cannot go on are closed with 1012.

        Args:
            services: the new ones, by the paths at which they take the place of others; None: all go on with the same objects.

        Returns:
            How many go on.

        Raises:
            ServiceError: a service has a mistake.
            KeyError: nothing is mounted at a path.
        """
        self.settle()
        count = handOver(self.server, services or {})
        self.settle()
        return count

    def stop(self, timeout: float | None = None) -> None:
        """Drain the server: every caller is closed with 1001. If anything holds that up, fake time passes.

        Args:
            timeout: seconds until callers that do not answer are dropped; None for `Limits.drainTimeout`.
        """
        longest = self.server.limits.drainTimeout if timeout is None else timeout
        self._result(self.server.stop(timeout), longest + 1, "the server does not stop")
        self.settle()

    def _result(self, waiting: Deferred[_T], timeout: float, late: str) -> _T:
        results: list[_T] = []
        failures: list[Failure] = []
        waiting.addCallbacks(results.append, failures.append)
        self.advance(timeout, lambda: bool(results or failures))
        if not (results or failures):
            waiting.cancel()
            self.settle()
            raise AssertionError(late)
        if failures:
            failures[0].raiseException()
        self.settle()
        return results[0]

    # What went wrong.

    @property
    def errors(self) -> list[BaseException]:
        """What handlers raised, and the log said, since the ``with`` block began, unless flushed."""
        return [error for _, error in self._problems.found()]

    def flushErrors(self, *kinds: type[BaseException]) -> list[BaseException]:
        """Return and forget the errors of some classes (all if none are given), so that they are not raised at the end.

        They are flushed from trial's TestCase too, so flushLoggedErrors is not needed.
        """
        self.settle()
        return self._problems.flush(kinds)

    def __enter__(self) -> MemoryServer:
        self._problems.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.stop()
        except AssertionError:
            if raised is None:
                raise
        finally:
            found = self._problems.found()
            self._problems.stop()
        if raised is None and found:
            raise Unflushed(found)
        if raised is not None and found and not any(raised.__cause__ is error for _, error in found):
            raised.add_note(f"meanwhile, the log said:\n{self._problems.text()}")


def _fired(waiting: Deferred[_T], timeout: float) -> Callable[[], _T]:
    """Return a function that returns or raises the result of a Deferred, and raises AssertionError until it has one."""
    results: list[_T] = []
    failures: list[Failure] = []
    waiting.addCallbacks(results.append, failures.append)

    def look() -> _T:
        if failures:
            failures[0].raiseException()
        if not results:
            raise AssertionError(f"the Deferred has not fired in {timeout:g} seconds of real time")
        return results[0]

    return look


def serve(services: Mapping[str, object] | WebSocketServer, *, clock: Clock | None = None, **options: Any) -> MemoryServer:
    """Serve service objects in memory, with a fake clock.

    ::

        with serve({"/chat": Chat()}) as server:
            ann, bob = server.connect("/chat?name=ann"), server.connect("/chat?name=bob")
            ann.writeTextMessage("hi")
            assert bob.readTextMessage() == "ann: hi"

    Args:
        services: the services by path; or your own `WebSocketServer`, made with ``reactor=clock``.
        clock: a `twisted.internet.task.Clock` that the services use too; None for a new one.
        options: those of `WebSocketServer`: limits, allowedOrigins, compression, trustedProxies, engine, authenticate,
            authenticators. The wall clock advances with the fake clock.

    Raises:
        ServiceError: a service has a mistake, such as a misspelt event; the text names it.
        ConfigurationError: a path is malformed or taken, or an option cannot be used.
        TypeError: `services` is not a mapping, or the server has another clock.
    """
    if isinstance(services, WebSocketServer):
        reactor = services.reactor
        if not isinstance(reactor, Clock) or clock not in (None, reactor) or options:
            raise TypeError("give your own server its options and its clock: WebSocketServer(reactor=Clock(), ...)")
        return MemoryServer(services, reactor)
    if not isinstance(services, Mapping):
        raise TypeError(f'services must be given by path, as in serve({{"/chat": Chat()}}), not as {type(services).__name__}')
    clock = clock or Clock()
    # By the wall clock as by the other: what is valid for a minute now has expired after a minute of fake time.
    begin = time.time() - clock.seconds()
    server = WebSocketServer(**{"unixTime": lambda: begin + clock.seconds(), **options}, reactor=clock)
    for path, service in services.items():
        server.mount(path, service)
    return MemoryServer(server, clock)
