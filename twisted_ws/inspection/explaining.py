"""Why somebody may do something with a channel, or may not: the steps of the decision, as a person can follow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from twisted_ws.channels.service import ChannelService
from twisted_ws.identity import Grants, Identity
from twisted_ws.inspection.asking import askAll
from twisted_ws.inspection.callers import find
from twisted_ws.names import isPattern

if TYPE_CHECKING:
    from twisted_ws.access.rules import Step
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
KIND = "explain"
WHAT_GRANTS = "credentials that grant it would be enough"


class Asked(Struct, frozen=True, omit_defaults=True):
    """What is to be explained.

    Attributes:
        action: one of `twisted_ws.access.namespaces.ACTIONS`.
        channel: a name; for "subscribe" also a pattern.
        connection: whom it is about, if they are connected; "" if `user`, `scopes` and `grants` say that.
        user: "" for a guest.
        scopes: what their credentials say.
        grants: the channels that these grant.
        service: the path of the service; "" for the caller's, or the first.
    """

    action: str
    channel: str
    connection: str = ""
    user: str = ""
    scopes: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    service: str = ""


class ExplainedStep(Struct):
    """One step.

    Attributes:
        text: for a person.
        key: where the configuration file says so; [] for what is so by default.
    """

    text: str
    key: tuple[str, ...] = ()


class Explanation(Struct):
    """A decision.

    Attributes:
        allowed: None if the application would be asked.
        steps: in order.
        note: what else there is to say; None for nothing.
    """

    allowed: bool | None
    steps: list[ExplainedStep]
    note: str | None = None


class Door(NamedTuple):
    """What a service asks of whoever comes to it.

    Attributes:
        path: where it is mounted.
        isAuthenticated: whether anybody is asked for credentials.
        mayFindGuests: whether somebody without a name may be let in.
        scopes: those of which an identity needs one; none are needed if there are none.
    """

    path: str
    isAuthenticated: bool
    mayFindGuests: bool
    scopes: frozenset[str]


def explain(
    door: Door,
    service: ChannelService,
    action: str,
    channel: str,
    identity: Identity | None,
    subscribed: Sequence[str] = (),
    isInside: bool = False,
) -> Explanation:
    """Return whether somebody may do something with a channel, and why; for the rest see `ChannelAccess.decide`.

    A service's own hooks, which can only refuse, are not asked.

    Args:
        door: what the service asks of whoever comes.
        service: the service.
        action: what.
        channel: with which channel.
        identity: who.
        subscribed: what they are subscribed to.
        isInside: whether they are connected already.
    """
    if not door.isAuthenticated:
        identity = None
    elif identity is not None and not isInside and (refused := _atTheDoor(door, identity)) is not None:
        return Explanation(False, [refused])
    access = service.permissions.access
    if access is None:
        return _byItself(door.path, service, action, channel)
    steps: list[Step] = []
    allowed = access.decide(action, channel, identity, subscribed, steps)
    isGrantEnough = allowed is False and access.decide(action, channel, identity, subscribed, isGranted=True)
    return Explanation(allowed, [ExplainedStep(*each) for each in steps], WHAT_GRANTS if isGrantEnough else None)


def _atTheDoor(door: Door, identity: Identity) -> ExplainedStep | None:
    if not identity.user and not door.mayFindGuests:
        return ExplainedStep(f"{door.path} is for users: its authenticators let no guest in", ("authenticate",))
    if door.scopes and door.scopes.isdisjoint(identity.scopes):
        needed = " ".join(sorted(door.scopes))
        return ExplainedStep(f"{door.path} needs one of the scopes {needed}: no", ("services", door.path, "scopes"))
    return None


def _byItself(path: str, service: ChannelService, action: str, channel: str) -> Explanation:
    """Explain what a service allows that has no rules."""
    note = f"{path} has no rules and asks nobody for credentials: its service decides"
    isOwn = type(service).onPublish is not ChannelService.onPublish
    option, allowed = {
        "subscribe": ("wildcards", service.wildcards or not isPattern(channel)),
        "publish": ("publish", service.publish or isOwn),
        "presence": ("presence", service.presence),
    }[action]
    steps = [] if allowed else [ExplainedStep(f"{option} = false: no", ("services", path, option))]
    return Explanation(allowed, steps, note)


_encode = msgspec.json.Encoder().encode
_decodeAsked = msgspec.json.Decoder(Asked).decode
_decode = msgspec.json.Decoder(Explanation).decode


def answerExplain(server: WebSocketServer) -> None:
    """Let all servers with the same engine ask this one, which may have the services that they have not."""
    server.node.answers[KIND] = lambda payload: _answer(server, _decodeAsked(payload))


def _answer(server: WebSocketServer, asked: Asked) -> bytes:
    subscribed: Sequence[str] = ()
    wanted = asked.service
    if asked.connection:
        caller = find(server, asked.connection)
        if caller is None:
            return b""
        identity, subscribed = caller.request.identity, caller.channels
        wanted = wanted or server.pathOf(caller.request.target) or ""
    else:
        grants = Grants(asked.grants)
        identity = Identity(asked.user, grants, grants, frozenset(asked.scopes))
    for path, mounted in server.mounts.items():
        service, chain = mounted.service, mounted.chain
        if isinstance(service, ChannelService) and wanted in ("", path):
            door = Door(path, chain is not None, chain is not None and chain.mayFindGuests, mounted.scopes)
            who = asked.action, asked.channel, identity, subscribed
            return _encode(explain(door, service, *who, isInside=bool(asked.connection)))
    return b""


async def explainAnywhere(server: WebSocketServer, asked: Asked) -> Explanation | None:
    """Return what a server says that has the service, and the caller; None if there is no such service or caller.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    answers = (await askAll(server, KIND, _encode(asked))).answers
    return _decode(answers[0]) if answers else None
