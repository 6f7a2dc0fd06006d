"""The service ``channels``: publish and subscribe by name, over WebSocket; its rules apply to HTTP, too."""

from __future__ import annotations

from asyncio import iscoroutine
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

from msgspec import Raw, json
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.tokens.claims import ChannelGrants
from twisted_ws.caller import Caller
from twisted_ws.channels.permissions import Permissions
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL
from twisted_ws.channels.subscribers.mailbox import Policy
from twisted_ws.channels.subscribers.websocket import ENTERING, JsonSubscriber, RawSubscriber
from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.dispatch.interceptors import Interceptor, intercept
from twisted_ws.dispatch.largejson import decodeLarge, hasMoreValues
from twisted_ws.errors import ChannelError, concerning
from twisted_ws.logs import ofCaller, printable
from twisted_ws.message import Kind, Message, Published, parseAfter, parseLast
from twisted_ws.names import checkName, checkNameOrPattern, isPattern
from twisted_ws.service import WebSocketService
from twisted_ws.telemetry import tracing
from twisted_ws.telemetry.counts import CLIENT
from twisted_ws.upgrade import Reject, UpgradeRequest

_log = Logger()

# For operators who mount a service at /channels alone and expect /channels/news: it is in the server's log, too.
_NOT_IN_PATH = "This path names no channel: use ?channel=NAME, or mount the service at .../{channel}."


# The header of a request that has a subscription token.
TOKEN_HEADER = "channel-token"


class ChannelReject(Reject):
    """Refuses a request because of the channels in its URL.

    Attributes:
        error: the reason.
    """

    def __init__(self, error: ChannelError) -> None:
        super().__init__(error.status, error.message)
        self.error = error


_CODES = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    413: "too-large",
    429: "too-many-requests",
    503: "unavailable",
}


@lru_cache(16)  # a URL is read for onUpgrade and again when the request was let in; polls of one channel have the same
def _checked(names: tuple[str, ...], most: int, longest: int) -> tuple[str, ...]:
    """Return each of `names` once, checked: names or patterns, not too many, and none too long."""
    names = tuple(dict.fromkeys(names))
    if len(names) > most:
        raise ChannelError("too-many-channels", f"A connection has at most {most} channels.")
    for each in names:
        with concerning(each):
            checkNameOrPattern(each, longest)
    return names


