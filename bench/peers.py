"""The servers to compare: each is a command that listens on three ports, for ws, wss and HTTP posts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.places import BUILD, NODE, PYTHON, SERVERS, VALKEY

__all__ = ["PEERS", "Peer"]

_PORTS = ("{ws}", "{tls}", "{http}", "{certificate}", "{key}")


@dataclass(frozen=True)
class Peer:
    """One server.

    Attributes:
        key: its short name, on the command line and in the results.
        title: its title in tables.
        command: the command that starts it. In each part, ``{ws}``, ``{tls}`` and ``{http}`` are replaced by ports of 127.0.0.1,
            ``{certificate}`` and ``{key}`` by PEM files, ``{run}`` by its own directory, ``{conf}`` by the filled-in `template`,
            ``{beside}`` by the port of what runs `beside` it.
        needs: the entry of `installing.INSTALL` that installs it.
        path: the path of its WebSocket.
        broadcast: the path for a POST to all clients.
        environment: additional environment variables.
        template: a configuration file in which ``@ws@`` and so on are replaced.
        echoes: whether it can echo.
        secure: whether it can speak TLS.
        apart: whether it takes part only in workloads that name it.
        showsToken: whether its clients show a token.
        beside: the command of a program that it needs, as `command`; it runs on the core of the load, as if on another machine.
    """

    key: str
    title: str
    command: tuple[str, ...]
    needs: str = ""
    path: str = "/"
    broadcast: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    echoes: bool = True
    secure: bool = True
    apart: bool = False
    showsToken: bool = False
    beside: tuple[str, ...] = ()


_SERVICES = ("--service", "/ws=bench.services:Echo", "--service", "/channels/{{channel}}=channels")


def _twisted_ws(
    key: str,
    title: str,
    *options: str,
    apart: bool = False,
    needs: str = "",
    beside: tuple[str, ...] = (),
    services: tuple[str, ...] = _SERVICES,
    template: str = "",
    program: tuple[str, ...] = ("-m", "twisted_ws"),
    **environment: str,
) -> Peer:
    return Peer(
        key,
        title,
        (
            *(sys.executable, *program, "--port", "tcp:{ws}:interface=127.0.0.1:backlog=4096"),
            *(
                "--tls-port",
                "tcp:{tls}:interface=127.0.0.1:backlog=4096",
                "--certificate",
                "{certificate}",
                "--private-key",
                "{key}",
            ),
            *("--broadcast-port", "{http}"),
            *services,
            *options,
        ),
        path="/ws",
        broadcast="/broadcaster/broadcast",
        needs=needs,
        environment=environment,
        template=template,
        apart=apart,
        showsToken=bool(template),
        beside=beside,
    )


def _python(name: str, title: str) -> Peer:
    return Peer(name, title, (str(PYTHON), str(SERVERS / f"{name}_peer.py"), *_PORTS), needs="python")


PEERS = (
    Peer("yardstick", "yardstick (C)", (str(BUILD / "wslimit"), "{ws}", "{http}"), secure=False),
    _twisted_ws("twisted_ws", "twisted_ws"),
    _twisted_ws("pure", "twisted_ws, pure Python", TWISTED_WS_SPEEDUPS="0"),
    _twisted_ws("rules", "twisted_ws, with rules", services=("--config", "{conf}"), template="rules.toml", apart=True),
    _twisted_ws(
        "uncounted", "twisted_ws, counting nothing", program=(str(SERVERS / "uncounted.py"),), apart=True, PYTHONPATH="."
    ),
    _twisted_ws("workers1", "twisted_ws, 1 worker", "--workers", "1", apart=True),
    _twisted_ws("workers2", "twisted_ws, 2 workers", "--workers", "2", apart=True),
    _twisted_ws(
        "redis",
        "twisted_ws, Valkey",
        *("--engine", "redis://127.0.0.1:{beside}"),
        apart=True,
        needs="valkey",
        beside=(str(VALKEY), *["--port", "{beside}", "--bind", "127.0.0.1", "--dir", "{run}", "--save"], ""),
    ),
    Peer("stock", "stock Autobahn", (sys.executable, str(SERVERS / "autobahn_peer.py"), *_PORTS)),
    _python("picows", "picows + uvloop"),
    _python("aiohttp", "aiohttp + uvloop"),
    _python("websockets", "websockets + uvloop"),
    Peer("bun", "Bun (uWebSockets)", (str(NODE / ".bench" / "bun"), str(SERVERS / "bun_peer.js"), *_PORTS), needs="bun"),
    Peer("ws", "ws (Node.js)", ("node", str(SERVERS / "ws_peer.cjs"), *_PORTS), needs="ws", environment={"NODE_PATH": str(NODE)}),
    Peer(
        "nchan",
        "nchan (nginx)",
        ("nginx", "-e", "stderr", "-p", "{run}", "-c", "{conf}"),
        needs="nchan",
        template="nchan.conf",
        echoes=False,
    ),
)
