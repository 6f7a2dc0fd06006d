"""C programs, compiled if they are older than their source."""

from __future__ import annotations

import subprocess

from hostile.places import BUILD, HERE

__all__ = ["program"]


def program(name: str) -> str:
    """Compile a program if needed, and return its path.

    Raises:
        RuntimeError: it cannot be compiled; the message has the compiler's last line.
    """
    source, path = HERE / f"{name}.c", BUILD / name
    BUILD.mkdir(exist_ok=True)
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        command = ["cc", "-O2", "-o", path, source, "-lssl", "-lcrypto"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{source.name} cannot be compiled: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return str(path)
