"""User names and passwords that a directory has (LDAP, RFC 4511)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ldaptor.protocols import pureber, pureldap
from OpenSSL.crypto import X509
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.python.failure import Failure

from twisted_ws.access.asking.exchange import Unanswered
from twisted_ws.access.authenticator import AuthenticatorSettings
from twisted_ws.access.kinds.login import CACHE, Login, userName, wrongPassword
from twisted_ws.access.options import Options
from twisted_ws.access.publishers.credentials import Password
from twisted_ws.access.refusals import unavailable
from twisted_ws.errors import ConfigurationError
from twisted_ws.exposure import warnIfExposed
from twisted_ws.identity import Identity
from twisted_ws.wire.tls.files import pemCertificates, readFile

# Seconds for the connection, both searches and the bind together.
DEADLINE = 5
# Logins at the same time: each has a connection of its own.
MOST_LOGINS = 64
# Bytes of one answer that is not complete yet.
MOST_ANSWER = 1024 * 1024
# Groups of one user.
MOST_GROUPS = 1000

_SUCCESS, _SIZE_EXCEEDED, _NO_SUCH_OBJECT = 0, 4, 32
# What a bind is refused with: locked by a policy, no such user, a wrong password, disabled.
_REFUSED = (19, _NO_SUCH_OBJECT, 49, 53)
# How each message begins (RFC 4511 section 4.1.1): with the tag of a sequence.
_MESSAGE = b"\x30"
# RFC 4511 section 4.5.1: from the base down; aliases are not followed.
_SUBTREE, _NEVER = 2, 0


class DirectoryError(Exception):
    """The directory did not do what it was asked.

    Attributes:
        code: its result code (RFC 4511 appendix A).
        detail: that, for the log.
    """

    def __init__(self, code: int) -> None:
        self.detail = f"result code {code}"
        super().__init__(self.detail)
        self.code = code


_context = pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext())
_decoder = pureldap.LDAPBERDecoderContext_TopLevel(
    inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(fallback=_context, inherit=_context)
)


class LDAPConnection(Protocol):
    """One connection to the directory, which it ends if that does not speak LDAP, or not in time.

    It takes the messages of ldaptor, and not its client, which imports the reactor, prints what it does not know, and keeps any
    number of bytes.

    Args:
        reactor: the reactor.
        deadline: seconds for a search.
    """

    transport: Any

    def __init__(self, reactor: Any, deadline: float) -> None:
        self._reactor = reactor
        self._deadline = deadline
        self._received = b""
        # By the id of the question: what takes an answer and says whether it is the last, and what is told of the end.
        self._asked: dict[int, tuple[Callable[[Any], bool], Deferred[Any]]] = {}

    def dataReceived(self, data: bytes) -> None:
        """Take answers, of bounded size."""
        self._received += data
        try:
            while self._received:
                if self._received[:1] != _MESSAGE:
                    raise ValueError
                message, length = pureber.berDecodeObject(_decoder, self._received)
                self._received = self._received[length:]
                self._answered(message)
        except pureber.BERExceptionInsufficientData:
            if len(self._received) > MOST_ANSWER:
                self.transport.abortConnection()
        except Exception:  # whatever the parser has for bytes that it does not understand
            self._received = b""
            self.transport.abortConnection()

    def _answered(self, message: Any) -> None:
        # One without a question says that the directory will leave (RFC 4511 section 4.4.1).
        take, _ = self._asked[message.id]
        if take(message.value):
            del self._asked[message.id]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell whoever waits."""
        self.connected = 0
        asked, self._asked = self._asked, {}
        for _, done in asked.values():
            if not done.called:
                done.errback(reason)

    def _ask(self, question: Any, take: Callable[[Any], bool], done: Deferred[Any]) -> None:
        if not self.connected:
            raise ConnectionLost
        message = pureldap.LDAPMessage(question)
        self._asked[message.id] = take, done
        self.transport.write(message.toWire())

    async def _result(self, question: Any) -> int:
        """Ask, and return the result code of the one answer."""
        done: Deferred[int] = Deferred()

        def take(answer: Any) -> bool:
            if not done.called:
                done.callback(int(answer.resultCode))
            return True

        self._ask(question, take, done)
        return await done

    def _giveUp(self) -> None:
        if self.connected:
            self.transport.abortConnection()

    def leave(self) -> None:
        """Say goodbye."""
        if self.connected:
            self.transport.write(pureldap.LDAPMessage(pureldap.LDAPUnbindRequest()).toWire())
            self.transport.loseConnection()

    async def secure(self, options: Any) -> None:
        """Begin TLS (RFC 4511 section 4.14)."""
        code = await self._result(pureldap.LDAPStartTLSRequest())
        if code != _SUCCESS:
            raise DirectoryError(code)
        if self._received:  # sent in clear text, by anybody
            raise DirectoryError(_SUCCESS)
        self.transport.startTLS(options)

    async def bind(self, dn: bytes, password: bytes) -> None:
        """Prove to be somebody.

        Raises:
            DirectoryError: the directory does not believe it.
        """
        code = await self._result(pureldap.LDAPBindRequest(dn=dn, auth=password))
        if code != _SUCCESS:
            raise DirectoryError(code)

    async def search(self, base: str, filter: Any, attribute: str, most: int) -> list[tuple[bytes, list[bytes]]]:  # noqa: A002
        """Return the DNs of entries, and the values of one attribute of each."""
        found: list[tuple[bytes, list[bytes]]] = []
        done: Deferred[int] = Deferred()

        def take(message: Any) -> bool:
            if isinstance(message, pureldap.LDAPSearchResultEntry):
                values = [
                    bytes(value)
                    for name, each in message.attributes
                    if bytes(name).lower() == attribute.lower().encode()
                    for value in each
                ]
                if len(found) <= most:
                    found.append((bytes(message.objectName), values))
                return False
            if not isinstance(message, pureldap.LDAPSearchResultDone):
                return False  # it is elsewhere, too
            if late.active():
                late.cancel()
            if not done.called:
                done.callback(int(message.resultCode))
            return True

        asked = pureldap.LDAPSearchRequest(
            baseObject=base.encode(),
            scope=_SUBTREE,
            derefAliases=_NEVER,
            sizeLimit=most,
            filter=filter,
            attributes=[attribute.encode()],
        )
        self._ask(asked, take, done)
        # Whoever waits may leave earlier, and others use the connection.
        late = self._reactor.callLater(self._deadline, self._giveUp)
        code = await done
        if code not in (_SUCCESS, _SIZE_EXCEEDED, _NO_SUCH_OBJECT):
            raise DirectoryError(code)
        return found


