"""A trial before the start: whether the user that workers will have can run them and make their services."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
from typing import Any

import msgspec

from twisted_ws.daemon.workers.orders import command, environment
from twisted_ws.errors import ConfigurationError

# What the system has too little of, whoever asks.
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


def tryOut(orders: bytes, reactor: str, uid: int, gid: int, timeout: float) -> None:
    """Make the services of a worker once, in a process of its own, and wait for that.

    Args:
        orders: what a worker will be told.
        reactor: the module of the reactor that it will have.
        uid: the user that workers will have; -1: this one.
        gid: the group; -1: this one.
        timeout: seconds.

    Raises:
        ConfigurationError: that fails; one line says why.
    """
    told, telling = os.pipe()
    program = command("--trial", reactor, str(telling))
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # nobody else can become somebody else
        if uid != -1:
            user = pwd.getpwuid(uid)
            who["user"], gid = uid, user.pw_gid if gid == -1 else gid
            who["extra_groups"] = os.getgrouplist(user.pw_name, gid)
        if gid != -1:
            who["group"] = gid
    try:
        with os.fdopen(told, "rb") as answer:
            try:
                done = subprocess.run(
                    program,
                    input=orders,
                    capture_output=True,
                    pass_fds=[telling],
                    env=environment(),
                    timeout=timeout,
                    check=False,
                    **who,
                )
            finally:
                os.close(telling)
            text = answer.read()
    except subprocess.TimeoutExpired:
        raise ConfigurationError(f"Workers cannot start: their services were not made within {timeout:g} s.") from None
    except OSError as error:
        if error.errno in _SHORT:
            raise ConfigurationError(f"Workers cannot start: {error.strerror}.") from None
        raise ConfigurationError(_cannotRun(program[0], error.strerror or str(error), uid)) from None
    if not text:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if done.returncode != 1:  # with which Python ends when it cannot begin
            how = f"exit code {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
            said = f": {last}" if last else "."
            raise ConfigurationError(f"Workers cannot start: making their services ended the process with {how}{said}")
        raise ConfigurationError(_cannotRun(program[0], last or f"exit code {done.returncode}", uid))
    wrong = msgspec.json.decode(text)
    if wrong is not None:
        raise ConfigurationError(wrong)


def _cannotRun(program: str, why: str, uid: int) -> str:
    who = "this user" if uid == -1 else f"the user {pwd.getpwuid(uid).pw_name}"
    return (
        f"Workers cannot start: {who} cannot run {program} with twisted_ws ({why}): install both where that user can read "
        "them, or leave out --workers."
    )
