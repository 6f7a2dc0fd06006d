"""Virtual environments that have what this one has, but for this project: without a network."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from pathlib import Path

# What pip needs to build and install without a network, in its environment: what it would get is there.
OFFLINE = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    # pip reads these the other way round. What is used is compiled then.
    "PIP_NO_BUILD_ISOLATION": "0",
    "PIP_NO_COMPILE": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


def makeEnvironment(place: Path, isBare: bool = False) -> Path:
    """Make an environment at `place`, and return its bin directory; a bare one has Python alone."""
    venv.create(place, symlinks=True)
    command = [place / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    target = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    for folder in (
        () if isBare else filter(os.path.isdir, site.getsitepackages())
    ):  # Debian's Python names one that need not be there
        for each in Path(folder).iterdir():
            # All but this project: an editable install is a .pth file, with an import hook or without, and its metadata.
            if each.suffix != ".pth" and "twisted_ws" not in each.name and not (target / each.name).exists():
                (target / each.name).symlink_to(each)
    return place / "bin"


def install(environment: Path, wheel: Path) -> None:
    """Install a wheel into an environment, given its bin directory, and nothing that it needs."""
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "python"), "install", "--quiet", str(wheel)]
    subprocess.run(pip, check=True, env={**os.environ, **OFFLINE})
