"""From a URL to an open connection: proxies, TLS, the opening handshake."""
