"""The kinds of authenticators that come with the package, but for those that read signed tokens or ask another server."""
