"""How often users, addresses and publishers may do something: messages to services, and publications by channel."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Protocol

from twisted_ws.access.buckets import TokenBucket
from twisted_ws.access.namespaces import PER_IP, PER_KEY, PER_USER, Namespaces
from twisted_ws.errors import ChannelError
from twisted_ws.wire.door.gate import addressKey

if TYPE_CHECKING:
    from twisted_ws.identity import Identity
    from twisted_ws.wire.websocket.runtime import Runtime

# Seconds between two looks for those that are idle, and how many each looks at: a fraction of a millisecond.
LOOK = 1.0
LOOKED_AT = 1000
MESSAGES = "messages"


class Share(TokenBucket):
    """What one of them may still do; a burst of one second is allowed, and of one event at least.

    Args:
        rate: events a second.
        clock: returns the seconds of a monotonic clock.
        missed: the seconds in which the server stood still, until now.
    """

    __slots__ = ("_excusedUntil", "_missed")

    def __init__(self, rate: float, clock: Callable[[], float], missed: float) -> None:
        super().__init__(rate, max(rate, 1.0), clock)
        self._missed = missed
        self._excusedUntil = -math.inf

    @property
    def rate(self) -> float:
        """Events a second."""
        return self._rate

    def excuse(self, seconds: float, missed: float) -> None:
        """Allow as many more as there were seconds in which nothing was taken from whom it is: they come all at once.

        Args:
            seconds: of these, until now, since the last call for the same connection; several connections may have the same.
            missed: as for the class.
        """
        now = self._seen
        more = max(min(seconds, now - self._excusedUntil), 0.0) + missed - self._missed
        self._excusedUntil, self._missed = now, missed
        if more:
            self._tokens += more * self._rate

    def isBeyond(self, part: float) -> bool:
        """Return whether more than this part of a burst is used."""
        return self._burst - self._tokens > self._burst * part

    def spend(self, count: int) -> None:
        """Count events that have happened elsewhere; what there is no token for is owed."""
        self._tokens = self.left() - count

    def isIdle(self, missed: float) -> bool:
        """Return whether a new one would allow as much; not yet if the server has stood still since the last look."""
        if missed != self._missed:
            self.left()
            self.excuse(0.0, missed)  # what came meanwhile is still to be read
            return False
        return self.left() >= self._burst


class Census(Protocol):
    """Tells other processes with the same clients what is counted here (`twisted_ws.engines.hub.rates`).

    Attributes:
        workers: how many processes there are.
    """

    workers: int

    def took(self, key: Hashable, rate: float) -> None:
        """Take note of an event of somebody who has done more than this process' part of the rate."""


class Rates:
    """The shares of those who are active, by whatever they are counted by. Each process counts for itself, and for the `census`.

    Whoever has been idle for long enough to have a whole burst again is forgotten within seconds. No more than
    `Limits.rateKeys` are known at a time; beyond that, the one that was looked at longest ago begins anew.

    Args:
        runtime: the server's.

    Attributes:
        census: tells other processes; None: there are none.
    """

    wheelSlot: int | None = None
    census: Census | None = None

    def __init__(self, runtime: Runtime) -> None:
        self._limits = runtime.limits
        self._wheel = runtime.wheel
        self._seconds: Callable[[], float] = runtime.reactor.seconds
        self._shares: OrderedDict[Hashable, Share] = OrderedDict()

    def __len__(self) -> int:
        return len(self._shares)

    def take(self, key: Hashable, rate: float, excused: float = 0.0) -> float:
        """Count one event, and return 0; or, if that would be too many, the seconds until it would not: then it is not counted.

        Args:
            key: what is counted, and whose it is.
            rate: events a second; with another one than before, a key begins anew.
            excused: see `Share.excuse`.
        """
        missed = self._wheel.missedUntil(self._seconds())
        share = self._share(key, rate, missed)
        share.left()
        share.excuse(excused, missed)
        if not share.take():
            return share.wait()
        if self.census is not None and share.isBeyond(1 / self.census.workers):
            self.census.took(key, rate)
        return 0.0

    def charge(self, key: Hashable, rate: float, count: int) -> None:
        """Count events that another process has allowed; for the rest see `take`."""
        self._share(key, rate, self._wheel.missedUntil(self._seconds())).spend(count)

    def _share(self, key: Hashable, rate: float, missed: float) -> Share:
        share = self._shares.get(key)
        if share is None or share.rate != rate:
            share = self._shares[key] = Share(rate, self._seconds, missed)
            if len(self._shares) > self._limits.rateKeys:
                self._shares.popitem(last=False)
            elif self.wheelSlot is None:
                self._wheel.after(self, LOOK)
        return share

    def deadlineReached(self, now: float) -> None:
        """Forget some of those that are idle; called by the wheel."""
        missed = self._wheel.missedUntil(self._seconds())
        for _ in range(min(LOOKED_AT, len(self._shares))):
            key, share = self._shares.popitem(last=False)
            if not share.isIdle(missed):
                self._shares[key] = share
        if self._shares and self.wheelSlot is None:
            self._wheel.after(self, LOOK)

    def _rateOf(self, identity: Identity | None, address: str) -> tuple[Hashable, int] | None:
        limits = self._limits
        isUser, who = whose(identity, address)
        rate = limits.messageRatePerUser if isUser else limits.messageRatePerIp
        return None if not rate or who is None else ((MESSAGES, isUser, who), rate)

    def checkMessage(self, identity: Identity | None, address: str) -> None:
        """Count a message that came by itself, over HTTP.

        Raises:
            ChannelError: there are too many of this user, or address.
        """
        found = self._rateOf(identity, address)
        wait = 0.0 if found is None else self.take(*found)
        if wait:
            raise tooMany("You send too many messages.", wait)

    def ofConnection(self, identity: Identity | None, address: str) -> ConnectionRate | None:
        """Return what counts the messages of a connection; None if they are not counted."""
        found = self._rateOf(identity, address)
        return None if found is None else ConnectionRate(self, *found)


