"""The service ``channels``: publish and subscribe by name, over WebSocket; its rules apply to HTTP, too."""

from __future__ import annotations

from asyncio import iscoroutine
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from msgspec import Raw, json
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.chain import Chain
from twisted_ws.access.lifetime import Term
from twisted_ws.access.namespaces import ACTIONS, Namespaces
from twisted_ws.access.rates import PublicationRates
from twisted_ws.access.refusals import REVOKED, AccessRefused
from twisted_ws.access.rules import ChannelAccess, Step
from twisted_ws.access.tokens.claims import ChannelGrants
from twisted_ws.caller import Caller
from twisted_ws.channels.buffered import BufferedSubscriber
from twisted_ws.channels.formats import SUBPROTOCOL
from twisted_ws.channels.mailbox import Policy
from twisted_ws.channels.websocket import JsonSubscriber, RawSubscriber
from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.dispatch.interceptors import Interceptor, intercept
from twisted_ws.dispatch.largejson import decodeLarge, hasMoreValues
from twisted_ws.errors import ChannelError, concerning
from twisted_ws.logs import printable
from twisted_ws.message import Kind, Message, Published, parseAfter, parseLast
from twisted_ws.names import checkName, checkNameOrPattern, isPattern
from twisted_ws.service import WebSocketService
from twisted_ws.upgrade import Reject, UpgradeRequest

_log = Logger()

# For operators who mount a service at /channels alone and expect /channels/news: it is in the server's log, too.
_NOT_IN_PATH = "This path names no channel: use ?channel=NAME, or mount the service at .../{channel}."


