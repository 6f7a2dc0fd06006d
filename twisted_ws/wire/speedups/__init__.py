"""The bytes of a message: in C if that was compiled, else in Python. Both do the same, which `wire.speedups.pure` documents.

``TWISTED_WS_SPEEDUPS=0`` in the environment chooses Python.
"""

from __future__ import annotations

import os
from typing import Any

from OpenSSL import SSL
from twisted.logger import Logger

from twisted_ws.wire.speedups import pure

__all__ = [
    "NEVER",
    "PollSet",
    "Sender",
    "acceptOne",
    "compiled",
    "isOnLoopback",
    "makeSender",
    "plainHead",
    "readSome",
    "sayWhich",
    "sendMany",
    "split",
    "tlsAllow",
    "tlsCompiled",
    "tlsCount",
    "tlsHandle",
    "tlsReadSome",
    "tlsWriteSome",
]

compiled = tlsCompiled = False

PollSet: Any = pure.PollSet
Sender: Any = pure.Sender
sendMany: Any = pure.sendMany
readSome, split = pure.readSome, pure.split
isOnLoopback: Any = pure.isOnLoopback
plainHead: Any = pure.plainHead
acceptOne: Any = pure.acceptOne
tlsAllow: Any = pure.tlsAllow
tlsCount: Any = pure.tlsCount
tlsHandle: Any = pure.tlsHandle
tlsReadSome: Any = pure.tlsReadSome
tlsWriteSome: Any = pure.tlsWriteSome


def _address(connection: SSL.Connection) -> int:
    return int(_ffi.cast("uintptr_t", connection._ssl))


def _allow(context: SSL.Context, most: int) -> None:
    _speedups.tlsAllow(most)
    _openssl.lib.SSL_CTX_set_info_callback(context._context, _counter)


if os.environ.get("TWISTED_WS_SPEEDUPS") != "0":
    try:
        from twisted_ws.wire.speedups import _speedups
    except ImportError:
        pass
    else:
        compiled = True
        Sender, sendMany = _speedups.Sender, _speedups.sendMany
        readSome, split = _speedups.readSome, _speedups.split
        plainHead, acceptOne, isOnLoopback = _speedups.plainHead, _speedups.acceptOne, _speedups.isOnLoopback
        PollSet = getattr(_speedups, "PollSet", None)  # None without epoll
        try:
            # Private names: the addresses of OpenSSL's functions, and of its object inside pyOpenSSL's. Without them, TLS uses
            # pyOpenSSL's methods.
            from cryptography.hazmat.bindings._rust import _openssl

            _ffi = _openssl.ffi
            _functions = ("SSL_read", "SSL_write", "SSL_get_error", "ERR_peek_error", "ERR_clear_error", "SSL_set_shutdown")
            _addresses = [int(_ffi.cast("uintptr_t", _ffi.addressof(_openssl.lib, name))) for name in _functions]
            _counter = _ffi.cast("void (*)(const SSL *, int, int)", _speedups.useOpenSSL(*_addresses))
            _openssl.lib.SSL_CTX_set_info_callback(SSL.Context(SSL.TLS_METHOD)._context, _counter)
            _address(SSL.Connection(SSL.Context(SSL.TLS_METHOD), None))
        except Exception:  # a release of either may change them in any way
            pass
        else:
            tlsCompiled = True
            tlsAllow, tlsCount = _allow, _speedups.tlsCount
            tlsHandle, tlsReadSome, tlsWriteSome = _address, _speedups.tlsReadSome, _speedups.tlsWriteSome


def makeSender(handle: Any, secure: bool) -> Any:
    """Return a `Sender`; None if there can be none: TLS with pyOpenSSL's methods, while the rest is compiled."""
    if secure and compiled and not tlsCompiled:
        return None
    sender = Sender()
    sender.handle, sender.secure = handle, secure
    return sender


# For connections to which no frame can be sent directly.
NEVER = Sender()

_said = False


def sayWhich() -> None:
    """Say in the log, once in a process, that the compiled part is missing."""
    global _said
    if not compiled and not _said:
        _said = True
        Logger().info(
            "The compiled part of twisted_ws is not in use: everything works in Python, at about half the speed. It is built if "
            "there is a C compiler at installation.",
            event="speedups.missing",
        )
