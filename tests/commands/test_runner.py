from __future__ import annotations

import subprocess
import sys

from tests.live import nursery
from tests.live.support import PATIENCE

PROGRAM = """
import os, signal, sys
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted_ws.commands import runner as module

module.GRACE = 0.1
runner = module.Runner()

async def main(reactor):
    {body}

code = runner.run(main)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
sys.exit(code)
"""


def run(*lines: str) -> tuple[int, str, str]:
    """Run a coroutine in a process of its own; return exit code, output and errors."""
    code = PROGRAM.format(body="\n    ".join(lines))
    done = nursery.run([sys.executable, "-c", code], PATIENCE, text=True)
    return done.returncode, done.stdout, done.stderr


def test_code() -> None:
    """What the coroutine returns is the exit code, and everything is as before."""
    assert run("return 5") == (5, "", "")


def test_bug() -> None:
    """An exception in the coroutine is a bug: a traceback, a line and exit code 1, silently without standard error."""
    code, _, error = run("raise RuntimeError('o\\x1bps')")
    assert code == 1
    assert error.startswith("Traceback")
    assert error.splitlines()[-1] == "twisted-ws: this is a bug in twisted_ws: RuntimeError: o\\x1bps; please report it"
    assert run("sys.stderr = None", "raise RuntimeError") == (1, "", "")


def test_signal() -> None:
    """The first signal calls `interrupted`, for an orderly end."""
    lines = ("ended = Deferred()", "runner.interrupted = ended.callback", "os.kill(os.getpid(), {})", "return await ended + 1")
    for name, code in (("signal.SIGINT", 131), ("signal.SIGTERM", 144), ("signal.SIGHUP", 130)):
        assert run("module.GRACE = 600", *lines[:2], lines[2].format(name), lines[3]) == (code, "", "")


def test_ignored() -> None:
    """A signal that was ignored from the start, as with nohup, ends nothing."""
    code = "import signal, sys, subprocess\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
    lines = ("runner.interrupted = lambda code: print(code)", "os.kill(os.getpid(), signal.SIGHUP)")
    program = PROGRAM.format(body="\n    ".join((*lines, "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN", "return 0")))
    done = subprocess.run([sys.executable, "-c", code, program], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_deaf() -> None:
    """A command that does not end in time is ended, as on a second signal; the terminal is restored before."""
    lines = ("runner.atOnce = lambda: os.write(1, b'restored')", "os.kill(os.getpid(), signal.SIGINT)", "await Deferred()")
    assert run(*lines) == (130, "restored", "")
    second = "reactor.callLater(0, os.kill, os.getpid(), signal.SIGTERM)"
    assert run("module.GRACE = 600", lines[0], second, *lines[1:]) == (143, "restored", "")


def test_log() -> None:
    """What this package logs is shown in one line each; of what others log, only failures are."""
    code, _, error = run(
        "Logger('twisted_ws.client.x').info('a {b}', b=1)",
        "Logger('twisted_ws.client.x').debug('too much')",
        "Logger('twisted.internet').warn('not ours')",
        "try: raise RuntimeError('o\\nps')",
        "except RuntimeError: Logger('twisted.internet').failure('it failed')",
        "return 0",
    )
    assert code == 0
    assert error.splitlines() == ["twisted-ws: a 1", "twisted-ws: it failed: RuntimeError('o\\nps')"]
