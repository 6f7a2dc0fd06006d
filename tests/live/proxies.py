"""Proxies that we did not write, each before a server: started on a free port with a configuration of its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.live.support import PATIENCE
from tests.ports import freePort

_HAPROXY = """
global
    nbthread 1  # idle connections belong to a thread
defaults
    mode http
    http-reuse always
    timeout connect {patience}s
    timeout client {patience}s
    timeout server {patience}s
    timeout tunnel {patience}s
frontend plain
    bind 127.0.0.1:{plain}
    default_backend ws
frontend secure
    bind 127.0.0.1:{secure} ssl crt {certificate} alpn h2,http/1.1
    default_backend ws
backend ws
    server one 127.0.0.1:{behind} {options}
"""

# As Varnish's documentation has it for WebSocket.
_VARNISH = """
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{behind}"; }}
sub vcl_recv {{
    if (req.http.upgrade ~ "(?i)websocket") {{ return (pipe); }}
    return (pass);
}}
sub vcl_pipe {{
    if (req.http.upgrade) {{
        set bereq.http.upgrade = req.http.upgrade;
        set bereq.http.connection = req.http.connection;
    }}
}}
"""

# What stands around the configuration of a site in nginx's: it writes into one directory, and is one process.
_AROUND_NGINX = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    {text}
}}
"""

_NGINX = """
    server {{
        listen 127.0.0.1:{plain};
        location / {{
            proxy_pass http://127.0.0.1:{behind};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
            proxy_set_header Host {host};
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
"""


# What a configuration of the documentation stands in, and what it says itself for what is another here: the port, the server's
# port and the certificate, which is one file with its key.
_FROM_PAGE: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "nginx": (
        _AROUND_NGINX,
        (("listen 443", "listen 127.0.0.1:{port}"),),
    ),
    "haproxy": ("{text}", ((":443", "127.0.0.1:{port}"), ("/etc/haproxy/chat.example.pem", "{certificate}"))),
    "apache2": (
        """
ServerRoot /usr/lib/apache2
PidFile {directory}/pid
ErrorLog {directory}/error.log
DefaultRuntimeDir {directory}
Listen 127.0.0.1:{port}
ServerName localhost
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule ssl_module modules/mod_ssl.so
LoadModule headers_module modules/mod_headers.so
LoadModule proxy_module modules/mod_proxy.so
LoadModule proxy_http_module modules/mod_proxy_http.so
{text}
""",
        (("*:443", "127.0.0.1:{port}"),),
    ),
    "caddy": (
        "{{\n    admin off\n    auto_https off\n}}\n{text}",
        (("chat.example {", "https://chat.example:{port} {\n    tls {certificate} {certificate}"),),
    ),
}
# How each is started with the file of its configuration.
_COMMANDS = {
    "nginx": ("-e", "{directory}/error.log", "-c", "{file}"),
    "haproxy": ("-f", "{file}"),
    "apache2": ("-D", "FOREGROUND", "-f", "{file}"),
    "caddy": ("run", "--adapter", "caddyfile", "--config", "{file}"),
}


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    assert found is not None, f"{name} is needed (tools/need {package})"
    return found


@contextmanager
def _started(command: Sequence[str | Path], ports: Sequence[int], **more: str) -> Iterator[None]:
    """Start a program, with more in its environment, wait until it listens on `ports`, and end it at the end."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **more}
        )
        try:
            end = time.monotonic() + PATIENCE
            for port in ports:
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
                        break
                    except ConnectionRefusedError:
                        if process.poll() is not None or time.monotonic() > end:
                            output.seek(0)
                            raise AssertionError(output.read().decode(errors="replace")) from None
                        time.sleep(0.05)  # another process begins to listen: there is nothing to wait on
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextmanager
def haproxy(directory: Path, behind: int, options: str = "") -> Iterator[tuple[int, int]]:
    """Start HAProxy, which uses each of its connections for any request; return its plain port, and that with TLS and HTTP/2.

    Args:
        directory: for its configuration.
        behind: the server's port.
        options: how it connects there.
    """
    plain, secure = freePort(), freePort()
    certificate = directory / "haproxy.pem"
    certificate.write_bytes(trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.bytes())
    configuration = directory / "haproxy.cfg"
    configuration.write_text(
        _HAPROXY.format(patience=PATIENCE, plain=plain, secure=secure, certificate=certificate, behind=behind, options=options)
    )
    with _started([_program("haproxy", "haproxy"), "-f", configuration], [plain, secure]):
        yield plain, secure


@contextmanager
def varnish(directory: Path, behind: int) -> Iterator[int]:
    """Start Varnish, and return its port."""
    port = freePort()
    configuration = directory / "varnish.vcl"
    configuration.write_text(_VARNISH.format(behind=behind))
    command = [_program("varnishd", "varnish"), "-F", "-j", "none", "-n", directory / "varnish", "-f", configuration]
    with _started([*command, "-a", f"127.0.0.1:{port}", "-T", "none", "-s", "malloc,16m"], [port]):
        yield port


def nginxCommand(directory: Path, sites: str) -> list[str]:
    """Write a configuration of nginx with `sites`, which say where it listens; return the command that starts nginx with it."""
    configuration = directory / "nginx.conf"
    configuration.write_text(_AROUND_NGINX.format(directory=directory, text=sites))
    return [_program("nginx", "nginx"), "-c", str(configuration), "-e", f"{directory}/error.log"]


@contextmanager
def nginx(directory: Path, behind: int, host: str = "$http_host") -> Iterator[int]:
    """Start nginx, which says for whom it asks, and return its port; `host` is the Host header that it sends."""
    port = freePort()
    with _started(nginxCommand(directory, _NGINX.format(plain=port, behind=behind, host=host)), [port]):
        yield port


@contextmanager
def fromPage(name: str, text: str, directory: Path, behind: int | Mapping[str, str]) -> Iterator[int]:
    """Start a proxy as the documentation has it for chat.example, and return its port, which speaks TLS.

    Args:
        name: its program.
        text: its configuration on the page.
        directory: for what it writes.
        behind: the server's port; or, for several servers, what the page says of them with what is here instead.
    """
    port = freePort()
    servers = {":8080": f":{behind}"} if isinstance(behind, int) else behind
    certificate, file = directory / "proxy.pem", directory / "proxy.conf"
    certificate.write_bytes(trustme.CA().issue_cert("chat.example").private_key_and_cert_chain_pem.bytes())
    around, changes = _FROM_PAGE[name]
    here = {"port": port, "certificate": certificate, "directory": directory, "file": file}
    for old, new in (*changes, *servers.items()):
        assert old in text, f"the page has no {old!r} for {name}"
        for key, value in here.items():
            new = new.replace(f"{{{key}}}", str(value))
        text = text.replace(old, new)
    text = re.sub(r"/etc/letsencrypt/\S+?\.pem", str(certificate), text)
    file.write_text(around.format(text=text, **here))
    command = [part.format(**here) for part in _COMMANDS[name]]
    with _started([_program(name, name), *command], [port], XDG_DATA_HOME=str(directory), XDG_CONFIG_HOME=str(directory)):
        yield port
