"""Notifications to systemd (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from twisted_ws.daemon.succession.keeper import END, NOTIFY

# Leads to the process that systemd knows, which passes on what is said; None: this one is known.
keeper: socket.socket | None = None


def notify(state: str) -> None:
    """Send a state such as ``READY=1`` to systemd, if it is there."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    if state == "RELOADING=1":
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    if keeper is not None:
        with suppress(OSError):
            keeper.send(NOTIFY + state.encode() + END)
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(address)
            sender.send(state.encode())
    except OSError:
        pass  # systemd is gone or does not listen: no reason for a server to end or wait
