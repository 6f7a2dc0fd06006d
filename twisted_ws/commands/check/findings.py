"""What was found in settings, and how it is shown: as text, or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from twisted_ws.commands.terminal.display import oneLine


class Finding(msgspec.Struct, frozen=True):
    """Something that is wrong, or that deserves a second look.

    Attributes:
        code: a stable word, such as "key-without-scope".
        text: one line that says what it is and what to do.
    """

    code: str
    text: str


class Port(msgspec.Struct, frozen=True):
    """A place where the server would listen.

    Attributes:
        option: the option that says so.
        site: "websocket", "broadcast" or "metrics".
        where: a port or an endpoint string.
        address: the address of a port; "" for all addresses, and for endpoint strings.
        tls: whether clients have to use TLS.
        public: whether other machines may reach it.
    """

    option: str
    site: str
    where: str
    address: str
    tls: bool
    public: bool


class ServiceFound(msgspec.Struct, frozen=True):
    """A service, and who may come to it.

    Attributes:
        path: where it is mounted.
        target: what it is.
        authenticate: who is asked about its clients, in order; None: nobody.
        scopes: an identity needs one of these; any will do if there are none.
        decides: whether the service itself is asked about each client (`onUpgrade`).
    """

    path: str
    target: str
    authenticate: list[str] | None
    scopes: list[str]
    decides: bool


class Rule(msgspec.Struct, frozen=True):
    """Who may do what with the channels of a pattern; what a table does not say is left out.

    Attributes:
        pattern: the pattern.
        subscribe, publish, presence: who may; each word is enough.
    """

    pattern: str
    subscribe: list[str] | None = None
    publish: list[str] | None = None
    presence: list[str] | None = None


class Publisher(msgspec.Struct, frozen=True):
    """An API key.

    Attributes:
        name: its name.
        line: its line in the file.
        scopes: what it may do, as the file has it.
        ended: whether its last day has passed.
    """

    name: str
    line: int
    scopes: str
    ended: bool


class Report(msgspec.Struct):
    """All that was found.

    Attributes:
        errors: what would keep the server from starting, or from its work.
        warnings: what deserves a second look.
        listens: where it would listen.
        services: what it would serve.
        channels: the rules for channels.
        publishers: the API keys.
        passwords: how many ``--auth`` there are.
        asked: who was asked with ``--connect``, and what they said.
        certificate: of the certificate; "" without TLS.
        workers: how many processes would serve; None for one.
    """

    errors: list[Finding] = []
    warnings: list[Finding] = []
    listens: list[Port] = []
    services: list[ServiceFound] = []
    channels: list[Rule] = []
    publishers: list[Publisher] = []
    passwords: int = 0
    asked: list[str] = []
    certificate: str = ""
    workers: int | None = None

    def wrong(self, code: str, text: str) -> None:
        """Add an error."""
        self.errors.append(Finding(code, text))

    def warn(self, code: str, text: str) -> None:
        """Add a warning, unless it is there already."""
        found = Finding(code, text)
        if found not in self.warnings:
            self.warnings.append(found)


def asJSON(report: Report) -> bytes:
    """Return a report as one JSON object."""
    return msgspec.json.encode({"ok": not report.errors, **msgspec.to_builtins(report)})


def asText(report: Report) -> Iterator[str]:
    """Yield the lines of a report for a person; none of them can control a terminal."""
    for line in _lines(report):
        yield oneLine(line)


def _lines(report: Report) -> Iterator[str]:
    for site, title in ("websocket", "WebSocket"), ("broadcast", "Broadcast site"), ("metrics", "Metrics"):
        for port in report.listens:
            if port.site == site:
                where = f"{port.where}{f' on {port.address}' if port.address else ''}" if port.where.isdigit() else port.where
                reach = "from other machines too" if port.public else "from this machine only"
                yield f"{title}: --{port.option} {where}, {'with TLS, ' if port.tls else ''}{reach}"
    if report.certificate:
        yield f"Certificate: {report.certificate}"
    if report.workers is not None:
        yield f"Workers: {report.workers or 'one for each core'}"
    for service in report.services:
        yield f"Service {service.path}: {service.target}; {_who(service)}"
    for rule in report.channels:
        said = [f"{action}: {_or(words)}" for action in ("subscribe", "publish", "presence") if (words := getattr(rule, action))]
        yield f"Channels {rule.pattern}: {'; '.join(said) or 'no rule of who may do what'}"
    for key in report.publishers:
        yield f"API key {key.name} (line {key.line}): {key.scopes}{', but it has expired' if key.ended else ''}"
    if report.passwords:
        yield f"Publishers with a password: {report.passwords} --auth"
    for answer in report.asked:
        yield f"Asked: {answer}"
    for finding in report.errors:
        yield f"error: {finding.text} [{finding.code}]"
    for finding in report.warnings:
        yield f"warning: {finding.text} [{finding.code}]"
    yield _verdict(report)


def _verdict(report: Report) -> str:
    counted = _count(len(report.warnings), "warning")
    if report.errors:
        return f"wrong: {_count(len(report.errors), 'error')}, {counted}"
    return f"nothing is wrong, {counted}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _who(service: ServiceFound) -> str:
    if service.authenticate is None:
        return "its onUpgrade decides who may come" if service.decides else "anybody may come"
    said = f"asked who comes: {', '.join(service.authenticate)}"
    if service.scopes:
        said += f"; with a scope of {_or(service.scopes)}"
    return said + ("; then its onUpgrade" if service.decides else "")


def _or(words: Sequence[str]) -> str:
    return " or ".join(words)
