"""The process of the good clients, seen from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from hostile import processes
from hostile.daemon import Daemon
from hostile.places import ROOT

__all__ = ["Crowd", "amiss"]


def amiss(good: Mapping[str, Any]) -> Iterator[str]:
    """Yield everything that is wrong in the counts of the good clients."""
    for name in ("lost", "doubled", "disordered"):
        if good[name]:
            yield f"{good[name]} messages {name}"
    for name in ("closed", "refused", "strange"):
        if good[name]:
            yield f"{len(good[name])} {name}: {good[name][0]}"


class Crowd:
    """Run good clients against a daemon while the context lasts.

    Args:
        daemon: the daemon that they connect to.
        count: the number of clients of each of the four kinds.
        core: the core that they run on; None for any.
    """

    def __init__(self, daemon: Daemon, count: int, core: int | None = None) -> None:
        ports = {"ws": daemon.ws, "tls": daemon.tls, "http": daemon.http}
        arguments = json.dumps({"ports": ports, "count": count})
        self._command = processes.pinned(core, [sys.executable, "-m", "hostile.good", arguments])

    def __enter__(self) -> Crowd:
        self._process = processes.start(
            self._command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def connect(self) -> None:
        """Connect all clients.

        Raises:
            RuntimeError: some cannot connect.
        """
        self._tell("connect")

    def talk(self) -> None:
        """Start sending messages, and reset the counts.

        Raises:
            RuntimeError: the clients themselves have failed.
        """
        self._tell("talk")

    def rest(self) -> dict[str, Any]:
        """Stop sending, and return the counts once every message has arrived, or no longer can.

        Raises:
            RuntimeError: the clients themselves have failed.
        """
        return self._tell("rest")

    def _tell(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            said = self._process.communicate()[1].strip().splitlines() or ["no output"]
            raise RuntimeError(f"the good clients have ended: {said[-1]}")
        found: dict[str, Any] = json.loads(line)
        return found
