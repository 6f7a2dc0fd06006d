"""The server: services by path, who is connected, broadcast, drain, and what its engine asks of it."""
