"""The settings in force, and where each is from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from twisted_ws.inspection.asking import askAll

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
KIND = "certificates"


class Setting(Struct):
    """One setting.

    Attributes:
        name: as in the configuration file.
        value: as it would be written there; "set" for what may hold a secret; "" for none.
        source: where it is from.
        line: where in the file; None if it is not from there.
    """

    name: str
    value: str
    source: Literal["default", "file", "flag"]
    line: int | None = None


class Certificate(Struct):
    """A certificate in use.

    Attributes:
        names: for which it was issued.
        expires: Unix time.
    """

    names: list[str]
    expires: float


class Settings(Struct):
    """What is in force.

    Attributes:
        file: the configuration file; None without one.
        settings: in the order of the reference.
        certificates: in use.
    """

    file: str | None
    settings: list[Setting]
    certificates: list[Certificate]


_decode = msgspec.json.Decoder(list[Certificate]).decode


def answerCertificates(server: WebSocketServer, certificates: Callable[[], list[Certificate]]) -> None:
    """Let all servers with the same engine ask which certificates this process uses."""
    server.node.answers[KIND] = lambda payload: msgspec.json.encode(certificates())


async def certificatesOf(server: WebSocketServer) -> list[Certificate]:
    """Return the certificates in use at all servers, each once, the first to end first.

    Raises:
        ChannelError: the engine cannot be asked.
    """
    found: dict[tuple[float, tuple[str, ...]], Certificate] = {}
    own = server.node.answers.get(KIND)
    answers = (await askAll(server, KIND)).answers
    for each in answers if own is None else [*answers, own(b"")]:
        for certificate in _decode(each):  # type: ignore[arg-type]
            found[certificate.expires, tuple(certificate.names)] = certificate
    return [found[key] for key in sorted(found)]
