"""Who may do what with the channels of a service, for every transport: rules, tokens, rates, and the application behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from twisted_ws.access.chain import Chain
from twisted_ws.access.lifetime import Term
from twisted_ws.access.namespaces import ACTIONS, Namespaces
from twisted_ws.access.rates import PublicationRates
from twisted_ws.access.refusals import EXPIRED, REVOKED, AccessRefused
from twisted_ws.access.rules import ChannelAccess, Step
from twisted_ws.access.tokens.claims import ChannelGrants
from twisted_ws.channels.subscribers.buffered import BufferedSubscriber
from twisted_ws.errors import ChannelError
from twisted_ws.logs import ofCaller, printable
from twisted_ws.names import checkName, isPattern
from twisted_ws.upgrade import Reject

if TYPE_CHECKING:
    from twisted_ws.channels.service import ChannelService

_log = Logger()

# Why a subscription has ended that new credentials or new rules do not allow.
NOT_ALLOWED = "no longer allowed"
# The cost of a subscription token, in steps of `Turns`: the check of a signature; with many keys, its seconds count.
VERIFYING = 50
# And that of a look whether one subscription may stay, which may end it.
JUDGING = 15
# What somebody may not do, in the words of a refusal.
_DOING = {"subscribe": "subscribe to", "publish": "publish to", "presence": "know who is on"}


class Permissions:
    """Decides for one service, before its hooks, which can only refuse more.

    Args:
        service: the service; its options count where no rule says otherwise.

    Attributes:
        access: decides by the rules; None where there are neither rules nor authenticators. Another object after each change.
        chain: who knows the clients, set when the service is mounted; None for nobody.
        rates: how much may be published; None for as much as one likes.
    """

    __slots__ = ("_service", "access", "chain", "rates")

    def __init__(self, service: ChannelService) -> None:
        self._service = service
        self.access: ChannelAccess | None = None
        self.chain: Chain | None = None
        self.rates: PublicationRates | None = None

    def guard(self, namespaces: Namespaces, isAuthenticated: bool) -> bool:
        """Let rules decide, and grants where clients are asked who they are; return whether there is anything to decide by.

        Args:
            namespaces: what the configuration says of channels.
            isAuthenticated: whether there are authenticators for the service.
        """
        isGuarded = isAuthenticated or namespaces.says(*ACTIONS, "wildcards")
        options = self._service.publish, self._service.presence, self._service.wildcards
        self.access = ChannelAccess(namespaces, isAuthenticated, *options) if isGuarded else None
        return isGuarded

    # Subscription tokens.

    async def grantsOf(self, caller: Any, token: str) -> ChannelGrants | None:
        """Return what a subscription token allows a caller or visitor; None where nobody is asked for credentials.

        Raises:
            ChannelError: the token is refused ("forbidden", with the reason), or cannot be verified in time.
        """
        if self.chain is None or caller.identity is None:
            return None
        turns = self._service.server.runtime.turns
        if turns.over:
            await turns.next()  # a client may send hundreds at once
        with turns.counting(VERIFYING):
            verifying = Deferred.fromCoroutine(self.chain.grantsOf(token, caller.identity.user))
        try:
            return await verifying.addTimeout(self._service.server.limits.upgradeDeadline, self._service.server.reactor)
        except AccessRefused as refused:
            if refused.status >= 500:
                raise ChannelError("unavailable", refused.message) from None
            if turn := self._service.server.mayLog("a subscription token was refused"):
                _log.info(
                    "{peer} sent a subscription token that is refused: {reason}",
                    reason=refused.summary,
                    event="token.refused",
                    **ofCaller(caller),
                    suppressed=turn - 1,
                )
            raise ChannelError("forbidden", refused.message, refused.reason) from None
        except Reject:
            raise ChannelError("internal-error", "The subscription token could not be verified.") from None
        except defer.TimeoutError:
            raise ChannelError("unavailable", "The subscription token was not verified in time.") from None

    def grant(self, caller: Any, channel: str, granted: ChannelGrants) -> None:
        """Let a subscription that has begun end with the token that allows it."""
        if channel in caller.channels and granted.subscribe.allows(channel):
            identities = self._service.server.identities
            term = Term(granted.expiresAt, granted.publish.allows(channel), granted.tokenId)
            life = caller.life or identities.lifeOf(caller)
            life.grant(channel, term)
            if identities.revocations.due and identities.revocations.coversToken(
                granted.tokenId, caller.identity.user, granted.issuedAt
            ):
                life.release(channel)  # while a hook was asked
                caller.membership.lapse(channel, REVOKED)

    def requireValid(self, caller: Any, granted: ChannelGrants | None = None) -> None:
        """Refuse a caller or visitor whose credentials, or subscription token, have ended since they were looked at.

        Raises:
            ChannelError: they have: "unauthorized", or "forbidden" for the token.
        """
        identities, identity = self._service.server.identities, caller.identity
        if identity is None:
            return
        try:
            identities.requireValid(identity)
        except AccessRefused as refused:
            raise ChannelError("unauthorized", refused.message, refused.reason) from None
        if granted is None:
            return
        if granted.expiresAt <= self._service.server.runtime.unixTime():
            raise ChannelError("forbidden", "The token has expired.", EXPIRED)
        if identities.revocations.due and identities.revocations.coversToken(granted.tokenId, identity.user, granted.issuedAt):
            raise ChannelError("forbidden", "The token is revoked.", REVOKED)

    def renew(self, caller: Any, channel: str, granted: ChannelGrants) -> None:
        """Let a subscription go on with a new token.

        Raises:
            ChannelError: the token does not allow it.
        """
        if self.access is not None and self._require(self.access, "subscribe", caller, channel, granted=granted) is None:
            raise ChannelError("forbidden", "The token is not valid here.")
        self.grant(caller, channel, granted)

    # What a transport, or the service for it, asks.

    async def requireSubscribe(
        self, caller: Any, channel: str, granted: ChannelGrants | None = None, asked: Deferred[bool] | None = None
    ) -> None:
        """Refuse a subscription that is not allowed.

        Args:
            caller: the caller or visitor.
            channel: a name or pattern, checked.
            granted: what a subscription token allows besides.
            asked: what `ask` has returned, if it was called before.

        Raises:
            ChannelError: it is not allowed, or the back end cannot be asked.
        """
        if self.access is None:
            # Not left to onSubscribe: a hook that looks for names would let "*" in, which matches all of them.
            if isPattern(channel) and not self._service.wildcards:
                raise ChannelError("forbidden", "Patterns are not allowed here.")
        elif self._require(self.access, "subscribe", caller, channel, None, granted) is None:
            await self._requireAsked("subscribe", caller, channel, granted, asked)

    async def requirePublish(
        self, caller: Any, channel: str, granted: ChannelGrants | None = None, asked: Deferred[bool] | None = None
    ) -> None:
        """Refuse a message that may not be published, or is one too many; the same for a name.

        Raises:
            ChannelError: it is not allowed, there are too many, or the back end cannot be asked.
        """
        isAsked = self.access is not None and self._require(self.access, "publish", caller, channel, None, granted) is None
        if self.rates is not None:  # before the back end is asked, which would cost it more
            _count(self.rates, caller, channel)
        if isAsked:
            await self._requireAsked("publish", caller, channel, granted, asked)

    def requirePresence(
        self, caller: Any, channel: str, subscribed: tuple[str, ...] | None = None, granted: ChannelGrants | None = None
    ) -> None:
        """Raise ChannelError if `caller` may not know who is on a channel.

        Args:
            caller: the caller or visitor.
            channel: a name, checked here.
            subscribed: the channels that it counts as subscribed to; None: those that it is.
            granted: what a subscription token allows besides.
        """
        checkName(channel, self._service.server.limits.channelName)
        if self.access is not None:
            self._require(self.access, "presence", caller, channel, subscribed, granted)
        elif not self._service.presence:
            raise ChannelError("forbidden", "Presence is not shown here.")

    # What the back end is asked.

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
            if turn := self._service.server.mayLog("asking about a channel failed"):
                _log.failure(
                    "asking about a channel failed",
                    event="auth.failed",
                    channel=printable(channel),
                    **ofCaller(caller),
                    suppressed=turn - 1,
                )
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

    # What has begun, and whether it may go on.

    def mayStay(self, caller: Any, channel: str) -> bool | None:
        """Return whether `caller`, whose identity may have changed, may still be subscribed to a channel; no hook is asked.

        None: that is for the back end to decide.
        """
        if self.access is None:
            return self._service.wildcards or not isPattern(channel)
        return self._decide(self.access, "subscribe", caller, channel)

    def judge(self, subscriber: Any) -> Deferred[None] | None:
        """End what a subscriber may not have any more: subscriptions, and to be told who comes and goes.

        What the back end allowed goes on while it cannot be asked.

        Args:
            subscriber: one of this service; its identity or the rules have changed.

        Returns:
            None, or a Deferred that fires when the back end has been asked.
        """
        with self._service.server.runtime.turns.counting(JUDGING * len(subscriber.channels)):
            pending = self._judge(subscriber)
        return Deferred.fromCoroutine(self._judgeAsked(subscriber, pending)) if pending else None

    def _judge(self, subscriber: Any) -> list[str]:
        """Do that as far as the rules say so; return the channels about which the back end decides."""
        caller, channels = subscriber.caller, self._service.server.channels
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
        return pending

    async def _judgeAsked(self, subscriber: Any, names: Iterable[str]) -> None:
        with self.asking("subscribe", subscriber.caller, names) as asked:
            for channel, answer in asked.items():
                try:
                    allowed = await answer
                except ChannelError:
                    continue
                if not allowed and self.mayStay(subscriber.caller, channel) is None:
                    self._service.server.channels.unsubscribe(subscriber, channel, NOT_ALLOWED)

    def _maySeeWho(self, caller: Any, channel: str) -> bool:
        return self._service.presence if self.access is None else bool(self._decide(self.access, "presence", caller, channel))

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
        if turn := self._service.server.mayLog("a channel was refused"):
            steps: list[Step] = []
            self._decide(access, action, caller, channel, subscribed, granted, asked, steps)
            _log.debug(
                "{peer} may not {action} {channel}: {reason}",
                action=_DOING[action],
                channel=printable(channel),
                reason="; ".join([each.text for each in steps]),
                event="channel.refused",
                **ofCaller(caller),
                suppressed=turn - 1,
            )
        raise ChannelError("forbidden", f"You may not {_DOING[action]} this channel.")


def _count(rates: PublicationRates, caller: Any, channel: str) -> None:
    subscriber, excused = caller.membership, 0.0
    if isinstance(subscriber, BufferedSubscriber):
        excused, subscriber.held = subscriber.held, 0.0
    rates.check(channel, caller.identity, caller.request.peerAddress, excused)
