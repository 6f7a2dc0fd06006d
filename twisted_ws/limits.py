"""Every limit of the server: its default, its unit, its reason, and what happens beyond it.

The options reference in the documentation and the ``[limits]`` table of the configuration file are made from these fields,
so a limit is added here and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def _limit(default: float, unit: str, beyond: str, reason: str, zero: str = "") -> Any:
    """Declare one limit; `beyond` is what happens past it, `zero` what 0 means if 0 is allowed."""
    return field(default=default, metadata={"unit": unit, "beyond": beyond, "reason": reason, "zero": zero})


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits as values. ``Limits(maxMessageSize=65536)`` changes one and keeps the rest.

    Raises:
        ValueError: a value is negative, infinite, not a number, or 0 if 0 has no meaning; the text names the limit.
    """

    # Admission
    maxConnections: int = _limit(
        0, "connections", "not accepted", "across all ports; each costs a descriptor and some KiB", "bounded by RLIMIT_NOFILE"
    )
    maxConnectionsPerIp: int = _limit(
        0, "connections", "closed at accept", "one address (IPv6: one /64) must not use up all connections", "no limit of its own"
    )
    descriptorReserve: int = _limit(
        64,
        "descriptors",
        "accepting pauses",
        "logs, certificates and the HTTP sites must still open files when the server is full",
    )
    backlog: int = _limit(
        1024,
        "connections",
        "the peer's system tries again",
        "not accepted yet, for each port: after a restart all clients connect in one turn of the reactor",
    )
    # The head of a request
    requestLine: int = _limit(8 * KIB, "bytes", "414", "longer than any URL that browsers and proxies pass on reliably")
    head: int = _limit(16 * KIB, "bytes", "431", "what common servers and proxies accept")
    headers: int = _limit(100, "headers", "431", "browsers send about 20")
    parameters: int = _limit(
        500,
        "parameters",
        "414",
        "in the query: more than enough for all channels of a caller; each becomes strings when the query is read",
    )
    headDeadline: float = _limit(
        10,
        "seconds",
        "closed (408 where HTTP can be spoken)",
        "for the TLS handshake and the head together: slow clients hold descriptors",
    )
    tlsMessages: int = _limit(
        100,
        "messages",
        "dropped",
        "of TLS itself (key updates, alerts) in one read: each costs about 10 us, and OpenSSL handles all that have arrived",
    )
    upgradeDeadline: float = _limit(10, "seconds", "503", "onUpgrade may ask a back end, but not forever")
    startDeadline: float = _limit(
        5,
        "seconds",
        "503",
        "until the engine works for the first time: whoever came in before that would miss what is published, without a word",
    )
    earlyBytes: int = _limit(
        64 * KIB, "bytes", "400", "a client must wait for the 101 (RFC 6455 section 4.1); what it sends earlier is kept in memory"
    )
    # HTTP bodies
    body: int = _limit(1 * MIB, "bytes", "413", "as large as the largest message")
    bodyDeadline: float = _limit(30, "seconds", "408", "a slow body holds a descriptor")
    keepAlive: float = _limit(60, "seconds", "closed", "an HTTP connection between two requests holds a descriptor")
    lingerDeadline: float = _limit(
        5,
        "seconds",
        "dropped, unless it is still reading the response",
        "after the last HTTP response: how long a peer may go on sending, so that it gets to read the response",
    )
    lingerBytes: int = _limit(
        4 * MIB,
        "bytes",
        "dropped; a WebSocket is no longer read, and dropped at closeDeadline",
        "the same, and after our Close: a client whose request is refused reads the response only when it has sent all of it",
    )
    # Credentials
    credentialsDeadline: float = _limit(10, "seconds", "503", "a checker may ask a back end, but not forever")
    authFailures: int = _limit(
        10, "failures/minute", "429", "wrong credentials from one address (IPv6: one /64): against guessing of passwords"
    )
    authDeadline: float = _limit(
        5, "seconds", "4401", "until the first message has the token, where it may come like this (`sources`)"
    )
    maxUnauthenticated: int = _limit(
        1000,
        "connections",
        "the oldest is closed with 1013",
        "that wait for this message: each takes a few KiB, and nobody knows whose it is",
    )
    credentialsTotal: int = _limit(
        256 * MIB,
        "bytes",
        "503",
        "what the credentials of open connections say beyond 4 KiB, each counted once: claims and grants stay as long as a "
        "connection, and a token of 8 KiB can become 220 KiB",
    )
    # The admin page
    adminSession: float = _limit(12 * 3600, "seconds", "logged out", "a working day; whoever stays logs in again")
    adminSessions: int = _limit(100, "sessions", "the oldest is logged out", "a few people, each with some browsers")
    adminTails: int = _limit(16, "tails", "429", "each looks at the messages of what it follows, in every process")
    adminTailsPerKey: int = _limit(8, "tails", "429", "one person with many must leave some to the others")
    # Messages
    maxMessageSize: int = _limit(1 * MIB, "bytes", "1009", "after inflation; a message is held in memory until it is whole")
    fragmentCharge: int = _limit(
        64,
        "bytes",
        "1009, or 413 by HTTP",
        "each fragment, and each chunk of a body, is charged this on top of its payload: empty fragments are not free",
    )
    jsonValues: int = _limit(
        100_000,
        "values",
        "1003, or 413",
        "in one JSON text that is decoded into objects, field names included: decoding is one call, during which nobody else is "
        "served. Not counted: what a handler takes as text, bytes or msgspec.Raw, and publications that no onPublish looks at",
    )
    messageRate: int = _limit(0, "messages/second", "1008", "for each caller; a burst of one second is allowed", "no limit")
    messageRatePerUser: int = _limit(
        0,
        "messages/second",
        "1008, or 429 by HTTP",
        "over all connections of one user, whom an authenticator has found: more connections must not allow more. A burst "
        "of one second is allowed, at each worker",
        "no limit",
    )
    messageRatePerIp: int = _limit(
        0,
        "messages/second",
        "1008, or 429 by HTTP",
        "the same over all connections of one address (IPv6: one /64) that belong to no user. Offices and mobile networks put "
        "many people behind one address",
        "no limit",
    )
    rateKeys: int = _limit(
        100_000,
        "users, addresses and keys",
        "one of them begins anew",
        "whose rates are counted at the same time, those of publications (`[channels]`) included: each takes about 400 bytes "
        "while it is active, and nothing when it is idle",
    )
    controlRate: int = _limit(100, "frames/second", "1008", "pings and pongs cost as much as messages and carry nothing")
    readAhead: int = _limit(
        64 * KIB,
        "bytes",
        "reading pauses",
        "messages kept while an async handler runs, so that pings are still answered meanwhile",
    )
    streams: int = _limit(16, "iterators", "later messages wait", "replies sent item by item to one caller at the same time")
    # Bytes that wait to be sent
    maxSendBuffer: int = _limit(
        1 * MIB,
        "bytes",
        "1013",
        "what one caller may leave unread; a waiting message is also charged for the objects around it: 112 bytes, 288 with a "
        "Deferred, 352 behind the outbox as a message of a channel",
    )
    maxSendBufferTotal: int = _limit(
        1 * GIB, "bytes", "1013 to the largest", "what all callers together may leave unread, HTTP responses included"
    )
    maxReceiveBufferTotal: int = _limit(
        1 * GIB,
        "bytes",
        "1013 or 503 to the largest",
        "the incomplete messages of all peers, and messages that wait for an async handler: each may be large, and there may be "
        "thousands",
    )
    replyBuffer: int = _limit(64 * KIB, "bytes", "reading pauses", "a client that does not read its replies is not read from")
    writeDeadline: float = _limit(30, "seconds", "dropped", "no progress on queued bytes: the peer is gone or does not read")
    # Channels
    channels: int = _limit(1_000_000, "channels", "503", "each costs about 460 bytes, and any subscriber can make up names")
    channelsPerAddress: int = _limit(
        50_000,
        "channels",
        "429, or forgotten once left",
        "that nobody has published to, and that exist because one address (IPv6: one /64) subscribed to them: it must not use up "
        "all channels; behind a proxy that is not trusted, all callers share one address",
    )
    channelsPerCaller: int = _limit(128, "channels", "429", "for each connection; for more, subscribe to a pattern")
    channelName: int = _limit(128, "characters", "400", "names appear in URLs and logs, and many of them in one Last-Event-ID")
    historyMessages: int = _limit(
        1000, "messages", "the oldest is forgotten", "kept for each channel, so that clients can resume", "nothing is kept"
    )
    historyAge: float = _limit(
        300, "seconds", "forgotten", "long enough for a phone in a tunnel or a laptop that changes networks"
    )
    historyBytes: int = _limit(
        1 * MIB,
        "bytes",
        "the oldest is forgotten",
        "kept for each channel; a message is charged 256 bytes on top of its payload and key",
    )
    historyTotal: int = _limit(
        256 * MIB,
        "bytes",
        "the channel that publishes keeps less",
        "kept for all channels together: many names must not fill the memory",
    )
    idempotencyAge: float = _limit(
        300, "seconds", "published again", "a publisher that got no answer tries again within this time"
    )
    idempotencyKeys: int = _limit(
        500_000,
        "keys",
        "503",
        "each costs 500 bytes, 1,000 with the longest key; dropping one early could publish a message twice",
    )
    claims: int = _limit(
        500_000,
        "keys",
        "503",
        "one-time tickets that were used, until they expire; dropping one early would let it be used again",
    )
    revocations: int = _limit(
        100_000, "revocations", "503", "until what they revoke has expired; dropping one early would let it be used again"
    )
    fanOutLag: float = _limit(
        5,
        "seconds",
        "503",
        "messages for very many are sent over several turns of the reactor: how much of that work, as estimated, may wait; more "
        "would only be late. They take at most a quarter of maxSendBufferTotal",
    )
    subscriberLag: float = _limit(
        30, "seconds", "1013, or dropped by the policy", "the longest that a message of a channel may wait for a slow subscriber"
    )
    presenceDelay: float = _limit(
        5, "seconds", "the leave is announced", "a user who is back by then never left: a page reloaded, a network changed"
    )
    presenceInfo: int = _limit(
        2 * KIB,
        "bytes",
        "null",
        "what presence tells of a user besides the name, as JSON: it is kept for each channel of each connection, and sent to "
        "everybody there",
    )
    reconnectDelay: float = _limit(
        1, "seconds", "", "sent to clients: the base of the random delay before they reconnect; raise it for many clients"
    )
    # Answers by HTTP
    pollWait: float = _limit(
        60,
        "seconds",
        "400",
        "the longest wait that a poll may ask for: proxies cut connections that are silent for about as long",
    )
    answerMessages: int = _limit(
        1000, "messages", "the rest comes with the next", "in one response to a poll, or entries in one list"
    )
    answerBytes: int = _limit(
        1 * MIB,
        "bytes",
        "the rest comes with the next",
        "of messages in one response, which is built whole and held until it is read",
    )
    batchMessages: int = _limit(1000, "messages", "400", "published by one request: its response waits for all of them")
    gzipFrom: int = _limit(1 * KIB, "bytes", "compressed where the client can", "a smaller response is one packet either way")
    # Times
    pingInterval: float = _limit(
        25,
        "seconds",
        "",
        "pings, and heartbeats of event streams: below the 30 to 60 s after which proxies and NATs forget an idle connection",
        "no pings, and no check whether peers are still there",
    )
    pingTimeout: float = _limit(
        10, "seconds", "dropped", "for a pong, or an acknowledgement by TCP: twice the round trip on a bad mobile network"
    )
    closeDeadline: float = _limit(
        5,
        "seconds",
        "dropped, unless it is reading what was written before",
        "after our Close frame: a peer that never answers must not hold a descriptor",
    )
    handlerGrace: float = _limit(
        10,
        "seconds",
        "onClose is called at once",
        "after the close, for messages that came before it and still wait for a handler",
    )
    drainTimeout: float = _limit(
        30,
        "seconds",
        "dropped",
        "at a stop: the time for callers to answer our Close 1001; at an upgrade: the longest wait for one that cannot go on yet",
        "no waiting",
    )
    handOverState: int = _limit(
        256 * KIB,
        "bytes",
        "Close 1012",
        "at an upgrade, of what a service keeps with a caller, and 64 more for each value in it: copied and compared at once",
    )
    drainRate: int = _limit(
        5000,
        "callers/second",
        "asked to leave later",
        "at a stop: if all were asked at once, all would be back at once; of several workers that stop together, each takes its "
        "part. Faster if drainTimeout would not be enough",
    )
    workerSilence: float = _limit(
        3,
        "seconds",
        "the worker is killed and replaced",
        "a worker is asked each second whether it works: one that is stuck serves nobody, and its clients come back to others",
    )
    workerStart: float = _limit(
        60, "seconds", "the worker is killed, and it is tried again", "for the imports and the start of services in a new worker"
    )
    upgradeHold: float = _limit(
        4,
        "seconds",
        "the old server goes on",
        "publications wait while the whole server is replaced, and a publisher gives a call 5; a million kept messages take 4",
    )
    reactorTurn: float = _limit(
        5, "seconds", "the log says where it hangs", "while a handler blocks the reactor, nobody is served; an async one does not"
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            wanted = "a whole number" if each.type == "int" else "a number"
            number = isinstance(value, int if each.type == "int" else (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < inf or (value == 0 and not each.metadata["zero"]):
                least = "0 or more" if each.metadata["zero"] else "more than 0"
                raise ValueError(f"{each.name} must be {wanted} of {each.metadata['unit']}, {least}, not {value!r}")


def checkNumber(name: str, value: float, least: float = 0, most: float = inf, above: bool = False) -> None:
    """Check that an argument is a finite number from `least` to `most`; with `above`, more than `least`.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not least <= value <= most or value == inf or (above and value == least):
        low = f"more than {least:g}" if above else f"{least:g} or more"
        raise ValueError(f"{name} must be {low} and {'finite' if most == inf else f'at most {most:g}'}, not {value}")


_SIZE = re.compile(r"([0-9]{1,15})\s*(?:([kmg])i?)?b?", re.IGNORECASE)


def parseSize(text: str) -> int:
    """Return the number of bytes for a size as people write it: ``65536``, ``64KiB``, ``1 m``.

    Raises:
        ValueError: not a size; the text says what is expected.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("a number of bytes such as 65536, 64KiB or 1MiB")
    return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[(match[2] or "").lower()]
