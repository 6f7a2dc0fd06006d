from __future__ import annotations

import signal

# Who runs the tests may have turned a signal off (nohup, & in a script), and the programs that they start would inherit that. A
# handler is not inherited.
for _number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)