class ConnectionRate:
    """Counts the messages of one connection with those of all others of its user, or address.

    Args:
        rates: what counts.
        key, rate: see `Rates.take`.

    Attributes:
        rate: messages a second.
    """

    __slots__ = ("_key", "_rates", "_unread", "rate")

    def __init__(self, rates: Rates, key: Hashable, rate: int) -> None:
        self._rates = rates
        self._key = key
        self._unread = 0.0
        self.rate = rate

    def within(self, unread: float) -> bool:
        """Count one more message, and return whether it may come.

        Args:
            unread: seconds during which nothing was read from the connection, in total, without those in which the server
                stood still.
        """
        excused, self._unread = unread - self._unread, unread
        return not self._rates.take(self._key, self.rate, excused)


class PublicationRates:
    """The rates of publications that the tables of channels name: each counts for all names that its table holds for.

    Args:
        namespaces: the tables.
        rates: what counts.
    """

    def __init__(self, namespaces: Namespaces, rates: Rates) -> None:
        self._namespaces = namespaces
        self._rates = rates

    def check(self, channel: str, identity: Identity | None, address: str, excused: float = 0.0) -> None:
        """Count a publication of a client.

        Args:
            channel: where to.
            identity: the client's, None where nobody is asked.
            address: its address.
            excused: the seconds for which messages of its connection had to wait since its last publication.

        Raises:
            ChannelError: there are too many of this user or, without one, of this address.
        """
        isUser, who = whose(identity, address)
        if who is not None:
            self._take(channel, PER_USER if isUser else PER_IP, who, excused)

    def checkKey(self, channel: str, name: str) -> None:
        """Count a publication of a publisher, by the name of its API key; "" without one.

        Raises:
            ChannelError: there are too many with this key.
        """
        self._take(channel, PER_KEY, name, 0.0)

    def _take(self, channel: str, option: str, who: Hashable, excused: float) -> None:
        namespace = self._namespaces.find(channel)
        rate: float = namespace.values.get(option, 0)
        wait = self._rates.take((option, namespace.said[option], who), rate, excused) if rate else 0.0
        if wait:
            raise tooMany("You publish too often to this channel.", wait)


def whose(identity: Identity | None, address: str) -> tuple[bool, str | int | None]:
    """Return whether somebody counts as a user, and by what: the user's name or the address; None for a local socket.

    A user is whom an authenticator has found: what a service takes for one may be the client's own word.
    """
    if identity is not None and identity.user:
        return True, identity.user
    return False, addressKey(address)


def tooMany(message: str, wait: float) -> ChannelError:
    """Return the refusal of what comes too often; after so many seconds, one more is allowed."""
    error = ChannelError("too-many-requests", message, "rate")
    error.retryAfter = math.ceil(wait * 1000) / 1000
    return error
