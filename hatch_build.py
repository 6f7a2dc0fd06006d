"""Compiles the C part along with the wheel, where that is possible; without a compiler the package is whole, and slower."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("twisted_ws/wire/speedups/_speedups.c")
SOURCES = (SOURCE, SOURCE.with_name("_head.c"))


# What goes wrong here ends the process instead of going on: each where the compiler has it.
OPTIONS = (
    "-fno-strict-aliasing",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2",
    "-Wl,-z,relro,-z,now",
    "-Wl,-z,noexecstack",
)


def _takes(command: list[str], options: list[str]) -> bool:
    """Say whether a compiler takes options, without a warning."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "empty.c")
        source.write_text("int twisted_ws_empty;\n")
        tried = [*command, "-Werror", *options, "-o", str(source.with_suffix(".so")), str(source)]
        try:
            return subprocess.run(tried, capture_output=True, check=False).returncode == 0
        except OSError:
            return False


class CompiledPart(BuildHookInterface):  # type: ignore[type-arg]
    """Builds ``twisted_ws/wire/speedups/_speedups``; ``TWISTED_WS_BUILD=pure`` leaves it out."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile in place, and add what came of it to the wheel."""
        if self.target_name != "wheel" or os.environ.get("TWISTED_WS_BUILD") == "pure":
            return
        root = Path(self.root)
        target = SOURCE.with_name("_speedups" + str(sysconfig.get_config_var("EXT_SUFFIX")))
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
        command = [*shlex.split(compiler), "-O3", "-shared", "-fPIC"]
        options = [options for options in map(str.split, OPTIONS) if _takes(command, options)]
        include = sysconfig.get_paths()["include"]
        command += [*chain(*options), f"-I{include}", "-o", str(target), *map(str, SOURCES)]
        try:
            subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            print(f"twisted_ws: the compiled part is left out: {reason}", file=sys.stderr)
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"].append(str(target))
