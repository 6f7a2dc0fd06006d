"""The bytes of a message: in C where it was compiled, else in Python. Both do the same; `twisted_ws.wire.pure` says what.

``TWISTED_WS_SPEEDUPS=0`` in the environment chooses Python.
"""

from __future__ import annotations

import os

from twisted_ws.wire import pure

__all__ = ["compiled", "readFrames", "sendFrame", "sendMany", "split"]

compiled = False

readFrames, sendFrame, sendMany, split = pure.readFrames, pure.sendFrame, pure.sendMany, pure.split

if os.environ.get("TWISTED_WS_SPEEDUPS") != "0":
    try:
        from twisted_ws.wire import _speedups
    except ImportError:
        pass
    else:
        compiled = True
        readFrames, sendFrame, sendMany, split = _speedups.readFrames, _speedups.sendFrame, _speedups.sendMany, _speedups.split