class ChannelService(WebSocketService):
    """Subscribes each client to the channels that its URL names; a subclass decides by hooks who may do what.

    The hooks may be plain, async, or return a Deferred. They refuse by raising `Reject` (its body is the reason), and apply to
    every transport. `caller` is a `Caller`, or a `Visitor` for a request over HTTP.

    - ``onSubscribe(caller, channel)``: before a subscription.
    - ``onPublish(caller, channel, message)``: before a message of a client (a str, bytes or JSON value) is published. Returns
      None, or what to publish instead.
    - ``onUnsubscribe(caller, channel)``: after a subscription has ended, also by a close.
    - ``onPresence(caller, channel)``: what presence says of the caller's user, any JSON value; by default, the `info` of its
      credentials.

    Args:
        publish: whether clients may publish.
        wildcards: whether they may subscribe to patterns.
        presence: whether they may ask who is there.
        policy: what happens to slow subscribers: "close", "drop-oldest" or "latest"; see `Policy`.

    Raises:
        ValueError: an invalid argument.
    """

    subProtocols: list[str] = [SUBPROTOCOL]  # noqa: RUF012 - as the base class has it
    resumable = True  # subscriptions go with the connection
    hooks = MappingProxyType(
        {
            "onSubscribe": ("caller", "channel"),
            "onPublish": ("caller", "channel", "message"),
            "onUnsubscribe": ("caller", "channel"),
            "onPresence": ("caller", "channel"),
        }
    )

    interceptors: tuple[Interceptor, ...] = ()  # set when it is mounted: its hooks are called through these

    def __init__(self, publish: bool = False, wildcards: bool = False, presence: bool = False, policy: str = "close") -> None:
        for name, value in ("publish", publish), ("wildcards", wildcards), ("presence", presence):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, not {value!r}")
        try:
            self.policy = Policy(policy)
        except ValueError:
            *others, last = [each.value for each in Policy]
            raise ValueError(f"policy must be {', '.join(others)} or {last}, not {policy!r}") from None
        self.publish = publish
        self.wildcards = wildcards
        self.presence = presence
        self.permissions = Permissions(self)

    # Hooks.

    def onSubscribe(self, caller: Any, channel: str) -> Any:
        """Let anybody subscribe; called for a pattern only if `wildcards` allows patterns."""

    def onPublish(self, caller: Any, channel: str, message: Any) -> Any:
        """Refuse, unless `publish` or a rule allows it."""
        if not self.publish and self.permissions.access is None:
            raise Reject(403, "Publishing is not allowed here.")

    def onUnsubscribe(self, caller: Any, channel: str) -> Any:
        """Do nothing."""

    def onPresence(self, caller: Any, channel: str) -> Any:
        """Say what the caller's credentials do (`Identity.info`); nothing without any."""
        return None if caller.identity is None else caller.identity.info

    # What each transport asks.

    def channelsOf(self, request: UpgradeRequest) -> list[str]:
        """Return the channels and patterns that the URL of a request names, each once.

        Raises:
            ChannelError: an invalid name, too many names, or a path that continues below a channel, or below a service that
                was mounted without ``{channel}`` in its path ("not-found").
        """
        limits = self.server.limits
        names = tuple(request.query.get("channel", ()))
        name = request.pathParams.get("channel")
        if request.pathRest not in ((), ("",)):  # one slash at the end changes nothing
            raise ChannelError("not-found", _NOT_IN_PATH if name is None else "There is nothing below a channel.")
        if name is not None:
            names = str(name), *names
        return [*_checked(names, limits.channelsPerCaller, limits.channelName)]

    async def permit(
        self,
        caller: Any,
        channel: str,
        presence: bool = False,
        granted: ChannelGrants | None = None,
        asked: Deferred[bool] | None = None,
    ) -> Any:
        """Ask whether `caller` may subscribe; return what presence says of it, for `Channels.subscribe`.

        Args:
            caller: the caller or visitor.
            channel: a name or pattern, checked here.
            presence: whether it also wants to know who is there.
            granted: what a subscription token allows besides.
            asked: what `Permissions.ask` has returned, if it was called before.

        Raises:
            ChannelError: it may not.
        """
        checkNameOrPattern(channel, self.server.limits.channelName)
        await self.permissions.requireSubscribe(caller, channel, granted, asked)
        await self._ask("onSubscribe", self.onSubscribe, caller, channel)
        if presence:
            # Who may subscribe is a subscriber already where presence is for these: over HTTP there is no later question.
            self.permissions.requirePresence(caller, channel, (*caller.channels, channel), granted)
        if isPattern(channel):
            return None
        info = await self._ask("onPresence", self.onPresence, caller, channel)
        try:
            size = len(json.encode(info))  # it is sent to many later: only here is it known where it came from
        except Exception:
            self._failed(Failure(), "onPresence")
            raise ChannelError("internal-error", "The service failed.") from None
        return info if size <= self.server.limits.presenceInfo else self._tooLarge(caller, size)

    def _tooLarge(self, caller: Any, size: int) -> None:
        """Log that presence tells nothing of a caller but the name."""
        if turn := self.server.mayLog("presence tells too much"):
            _log.warn(
                "{service}: presence tells only the name of {peer}: the rest has {bytes} bytes, more than presenceInfo",
                service=type(self).__name__,
                bytes=size,
                event="presence.large",
                **ofCaller(caller),
                suppressed=turn - 1,
            )

    async def permitAll(
        self, caller: Any, channels: Iterable[str], presence: bool = False, granted: ChannelGrants | None = None
    ) -> dict[str, Any]:
        """Ask the same for each of several channels; return what presence says, by channel.

        Raises:
            ChannelError: it may not subscribe to one of them, which is the `channel` of the error.
        """
        names = tuple(channels)
        found = {}
        with self.permissions.asking("subscribe", caller, names, granted) as asked:
            for channel in names:
                with concerning(channel):
                    found[channel] = await self.permit(caller, channel, presence, granted, asked.get(channel))
        return found

    async def publishFor(
        self,
        caller: Any,
        channel: str,
        message: Any,
        key: str | None = None,
        idempotencyKey: str | None = None,
        granted: ChannelGrants | None = None,
        asked: Deferred[bool] | None = None,
    ) -> Published:
        """Publish a message of a client, if `onPublish` allows it.

        Args:
            caller: the caller or visitor.
            channel: the name.
            message: a str, bytes, JSON as it came (`msgspec.Raw`), or a `Message`.
            key: see `Channels.publish`.
            idempotencyKey: the same.
            granted: what a subscription token allows besides.
            asked: what `Permissions.ask` has returned, if it was called before.

        Raises:
            ChannelError: it may not.
        """
        checkName(channel, self.server.limits.channelName)
        await self.permissions.requirePublish(caller, channel, granted, asked)
        shown = message
        isLookedAt = self.interceptors or getattr(self.onPublish, "__func__", None) is not ChannelService.onPublish
        if isLookedAt and isinstance(message, (Message, Raw)):
            message = Message.of(message)
            shown = self._decoded(message)
        instead = await self._ask("onPublish", self.onPublish, caller, channel, shown)
        if self.server.isStopping:  # perhaps since the client asked: nobody would get the message
            raise ChannelError("unavailable", "The server is stopping: nothing was sent.")
        if caller.identity is not None:
            self.permissions.requireValid(caller, granted)  # which a hook, or the back end, may have outlasted
        try:
            message = Message.of(message)
            # What a service makes of a message may differ each time (a timestamp, for example); what was sent does not.
            return await self.server.channels.publish(
                channel, message if instead is None else instead, key, idempotencyKey, message, source=CLIENT
            )
        except (TypeError, ValueError):
            # The hook's fault: what a client sends can always be encoded.
            self._failed(Failure(), "onPublish")
            raise ChannelError("internal-error", "The service failed.") from None

    def _decoded(self, message: Message) -> Any:
        """Return the value of a client's message.

        Raises:
            ChannelError: JSON of too many values, or that Python cannot read.
        """
        if message.kind is not Kind.JSON:
            return message.value()
        most = self.server.limits.jsonValues
        if hasMoreValues(message.payload, most):
            raise ChannelError("too-large", f"The JSON has more than {most} values.")
        try:
            return decodeLarge(json.decode, message.payload)
        except (ValueError, RecursionError) as error:
            raise ChannelError("bad-request", f"The JSON cannot be read: {printable(error)}.") from None

    def left(self, caller: Any, channel: str) -> None:
        """Tell onUnsubscribe that a subscription has ended; for `Subscriber.ended`."""
        try:
            if self.interceptors:
                pending = asDeferred(intercept(self.interceptors, "onUnsubscribe", self.onUnsubscribe, caller, channel))
            else:
                pending = asDeferred(self.onUnsubscribe(caller, channel))
        except BaseException:
            self._failed(Failure(), "onUnsubscribe")
        else:
            if pending is not None:
                pending.addErrback(self._failed, "onUnsubscribe")

    async def _ask(self, name: str, hook: Callable[..., Any], *arguments: Any) -> Any:
        try:
            if tracing.tracer is not None:
                hook = partial(tracing.traced, f"{type(self).__name__}.{name}", hook, attributes={"twisted_ws.handler": name})
            answer = intercept(self.interceptors, name, hook, *arguments) if self.interceptors else hook(*arguments)
            if iscoroutine(answer):
                # Not through a Deferred, which would leave what it raises to the cyclic collector.
                return await answer
            pending = asDeferred(answer)
            return answer if pending is None else await pending
        except Reject as refusal:
            code = _CODES.get(refusal.status, "forbidden" if refusal.status < 500 else "unavailable")
            raise ChannelError(code, refusal.body or "The service refuses.") from None
        except (ChannelError, CancelledError):
            raise  # CancelledError: the client has left, or has waited long enough
        except Exception:
            self._failed(Failure(), name)
            raise ChannelError("internal-error", "The service failed.") from None

    def _failed(self, failure: Failure, hook: str) -> None:
        name = type(self).__name__
        self.server.counts.handlerErrors.add(name, hook)
        if turn := self.server.mayLog(f"{name}.{hook} raised {type(failure.value).__name__}"):
            _log.failure(
                "{service}.{handler} raised", failure, service=name, handler=hook, event="hook.failed", suppressed=turn - 1
            )

    # WebSocket.

    def onUpgrade(self, request: UpgradeRequest) -> Any:
        """Refuse a URL that names no channel if one is needed; a subclass need not call this."""
        try:
            names = self.channelsOf(request)
        except ChannelError as error:
            raise ChannelReject(error) from None
        if not names and SUBPROTOCOL not in request.subProtocols:
            raise Reject(400, f"No channel: name one in the path or with ?channel=, or offer the subprotocol {SUBPROTOCOL}.")
        return self

    async def onOpen(self, caller: Caller) -> None:
        """Subscribe to the channels of the URL."""
        kind = JsonSubscriber if caller.negotiatedSubProtocol == SUBPROTOCOL else RawSubscriber
        subscriber = kind(caller, self)
        subscriber.welcome()
        try:
            names = self.channelsOf(caller.request)
            query = caller.request.query
            after, last = parseAfter(query.get("after", [None])[-1], names), parseLast(query.get("last", [None])[-1], names)
        except ChannelError as error:
            subscriber.refuse(error)
            return
        token = None if self.permissions.chain is None else caller.request.headers.get(TOKEN_HEADER)
        granted = None
        if token is not None and names:
            try:
                granted = await self.permissions.grantsOf(caller, token)
            except ChannelError as error:
                subscriber.refuse(error, names)
                return
        with self.permissions.asking("subscribe", caller, names if token is None else ()) as asked:
            turns = self.server.runtime.turns
            for name in names:
                if len(names) > 1:
                    turns.spend(ENTERING)
                    if turns.over:
                        await turns.next()
                await subscriber.enter(name, after.get(name), last.get(name), granted, asked.get(name))

    async def onTextMessage(self, caller: Caller, text: str) -> None:
        """Do what a client asks, or publish what it sends."""
        subscriber = caller.membership
        if isinstance(subscriber, (JsonSubscriber, RawSubscriber)):
            await (subscriber.received(text) if self.permissions.rates is None else self._timed(subscriber, text))

    async def onBinaryMessage(self, caller: Caller, data: bytes) -> None:
        """Publish what a client sends."""
        subscriber = caller.membership
        if isinstance(subscriber, (JsonSubscriber, RawSubscriber)):
            await (subscriber.received(data) if self.permissions.rates is None else self._timed(subscriber, data))

    async def _timed(self, subscriber: JsonSubscriber | RawSubscriber, message: str | bytes) -> None:
        # What comes meanwhile waits, and is then counted all at once.
        seconds = self.server.reactor.seconds
        begin = seconds()
        try:
            await subscriber.received(message)
        finally:
            subscriber.held += seconds() - begin
