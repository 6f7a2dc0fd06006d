"""Who may do what with channels: one decision for every transport, by the rules of `twisted_ws.access.namespaces`. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from twisted_ws.access.namespaces import ASK, SCOPE, Namespace, Namespaces, partsOf
from twisted_ws.identity import RESERVED, Identity

# Longer tokens would leave no room in a name for anything else.
LONGEST_TOKEN = 64

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def channelToken(user: str) -> str:
    """Return a user's name as a token of a channel's name, such as the second one of ``users.ann~40example~2Eorg.orders``.

    Letters, digits, ``_`` and ``-`` stay; every other byte of its UTF-8 becomes ``~`` and two hexadecimal digits. What would be
    longer than 64 characters is ``~h`` and a part of its SHA-256. No two users have the same token.

    Raises:
        ValueError: the name is empty, or has a lone surrogate.
    """
    if not user:
        raise ValueError("nobody has no token")
    data = user.encode()
    token = "".join([chr(byte) if byte in _PLAIN else f"~{byte:02X}" for byte in data])
    if len(token) <= LONGEST_TOKEN:
        return token
    return "~h" + base64.b32encode(hashlib.sha256(data).digest()).decode("ascii").lower()[:26]


class Step(NamedTuple):
    """One step of a decision.

    Attributes:
        text: for a person.
        key: where the configuration file says so (see `twisted_ws.errors.ConfigurationError`); () for what is so by default.
    """

    text: str
    key: tuple[str, ...] = ()


class ChannelAccess:
    """Decides who may do what with the channels of one service.

    Args:
        namespaces: the server's.
        isAuthenticated: whether clients are asked for credentials: then who may subscribe where no rule says so is left to their
            grants.
        publish, presence, wildcards: what the service allows by itself where no rule says otherwise.

    Attributes:
        asks: whether any rule leaves anything to the back end.
    """

    __slots__ = ("_namespaces", "_usual", "asks")

    def __init__(self, namespaces: Namespaces, isAuthenticated: bool, publish: bool, presence: bool, wildcards: bool) -> None:
        self._namespaces = namespaces
        self.asks = namespaces.asking is not None
        self._usual: dict[str, Any] = {
            "subscribe": ("granted",) if isAuthenticated else ("anyone",),
            "publish": ("anyone",) if publish else ("nobody",),
            "presence": ("anyone",) if presence else ("nobody",),
            "wildcards": wildcards,
        }

    def decide(
        self,
        action: str,
        channel: str,
        identity: Identity | None,
        subscribed: Sequence[str] = (),
        steps: list[Step] | None = None,
        isGranted: bool = False,
        asked: bool | None = None,
    ) -> bool | None:
        """Return whether somebody may; None if that is for the back end to say: until `asked` has its answer, they may not.

        Args:
            action: one of `ACTIONS`.
            channel: a name; for "subscribe" also a pattern.
            identity: who; None where nobody is asked.
            subscribed: what they are subscribed to.
            steps: gets each step of the decision.
            isGranted: whether a subscription token grants it.
            asked: what the back end has answered about this; None: it has not been asked.
        """
        namespace = self._namespaces.find(channel)
        if channel.startswith(RESERVED) and not namespace.pattern:
            if steps is not None:
                text = f"{channel} is the server's: no pattern and no default reaches names that begin with {RESERVED}"
                steps.append(Step(text))
            return False
        if steps is not None:
            fits = f'{channel} falls under channels."{namespace.pattern}"' if namespace.pattern else f"no table matches {channel}"
            steps.append(Step(fits, ("channels", namespace.pattern) if namespace.pattern else ()))
        if not channel.endswith("*"):
            return self._allows(namespace, action, channel, identity, subscribed, steps, isGranted, asked)
        if not self._allowsPatterns(namespace, steps):
            return False
        allowed = self._allows(namespace, action, channel, identity, subscribed, steps, isGranted, asked)
        for each in self._namespaces.narrower(channel) if allowed is not False else ():
            if steps is not None:
                text = f'the pattern also stands for names under channels."{each.pattern}"'
                steps.append(Step(text, ("channels", each.pattern)))
            if not self._allowsPatterns(each, steps):
                return False
            also = self._allows(each, action, channel, identity, subscribed, steps, isGranted, asked)
            if also is False:
                return False
            allowed = allowed and also
        return allowed

    def _allowsPatterns(self, namespace: Namespace, steps: list[Step] | None) -> bool:
        allowed: bool = namespace.values.get("wildcards", self._usual["wildcards"])
        if steps is not None:
            steps.append(_step(namespace, "wildcards", str(allowed).lower(), ""))
        return allowed

    def _allows(
        self,
        namespace: Namespace,
        action: str,
        channel: str,
        identity: Identity | None,
        subscribed: Sequence[str],
        steps: list[Step] | None,
        isGranted: bool,
        asked: bool | None,
    ) -> bool | None:
        words: tuple[str, ...] = namespace.values.get(action) or self._usual[action]
        allowed: bool | None = False
        said = "no"
        for word in words:
            if word == ASK:  # the last resort, wherever it stands: it takes time
                allowed = asked if identity is not None else False
                said = "the back end has to be asked" if allowed is None else f"{ASK}, {'yes' if allowed else 'no'}"
            elif _means(word, namespace, action, channel, identity, subscribed, isGranted):
                allowed, said = True, f"{word}, yes"
                break
        if steps is not None:
            steps.append(_step(namespace, action, _shown(words), f": {said}"))
        return allowed


def _means(
    word: str,
    namespace: Namespace,
    action: str,
    channel: str,
    identity: Identity | None,
    subscribed: Sequence[str],
    isGranted: bool,
) -> bool:
    if word == "anyone":
        return True
    if word == "subscribers":
        return channel in subscribed
    if identity is None or word == "nobody":
        return False
    if word == "users":
        return bool(identity.user)
    if word == "granted":
        grants = identity.publish if action == "publish" else identity.subscribe
        return isGranted or grants.allows(channel)
    if word == "owner":
        owner, tokens = namespace.owner(action), partsOf(channel)[1]
        if owner is None or not identity.user or owner >= len(tokens):
            return False
        return tokens[owner] == channelToken(identity.user)
    return word.removeprefix(SCOPE) in identity.scopes


def _shown(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def _step(namespace: Namespace, option: str, value: str, end: str) -> Step:
    pattern = namespace.said.get(option)
    if pattern is None:
        return Step(f"{option} = {value} (by default){end}")
    return Step(f'{option} = {value} (channels."{pattern}"){end}', ("channels", pattern, option))