def equals(attribute: str, value: bytes) -> Any:
    """Return the filter for entries with a value, whatever characters it has: no text is made that would have to be escaped."""
    return pureldap.LDAPFilter_equalityMatch(
        attributeDesc=pureldap.LDAPAttributeDescription(attribute.encode()), assertionValue=pureldap.LDAPAssertionValue(value)
    )


class LDAPAuthenticator(Login):
    """The authenticator ``ldap``: a user is found by a search, and proved by a bind with the password.

    Options: ``url`` (``ldaps://`` or ``ldap://``), ``start-tls``, ``ca-file``, ``bind-dn``, ``password-file``, ``base``,
    ``user-attribute`` (``uid``), ``user-class``, ``group-base``, ``member-attribute`` (``member``), ``member`` (``dn`` or
    ``user``), ``group-attribute`` (``cn``), ``groups`` (scopes by group; without it, the names of groups are scopes), ``cache``,
    ``deadline`` (seconds).

    Raises:
        ConfigurationError: an option or a file is wrong.
    """

    def __init__(self, settings: AuthenticatorSettings) -> None:
        where = f"authenticators.{settings.name}"
        options = Options(where, settings.options, settings.directory)
        isTLS, host, port = _place(options)
        startsTLS = options.switch("start-tls", False)
        caFile = options.path("ca-file", None)
        self._dn: str = options.text("bind-dn", "")
        self._passwordFile = options.path("password-file", None)
        self._base: str = options.text("base")
        self._attribute: str = options.text("user-attribute", "uid")
        self._class: str | None = options.text("user-class", None)
        self._groupBase: str | None = options.text("group-base", None)
        self._memberAttribute: str = options.text("member-attribute", "member")
        self._memberIs = options.choice("member", ("dn", "user"), "dn")
        self._groupAttribute: str = options.text("group-attribute", "cn")
        self._groups = _groups(options)
        cache = options.number("cache", CACHE, 0, 3600, "seconds")
        deadline = options.number("deadline", DEADLINE, 0.1, settings.limits.upgradeDeadline, "seconds")
        options.done()
        if not isTLS and not startsTLS and not _isLoopback(host):
            raise ConfigurationError(f"{where}.url sends passwords over the network in clear text: use ldaps, or start-tls.")
        if isTLS and startsTLS:
            raise ConfigurationError(f"{where}.start-tls is for ldap:, not ldaps:.")
        if bool(self._dn) != (self._passwordFile is not None):
            raise ConfigurationError(f"{where}.bind-dn and password-file belong together.")
        super().__init__(settings, cache, deadline)
        self._endpoint: Any = HostnameEndpoint(self._reactor, host, port, timeout=deadline)
        made: Any = optionsForClientTLS(host, _trusted(caFile)) if isTLS or startsTLS else None
        self._tls = made
        self._startsTLS = startsTLS
        if isTLS:
            self._endpoint = wrapClientTLS(self._tls, self._endpoint)
        self._password = b""
        self._readPassword()
        self._logins = 0
        self._searching: LDAPConnection | None = None  # the one connection for all searches
        self._opening: list[Deferred[None]] | None = None  # those that wait for it

    def reload(self) -> None:
        """Read the password file anew, and forget what was checked.

        Raises:
            ConfigurationError: the file cannot be used, and the old password stays.
        """
        self._readPassword()
        self._recent.clear()
        self._drop()

    def _readPassword(self) -> None:
        if self._passwordFile is not None:
            file = readFile(self._passwordFile, "password file")
            warnIfExposed(self._passwordFile, file.mode)
            password = file.data.removesuffix(b"\n")
            if not password:
                raise ConfigurationError(f"The password file {file.path} is empty.")
            self._password = password

    async def probe(self) -> str:
        """Ask the directory for a connection, as for searches (see `Authenticator`)."""
        try:
            connection = await self._connect(self._dn.encode(), self._password)
        except (ConnectError, ConnectionLost, DirectoryError) as error:
            raise Unanswered(str(error) or type(error).__name__) from None
        connection.leave()
        return "the directory answers" + (f" {self._dn}" if self._dn else "")

    def stop(self) -> None:
        """Leave the directory."""
        self._drop()

    def _drop(self) -> None:
        connection, self._searching = self._searching, None
        if connection is not None and connection.connected:
            connection.transport.abortConnection()

    async def _connect(self, dn: bytes, password: bytes) -> LDAPConnection:
        connection: LDAPConnection = await connectProtocol(self._endpoint, LDAPConnection(self._reactor, self._deadline))
        try:
            if self._startsTLS:
                await connection.secure(self._tls)
            if dn:
                await connection.bind(dn, password)
        except BaseException:
            connection.transport.abortConnection()
            raise
        return connection

    async def _searcher(self) -> LDAPConnection:
        """Return the connection for searches: one for all that ask meanwhile."""
        while self._opening is not None:
            waiter: Deferred[None] = Deferred()
            self._opening.append(waiter)
            await waiter
        if self._searching is not None and self._searching.connected:
            return self._searching
        self._opening = []
        try:
            made = self._searching = await self._connect(self._dn.encode(), self._password)
        finally:
            waiting, self._opening = self._opening, None
            for each in waiting:
                if not each.called:
                    self._reactor.callLater(0, _wake, each)
        return made

    async def ask(self, user: str, sent: Password) -> Identity:
        """Find the user, bind with the password, and find the groups (see `Login.ask`)."""
        if self._logins >= MOST_LOGINS:
            raise unavailable("Too many passwords are being checked.")
        self._logins += 1
        try:
            return await self._login(user, sent)
        finally:
            self._logins -= 1

    async def _login(self, user: str, sent: Password) -> Identity:
        wanted = equals(self._attribute, user.encode())
        if self._class is not None:
            wanted = pureldap.LDAPFilter_and([wanted, equals("objectClass", self._class.encode())])
        found = await (await self._searcher()).search(self._base, wanted, self._attribute, 2)
        if len(found) != 1:
            raise wrongPassword()
        dn, names = found[0]
        name = _nameOf(names, user)
        if not name or not dn:  # to bind as nobody would prove nothing
            raise wrongPassword()
        try:
            proved = await self._connect(dn, sent.password)
        except DirectoryError as error:
            if error.code in _REFUSED:
                raise wrongPassword() from None
            raise
        proved.leave()
        return Identity(name, scopes=await self._scopes(dn, name), issuedAt=time.time(), isAmbient=True)

    async def _scopes(self, dn: bytes, user: str) -> frozenset[str]:
        if self._groupBase is None:
            return frozenset()
        member = equals(self._memberAttribute, dn if self._memberIs == "dn" else user.encode())
        found = await (await self._searcher()).search(self._groupBase, member, self._groupAttribute, MOST_GROUPS)
        groups = {value.decode("utf-8", "replace") for _, values in found for value in values}
        if self._groups is None:
            return frozenset(groups)
        return frozenset(scope for group in groups for scope in self._groups.get(group, ()))


