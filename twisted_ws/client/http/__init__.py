"""The way to a server: its URL, proxies, requests and responses."""
