"""The broadcast site and its API."""
