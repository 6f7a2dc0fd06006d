"""The resource of channels services: it decides who may make a request, and what it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.access.refusals import AccessRefused
from twisted_ws.channels.service import ChannelReject, ChannelService
from twisted_ws.channels.visitor import Visitor
from twisted_ws.errors import ChannelError, concerning
from twisted_ws.names import isPattern
from twisted_ws.upgrade import Reject, UpgradeRequest
from twisted_ws.web.channels.cors import Cors
from twisted_ws.web.channels.events import openEvents, wantsEvents
from twisted_ws.web.channels.polling import poll
from twisted_ws.web.channels.request import ChannelRequest, refused
from twisted_ws.web.http.content import checkBodyType, idempotencyKey, messageOf
from twisted_ws.web.http.coroutines import answerLater
from twisted_ws.web.http.errors import HttpError, httpError, late
from twisted_ws.web.http.resource import HttpResource
from twisted_ws.web.http.response import jsonBody
from twisted_ws.wire.loop.transports import peerOf
from twisted_ws.wire.tls.transport import peerCertificate

if TYPE_CHECKING:
    from twisted_ws.dispatch.upgrades import Upgrade
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest


class ChannelsResource(HttpResource):
    """All URLs of the channels services of a WebSocket port: event streams, polls, and publishing by clients."""

    allowedMethods = (b"GET", b"HEAD", b"POST", b"OPTIONS")

    def __init__(self, server: WebSocketServer) -> None:
        super().__init__()
        self._server = server
        self._cors = Cors(server.origins, server.namedOrigins)

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check page and method, and ask the service's onUpgrade, before a body is read."""
        request.postpath = []
        self._cors.check(request)
        super().admit(request)
        if request.method == b"OPTIONS":
            return None
        if request.method == b"POST":
            checkBodyType(request)
            idempotencyKey(request)
        address, port = peerOf(request.client)
        upgrade = UpgradeRequest(
            request.head.target,
            request.head.headers,
            peerAddress=request.peerAddress,
            peerPort=port if address == request.peerAddress else 0,
            isSecure=request.isSecure(),
            isProxied=self._server.proxies.trusts(address),
            clientCertificate=peerCertificate(request.transport),
        )
        try:
            answer = self._server.ask(upgrade, request.found)
        except Reject as reject:
            raise _refusal(reject) from None
        if isinstance(answer, tuple):
            self._admitted(answer, request, upgrade)
            return None
        answer.addTimeout(self._server.limits.upgradeDeadline, request.channel.site.reactor)
        return answer.addCallbacks(self._admitted, _refused, callbackArgs=(request, upgrade))

    def _admitted(self, answer: Upgrade, request: HttpRequest, upgrade: UpgradeRequest) -> None:
        service, headers = answer
        for name, value in headers:
            request.responseHeaders.addRawHeader(name, value)
        if not isinstance(service, ChannelService):
            raise HttpError(426, "This is a WebSocket service.", "upgrade-required", {"Upgrade": "websocket"})
        service.server = self._server
        mounted = request.found.value
        if service is not mounted.service:
            self._server.channelRules.adopt(service, mounted.chain, mounted.interceptors)
        try:
            names = service.channelsOf(upgrade)
            if request.method == b"POST" and (len(names) != 1 or isPattern(names[0])):
                raise ChannelError("bad-channel", "To publish, name one channel.")
            if not names:
                raise ChannelError("bad-request", "No channel: name one in the path or with ?channel=.")
        except ChannelError as error:
            raise httpError(error) from None
        query = {name: values[-1] for name, values in upgrade.query.items()}
        visitor = Visitor(upgrade, self._server.runtime.unixTime())
        request.found = ChannelRequest(service, visitor, names, query, service.permissions.access, mounted.path)

    def render_OPTIONS(self, request: HttpRequest) -> bytes:
        """Answer a preflight, or name the methods."""
        self._cors.preflight(request)
        return super().render_OPTIONS(request)

    def render_GET(self, request: HttpRequest) -> int:
        """Begin an event stream, or answer a poll."""
        request.say("Vary", "Accept, Accept-Encoding, Origin")
        answer = openEvents if wantsEvents(request) else poll
        request.operation = "events" if answer is openEvents else "poll"
        return answerLater(request, answer(request, request.found), self._server.limits.upgradeDeadline)

    def render_POST(self, request: HttpRequest) -> int:
        """Publish."""
        request.operation = "publish"
        return answerLater(request, self._publish(request, request.found), self._server.limits.upgradeDeadline)

    async def _publish(self, request: HttpRequest, channelRequest: ChannelRequest) -> None:
        message, idempotency = messageOf(request), idempotencyKey(request)
        visitor = channelRequest.visitor
        self._server.rates.checkMessage(visitor.identity, visitor.request.peerAddress)
        with concerning(channelRequest.names[0]):
            key = channelRequest.query.get("key")
            granted = await channelRequest.granted(request)
            published = await channelRequest.service.publishFor(
                visitor, channelRequest.names[0], message, key, idempotency, granted
            )
        request.say("Content-Type", "application/json")
        request.answer(jsonBody(published._asdict()))


def _refused(failure: Failure) -> Failure:
    error = failure.value
    if isinstance(error, Reject):
        raise _refusal(error)
    if isinstance(error, defer.TimeoutError):
        raise late()
    return failure


def _refusal(reject: Reject) -> HttpError:
    if isinstance(reject, ChannelReject):
        return httpError(reject.error)
    if isinstance(reject, AccessRefused):
        return refused(reject)
    headers: dict[str, str | tuple[str, ...]] = {}
    for name, value in reject.headers:
        headers[name] = (*headers.get(name, ()), value)
    return HttpError(reject.status, reject.body or "The service refuses.", headers=headers)
