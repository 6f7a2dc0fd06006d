"""Who came, and for how long that counts: authenticators, new tokens over open connections, expiry and revocation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from twisted_ws.access.authenticator import Authenticator, Host
from twisted_ws.access.chain import GUEST_OR_MESSAGE, Chain, Guest, requireScope, requireValid
from twisted_ws.access.failures import Failures
from twisted_ws.access.lifetime import LONGEST_WAIT, SOON, Lifetime
from twisted_ws.access.refusals import AccessRefused, forbidden, unavailable
from twisted_ws.access.revocations import Revocations
from twisted_ws.access.sources import MOST_BYTES, TokenMessage
from twisted_ws.caller import Caller
from twisted_ws.channels.roster import Roster
from twisted_ws.channels.visitor import Visitor
from twisted_ws.closecodes import EXPIRED
from twisted_ws.engines.contract import Engine, Revocation
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.identity import Identity
from twisted_ws.server.callers import OpenCallers
from twisted_ws.server.node import CLOSING
from twisted_ws.spelling import didYouMean
from twisted_ws.telemetry.counts import Counts
from twisted_ws.upgrade import Reject, UpgradeRequest
from twisted_ws.wire.door.origins import AllowedOrigins
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.runtime import Runtime

# The authenticator that everybody has who has no credentials.
GUEST_NAME = "guest"
# The cost of a look at one connection, in steps of `Turns`, and of a token: the check of a signature.
LOOKING = 1
VERIFYING = 50


class Identities:
    """The authenticators of a server, and what becomes of those whom they have let in.

    It is what authenticators know of the server: `twisted_ws.access.authenticator.Host`.

    Args:
        authenticators: by name; ``guest`` is there without being named.
        runtime: the server's.
        callers: its open callers.
        namedOrigins: the pages that may use the credentials of their visitors' browsers.
        mayLog: says whether one more line of a kind may be written (see `twisted_ws.logs.Throttle.allows`).

    Attributes:
        revocations: the credentials that are not accepted any more.
        failures: the wrong credentials that came from each address, counted for all authenticators.
    """

    def __init__(
        self,
        authenticators: Mapping[str, Authenticator],
        runtime: Runtime,
        callers: OpenCallers,
        namedOrigins: AllowedOrigins,
        mayLog: Callable[[str], int],
    ) -> None:
        self.revocations = Revocations(runtime.unixTime, runtime.wheel.seconds)
        self.failures = Failures(runtime.limits, runtime.reactor.seconds)
        self.mayLog = mayLog
        self._authenticators: dict[str, Authenticator] = {GUEST_NAME: Guest(), **authenticators}
        self._runtime = runtime
        self._callers = callers
        self._visitors = Roster()
        self._namedOrigins = namedOrigins
        self._chains: list[Chain] = []
        # Those that others have replaced, until all whom they were asked about have an answer.
        self._replaced: dict[Authenticator, IDelayedCall] = {}
        self._host: Host | None = None

    def start(self, engine: Engine, visitors: Roster) -> None:
        """Let the authenticators begin: the engine knows which credentials were used, and the visitors come over HTTP."""
        self._engine = engine
        self._visitors = visitors
        self._host = self
        for each in self._authenticators.values():
            if (start := getattr(each, "start", None)) is not None:
                start(self)

    async def stop(self) -> None:
        """Let the authenticators end."""
        self._host = None
        replaced, self._replaced = self._replaced, {}
        for call in replaced.values():
            call.cancel()
        for each in (*self._authenticators.values(), *replaced):
            if isinstance(stopped := _stop(each), Deferred):
                await stopped

    @property
    def authenticators(self) -> Mapping[str, Authenticator]:
        """The authenticators, by name, with ``guest``."""
        return MappingProxyType(self._authenticators)

    def chainOf(self, names: Sequence[str], where: str) -> Chain:
        """Return the authenticators of these names, as they are asked in order.

        Args:
            names: the names.
            where: what names them, for errors.

        Raises:
            ConfigurationError: there is no such authenticator, or no name.
        """
        for name in names:
            if name not in self._authenticators:
                raise ConfigurationError(f"{where}: there is no authenticator {name}{didYouMean(name, self._authenticators)}")
        if not names:
            raise ConfigurationError(f"{where} must name an authenticator, or guest.")
        chain = self._chain(names, self._authenticators)
        self._chains.append(chain)
        return chain

    def _chain(self, names: Iterable[str], authenticators: Mapping[str, Authenticator]) -> Chain:
        chain = [(name, authenticators[name]) for name in names]
        runtime = self._runtime
        return Chain(chain, self.revocations, runtime.unixTime, self.mayLog, runtime.counts, runtime.reactor.seconds)

    def replace(self, removed: Collection[str], made: Mapping[str, Authenticator]) -> Callable[[], None]:
        """Return a function that lets other authenticators decide from now on, in all chains; until then, nothing changes.

        Connections that are open stay, and whoever is being asked about goes on being asked about.

        Args:
            removed: the names of those that go, and of those that others replace.
            made: those that come.

        Raises:
            ConfigurationError: a chain needs one that would be gone, or cannot have one as it would be.
        """
        left = {name: each for name, each in self._authenticators.items() if name not in removed}
        requireReplaceable([chain.names for chain in self._chains], left, made)
        after = {**left, **made}
        chains = [(chain, self._chain(chain.names, after)) for chain in self._chains]

        def replace() -> None:
            before = [each for name, each in self._authenticators.items() if name in removed]
            self._authenticators = after
            for chain, other in chains:
                chain.become(other)
            if self._host is not None:
                for each in made.values():
                    if (start := getattr(each, "start", None)) is not None:
                        start(self._host)
            runtime = self._runtime
            for each in before:
                self._replaced[each] = runtime.reactor.callLater(runtime.limits.upgradeDeadline, self._endReplaced, each)

        return replace

    def _endReplaced(self, authenticator: Authenticator) -> None:
        del self._replaced[authenticator]
        _stop(authenticator)

    def claim(self, key: str, until: float) -> bool | Deferred[bool]:
        """Return True once for a key (see `twisted_ws.access.authenticator.Host`)."""
        return self._engine.claim(key, until)

    def reload(self) -> list[str]:
        """Let the authenticators read their files anew; return what is wrong, in lines for the log: those go on as before."""
        wrong = []
        for name, each in self._authenticators.items():
            try:
                if (again := getattr(each, "reload", None)) is not None:
                    again()
            except ConfigurationError as error:
                wrong.append(f"The authenticator {name} goes on as before: {error}")
        return wrong

    def admit(self, identity: Identity, scopes: frozenset[str], request: UpgradeRequest) -> None:
        """Let an identity come with a request to a service.

        Raises:
            AccessRefused: 403: it has none of the `scopes` that the service asks for, or a foreign page uses it; 503: what all
                credentials say is too much (`Limits.credentialsTotal`).
        """
        if identity.isAmbient:
            self._refuseForeignPages(request)
        if scopes:
            requireScope(identity, scopes)
        if not self._runtime.credentials.hasRoom(identity):
            raise unavailable("The server holds too much of what credentials say.", detail="credentialsTotal is reached")
        request.identity = identity
        if identity.user:
            request.user = identity.user

    def requireValid(self, identity: Identity) -> None:
        """Refuse an identity that has expired, or was revoked, since it was found.

        Raises:
            AccessRefused: it has.
        """
        requireValid(identity, self.revocations, self._runtime.unixTime())

    def _refuseForeignPages(self, request: UpgradeRequest) -> None:
        """Refuse a page that is admitted only because all are: its visitor's browser has added the credentials by itself.

        Raises:
            AccessRefused: 403.
        """
        headers = request.headers
        origin = headers.get("origin")
        if origin is None:
            isForeign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        else:
            isForeign = not self._namedOrigins.allows(origin, headers.get("host", ""), request.isSecure)
        if isForeign:
            message = "A page of another site may not use the credentials of its visitor's browser."
            raise forbidden(message, "origin", detail="name the page in --allowed-origin if it may")

    async def renew(self, caller: Caller, token: str, chain: Chain | None, scopes: frozenset[str]) -> Identity:
        """Take a new token from an open connection: its identity counts from now on, and the connection ends with it.

        Args:
            caller: the caller.
            token: what the client would send in an Authorization header.
            chain: who is asked about it; None for nobody.
            scopes: those of which it needs one; none are needed if there are none.

        Raises:
            ChannelError: "unauthorized": the token is refused; "forbidden": it belongs to somebody else; "bad-request": nobody
                is asked for credentials here. The old identity goes on to its end.
        """
        now = caller.request
        if chain is None or now.identity is None:
            raise ChannelError("bad-request", "No credentials are needed here.")
        _requireOpen(caller)
        if len(token) > MOST_BYTES:
            # A message may have a hundred times as much, and whoever is asked about it would get all of that.
            raise ChannelError("unauthorized", f"A token has at most {MOST_BYTES} characters.")
        try:
            identity = await self.identify(TokenMessage(now, token), chain)
            requireScope(identity, scopes)
        except AccessRefused as refused:
            code = refused.error if refused.error in ChannelError.STATUSES else "unauthorized"
            raise ChannelError(code, refused.message) from None
        except Reject:
            raise ChannelError("unauthorized", "The token was refused.") from None
        except defer.TimeoutError:
            raise ChannelError("unavailable", "The token was not checked in time.") from None
        _requireOpen(caller)
        if identity.user != now.identity.user:
            raise ChannelError("forbidden", "The token belongs to another user.")
        if not self._runtime.credentials.hasRoom(identity):
            raise ChannelError("unavailable", "The server holds too much of what credentials say.")
        self._callers.renew(caller, identity)
        self.limitLife(caller)
        self._runtime.counts.renewed += 1
        return identity

    async def identify(self, request: TokenMessage, chain: Chain) -> Identity:
        """Return whose token came in a message.

        Raises:
            Reject: nobody's that may come in.
            TimeoutError: Twisted's: nobody has said so in time.
        """
        turns = self._runtime.turns
        if turns.over:
            await turns.next()  # a client may send hundreds at once
        with turns.counting(VERIFYING):
            identity = chain.identify(request)
        if isinstance(identity, Deferred):
            identity = await identity.addTimeout(self._runtime.limits.upgradeDeadline, self._runtime.reactor)
        return identity

    def revoked(self, revocation: Revocation) -> None:
        """Learn of a revocation, and end the connections whose credentials it covers."""
        self.revocations.add(revocation)
        rosters = self._callers, self._visitors
        found = [
            *(each for roster in rosters if revocation.token is not None for each in roster.withToken(revocation.token)),
            *(each for roster in rosters if revocation.user is not None for each in roster.withIdentity(revocation.user)),
        ]
        if found:
            Deferred.fromCoroutine(self._endRevoked(found))
        if revocation.token is not None:
            Deferred.fromCoroutine(self._endGranted(revocation.token))

    async def _endRevoked(self, found: Iterable[Caller | Visitor]) -> None:
        async for each in self._runtime.turns.through(tuple(found), CLOSING):
            identity = each.identity
            if identity is None or not self.revocations.covers(identity):
                continue
            if isinstance(each, Caller):
                each.close(EXPIRED, "revoked")
            elif each.membership is not None:
                each.membership.expire()

    async def _endGranted(self, token: str) -> None:
        """End the subscriptions that a subscription token allows; it is looked for, because few are ever revoked."""
        everybody = *self._callers, *self._visitors
        async for each in self._runtime.turns.through(everybody, LOOKING):
            if each.membership is not None:
                each.membership.revoke(token)

    def limitLife(self, caller: Caller) -> None:
        """Let a connection end when its identity does."""
        identity = caller.identity
        if identity is not None:
            self.lifeOf(caller).set(identity)

    def lifeOf(self, caller: Caller) -> Lifetime:
        """Return what ends a connection, and subscriptions of it, in time."""
        life: Lifetime | None = caller.life
        if life is None:
            seconds, unixTime, to = self._runtime.wheel.seconds, self._runtime.unixTime, caller
            ends = partial(_expire, to, self._runtime.counts), partial(_warn, to), partial(_lapse, to)
            life = caller.life = Lifetime(caller._connection, seconds, unixTime, *ends)
            if caller.identity is not None:
                life.set(caller.identity)
        return life

    def attend(self, caller: Caller, connection: WebSocketConnection) -> None:
        """Let a connection that begins end when its identity does."""
        identity, runtime = caller.request.identity, self._runtime
        if identity is None or identity.expiresAt is None:
            return
        if identity.expiresAt - runtime.unixTime() > SOON:
            # The wheel's own time is accurate enough: the head of this connection had a deadline on it a moment ago.
            connection.remind(runtime.wheel.now + LONGEST_WAIT, partial(self.limitLife, caller))
        else:
            self.limitLife(caller)


def requireReplaceable(chains: Iterable[Sequence[str]], stay: Collection[str], made: Mapping[str, Authenticator]) -> None:
    """Refuse authenticators with which some chain could not go on.

    Args:
        chains: the names in each.
        stay: the names of those that are as they were.
        made: those that come.

    Raises:
        ConfigurationError: a chain needs one that would be gone, or cannot have one as it would be, or two have one name.
    """
    if clash := next((name for name in made if name in stay), None):
        raise ConfigurationError(f"authenticators.{clash}: there is another of this name, from a flag.")
    for names in chains:
        if gone := next((name for name in names if name not in stay and name not in made), None):
            raise ConfigurationError(f"authenticators.{gone} is still needed: it is named by authenticate.")
        if GUEST_NAME in names and any(getattr(made.get(name), "takesMessage", False) for name in names):
            raise ConfigurationError(GUEST_OR_MESSAGE)


def _requireOpen(caller: Caller) -> None:
    """Refuse a new token for a connection that has ended, perhaps while somebody was asked about it.

    Raises:
        ChannelError: it has.
    """
    if not caller.isOpen():
        raise ChannelError("unauthorized", "The connection has ended.")


def _expire(caller: Caller, counts: Counts) -> None:
    counts.expired.add("websocket")
    caller.close(EXPIRED, "expired")


def _warn(caller: Caller, seconds: float) -> None:
    if caller.membership is not None:
        caller.membership.expiring(seconds)


def _lapse(caller: Caller, channel: str) -> None:
    if caller.membership is not None:
        caller.membership.lapse(channel)


def _stop(authenticator: Authenticator) -> Any:
    """Let an authenticator end; return a Deferred if that takes time."""
    stop = getattr(authenticator, "stop", None)
    return None if stop is None else stop()
