"""The bytes of a message: in C if that was compiled, else in Python. Both do the same, which `wire.speedups.pure` documents.

``TWISTED_WS_SPEEDUPS=0`` in the environment chooses Python.
"""

from __future__ import annotations

import os
from glob import glob
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
    "which",
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


# Why the compiled part is not in use.
_why = "the environment has TWISTED_WS_SPEEDUPS=0"


def _missing(error: ImportError) -> str:
    """Return why the compiled part cannot be imported."""
    if not glob(os.path.join(os.path.dirname(__file__), "_speedups*.so")):
        return "there was no C compiler when it was installed"
    if isinstance(error, ModuleNotFoundError) or "cannot import name" in str(error):
        return "it was compiled for another Python"
    return f"the compiled part does not load ({error})"


if os.environ.get("TWISTED_WS_SPEEDUPS") != "0":
    try:
        from twisted_ws.wire.speedups import _speedups
    except ImportError as error:
        _why = _missing(error)
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


def which() -> str:
    """Return "compiled", or "pure Python" with the reason, in a few words for people."""
    if not compiled:
        return f"pure Python: {_why}"
    return "compiled" if tlsCompiled else "compiled, but for TLS: pyOpenSSL or cryptography is too new"


def sayWhich(version: str = "") -> None:
    """Say in the log, once in a process, that the compiled part is missing, and why; with a version, that it is there, too."""
    global _said
    if _said or (compiled and not version):
        return
    _said = True
    version = f"twisted_ws {version}".rstrip()
    if compiled:
        Logger().info("{version}, {how}", version=version, how=which(), event="speedups.used")
    else:
        Logger().info(
            "{version}, {how}. Everything works, at about half the speed.", version=version, how=which(), event="speedups.missing"
        )
