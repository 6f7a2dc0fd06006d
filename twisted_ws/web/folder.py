"""A folder of pages, as it is served: read once, so that no request touches the disk or asks for a path of its own making."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import MIB
from twisted_ws.logs import printable

# Files, and their bytes, that are held in memory: for the pages that belong to a service. A site has a web server of its own.
FILES = 1000
BYTES = 32 * MIB

# The types of files by the ends of their names; whatever else there is gets the last one, which browsers save. The table of the
# system would differ from machine to machine.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
OTHER = "application/octet-stream"


class PageFile(NamedTuple):
    """A file.

    Attributes:
        content: its bytes.
        kind: its type.
    """

    content: bytes
    kind: str


def readFolder(path: str) -> dict[bytes, PageFile]:
    """Return the files of a folder, and of those in it, by the path of a URL; ``index.html`` is at the path of its folder.

    What begins with a dot is left out.

    Raises:
        ConfigurationError: it cannot be read, or has more than `FILES` or `BYTES`.
    """
    root = Path(path)
    if not root.is_dir():
        raise ConfigurationError(f"--pages {path} is not a folder.")
    found: dict[bytes, PageFile] = {}
    size = 0
    try:
        for count, each in enumerate(_visible(root), 1):
            with each.open("rb") as opened:
                content = opened.read(BYTES - size + 1)  # whatever size it says that it has
            size += len(content)
            if count > FILES or size > BYTES:
                raise ConfigurationError(
                    f"--pages {path} has more than {FILES} files or {BYTES // MIB} MiB: that is for a web server beside this one."
                )
            file = PageFile(content, TYPES.get(each.suffix.lower(), OTHER))
            where = f"/{quote(os.fsencode(each.relative_to(root)))}"  # a name may be any bytes
            found[where.encode("ascii")] = file
            if each.name == "index.html":
                found[where.removesuffix("index.html").encode("ascii")] = file
    except OSError as error:
        name = printable(error.filename)
        raise ConfigurationError(f"--pages {path}: {name} cannot be read: {error.strerror}.") from None
    return found


def _visible(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, and of those in it."""
    for each in sorted(folder.iterdir()):
        if each.name.startswith("."):
            continue
        if each.is_dir() and not each.is_symlink():  # which might lead around in a circle
            yield from _visible(each)
        elif each.is_file():
            yield each
