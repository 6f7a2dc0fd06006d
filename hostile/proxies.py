"""Real proxies in front of the daemon: nginx and HAProxy, which can be restarted on the same ports."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

from hostile import processes
from hostile.daemon import Daemon, freePorts, listens

__all__ = ["FORBIDDEN", "HAProxy", "Nginx", "Proxy"]

_START_SECONDS = 20.0
# A path that no proxy forwards.
FORBIDDEN = "/channels/forbidden"
_NGINX = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log crit;
events {{ worker_connections 4000; }}
http {{
    access_log off;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream ws {{ server 127.0.0.1:{behindWs}; keepalive 8; }}
    upstream http {{ server 127.0.0.1:{behindHttp}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{ws};
        location {forbidden} {{ return 403; }}
        location / {{
            proxy_pass http://ws;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
    server {{
        listen 127.0.0.1:{http};
        location {forbidden} {{ return 403; }}
        location / {{
            proxy_pass http://http;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
        }}
    }}
}}
"""
_HAPROXY = """
global
    nbthread 1
defaults
    mode http
    http-reuse always
    option forwardfor
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend ws
    bind 127.0.0.1:{ws}
    http-request deny if {{ path_beg {forbidden} }}
    default_backend ws
frontend http
    bind 127.0.0.1:{http}
    http-request deny if {{ path_beg {forbidden} }}
    default_backend http
backend ws
    server one 127.0.0.1:{behindWs}
backend http
    server one 127.0.0.1:{behindHttp}
"""


class Proxy:
    """Run a proxy in front of both ports without TLS while the context lasts.

    Args:
        daemon: the daemon behind it.
        core: the core that it runs on; None for any.

    Attributes:
        ws: the port in front of the WebSocket port.
        http: the port in front of the broadcast port.
    """

    program = ""
    template = ""
    arguments: tuple[str, ...] = ()

    def __init__(self, daemon: Daemon, core: int | None = None) -> None:
        self.ws, self.http = freePorts(2)
        self._core = core
        self._directory = daemon.directory / self.program
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o777)  # nginx's workers run as another user
        ports = {"ws": self.ws, "http": self.http, "behindWs": daemon.ws, "behindHttp": daemon.http}
        self.configuration = self._directory / "configuration"
        self.configuration.write_text(self.template.format(directory=self._directory, forbidden=FORBIDDEN, **ports))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            RuntimeError: it is not installed, or does not listen.
        """
        program = shutil.which(self.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise RuntimeError(f"{self.program} is not installed")
        log = self._directory / "output"
        with open(log, "ab") as output:
            self._process = processes.start(
                processes.pinned(self._core, [program, *self.command()]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        end = time.monotonic() + _START_SECONDS
        for port in (self.ws, self.http):
            while not listens(port):
                if time.monotonic() > end or self._process.poll() is not None:
                    raise RuntimeError(f"{self.program} does not listen: {log.read_text(errors='replace')[-300:]}")
                time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Kill it, with all its workers and connections."""
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait(20)
            self._process = None

    def command(self) -> list[str]:
        """Return its arguments."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)


class Nginx(Proxy):
    """nginx, with persistent connections to the daemon."""

    program = "nginx"
    template = _NGINX

    def command(self) -> list[str]:
        """Return its arguments."""
        return ["-c", str(self.configuration), "-e", str(self._directory / "nginx.log")]


class HAProxy(Proxy):
    """HAProxy, which reuses its connections for any request."""

    program = "haproxy"
    template = _HAPROXY

    def command(self) -> list[str]:
        """Return its arguments."""
        return ["-db", "-f", str(self.configuration)]
