"""What an authenticator is, and what it is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from twisted_ws.access.failures import Failures
    from twisted_ws.identity import Identity
    from twisted_ws.limits import Limits
    from twisted_ws.upgrade import UpgradeRequest

# The entry point group in which packages declare their authenticators; each is a factory that takes `AuthenticatorSettings`.
GROUP = "twisted_ws.authenticators"


class Authenticator(Protocol):
    """Finds out who made a request.

    It may also have the methods ``start(host)``, called once before the first request with a `Host`; ``stop()``, which may return
    a Deferred; and ``reload()``, called when the operator wants files to be read anew, which raises `ConfigurationError` if that
    fails and goes on with what it had. With ``whyUnclaimed(request)``, it says of a credential that it has left to others why it
    did, "" if the request has none: what nobody claims is refused, and makes no guest. With ``grantsOf(token, user)``, it returns
    the `ChannelGrants` of a subscription token of that user, at once or by a Deferred, or raises `AccessRefused`. One whose
    ``canAsk`` is true has the coroutine function ``may(identity, subscribe, publish)``, which returns the sets of those channels
    that the user may subscribe to and publish to, or raises `AccessRefused`; it is what the word ``ask`` of a rule means.
    One whose ``takesMessage`` is true also reads the token of a client's first message
    (`twisted_ws.access.sources.TokenMessage`), for which WebSocket handshakes without credentials are let in.
    One whose ``findsGuests`` is false never returns an identity without a name: `twisted-ws explain` relies on it.
    With the coroutine function ``probe()``, it asks the server that it depends on, once and without a client, for
    ``twisted-ws check --connect``: it returns a few words about the answer, "" if there is nobody to ask, and raises
    `twisted_ws.access.asking.exchange.Unanswered` if there is none.
    """

    def identify(self, request: UpgradeRequest) -> Identity | Awaitable[Identity | None] | None:
        """Return who made `request`; None if there are no credentials of this kind in it, so that the next one is asked.

        It is called in the reactor's thread, and must not block it. What it returns may be awaited: a Deferred or a coroutine,
        which is cancelled when the client has left or has waited long enough.

        Raises:
            AccessRefused: there are credentials of this kind, and they are wrong (see `twisted_ws.access.refusals`); nobody else
                is asked. Any other `Reject` refuses, too.
        """


class Host(Protocol):
    """What an authenticator may ask of its server.

    Attributes:
        failures: counts wrong credentials by address, for all authenticators together.
    """

    @property
    def failures(self) -> Failures:
        """Return the count of wrong credentials."""

    def claim(self, key: str, until: float) -> bool | Deferred[bool]:
        """Return True once for a key, over all servers that share the engine; False until Unix time `until`."""

    def mayLog(self, kind: str) -> int:
        """Return whether one more line of this kind may be written, so that clients cannot fill the log.

        0 means that it may not, any other number that it may, with the field `suppressed` 1 less (see
        `twisted_ws.logs.Throttle.allows`).
        """


class AuthenticatorSettings(NamedTuple):
    """What an authenticator is made of.

    Attributes:
        name: that of its table in the configuration.
        options: the other keys of the table, as TOML has them, without ``type``; what is unknown or wrong is to be refused with
            a `ConfigurationError` (see `twisted_ws.access.options.Options`).
        directory: where relative paths begin.
        limits: the server's.
        reactor: the reactor.
    """

    name: str
    options: Mapping[str, Any]
    directory: str
    limits: Limits
    reactor: Any
