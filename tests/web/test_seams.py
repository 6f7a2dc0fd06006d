"""The names of twisted.web that are private, or that its own code sets: a release that changes one fails here first."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web import http
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.web.conftest import World
from twisted_ws.web.http.connection import HttpConnection
from twisted_ws.web.http.request import HttpRequest

GET = b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        # Overridden: twisted.web calls them.
        (http.HTTPChannel, "connectionMade", []),
        (http.HTTPChannel, "dataReceived", ["data"]),
        (http.HTTPChannel, "connectionLost", ["reason"]),
        (http.HTTPChannel, "requestDone", ["request"]),
        (http.HTTPChannel, "writeHeaders", ["version", "code", "reason", "headers"]),
        (http.HTTPChannel, "write", ["data"]),
        (http.HTTPChannel, "loseConnection", []),
        (http.HTTPChannel, "pauseProducing", []),
        (http.HTTPChannel, "resumeProducing", []),
        (Request, "process", []),
        (Request, "render", ["resrc"]),
        (Request, "processingFailed", ["reason"]),
        (Request, "connectionLost", ["reason"]),
        (Site, "buildProtocol", ["addr"]),
        (Site, "startFactory", []),
        (Site, "stopFactory", []),
        (Site, "log", ["request"]),
        # Called.
        (Request, "_cleanup", []),
        (Request, "finish", []),
        (Request, "write", ["data"]),
        (Request, "notifyFinish", []),
        (Request, "parseCookies", []),
        (Request, "setResponseCode", ["code", "message"]),
        (Site, "__init__", ["resource", "requestFactory", "args", "parsePOSTFormSubmission", "kwargs"]),
        (http.HTTPFactory, "__init__", ["logPath", "timeout", "logFormatter", "reactor"]),
    ],
)
def test_methods(owner: type, name: str, parameters: list[str]) -> None:
    """The method is there and takes what it always took."""
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert [each for each in found if each != "self"] == parameters


def test_functions() -> None:
    """Functions and constants are there as well."""
    assert http.datetimeToString(0) == b"Thu, 01 Jan 1970 00:00:00 GMT"
    assert http.parse_qs(b"a=1&b=", keep_blank_values=True) == {b"a": [b"1"], b"b": [b""]}
    assert isinstance(NOT_DONE_YET, int)
    assert UnsupportedMethod([b"GET"]).allowedMethods == [b"GET"]


def test_requestAttributes() -> None:
    """A request of ours has each attribute that Twisted's own `__init__` gives it, which ours does not call."""
    channel = World().site.buildProtocol(None)
    channel.makeConnection(StringTransport())
    theirs, ours = Request(channel), HttpRequest(channel)
    # The one is for forms, which ours never parses.
    assert {name for name in vars(theirs) if not hasattr(ours, name)} == {"_parsePOSTFormSubmission"}
    assert {"requestHeaders", "responseHeaders", "notifications", "_adapterCache"} <= set(vars(theirs))
    for name in ("_forceSSL", "startedWriting", "finished", "code", "code_message", "etag", "lastModified", "producer"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_pathsOfARequest() -> None:
    """Children are found by the attributes that a request of ours sets itself."""
    root, child = Resource(), Resource()  # type: ignore[no-untyped-call]
    root.putChild(b"a", child)
    child.isLeaf = True

    class Asked:
        prepath: list[bytes] = []
        postpath = [b"a", b"b"]

    assert getChildForRequest(root, Asked()) is child
    assert (Asked.prepath, Asked.postpath) == ([b"a"], [b"b"])


def test_cleanup() -> None:
    """A request that is done is taken from its connection, before those who wait for its end are told, and lets go of both."""
    done: list[Any] = []

    class Channel:
        def requestDone(self, request: Any) -> None:
            done.append(request)

    connection = World().connect()
    connection.send(GET)
    (request,) = connection.protocol.requests
    request.notifications.append(Deferred().addCallback(done.append))
    request.channel = Channel()
    request._cleanup()
    assert done == [request, None]
    assert "content" not in vars(request)
    assert "channel" not in vars(request)


def test_flowControl() -> None:
    """Twisted's connection has a producer below it, and reads no more while what it wrote waits and no request is handled."""
    channel, transport = http.HTTPChannel(), StringTransport()  # type: ignore[no-untyped-call]
    assert (channel.requests, channel._handlingRequest, channel._waitingForTransport) == ([], False, False)
    channel.makeConnection(transport)
    assert channel._networkProducer is transport
    assert transport.producer is channel
    channel.pauseProducing()  # type: ignore[no-untyped-call]
    assert (channel._waitingForTransport, transport.producerState) == (True, "paused")
    channel.resumeProducing()  # type: ignore[no-untyped-call]
    assert (channel._waitingForTransport, transport.producerState) == (False, "producing")
    channel._handlingRequest = True
    channel.pauseProducing()  # type: ignore[no-untyped-call]
    assert transport.producerState == "producing"


def test_noTimeout() -> None:
    """A connection of a site without a timeout has no timer of Twisted's."""
    clock = Clock()
    site = Site(Resource(), timeout=None, reactor=clock)  # type: ignore[no-untyped-call]
    channel = site.buildProtocol(None)  # type: ignore[no-untyped-call]
    assert channel.timeOut is None
    assert World().site.buildProtocol(None).timeOut is None
    assert not clock.getDelayedCalls()


def test_theSitesConnection() -> None:
    """A site makes connections of its class, without Twisted's choice between HTTP/1.1 and HTTP/2, and they know it."""
    site = World().site
    connection = site.buildProtocol(None)
    assert type(connection) is HttpConnection
    assert connection.site is site
