"""The way of an engine to its server, which may be cut."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol


class _There(Protocol):
    """The side of the server."""

    def __init__(self, here):
        self.here = here

    def connectionMade(self):
        self.here.there = self
        for each in self.here.early:
            self.transport.write(each)
        self.here.early.clear()
        if self.here.transport is None or self.here.isGone:
            self.transport.abortConnection()
        elif self.here.way.isDeaf:
            self.transport.pauseProducing()

    def dataReceived(self, data):
        self.here.transport.write(data)

    def connectionLost(self, reason):
        self.here.transport.abortConnection()


class _Here(Protocol):
    """The side of the engine."""

    def __init__(self, way):
        self.way = way
        self.there = None
        self.early = []
        self.isGone = False

    def connectionMade(self):
        self.way.open.append(self)
        self.way.made += 1
        factory = Factory.forProtocol(lambda: _There(self))
        factory.noisy = False
        self.way.endpoint(reactor).connect(factory).addErrback(lambda _: self.transport.abortConnection())

    def dataReceived(self, data):
        self.way.sent.append(data)
        left = self.way.left
        if left is not None:
            data, rest = data[:left], data[left:]
            self.way.left -= len(data)
            if rest:
                self.way.left, self.way.wasCut = None, True
                self._pass(data)
                # What was sent arrives.
                reactor.callLater(0, self.way.drop)
                return
        self._pass(data)

    def _pass(self, data):
        if self.there is None:
            self.early.append(data)
        elif data:
            self.there.transport.write(data)

    def connectionLost(self, reason):
        self.isGone = True
        if self in self.way.open:
            self.way.open.remove(self)
        if self.there is not None:
            self.there.transport.loseConnection()


class Way:
    """A port that passes everything on to another one."""

    def __init__(self, endpoint, tls=None):
        self.endpoint = endpoint
        self.open = []
        self.sent = []
        self.left = None
        self.wasCut = False
        self.isDeaf = False
        self.made = 0
        factory = Factory.forProtocol(lambda: _Here(self))
        factory.noisy = False
        self.factory = factory
        if tls is not None:
            factory = tls.wrap(factory, reactor)
        self.listener = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port = self.listener.getHost().port

    def cutAfter(self, count):
        self.left, self.wasCut = count, False
        return lambda: self.wasCut

    def drop(self):
        """Break what is open."""
        for each in [*self.open]:
            each.transport.abortConnection()

    def cut(self):
        """Break what is open, and take nothing new."""
        if self.listener is not None:
            self.listener.stopListening()
            self.listener = None
        self.drop()

    def heal(self):
        if self.listener is None:
            self.listener = reactor.listenTCP(self.port, self.factory, interface="127.0.0.1")

    def deafen(self):
        """Take nothing of the server any more."""
        self.isDeaf = True
        for each in self.open:
            if each.there is not None:
                each.there.transport.pauseProducing()

    def deafenCommands(self):
        """The same for the connection that was made first: that of commands."""
        self.open[0].there.transport.pauseProducing()