# The header of a request that has a subscription token.
TOKEN_HEADER = "channel-token"
# Why a subscription has ended that new credentials or new rules do not allow.
NOT_ALLOWED = "no longer allowed"
# What somebody may not do, in the words of a refusal.
_DOING = {"subscribe": "subscribe to", "publish": "publish to", "presence": "know who is on"}


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
    hooks = MappingProxyType(
        {
            "onSubscribe": ("caller", "channel"),
            "onPublish": ("caller", "channel", "message"),
            "onUnsubscribe": ("caller", "channel"),
            "onPresence": ("caller", "channel"),
        }
    )

    interceptors: tuple[Interceptor, ...] = ()  # set when it is mounted: its hooks are called through these
    rates: PublicationRates | None = None  # set when it is mounted, where there are such rates
    access: ChannelAccess | None = None  # see `guard`
    chain: Chain | None = None  # set when it is mounted, where there are authenticators

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

    def guard(self, namespaces: Namespaces, isAuthenticated: bool) -> bool:
        """Let rules decide, and grants where clients are asked who they are; return whether there is anything to decide by.

        Args:
            namespaces: what the configuration says of channels.
            isAuthenticated: whether there are authenticators for the service.
        """
        isGuarded = isAuthenticated or namespaces.says(*ACTIONS, "wildcards")
        options = self.publish, self.presence, self.wildcards
        self.access = ChannelAccess(namespaces, isAuthenticated, *options) if isGuarded else None
        return isGuarded

    # Hooks.

    def onSubscribe(self, caller: Any, channel: str) -> Any:
        """Let anybody subscribe; called for a pattern only if `wildcards` allows patterns."""

    def onPublish(self, caller: Any, channel: str, message: Any) -> Any:
        """Refuse, unless `publish` or a rule allows it."""
        if not self.publish and self.access is None:
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

    async def grantsOf(self, caller: Any, token: str) -> ChannelGrants | None:
        """Return what a subscription token allows a caller or visitor; None where nobody is asked for credentials.

        Raises:
            ChannelError: the token is refused ("forbidden", with the reason), or cannot be verified in time.
        """
        if self.chain is None or caller.identity is None:
            return None
        verifying = Deferred.fromCoroutine(self.chain.grantsOf(token, caller.identity.user))
        try:
            return await verifying.addTimeout(self.server.limits.upgradeDeadline, self.server.reactor)
        except AccessRefused as refused:
            if refused.status >= 500:
                raise ChannelError("unavailable", refused.message) from None
            if self.server.mayLog("a subscription token was refused"):
                _log.info(
                    "{user} at {address} came with a subscription token that is refused: {why}",
                    user=printable(caller.user or "a guest"),
                    address=caller.request.peerAddress or "a local socket",
                    why=refused.summary,
                )
            raise ChannelError("forbidden", refused.message, refused.reason) from None
        except Reject:
            raise ChannelError("internal-error", "The subscription token could not be verified.") from None
        except defer.TimeoutError:
            raise ChannelError("unavailable", "The subscription token was not verified in time.") from None

    def grant(self, caller: Any, channel: str, granted: ChannelGrants) -> None:
        """Let a subscription that has begun end with the token that allows it."""
        if channel in caller.channels and granted.subscribe.allows(channel):
            term = Term(granted.expiresAt, granted.publish.allows(channel), granted.tokenId)
            life = caller.life or self.server.lifeOf(caller)
            life.grant(channel, term)
            revocations = self.server.revocations
            if revocations and revocations.coversToken(granted.tokenId, caller.identity.user, granted.issuedAt):
                life.release(channel)  # while a hook was asked
                caller.membership.lapse(channel, REVOKED)

    def renew(self, caller: Any, channel: str, granted: ChannelGrants) -> None:
        """Let a subscription go on with a new token.

        Raises:
            ChannelError: the token does not allow it.
        """
        if self.access is not None and self._require(self.access, "subscribe", caller, channel, granted=granted) is None:
            raise ChannelError("forbidden", "The token does not count here.")
        self.grant(caller, channel, granted)

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
            asked: what `ask` has returned, if it was called before.

        Raises:
            ChannelError: it may not.
        """
        checkNameOrPattern(channel, self.server.limits.channelName)
        if self.access is not None:
            if self._require(self.access, "subscribe", caller, channel, None, granted) is None:
                await self._requireAsked("subscribe", caller, channel, granted, asked)
        # Not left to onSubscribe: a hook that looks for names would let "*" in, which matches all of them.
        elif isPattern(channel) and not self.wildcards:
            raise ChannelError("forbidden", "Patterns are not allowed here.")
        await self._ask("onSubscribe", self.onSubscribe, caller, channel)
        if presence:
            # Who may subscribe is a subscriber already where presence is for these: over HTTP there is no later question.
            self.checkPresence(caller, channel, (*caller.channels, channel), granted)
        if isPattern(channel):
            return None
        info = await self._ask("onPresence", self.onPresence, caller, channel)
        try:
            json.encode(info)  # it is sent to many later: only here is it known where it came from
        except Exception:
            self._failed(Failure(), "onPresence")
            raise ChannelError("internal-error", "The service failed.") from None
        return info

    async def permitAll(
        self, caller: Any, channels: Iterable[str], presence: bool = False, granted: ChannelGrants | None = None
    ) -> dict[str, Any]:
        """Ask the same for each of several channels; return what presence says, by channel.

        Raises:
            ChannelError: it may not subscribe to one of them, which is the `channel` of the error.
        """
        names = tuple(channels)
        found = {}
        with self.asking("subscribe", caller, names, granted) as asked:
            for channel in names:
                with concerning(channel):
                    found[channel] = await self.permit(caller, channel, presence, granted, asked.get(channel))
        return found

    @contextmanager
    def asking(
        self, action: str, caller: Any, channels: Iterable[str], granted: ChannelGrants | None = None
    ) -> Iterator[dict[str, Deferred[bool]]]:
        """Begin to ask the back end about all of several channels that are for it to decide; give up at the end what is open.

        What is begun within one turn of the reactor is one question.
        """
        asked: dict[str, Deferred[bool]] = {}
        try:
            for channel in channels:
                if (answer := self.ask(action, caller, channel, granted)) is not None:
                    asked[channel] = answer
            yield asked
        finally:
            for answer in asked.values():
                answer.addErrback(lambda failure: None)
                answer.cancel()

    def ask(self, action: str, caller: Any, channel: str, granted: ChannelGrants | None = None) -> Deferred[bool] | None:
        """Begin to ask the back end whether `caller` may; return None if that is not for it to decide.

        Args:
            action: "subscribe" or "publish".
            caller: the caller or visitor.
            channel: a name or pattern, checked.
            granted: what a subscription token allows besides.

        Returns:
            A Deferred of the answer; it fails with `ChannelError` if the back end cannot be asked.
        """
        access = self.access
        if access is None or not access.asks or self._decide(access, action, caller, channel, None, granted) is not None:
            return None
        return Deferred.fromCoroutine(self._askBackEnd(action, caller, channel))

    async def _askBackEnd(self, action: str, caller: Any, channel: str) -> bool:
        asker = None if self.chain is None else self.chain.asker(caller.identity)
        if asker is None:
            return False  # the daemon says so at the start
        names = ([channel], []) if action == "subscribe" else ([], [channel])
        try:
            maySubscribe, mayPublish = await asker.may(caller.identity, *names)
        except AccessRefused as refused:
            raise ChannelError("unavailable", refused.message) from None
        except (CancelledError, GeneratorExit):
            raise
        except Exception:
            if self.server.mayLog("asking about a channel failed"):
                _log.failure("asking about a channel failed")
            raise ChannelError("internal-error", "The application could not be asked.") from None
        return channel in (maySubscribe if action == "subscribe" else mayPublish)

    async def _requireAsked(
        self, action: str, caller: Any, channel: str, granted: ChannelGrants | None, asked: Deferred[bool] | None = None
    ) -> None:
        """Refuse what the back end does not allow.

        Raises:
            ChannelError: it does not, or cannot be asked.
        """
        if asked is None:
            asked = self.ask(action, caller, channel, granted)
        answer = None if asked is None else await asked
        if self.access is not None:  # whose rules may have changed meanwhile
            allowed = self._require(self.access, action, caller, channel, None, granted, answer)
            if allowed is None:
                raise ChannelError("unavailable", "The rules have just changed.")

    def checkPresence(
        self, caller: Any, channel: str, subscribed: tuple[str, ...] | None = None, granted: ChannelGrants | None = None
    ) -> None:
        """Raise ChannelError if `caller` may not know who is on a channel.

        Args:
            caller: the caller or visitor.
            channel: a name, checked here.
            subscribed: the channels that it counts as subscribed to; None: those that it is.
            granted: what a subscription token allows besides.
        """
        checkName(channel, self.server.limits.channelName)
        if self.access is not None:
            self._require(self.access, "presence", caller, channel, subscribed, granted)
        elif not self.presence:
            raise ChannelError("forbidden", "Presence is not shown here.")

    def mayStay(self, caller: Any, channel: str) -> bool | None:
        """Return whether `caller`, whose identity may have changed, may still be subscribed to a channel; no hook is asked.

        None: that is for the back end to decide.
        """
        if self.access is None:
            return self.wildcards or not isPattern(channel)
        return self._decide(self.access, "subscribe", caller, channel)

    def judge(self, subscriber: Any) -> Deferred[None] | None:
        """End what a subscriber may not have any more: subscriptions, and to be told who comes and goes.

        What the back end allowed goes on while it cannot be asked.

        Args:
            subscriber: one of this service; its identity or the rules have changed.

        Returns:
            None, or a Deferred that fires when the back end has been asked.
        """
        caller, channels = subscriber.caller, self.server.channels
        pending = []
        for channel in subscriber.channels:
            allowed = self.mayStay(caller, channel)
            if allowed is None:
                pending.append(channel)
            elif not allowed:
                channels.unsubscribe(subscriber, channel, NOT_ALLOWED)
                continue
            if channels.presence.isWatching(channel, subscriber) and not self._maySeeWho(caller, channel):
                channels.presence.unwatch(channel, subscriber)
                subscriber.hidden(channel)
        return Deferred.fromCoroutine(self._judgeAsked(subscriber, pending)) if pending else None

    async def _judgeAsked(self, subscriber: Any, names: Iterable[str]) -> None:
        with self.asking("subscribe", subscriber.caller, names) as asked:
            for channel, answer in asked.items():
                try:
                    allowed = await answer
                except ChannelError:
                    continue
                if not allowed and self.mayStay(subscriber.caller, channel) is None:
                    self.server.channels.unsubscribe(subscriber, channel, NOT_ALLOWED)

    def _maySeeWho(self, caller: Any, channel: str) -> bool:
        return self.presence if self.access is None else bool(self._decide(self.access, "presence", caller, channel))

    def _decide(
        self,
        access: ChannelAccess,
        action: str,
        caller: Any,
        channel: str,
        subscribed: tuple[str, ...] | None = None,
        granted: ChannelGrants | None = None,
        asked: bool | None = None,
        steps: list[Step] | None = None,
    ) -> bool | None:
        """Return whether `caller` may, None if the back end has to be asked."""
        isGranted = False
        if granted is not None:
            isGranted = (granted.publish if action == "publish" else granted.subscribe).allows(channel)
        elif caller.life is not None and (term := caller.life.granted(channel)) is not None:
            isGranted = term.mayPublish if action == "publish" else True
        if subscribed is None:
            subscribed = caller.channels
        return access.decide(action, channel, caller.identity, subscribed, steps, isGranted, asked)

    def _require(
        self,
        access: ChannelAccess,
        action: str,
        caller: Any,
        channel: str,
        subscribed: tuple[str, ...] | None = None,
        granted: ChannelGrants | None = None,
        asked: bool | None = None,
    ) -> bool | None:
        """Return True if `caller` may, None if the back end has to be asked.

        Raises:
            ChannelError: it may not.
        """
        allowed = self._decide(access, action, caller, channel, subscribed, granted, asked)
        if allowed is not False:
            return allowed
        if self.server.mayLog("a channel was refused"):
            steps: list[Step] = []
            self._decide(access, action, caller, channel, subscribed, granted, asked, steps)
            _log.debug(
                "{user} may not {action} {channel}: {steps}",
                user=printable(caller.user or "somebody unknown"),
                action=_DOING[action],
                channel=printable(channel),
                steps="; ".join([each.text for each in steps]),
            )
        raise ChannelError("forbidden", f"You may not {_DOING[action]} this channel.")

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
            asked: what `ask` has returned, if it was called before.

        Raises:
            ChannelError: it may not.
        """
        checkName(channel, self.server.limits.channelName)
        isAsked = self.access is not None and self._require(self.access, "publish", caller, channel, None, granted) is None
        if self.rates is not None:  # before the back end is asked, which would cost it more
            self._count(self.rates, caller, channel)
        if isAsked:
            await self._requireAsked("publish", caller, channel, granted, asked)
        shown = message
        isLookedAt = self.interceptors or getattr(self.onPublish, "__func__", None) is not ChannelService.onPublish
        if isLookedAt and isinstance(message, (Message, Raw)):
            message = Message.of(message)
            shown = self._decoded(message)
        instead = await self._ask("onPublish", self.onPublish, caller, channel, shown)
        if self.server.isStopping:  # perhaps since the client asked: nobody would get the message
            raise ChannelError("unavailable", "The server is stopping: nothing was sent.")
        try:
            message = Message.of(message)
            # What a service makes of a message may differ each time (a timestamp, for example); what was sent does not.
            return await self.server.channels.publish(
                channel, message if instead is None else instead, key, idempotencyKey, message
            )
        except (TypeError, ValueError):
            # The hook's fault: what a client sends can always be encoded.
            self._failed(Failure(), "onPublish")
            raise ChannelError("internal-error", "The service failed.") from None

    def _count(self, rates: PublicationRates, caller: Any, channel: str) -> None:
        """Count a publication.

        Raises:
            ChannelError: there are too many.
        """
        subscriber, excused = caller.membership, 0.0
        if isinstance(subscriber, BufferedSubscriber):
            excused, subscriber.held = subscriber.held, 0.0
        rates.check(channel, caller.identity, caller.request.peerAddress, excused)

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
        if self.server.mayLog(f"{name}.{hook} raised {type(failure.value).__name__}"):
            _log.failure("{service}.{hook} raised", failure, service=name, hook=hook)

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
        token = None if self.chain is None else caller.request.headers.get(TOKEN_HEADER)
        with self.asking("subscribe", caller, names if token is None else ()) as asked:
            for name in names:
                await subscriber.enter(name, after.get(name), last.get(name), token, asked.get(name))

    async def onTextMessage(self, caller: Caller, text: str) -> None:
        """Do what a client asks, or publish what it sends."""
        subscriber = caller.membership
        if isinstance(subscriber, (JsonSubscriber, RawSubscriber)):
            await (subscriber.received(text) if self.rates is None else self._timed(subscriber, text))

    async def onBinaryMessage(self, caller: Caller, data: bytes) -> None:
        """Publish what a client sends."""
        subscriber = caller.membership
        if isinstance(subscriber, (JsonSubscriber, RawSubscriber)):
            await (subscriber.received(data) if self.rates is None else self._timed(subscriber, data))

    async def _timed(self, subscriber: JsonSubscriber | RawSubscriber, message: str | bytes) -> None:
        # What comes meanwhile waits, and is then counted all at once.
        seconds = self.server.reactor.seconds
        begin = seconds()
        try:
            await subscriber.received(message)
        finally:
            subscriber.held += seconds() - begin
