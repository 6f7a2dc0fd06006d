"""The engine that ``--engine`` names."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.access.secretfile import readPassword
from twisted_ws.daemon.settings import Settings
from twisted_ws.engines.contract import Engine, EngineSettings
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.logs import printable
from twisted_ws.wire.websocket.runtime import Runtime

_log = Logger()

GROUP = "twisted_ws.engines"
_NEEDED = sorted({*Engine.__annotations__, *[name for name in vars(Engine) if not name.startswith("_")]})
MEMORY = "memory:"


def engineMaker(settings: Settings) -> Callable[[Runtime], Engine] | None:
    """Return what makes the engine of a server; None: the one in memory.

    Raises:
        ConfigurationError: there is no such engine, or what it needs is missing. The text has no password.
    """
    url = settings.engine
    path = settings.enginePasswordFile
    password = None if path is None else readPassword(path, "engine password file")
    if url == MEMORY:
        if password is not None:
            raise ConfigurationError("--engine-password-file needs a server: give --engine too.")
        return None
    if settings.historyFile is not None:
        raise ConfigurationError("--history-file is for the engine in memory: the server of --engine keeps the history itself.")
    scheme = url.partition(":")[0]
    found = {each.name: each for each in entry_points(group=GROUP)}
    if scheme not in found:
        known = ", ".join([MEMORY, *[f"{name}:" for name in sorted(found)]])
        raise ConfigurationError(f"--engine must be a URL that begins with one of {known}, not {printable(scheme, 40)!r}.")
    try:
        factory = found[scheme].load()
    except ImportError as error:
        missing = f"{error.name} is not installed" if error.name else str(error)
        extra = scheme.partition("+")[0].removesuffix("s")
        raise ConfigurationError(f"--engine {scheme}: {missing}. {_remedy(extra, error.name)}") from None

    def make(runtime: Runtime) -> Engine:
        engine: Engine = factory(EngineSettings(url, password, settings.limits, runtime.wheel, runtime.reactor))
        missing = [name for name in _NEEDED if not hasattr(engine, name)]
        if missing:
            raise ConfigurationError(
                f"--engine {scheme}: the engine has no {', '.join(missing)}, which this version needs "
                "(twisted_ws.engines.contract.Engine)."
            )
        return engine

    return make


async def tellEngine(url: str, engine: Engine) -> None:
    """Log which engine works, and with how many nodes; nothing of the one in memory."""
    if url == MEMORY:
        return
    try:
        answer = engine.nodes()
        nodes = await answer if isinstance(answer, Deferred) else answer
    except ChannelError:
        return  # it has just been lost, and has said so
    count = len(nodes)
    # The URL has no password.
    _log.info(
        "channels over {url}: {count} {what}",
        url=printable(url),
        count=count,
        what="node" if count == 1 else "nodes",
        event="engine.ready",
    )


def _remedy(extra: str, module: str | None) -> str:
    """Return how to get what an engine needs: the package may have come from an index, a file or the system."""
    debian = f"; on Debian, python3-{module}" if module else ""
    return f"Install twisted_ws with its extra, twisted-ws[{extra}]{debian}."
