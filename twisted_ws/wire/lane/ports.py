"""Listening ports of the fast lane: how an accepted connection gets its transport."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import tcp
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.logs import Throttle
from twisted_ws.wire import speedups
from twisted_ws.wire.lane.group import PollGroup
from twisted_ws.wire.lane.secure import SecureLaneServer
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.tls.transport import TLSFactory

# Connections accepted in one turn of the reactor, before messages, timers and the HTTP sites get their share.
ACCEPTS_A_TURN = 64

_log = Logger()


class _Accepting:
    """Accepts for one of Twisted's ports, in place of its own `doRead`.

    Twisted's version wraps each turn in a buffer for log events, looks up the name of each IPv6 address, and does more set-up.
    """

    def __init__(self, port: Any, group: PollGroup) -> None:
        self._port = port
        self._group: Any = group
        self._stock = port.doRead
        self._throttle = Throttle(group.seconds)
        factory = port.factory
        self._transport: Callable[..., LaneServer] = LaneServer
        if isinstance(factory, TLSFactory):
            # Its protocols would do in memory what the transport now does below them.
            port.factory = factory.wrappedFactory
            self._transport = partial(SecureLaneServer, factory.tls)
        port.transport = self._accepted
        # One of ours takes the pair that `accept` gives, which spares the making of an address.
        self._build: Callable[[Any], Any] = getattr(port.factory, "buildFor", None) or self._buildByAddress
        self._accept = getattr(port.socket, "acceptOne", None) or partial(speedups.acceptOne, port.socket)
        # Accepted sockets inherit it.
        port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def doRead(self) -> Any:
        """Accept the connections that wait (called by the reactor)."""
        port = self._port
        for _ in range(ACCEPTS_A_TURN):
            try:
                descriptor, address = self._accept()
            except BlockingIOError:
                return None
            except OSError:
                # It will fail again there, and Twisted knows what to do, for example when no descriptor is left.
                return self._stock()
            except Exception:
                # One failed allocation does not end the port: the connections are still there the next time.
                self._failed("accepting failed")
                return None
            try:
                self._take(descriptor, address)
            except Exception:
                self._failed("a connection could not be taken")
            if not port.connected:
                return None  # closed by a service
        return None

    def _failed(self, what: str) -> None:
        if turn := self._throttle.allows(what):
            _log.failure(what, event="accept.failed", suppressed=turn - 1)

    def _accepted(self, sock: socket.socket, protocol: Any, address: Any, port: Any, number: int, _reactor: Any) -> LaneServer:
        # Called for a socket that Twisted has accepted.
        sock.setblocking(False)
        return self._transport(sock.detach(), protocol, address, port, number, self._group)

    def _buildByAddress(self, address: Any) -> Any:
        return self._port.factory.buildProtocol(self._port._buildAddr(address))

    def _take(self, descriptor: int, address: Any) -> None:
        port = self._port
        if len(address) == 4 and address[3]:
            # A link-local address is only unique with its scope.
            host = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
            address = (host, *address[1:])
        protocol = transport = None
        try:
            protocol = self._build(address)
            if protocol is not None:
                number = port.sessionno
                port.sessionno = number + 1
                transport = self._transport(descriptor, protocol, address, port, number, self._group)
        except Exception as error:
            if protocol is not None:
                # The gate has counted it; this takes it off the count.
                protocol.connectionLost(Failure(error))
            raise
        finally:
            if transport is None:
                os.close(descriptor)
        if transport is not None:
            try:
                protocol.makeConnection(transport)
            except Exception as error:
                transport.connectionLost(Failure(error))
                raise


def accelerate(port: Any, group: PollGroup) -> bool:
    """Put the connections that `port` accepts from now on into the fast lane; return False for another kind of port."""
    if getattr(port, "transport", None) is not tcp.Server:
        return False
    port.doRead = _Accepting(port, group).doRead
    return True
