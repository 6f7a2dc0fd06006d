"""The settings in force, as the admin page shows them: with where each is from, and without secrets."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from twisted_ws.daemon.settings import KEYS, Key, Settings
from twisted_ws.inspection.settings import Certificate, Setting
from twisted_ws.inspection.settings import Settings as InForce
from twisted_ws.limits import Limits
from twisted_ws.logs import printable

# Characters of one value.
LONGEST = 1000
# What is shown in place of a value that may have a secret in it.
SET = "set"
# URLs, which may have a password in spite of all warnings; and what may be any option of an authenticator.
_URLS = ("engine", "outbox")
_PARTLY = ("authenticate",)


def inForce(settings: Settings) -> InForce:
    """Return the settings in force, without certificates: these are in any process (`answerCertificates`)."""
    text = _textOf(settings.file)
    found = [_setting(key.name, _shown(key, settings), key.name, settings, text) for key in KEYS if not key.isLimit]
    for mount in settings.services:
        source = "file" if mount.source else "flag" if "services" in settings.sources else "default"
        found.append(Setting(f"services.{mount.path}", mount.target, source, None))  # type: ignore[arg-type]
    for name, table in settings.authenticators.items():
        found.append(Setting(f"authenticators.{name}", str(table.get("type", "")), "file", None))
    for pattern in settings.channelRules:
        found.append(Setting(f"channels.{pattern}", SET, "file", None))
    asFlags = {key.field: key.name for key in KEYS if key.isLimit}
    for each in fields(Limits):
        inTable = f"limits.{each.name}"
        flag = asFlags.get(each.name, inTable)
        said = inTable if inTable in settings.sources and flag not in settings.sources else flag
        found.append(_setting(said, f"{getattr(settings.limits, each.name):g}", said, settings, text))
    return InForce(settings.file or None, found, [])


def _setting(name: str, value: str, key: str, settings: Settings, text: str) -> Setting:
    source: Any = settings.sources.get(key, "default")
    return Setting(name, printable(value, LONGEST), source, _lineOf(text, name) if source == "file" else None)


def _shown(key: Key, settings: Settings) -> str:
    value: Any = getattr(settings, key.field)
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if key.field in _URLS:
        return re.sub(r"//[^/@]*@", f"//{SET}@", str(value))
    if key.field in _PARTLY:
        value = [each.partition(":")[0] + (f":{SET}" if ":" in each else "") for each in value]
    if key.field == "logLevels":
        value = [f"{namespace}={level}" if namespace else level for namespace, level in value]
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _textOf(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, UnicodeDecodeError):
        return ""  # it has been moved away since the start


def _lineOf(text: str, name: str) -> int | None:
    """Return the line of a key of the file: in no table, or in the one of limits. What is written otherwise has no line."""
    table, _, key = name.rpartition(".")
    here, isKey = "", re.compile(rf"\s*\"?{re.escape(key)}\"?\s*=").match
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            here = stripped.strip("[]").strip()
        elif here == table and isKey(line):
            return number
    return None


def certificateOf(certificate: Any) -> Certificate:
    """Return a certificate as it is shown."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [str(each.value) for each in names]
    except x509.ExtensionNotFound:
        found = [certificate.subject.rfc4514_string()]
    return Certificate([printable(each) for each in found[:100]], certificate.not_valid_after_utc.timestamp())