def _nameOf(names: list[bytes], asked: str) -> str:
    """Return the name of a user whose entry has these: as the directory writes it, which takes ANN for ann, and ann is one user.

    Of several, only the one that was asked for is proved to be nobody else's: the others may be names of other entries, which
    whoever may write to their own has added.
    """
    found = [userName(each) for each in names]
    if len(found) > 1:
        found = [each for each in found if each.casefold().split() == asked.casefold().split()]
    return found[0] if found else ""


def _wake(waiter: Deferred[None]) -> None:
    if not waiter.called:
        waiter.callback(None)


def _place(options: Options) -> tuple[bool, str, int]:
    expected = "a URL such as ldaps://ldap.example"
    text = options.text("url", expected=expected)
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise options.wrong("url", expected) from None
    if url.scheme not in ("ldap", "ldaps") or not host or url.username or url.path.strip("/") or url.query:
        raise options.wrong("url", expected)
    return url.scheme == "ldaps", host, port or (636 if url.scheme == "ldaps" else 389)


def _isLoopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trusted(caFile: str | None) -> Any:
    if caFile is None:
        return platformTrust()
    file = readFile(caFile, "file of authorities")
    found = pemCertificates(file, "file of authorities")
    if not found:
        raise ConfigurationError(f"The file of authorities {file.path} has no certificate.")
    return trustRootFromCertificates([Certificate(X509.from_cryptography(each)) for each in found])


def _groups(options: Options) -> Mapping[str, tuple[str, ...]] | None:
    table: dict[str, Any] | None = options.table("groups", None)
    if table is None:
        return None
    found = {}
    for group, scopes in table.items():
        scopes = [scopes] if isinstance(scopes, str) else scopes
        if not isinstance(scopes, list) or not all(isinstance(each, str) for each in scopes):
            raise options.wrong("groups", "a table of lists of scopes by group")
        found[group] = tuple(scopes)
    return found
